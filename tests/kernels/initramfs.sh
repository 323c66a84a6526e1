#!/usr/bin/env bash
# Packs a guest's root file system: initramfs.sh OUT INIT MODULES PROGRAM...
# INIT is what runs; MODULES a directory lib/modules/RELEASE for a kernel that loads modules, or nothing.
set -euo pipefail
out=$(readlink -f "$1") init=$2 modules=$3
shift 3
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
mkdir -p "$root"/{bin,dev,proc,sys,tmp,etc,run/netns,lib/modules}
cp "$(command -v busybox)" "$root/bin/busybox"
# with_libraries FILE PLACE: a program or what it loads, with the libraries of both.
with_libraries() {
	local path=$1
	mkdir -p "$(dirname "$root/$2")"
	cp "$path" "$root/$2"
	{ ldd "$path" 2>/dev/null || true; } | { grep -o '/[^ ]*' || true; } | while read -r library; do
		mkdir -p "$root$(dirname "$library")"
		cp -Ln "$library" "$root$library"
	done
}
for program in ip nft ethtool "$@"; do
	name=$(basename "$program")
	with_libraries "$(readlink -f "$(command -v "$program")")" "bin/$name"
	# Its library beside it; what of that is compiled loads libraries of its own.
	[ "$name" != python3 ] || for file in $("$program" -c 'import sys, sysconfig; print(sysconfig.get_path("stdlib"))'); do
		mkdir -p "$root$(dirname "$file")"
		cp -r "$file" "$root$file"
		rm -rf "$root$file"/{test,idlelib,lib2to3,config-*}
	done
done
cp "$init" "$root/init"
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
