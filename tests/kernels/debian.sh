#!/usr/bin/env bash
# Fetches kernels of Debian releases with the modules that guests load, without installing them: debian.sh DIR [RELEASE ...]
# Each becomes DIR/vmlinuz-VERSION and DIR/lib/modules/VERSION. The archive is the one that this machine's apt uses, with its
# security updates. A release that it has not (any more) is told, and fails, after the others were fetched.
set -euo pipefail
export LC_ALL=C
out=${1:?usage: debian.sh DIR [RELEASE ...]}
shift
[ $# -gt 0 ] || set -- bullseye bookworm trixie sid
mkdir -p "$out"
out=$(readlink -f "$out")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for command in depmod xz zstd; do
	command -v $command >/dev/null || { DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends kmod xz-utils zstd; break; }
done
archives=$(apt-get indextargets --format '$(SITE) $(REPO_URI)' 'Created-By: Packages' 'Origin: Debian' | awk '{ print $2 }')
archive=$(grep -v security <<<"$archives" | head -n 1) || { echo 'apt knows no Debian archive' >&2; exit 1; }
security=$(grep security <<<"$archives" | head -n 1) || security=

# Whole directories of kernel/, and modules beside them; what these need, modules.dep tells. A name that a release lacks is
# built in there, or of another time.
directories='net/netfilter net/ipv4/netfilter net/ipv6/netfilter net/bridge'
names='veth vxlan ipv6 af_packet dummy crc32c_generic crc32c-intel crc32c-cryptoapi'

# fetch RELEASE: the newest kernel of a release, below $work/RELEASE/root
fetch() {
	local release=$1 root=$work/$1 key=signed-by=/usr/share/keyrings/debian-archive-keyring.gpg
	mkdir -p "$root"/{lists/partial,cache/archives/partial,none,deb,root}
	: >"$root/status"
	echo "deb [$key] $archive $release main" >"$root/sources"
	[ "$release" = sid ] || [ -z "$security" ] || echo "deb [$key] $security $release-security main" >>"$root/sources"
	local options=(-q -o "Dir::State::Lists=$root/lists" -o "Dir::State::status=$root/status" -o "Dir::Cache=$root/cache"
		-o "Dir::Etc::SourceList=$root/sources" -o "Dir::Etc::SourceParts=$root/none"
		-o Dir::Etc::Preferences=/dev/null -o "Dir::Etc::PreferencesParts=$root/none"
		-o APT::Sandbox::User=root -o APT::Update::Error-Mode=any -o Acquire::Languages=none)
	apt-get "${options[@]}" update >"$root/log" 2>&1 || { grep '^[EW]:' "$root/log" >&2; return 1; }
	# The cloud flavour is small, and differs in drivers. Newer releases have image and modules in packages of their own.
	local wanted=linux-image-cloud-amd64 packages=() package
	while [ -n "$wanted" ]; do
		package=${wanted%%$'\n'*}
		wanted=$(sed 1d <<<"$wanted")
		packages+=("$package")
		wanted+=${wanted:+$'\n'}$(apt-cache "${options[@]}" depends "$package" \
			| sed -nE 's/^ *Depends: (linux-(image|base|binary|modules)-[0-9][^ ]*)$/\1/p') || return 1
		wanted=$(sed '/^$/d' <<<"$wanted")
	done
	unset 'packages[0]'
	(cd "$root/deb" && apt-get "${options[@]}" download "${packages[@]}" >"$root/log" 2>&1) || { cat "$root/log" >&2; return 1; }
	for package in "$root"/deb/*.deb; do dpkg -x "$package" "$root/root" || return 1; done
	# Newer releases have all of it below /usr/lib/modules, and depmod looks for it in /lib.
	if [ -d "$root/root/usr/lib/modules" ]; then mkdir -p "$root/root/lib" && mv "$root/root/usr/lib/modules" "$root/root/lib/"; fi
}

# pick TREE VERSION: the modules and what they depend on, unpacked, because a guest's busybox cannot unpack all of them
pick() {
	local tree=$1/lib/modules/$2 modules=$out/lib/modules/$2 name file target
	depmod -b "$1" "$2" || return 1
	rm -rf "$modules"
	mkdir -p "$modules"
	cp "$tree"/modules.{builtin,builtin.modinfo,order} "$modules/" || return 1
	{
		for name in $directories; do sed -n "s#^\(kernel/$name/[^:]*\):\(.*\)#\1\2#p" "$tree/modules.dep"; done
		for name in $names; do sed -n "s#^\(kernel/[^:]*/$name\.ko[^:]*\):\(.*\)#\1\2#p" "$tree/modules.dep"; done
	} | tr -s ' ' '\n' | sort -u | while read -r file; do
		target=$modules/${file%%.ko*}.ko
		mkdir -p "$(dirname "$target")"
		case $file in
		*.ko) cp "$tree/$file" "$target" ;;
		*.ko.xz) xz -dc "$tree/$file" >"$target" ;;
		*.ko.zst) zstd -qdc "$tree/$file" >"$target" ;;
		*) echo "debian.sh: $file has an unknown suffix" >&2; exit 1 ;;
		esac || exit 1
	done || return 1
	sed -i -E 's/\.ko\.(xz|zst)$/.ko/' "$modules/modules.order"
	depmod -b "$out" "$2" || return 1
	for name in veth vxlan nf_tables nf_nat; do
		grep -qE "/$name\.ko(:|$)" "$modules/modules.dep" "$modules/modules.builtin" || { echo "debian.sh: $2 has no $name" >&2; return 1; }
	done
}

missing=
for release in "$@"; do
	if ! fetch "$release"; then
		echo "debian.sh: $release cannot be had from $archive" >&2
		missing+=" $release"
		rm -rf "${work:?}/$release"
		continue
	fi
	tree=$work/$release/root
	version=$(ls "$tree/lib/modules")
	pick "$tree" "$version" || { echo "debian.sh: the modules of $release ($version) cannot be packed" >&2; exit 1; }
	image=$tree/boot/vmlinuz-$version
	[ -e "$image" ] || image=$tree/lib/modules/$version/vmlinuz
	cp "$image" "$out/vmlinuz-$version"
	echo "$release: vmlinuz-$version, $(find "$out/lib/modules/$version" -name '*.ko' | wc -l) modules, $(du -sh "$out/lib/modules/$version" | cut -f1)"
	rm -rf "$tree" "${work:?}/$release"
done
if [ -n "$missing" ]; then echo "debian.sh: not fetched:$missing" >&2; exit 1; fi
