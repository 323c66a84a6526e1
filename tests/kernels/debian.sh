#!/usr/bin/env bash
# Fetches a kernel of Debian that loads modules, with the few of them that the tests load: debian.sh DIR
set -euo pipefail
out=${1:?usage: debian.sh DIR}
mkdir -p "$out"
out=$(readlink -f "$out")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
command -v depmod >/dev/null || DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends kmod
cd "$work"
package=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -1)
apt-get download -q "$package"
dpkg -x ./*.deb root
release=$(ls root/lib/modules)
cp "root/boot/vmlinuz-$release" "$out/"
modules=$out/lib/modules/$release
rm -rf "$modules"
mkdir -p "$modules"
cp root/lib/modules/"$release"/modules.{builtin,builtin.modinfo,order} "$modules/"
(cd "root/lib/modules/$release" && find kernel/net kernel/drivers/net/veth.ko* kernel/drivers/net/vxlan kernel/lib kernel/crypto kernel/arch -name '*.ko*' \
	| grep -E '/(veth|vxlan|udp_tunnel|ip6_udp_tunnel|nf_[a-z0-9_]*|nft_[a-z0-9_]*|nfnetlink|x_tables|xt_[A-Za-z]*|ip_tables|ip6_tables|iptable_nat|ip6table_nat|libcrc32c|crc32c[a-z_-]*|ipv6|af_packet|bridge|stp|llc)\.ko' \
	| cpio -pdm --quiet "$modules")
depmod -b "$out" "$release"
