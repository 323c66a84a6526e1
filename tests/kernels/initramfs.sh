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
for program in ip nft ethtool; do
	path=$(readlink -f "$(command -v $program)")
	cp "$path" "$root/bin/$program"
	ldd "$path" | grep -o '/[^ ]*' | while read -r library; do
		mkdir -p "$root$(dirname "$library")"
		cp -Ln "$library" "$root$library"
	done
done
cp "$natwatch" "$root/bin/natwatch"
cp "$here/guest.sh" "$root/init"
chmod +x "$root/init"
if [ -n "$modules" ]; then
	cp -r "$modules" "$root/lib/modules/"
fi
(cd "$root" && find . | cpio -o -H newc --quiet | gzip -1) >"$out"
