#!/bin/busybox sh
# What runs in a guest: the probe, the version tables, and pairs of real nodes with a tunnel between them. The test reads the
# lines that begin with "==".
/bin/busybox mkdir -p /sbin /usr/bin /usr/sbin
for tool in cat cut date grep head kill mkdir modprobe mount nc poweroff rm sed sh sleep sort timeout touch uname wget; do
	/bin/busybox ln -sf busybox /bin/$tool
done
/bin/busybox ln -sf /bin/busybox /sbin/modprobe
export PATH=/bin
# The shell would prefer its own.
ip() { /bin/ip "$@"; }
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev 2>/dev/null
mount -t tmpfs tmp /run
mkdir -p /run/netns
ip link set lo up
echo "== release $(uname -r)"

# say NAME FILE: a document on one line
say() { echo "== $1 $(busybox tr -d '\n' <"$2")"; }

if [ -n "$(busybox ls /lib/modules)" ]; then
	# A kernel that loads modules: nothing may be loaded by asking.
	busybox sort /proc/modules | cut -d' ' -f1 >/tmp/before
	natwatch probe --format json --output /tmp/unloaded.json
	say unloaded /tmp/unloaded.json
	busybox sort /proc/modules | cut -d' ' -f1 >/tmp/after
	busybox cmp -s /tmp/before /tmp/after && echo "== modules same" || echo "== modules $(busybox diff /tmp/before /tmp/after | busybox tr '\n' ' ')"
	natwatch probe --format json --output /tmp/allowed.json --allow-module-load
	say allowed /tmp/allowed.json
fi

# Two processors have to meet for one of the experiments, which those of an emulator on a busy machine may not: then it says that
# it could not tell.
for try in 1 2 3 4 5; do
	natwatch probe --format json --output /tmp/probe.json
	code=$?
	[ $code = 3 ] || break
done
echo "== probe-exit $code"
echo "== probe-tries $try"
say probe /tmp/probe.json
natwatch check --format json >/tmp/check.json
say tables /tmp/check.json
natwatch serve --web.listen-address 127.0.0.1:10077 --probe-result /tmp/probe.json 2>/tmp/serve.log &
for try in 1 2 3 4 5 6 7 8 9 10; do
	wget -q -O /tmp/served.json http://127.0.0.1:10077/report.json && break
	sleep 1
done
say served /tmp/served.json
kill %1

# until_holds COMMAND...: waits for a condition, and says when it gives up.
until_holds() {
	tries=0
	until "$@" >/dev/null 2>&1; do
		tries=$((tries + 1))
		[ $tries -lt 300 ] || { echo "== stuck $*"; return 1; }
		busybox usleep 50000
	done
}
carrier() { ip -n "$1" link show eth0 | grep -q LOWER_UP; }
listens() { ip netns exec b grep -q ' 00000000:1F90 \| 00000000000000000000000000000000:1F90 ' /proc/net/tcp /proc/net/tcp6; }

# errors: UDP packets with a wrong checksum that the receiver has counted, over either family
errors() {
	ip netns exec b cat /proc/net/snmp /proc/net/snmp6 | busybox awk '
		$1 == "Udp:" && !at { for (i = 1; i <= NF; i++) if ($i == "InCsumErrors") at = i; next }
		$1 == "Udp:" { sum += $at }
		$1 == "Udp6InCsumErrors" { sum += $2 }
		END { print sum + 0 }'
}

# postrouting RULES: what masquerades packets with the mark of Services, in the words of iptables.
postrouting() {
	comment='-m comment --comment "kubernetes service traffic requiring SNAT"'
	case $1 in
	# kube-proxy 1.16 to 1.18, and those before, or without the flag.
	marked) echo "-A KUBE-POSTROUTING $comment -m mark --mark 0x4000/0x4000 -j MASQUERADE --random-fully" ;;
	plain) echo "-A KUBE-POSTROUTING $comment -m mark --mark 0x4000/0x4000 -j MASQUERADE" ;;
	# kube-proxy since 1.19.
	cleared)
		echo "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN"
		echo "-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0"
		echo "-A KUBE-POSTROUTING $comment -j MASQUERADE --random-fully"
		;;
	esac
}

