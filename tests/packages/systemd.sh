#!/usr/bin/env bash
# The units: the Debian package installed in a clean root, which is booted, and tests/packages/systemd-inside.sh run there.
. "$(dirname "$(readlink -f "$0")")/lib.sh"
need systemd-nspawn=systemd-container systemd-analyze=systemd
package=$(ls "$root"/target/debian/*.deb 2>/dev/null | tail -n 1)
[ -n "$package" ] || fail "no package: tests/packages/debian.sh makes it"

say "systemd-analyze ($(systemctl --version | head -n 1))"
for unit in "$root"/deploy/systemd/*.service "$root"/deploy/textfile/*.service; do
	printf '%s: %s\n' "$(basename "$unit")" "$(systemd-analyze security --offline=true "$unit" 2>/dev/null | tail -n 1 | grep -oE '[0-9]+\.[0-9]+ [A-Z]+')"
done

say "a booted root"
debian boot systemd systemd-sysv nftables iproute2 procps
tree=$work/booted
rm -rf "$tree"
cp -a "$work/boot" "$tree"
cp "$package" "$tree/tmp/natwatch.deb"
chroot "$tree" dpkg -i /tmp/natwatch.deb >"$work/booted.log" 2>&1 || fail "$(cat "$work/booted.log")"
# A distribution's kernel comes with the list of what is built in; this one may have no modules at all. /proc/kallsyms, which
# tells that too, is hidden by systemd-nspawn and by the unit.
if [ ! -e "/lib/modules/$(uname -r)/modules.builtin" ] && grep -qw nf_tables_getgen /proc/kallsyms; then
	mkdir -p "$tree/usr/lib/modules/$(uname -r)"
	printf 'kernel/net/netfilter/%s.ko\n' nf_tables nft_chain_nat nft_masq nft_nat nf_conntrack_netlink ipset/ip_set \
		>"$tree/usr/lib/modules/$(uname -r)/modules.builtin"
	printf 'kernel/%s.ko\n' drivers/net/veth drivers/net/vxlan/vxlan net/packet/af_packet net/ipv4/netfilter/iptable_nat \
		net/ipv6/netfilter/ip6table_nat >>"$tree/usr/lib/modules/$(uname -r)/modules.builtin"
fi
install "$here/systemd-inside.sh" "$tree/root/"
cat >"$tree/etc/systemd/system/inside.service" <<'UNIT'
[Unit]
After=multi-user.target
[Service]
Type=oneshot
ExecStart=/root/systemd-inside.sh
StandardOutput=append:/root/result
StandardError=append:/root/result
ExecStopPost=/bin/systemctl --no-block poweroff
UNIT
mkdir -p "$tree/etc/systemd/system/default.target.wants"
ln -sf ../inside.service "$tree/etc/systemd/system/default.target.wants/"
# A network of its own, of which the container is root.
timeout 300 systemd-nspawn --quiet --register=no --keep-unit --directory="$tree" --boot --private-network --machine="natwatch-$$" \
	--link-journal=no --console=pipe </dev/null >"$work/boot.log" 2>&1 || echo "systemd-nspawn: $?"
cat "$tree/root/result" 2>/dev/null || fail "it did not boot: $(tail -n 20 "$work/boot.log")"
grep -qx 'inside: passed' "$tree/root/result" || fail "see above, and $tree"
echo "systemd: passed"
