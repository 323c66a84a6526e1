#!/bin/busybox sh
# What runs in a guest: the probe, the version tables, and two real nodes with a tunnel between them. The test reads the
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

natwatch probe --format json --output /tmp/probe.json
echo "== probe-exit $?"
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

# tunnel FAMILY CHECKSUM: the mark of a Service's packet survives encapsulation, and the outer packet is translated too.
tunnel() {
	family=$1 checksum=$2
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
	ip netns exec a nft -f - <<-RULES
		table ip t {
			chain out { type nat hook output priority -100; ip daddr 10.88.0.2 tcp dport 8080 meta mark set 0x4000; }
			chain post { type nat hook postrouting priority 100; meta mark 0x4000 masquerade fully-random; }
		}
		table ip6 t {
			chain post { type nat hook postrouting priority 100; meta mark 0x4000 masquerade fully-random; }
		}
	RULES
	sleep 1
	ip netns exec b nc -l -p 8080 </dev/null >/dev/null &
	listener=$!
	sleep 1
	start=$(cut -d' ' -f1 /proc/uptime | busybox tr -d .)
	ip netns exec a timeout 10 nc 10.88.0.2 8080 </dev/null >/dev/null
	code=$?
	end=$(cut -d' ' -f1 /proc/uptime | busybox tr -d .)
	kill $listener 2>/dev/null
	if [ $family = ipv4 ]; then
		wrong=$(ip netns exec b cat /proc/net/snmp | grep ^Udp: | busybox awk 'NR==1 { for (i = 1; i <= NF; i++) if ($i == "InCsumErrors") at = i } NR==2 { print $at }')
	else
		wrong=$(ip netns exec b cat /proc/net/snmp6 | busybox awk '$1 == "Udp6InCsumErrors" { print $2 }')
	fi
	echo "== tunnel $family $checksum exit $code centiseconds $((end - start)) wrong $wrong"
	ip netns del a
	ip netns del b
	sleep 1
}

for family in ipv4 ipv6; do
	for checksum in off on; do
		tunnel $family $checksum
	done
done
echo "== end"
poweroff -f
