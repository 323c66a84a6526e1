#!/usr/bin/env bash
# Makes the recorded nodes of this directory anew, as root: real answers of the running kernel from namespaces made here,
# some of them edited afterwards (edit.py; README.md lists every edit). The goldens change with them: `make golden`.
set -euo pipefail
here=$(realpath "$(dirname "$0")")
natwatch=$(realpath "${NATWATCH:-$here/../../target/debug/natwatch}")
node=natwatch-recorded-node peer=natwatch-recorded-peer
captures=$(mktemp -d) # a directory for each node, packed at the end
cleanup() { for ns in $node $peer; do ip netns del $ns 2>/dev/null || true; done; }
trap 'cleanup; rm -rf "$captures"' EXIT
cleanup
cd "$captures"
edit() { python3 "$here/edit.py" "$@"; }

take() { # NAME [FLAGS...]: captures the node's namespace
	rm -rf "$1"
	ip netns exec $node "$natwatch" capture "$1" "${@:2}" >/dev/null
	edit meta "$1"
}

rules() { # FILE...: adds rules of ../rules
	for file in "$@"; do
		case $file in
		*.ipset) ip netns exec $node ipset restore <"$here/../rules/$file" ;;
		*.nft) ip netns exec $node nft -f - <"$here/../rules/$file" ;;
		*.rules6) ip netns exec $node ip6tables-nft-restore --noflush <"$here/../rules/$file" ;;
		*.rules) ip netns exec $node iptables-nft-restore --noflush <"$here/../rules/$file" ;;
		esac
	done
}

like_flannel() { # NAME: a copy to be edited
	rm -rf "$1"
	cp -r flannel "$1"
}

two_nodes() { # ADDRESS_FAMILY: an underlay between node and peer
	cleanup
	ip netns add $node
	ip netns add $peer
	ip link add eth0 netns $node type veth peer name eth0 netns $peer
	ip -n $node link set lo up
	ip -n $peer link set eth0 up
}

with_pods() { # ADDRESS: a way out by eth0, and pods or containers behind a bridge of this address
	ip -n $node addr add 192.0.2.10/24 dev eth0
	ip -n $node link set eth0 up
	ip -n $node route add default via 192.0.2.1
	ip -n $node link add cni0 type bridge
	ip -n $node addr add "$1" dev cni0
	ip -n $node link set cni0 up
	ip netns exec $node sysctl -qw net.ipv4.ip_forward=1
}

# A node of a small flannel cluster: two peers, one reached by a route of its own.
two_nodes
ip -n $node addr add 192.0.2.10/24 dev eth0
ip -n $node addr add 192.0.2.11/24 dev eth0
ip -n $node link set eth0 up
ip -n $node route add default via 192.0.2.1
ip -n $node link add flannel.1 type vxlan id 1 local 192.0.2.10 dev eth0 dstport 8472 nolearning
ip -n $node addr add 10.42.0.0/32 dev flannel.1
ip -n $node link set flannel.1 up
ip -n $node route add 10.42.1.0/24 via 10.42.1.0 dev flannel.1 onlink
ip -n $node route add 10.42.2.0/24 via 10.42.2.0 dev flannel.1 onlink
bridge -n $node fdb append 00:00:5e:00:53:01 dev flannel.1 dst 192.0.2.20
bridge -n $node fdb append 00:00:5e:00:53:02 dev flannel.1 dst 198.51.100.30
rules flannel-head-and-kube-proxy.rules
ip netns exec $node iptables-nft-restore --noflush <"$here/kube-proxy-forward.filter"
ip netns exec $node bash -c 'for port in 1 2 3; do echo x >/dev/udp/192.0.2.20/$port; done' || true
take flannel
edit driver flannel virtio_net

# The usual remedy, where nothing needs it.
ip netns exec $node ethtool -K flannel.1 tx-checksum-ip-generic off
take offload-off
edit driver offload-off virtio_net
ip netns exec $node ethtool -K flannel.1 tx-checksum-ip-generic on

like_flannel container-without-host-network
edit namespace container-without-host-network other

like_flannel table-full
edit text table-full procfs/sys/net/netfilter/nf_conntrack_count 250000
edit text table-full procfs/sys/net/netfilter/nf_conntrack_tcp_timeout_established 900

like_flannel chain-limit
edit kernel chain-limit 5.15.0-69-generic '#76-Ubuntu SMP Fri Mar 17 17:19:29 UTC 2023' \
	'Ubuntu 5.15.0-69.76-generic 5.15.87'
edit text chain-limit procfs/sys/net/netfilter/nf_conntrack_count 140000

like_flannel chain-limit-vendor-kernel
edit kernel chain-limit-vendor-kernel 5.14.0-362.13.1.el9_3.x86_64 '#1 SMP PREEMPT_DYNAMIC Fri Nov 24 01:57:57 EST 2023'
edit text chain-limit-vendor-kernel procfs/sys/net/netfilter/nf_conntrack_count 140000