# kube_proxy FAMILY RULES: the nat table of a node, whose Service is at 10.96.0.10.
kube_proxy() {
	cat <<-RULES
		*nat
		:KUBE-MARK-MASQ - [0:0]
		:KUBE-POSTROUTING - [0:0]
		:KUBE-SEP-NATWATCHNATWATCH - [0:0]
		:KUBE-SERVICES - [0:0]
		:KUBE-SVC-NATWATCHNATWATCH - [0:0]
		-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
		-A OUTPUT -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
		-A POSTROUTING -m comment --comment "kubernetes postrouting rules" -j KUBE-POSTROUTING
		-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
	RULES
	[ "$1" = ipv6 ] || cat <<-RULES
		-A KUBE-SERVICES -d 10.96.0.10/32 -p tcp -m comment --comment "default/web cluster IP" -m tcp --dport 80 -j KUBE-SVC-NATWATCHNATWATCH
		-A KUBE-SVC-NATWATCHNATWATCH ! -s 10.244.0.0/16 -d 10.96.0.10/32 -p tcp -m tcp --dport 80 -j KUBE-MARK-MASQ
		-A KUBE-SVC-NATWATCHNATWATCH -m comment --comment "default/web" -j KUBE-SEP-NATWATCHNATWATCH
		-A KUBE-SEP-NATWATCHNATWATCH -p tcp -m tcp -j DNAT --to-destination 10.88.0.2:8080
	RULES
	postrouting "$2"
	echo COMMIT
}

# native RULES: the same of nftables, where the packet needs no other destination.
native() {
	case $1 in
	marked) masquerade='meta mark 0x4000 masquerade fully-random' ;;
	plain) masquerade='meta mark 0x4000 masquerade' ;;
	cleared) masquerade='meta mark 0x4000 meta mark set meta mark xor 0x4000 masquerade fully-random' ;;
	esac
	cat <<-RULES
		table ip t {
			chain out { type nat hook output priority -100; ip daddr 10.88.0.2 tcp dport 8080 meta mark set 0x4000; }
			chain post { type nat hook postrouting priority 100; $masquerade; }
		}
		table ip6 t {
			chain post { type nat hook postrouting priority 100; $masquerade; }
		}
	RULES
}

# tunnel BACKEND RULES OFFLOAD FAMILY CHECKSUM: where the mark of a Service's packet survives encapsulation, the outer packet
# is translated too. What natwatch says is asked before any packet is sent.
tunnel() {
	backend=$1 rules=$2 offload=$3 family=$4 checksum=$5
	case $family-$checksum in
	ipv4-on) a=192.168.88.1 b=192.168.88.2 prefix=24 word=udpcsum ;;
	ipv4-off) a=192.168.88.1 b=192.168.88.2 prefix=24 word=noudpcsum ;;
	ipv6-on) a=fd00:88::1 b=fd00:88::2 prefix=64 word="noudp6zerocsumtx noudp6zerocsumrx" ;;
	ipv6-off) a=fd00:88::1 b=fd00:88::2 prefix=64 word="udp6zerocsumtx udp6zerocsumrx" ;;
	esac
	ip netns add a
	ip netns add b
	ip -n a link add eth0 type veth peer name eth0 netns b
	for node in a b; do
		eval local=\$$node
		[ $node = a ] && peer=$b number=1 other=2 || { peer=$a number=2 other=1; }
		# A veth that leaves checksums to its peer would hide a wrong one.
		ip netns exec $node ethtool -K eth0 tx off rx off >/dev/null
		[ $family = ipv6 ] && nodad=nodad || nodad=
		ip -n $node addr add $local/$prefix dev eth0 $nodad
		ip -n $node link set eth0 up
		ip -n $node link add vx address 02:00:00:00:58:0$number type vxlan id 1 local $local remote $peer dstport 8472 dev eth0 $word
		ip -n $node addr add 10.88.0.$number/24 dev vx
		ip -n $node link set vx up
		ip -n $node neigh replace 10.88.0.$other lladdr 02:00:00:00:58:0$other dev vx nud permanent
	done
	[ $offload = on ] || ip netns exec a ethtool -K vx tx-checksum-ip-generic off >/dev/null
	case $backend in
	nftables)
		native $rules | ip netns exec a nft -f - || echo "== stuck $backend $rules"
		server=10.88.0.2 port=8080
		;;
	iptables-*)
		tools=/bin/xtables-${backend#iptables-}-multi
		kube_proxy ipv4 $rules | ip netns exec a $tools iptables-restore || echo "== stuck $backend $rules"
		kube_proxy ipv6 $rules | ip netns exec a $tools ip6tables-restore || echo "== stuck $backend $rules"
		# The Service's address is routed before it is translated.
		ip -n a route add 10.96.0.0/16 via 10.88.0.2 dev vx
		server=10.96.0.10 port=80
		;;
	esac
	until_holds carrier a
	until_holds carrier b
	ip netns exec b nc -l -p 8080 </dev/null >/dev/null &
	listener=$!
	until_holds listens
	for basis in probe tables; do
		[ $basis = probe ] && result=/tmp/probe.json || result=
		ip netns exec a natwatch check --format json --advisory vxlan-double-snat-checksum --network-namespace current \
			--probe-result=$result >/tmp/verdict.json
		code=$?
		say "verdict $basis $code" /tmp/verdict.json
	done
	# What a tunnel's device says by itself may have come before the peer's was there.
	before=$(errors)
	start=$(cut -d' ' -f1 /proc/uptime | busybox tr -d .)
	ip netns exec a timeout 10 nc $server $port </dev/null >/dev/null
	code=$?
	end=$(cut -d' ' -f1 /proc/uptime | busybox tr -d .)
	kill $listener 2>/dev/null
	wrong=$(($(errors) - before))
	# Entries are listed once, so that what lists them is loaded.
	ip netns exec a conntrack -L >/dev/null 2>&1
	ip netns exec a natwatch check --format json --network-namespace current --probe-result= >/tmp/after.json
	say after /tmp/after.json
	echo "== tunnel $backend $rules offload $offload $family $checksum exit $code centiseconds $((end - start)) wrong $wrong"
	ip netns del a
	ip netns del b
}

