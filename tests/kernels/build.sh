#!/usr/bin/env bash
# Builds guest kernels for `make test-kernels` from Debian's linux-source: tests/kernels/build.sh DIR
#
#   bzImage-stock            as Debian has it
#   bzImage-reverted         without the fix of 2020: NAT changes a UDP checksum of 0 where the inner one is left to the card
#   bzImage-stock-5.4.40     the first, saying that it is 5.4.40: a back-port
#   bzImage-reverted-5.4.40  the second, saying so too: a release that had the defect
#   bzImage-old-nat          without the fix, and with the port search and the clashes of kernels before 5.0 and 5.6
#
# Takes a quarter of an hour on two cores. Needs root for the packages, unless they are there.
set -euo pipefail
out=${1:?usage: build.sh DIR}
here=$(dirname "$(readlink -f "$0")")
mkdir -p "$out"
out=$(readlink -f "$out")
work=${BUILD_DIR:-$out/build}

if ! ls /usr/src/linux-source-*.tar.xz >/dev/null 2>&1; then
	DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends linux-source bc bison cpio flex gcc libelf-dev make xz-utils
fi
archive=$(ls /usr/src/linux-source-*.tar.xz | sort -V | tail -1)
source=$work/$(basename "$archive" .tar.xz)
mkdir -p "$work/objects"
[ -d "$source" ] || tar -C "$work" -xf "$archive"
nat=$source/net/netfilter/nf_nat_proto.c
search=$source/net/netfilter/nf_nat_core.c
clash=$source/net/netfilter/nf_conntrack_core.c
for file in "$nat" "$search" "$clash"; do
	[ -f "$file.orig" ] || cp "$file" "$file.orig"
done

# change FILE SED-EXPRESSION: an expression that changes nothing is an error.
change() {
	sed -i "$2" "$1"
	if cmp -s "$1" "$1.orig"; then echo "build.sh: nothing in $1 fits" >&2; exit 1; fi
}

build() {
	local name=$1 version=${2:-}
	sed -i "s/^CONFIG_LOCALVERSION=.*/CONFIG_LOCALVERSION=\"-$name\"/" .config
	make -s -j"$(nproc)" ${version:+KERNELVERSION=$version} bzImage
	cp arch/x86/boot/bzImage "$out/bzImage-$name${version:+-$version}"
	echo "built bzImage-$name${version:+-$version}"
}

export KBUILD_BUILD_TIMESTAMP='1970-01-01' KBUILD_BUILD_USER=natwatch KBUILD_BUILD_HOST=guest
cd "$work/objects"
make -s -C "$source" O="$PWD" ARCH=x86_64 tinyconfig
"$source/scripts/kconfig/merge_config.sh" -m -O . .config "$here/config" >merge.log 2>&1
echo 'CONFIG_LOCALVERSION="-stock"' >>.config
make -s olddefconfig
while read -r line; do
	case $line in CONFIG_*) grep -qxF "$line" .config || { echo "build.sh: $line did not survive" >&2; exit 1; } ;; esac
done <"$here/config"

restore() {
	for file in "$nat" "$search" "$clash"; do cp "$file.orig" "$file"; done
}
restore
build stock
build stock 5.4.40
change "$nat" 's/maniptype, !!hdr->check);/maniptype, hdr->check || skb->ip_summed == CHECKSUM_PARTIAL);/'
build reverted
build reverted 5.4.40
change "$search" 's/^\t\toff = get_random_u16();/\t\t{ static u16 rover; off = rover++; }/'
change "$clash" '/^static int nf_ct_resolve_clash_harder(/,/^{/ s/^{/{\n\tif (repl_idx != (u32)-1) return NF_DROP;/'
build old-nat
restore