like_flannel vmxnet3-exposed
edit driver vmxnet3-exposed vmxnet3
edit kernel vmxnet3-exposed 5.10.7 '#1 SMP Tue Jan 12 19:29:41 UTC 2021'

like_flannel vmxnet3-newer-kernel
edit driver vmxnet3-newer-kernel vmxnet3
edit kernel vmxnet3-newer-kernel 5.15.100 '#1 SMP Sat Mar 11 12:00:00 UTC 2023'

ip netns exec $node ethtool -K eth0 tx-udp_tnl-segmentation off tx-udp_tnl-csum-segmentation off
take vmxnet3-mitigated
edit driver vmxnet3-mitigated vmxnet3
edit kernel vmxnet3-mitigated 5.10.7 '#1 SMP Tue Jan 12 19:29:41 UTC 2021'

# The same cluster with kube-proxy in IPVS mode: rules ask ipsets, and those are asked about the tunnel's addresses.
ip netns exec $node iptables-nft -t nat -F
ip -n $node route add 10.244.2.0/24 via 10.42.1.0 dev flannel.1 onlink
rules kube-proxy-ipvs-and-flannel-0.20.1.ipset kube-proxy-ipvs-and-flannel-0.20.1.rules
services='IP Virtual Server version 1.2.1 (size=4096)
Prot LocalAddress:Port Scheduler Flags
  -> RemoteAddress:Port Forward Weight ActiveConn InActConn
TCP  0A2B0001:01BB rr
  -> C000020A:192B      Masq    1      0          0'
with_ipvs() { # NAME: this machine's kernel has no IPVS, whose rules these are
	rm -f "$1/procfs/thread-self/net/ip_vs.absent"
	echo "$services" >"$1/procfs/thread-self/net/ip_vs"
	edit driver "$1" virtio_net
}
take ipvs
with_ipvs ipvs
ip netns exec $node ethtool -K flannel.1 tx-checksum-ip-generic off
take ipvs-offload-off
with_ipvs ipvs-offload-off

# Two name servers behind one Service, on a kernel that drops what clashes; then with a cache on the node.
two_nodes
ip netns exec $node iptables-legacy-restore <"$here"/../rules/kube-proxy-two-name-servers.rules
take dns-race
edit kernel dns-race 5.4.6 '#1 SMP Sat Dec 21 11:06:05 UTC 2019'
ip -n $node link add nodelocaldns type bridge
take dns-race-local-cache
edit kernel dns-race-local-cache 5.4.6 '#1 SMP Sat Dec 21 11:06:05 UTC 2019'

# Who writes rules over iptables-nft, and who in nf_tables itself.
two_nodes
rules kube-proxy-1.19.rules kube-proxy-1.19.rules6 flannel-head.rules6 docker.rules docker.rules6 libvirt.rules \
	cni-portmap-and-bridge.rules tailscale.rules weave.rules aws-vpc-cni.rules ip-masq-agent.rules
take nat-iptables-nft
two_nodes
rules kube-proxy-1.31.nft kube-proxy-1.31-ipv6.nft flannel-head.nft flannel-head-ipv6.nft calico.nft cni-plugins.nft \
	docker.nft podman.nft firewalld.nft kindnet.nft
take nat-nftables

# The same writers over iptables-legacy: sources of their own.
two_nodes
ip netns exec $node iptables-legacy-restore <"$here"/../rules/docker.rules
for file in kube-proxy-1.19 libvirt flannel-0.20.1-before-kube-proxy tailscale weave ip-masq-agent; do
	ip netns exec $node iptables-legacy-restore --noflush <"$here"/../rules/$file.rules
done
ip netns exec $node ip6tables-legacy-restore <"$here"/../rules/docker.rules6
ip netns exec $node ip6tables-legacy-restore --noflush <"$here"/../rules/kube-proxy-1.19.rules6
take nat-iptables-legacy

# kube-proxy changed from iptables-legacy to iptables-nft, and what it wrote before is still there.
two_nodes
with_pods 10.42.0.1/16
ip netns exec $node iptables-legacy-restore <"$here"/../rules/kube-proxy-1.16.rules
rules kube-proxy-1.19.rules
take backend-split

# Dual-stack oddities: IPv6 underlay over a bridge with ports, zero checksums, a flow-based device, one that is down.
two_nodes
ip -n $node link add br0 type bridge
ip -n $node link set eth0 master br0
ip -n $node link set eth0 up
ip -n $node link set br0 up
ip -n $node addr add 2001:db8::10/64 dev br0 nodad
ip -n $node link add vx6 type vxlan id 6 remote 2001:db8::20 local 2001:db8::10 dstport 4789 udp6zerocsumtx srcport 40000 50000
ip -n $node link set vx6 up
ip -n $node link add flow0 type vxlan external dstport 4790
ip -n $node link set flow0 up
ip -n $node link add down0 type vxlan id 7 remote 192.0.2.99 dstport 4791 noudpcsum
take dual-stack
edit driver dual-stack virtio_net