backends=nftables
if [ -n "$(busybox ls /lib/modules)" ]; then
	backends="$backends iptables-nft"
	# Newer kernels can do without.
	if modprobe iptable_nat && modprobe ip6table_nat; then backends="$backends iptables-legacy"; fi
fi
echo "== backends $backends"
for backend in $backends; do
	for family in ipv4 ipv6; do
		tunnel $backend marked on $family on
		tunnel $backend marked on $family off
		tunnel $backend plain on $family on
		tunnel $backend cleared on $family on
		tunnel $backend marked off $family on
	done
done
# open COUNT: so many flows of UDP from node a to port 9 of node b, a socket each
open() { ip netns exec a bash -c "for i in \$(busybox seq $1); do echo x >/dev/udp/192.168.88.2/9; done"; }

# entries: what is said of node a's entries, and how many of them conntrack lists towards port 9
entries() {
	ip netns exec a conntrack -L -p udp 2>/dev/null >/tmp/listed
	ip netns exec a natwatch check --format json --network-namespace current --probe-result= >/tmp/entries.json
	say "entries-$1 $(grep -c 'dport=9 ' /tmp/listed)" /tmp/entries.json
}

# Ports of a small range, and a translation that outlives its rule.
ip netns add a
ip netns add b
ip -n a link add eth0 type veth peer name eth0 netns b
ip -n a addr add 192.168.88.1/24 dev eth0
for last in 2 3; do ip -n b addr add 192.168.88.$last/24 dev eth0; done
for node in a b; do ip -n $node link set eth0 up; done
until_holds carrier a
until_holds carrier b
ip -n a route add 198.51.100.9 via 192.168.88.2
ip netns exec a nft -f - <<-RULES
	table ip t {
		chain out { type nat hook output priority -100; ip daddr 198.51.100.9 udp dport 53 dnat to 192.168.88.2; }
		chain post { type nat hook postrouting priority 100; udp dport 9 masquerade to :2000-2127 fully-random; }
	}
RULES
open 100
entries some
open 40
entries all
ip netns exec a bash -c 'exec 3<>/dev/udp/198.51.100.9/53; while :; do echo x >&3; sleep 0.3; done' 2>/dev/null &
sender=$!
sleep 1
entries current
ip netns exec a nft 'flush chain ip t out; add rule ip t out ip daddr 198.51.100.9 udp dport 53 dnat to 192.168.88.3'
entries stale
kill $sender
echo "== end"
poweroff -f
