#!/usr/bin/env bash
# Packs a guest's root file system: initramfs.sh OUT NATWATCH [MODULES]
# NATWATCH is a static binary; MODULES a directory lib/modules/RELEASE for a kernel that loads modules.
set -euo pipefail
out=$(readlink -f "$1") natwatch=$2 modules=${3:-}
here=$(dirname "$(readlink -f "$0")")
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root"/{bin,dev,proc,sys,tmp,etc,run/netns,lib/modules}
cp "$(command -v busybox)" "$root/bin/busybox"
# with_libraries FILE PLACE: a program or what it loads, with the libraries of both.
with_libraries() {
	local path=$1
	mkdir -p "$(dirname "$root/$2")"
	cp "$path" "$root/$2"
	ldd "$path" | grep -o '/[^ ]*' | while read -r library; do
		mkdir -p "$root$(dirname "$library")"
		cp -Ln "$library" "$root$library"
	done
}
for program in ip nft ethtool; do
	with_libraries "$(readlink -f "$(command -v $program)")" "bin/$program"
done
cp "$natwatch" "$root/bin/natwatch"
cp "$here/guest.sh" "$root/init"
chmod +x "$root/init"
if [ -n "$modules" ]; then
	cp -r "$modules" "$root/lib/modules/"
	for program in xtables-nft-multi xtables-legacy-multi; do
		with_libraries "$(readlink -f "$(command -v $program)")" "bin/$program"
	done
	# What iptables loads by its own name.
	for plugin in $(dpkg -L iptables libxtables12 | grep -E '/xtables/libxt_(comment|mark|MARK|MASQUERADE|NAT|DNAT|standard|tcp)\.so$'); do
		with_libraries "$(readlink -f "$plugin")" "$plugin"
	done
fi
(cd "$root" && find . | cpio -o -H newc --quiet | gzip -1) >"$out"