# Kernel without the conntrack file in procfs: the faked procfs lacks it, and the user may not ask ctnetlink.
fake=$(mktemp -d)
cp -r --parents /proc/sys/kernel/{osrelease,version} /proc/sys/net/core/somaxconn /proc/version "$fake" 2>/dev/null
mkdir -p "$fake/proc/sys/net/netfilter" "$fake/proc/thread-self/net/stat"
for name in nf_conntrack_count nf_conntrack_max nf_conntrack_buckets; do
	ip netns exec $node cat /proc/sys/net/netfilter/$name >"$fake/proc/sys/net/netfilter/$name"
done
for name in snmp snmp6 netstat stat/rt_cache; do
	ip netns exec $node cat /proc/thread-self/net/$name >"$fake/proc/thread-self/net/$name"
done
cp "$natwatch" "$fake/natwatch"
chmod -R a+rX "$fake"
touch "$fake"/proc/thread-self/net/{ip,ip6}_tables_names
chmod 0440 "$fake"/proc/thread-self/net/{ip,ip6}_tables_names
mkdir -m 777 "$fake/out"
ip netns exec $node setpriv --reuid 65534 --regid 65534 --clear-groups \
	"$fake/natwatch" capture "$fake/out/capture" --path.procfs "$fake/proc" >/dev/null
rm -rf unprivileged
cp -r "$fake/out/capture" unprivileged
chmod -R u+rwX,go+rX unprivileged
grep -rl "$fake" unprivileged | xargs sed -i "s#$fake#/masked#g"
rm -rf "$fake"
edit meta unprivileged
edit namespace unprivileged initial
edit driver unprivileged virtio_net
rm -rf dns-race-unprivileged
cp -r unprivileged dns-race-unprivileged
edit kernel dns-race-unprivileged 5.4.6 '#1 SMP Sat Dec 21 11:06:05 UTC 2019'

# Docker's rules, and an administrator's cure for resets.
two_nodes
with_pods 172.17.0.1/16
rules docker.rules
ip netns exec $node iptables-nft -t mangle -I PREROUTING -p tcp -m conntrack --ctstate INVALID -j DROP
take invalid-dropped

# A neighbour table that pods have filled.
two_nodes
with_pods 10.42.0.1/16
for at in {0..999}; do
	printf 'neigh add 10.42.%d.%d lladdr 02:00:00:00:%02x:%02x dev cni0 nud stale\n' $((at / 250)) $((at % 250 + 2)) $((at / 250)) $((at % 250))
done | ip -n $node -batch -
take neighbours-full
edit driver neighbours-full virtio_net

# A node whose rule has 128 ports, all of them used towards one name server, and which goes on sending statistics to an address
# that its rules do not give any more; and the same after both were mended.
two_nodes
ip -n $node addr add 192.0.2.10/24 dev eth0
ip -n $node link set eth0 up
ip -n $node route add default via 192.0.2.1
for host in 1 20 30 31; do ip -n $node neigh add 192.0.2.$host lladdr 00:00:5e:00:53:$host dev eth0 nud permanent; done
ip link add lan0 netns $node type veth peer name lan0 netns $peer
ip -n $node addr add 10.42.0.1/24 dev lan0
ip -n $node link set lan0 up
ip -n $peer addr add 10.42.0.5/24 dev lan0
ip -n $peer link set lan0 up
ip -n $peer route add default via 10.42.0.1
ip netns exec $node sysctl -qw net.ipv4.ip_forward=1 net.netfilter.nf_conntrack_udp_timeout=120
nat() { ip netns exec $node iptables-nft -w -t nat "$@"; }
nat -A POSTROUTING -o eth0 -p udp --dport 53 -j MASQUERADE --to-ports 40000-40127
nat -A PREROUTING -d 10.96.0.10 -p udp --dport 8125 -j DNAT --to-destination 192.0.2.30:8125
ip netns exec $peer python3 -c '
import socket
for _ in range(128):
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.20", 53))'
ip netns exec $peer timeout 60 python3 -c '
import socket, time
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    sender.sendto(b"x", ("10.96.0.10", 8125))
    time.sleep(0.2)' &
sender=$!
until [ "$(ip netns exec $node conntrack -C)" -gt 128 ]; do sleep 0.1; done
nat -R PREROUTING 1 -d 10.96.0.10 -p udp --dport 8125 -j DNAT --to-destination 192.0.2.31:8125
take entries-exposed --collector.flows
edit driver entries-exposed virtio_net
nat -R POSTROUTING 1 -o eth0 -p udp --dport 53 -j MASQUERADE
ip netns exec $node conntrack -F 2>/dev/null
until [ "$(ip netns exec $node conntrack -C)" -gt 0 ]; do sleep 0.1; done
take entries-mended --collector.flows
edit driver entries-mended virtio_net
kill $sender

for name in *; do
	"$here/archive.py" pack "$name" "$here/$name.txt"
done
