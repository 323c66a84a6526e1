#!/usr/bin/python3
"""Large rule sets, as the programs that write them lay them out, and what `natwatch check` costs on a node that has them.

`scale.py` as root measures all (`make bench` calls it) and writes its table into docs/performance.md; `scale.py NAME...` only
these, and prints; `scale.py --rules calico 100` prints the rules for the program that restores them. Each node is a network
namespace of its own with a VXLAN device that is up, so that the walk through the rules is part of it.
"""

import json
import os
import statistics
import subprocess
import sys

sys.dont_write_bytecode = True
from nodes import HERE, NATWATCH, TUNNEL, services, shell, write_table

BEGIN, END = "<!-- written by benches/scale.py -->\n", "<!-- end of what benches/scale.py writes -->\n"
TIMES = 5

# What flannel adds, so that packets of pods are routed into the tunnel.
ROUTES = """ip route add 10.244.1.0/24 via 10.244.1.0 dev flannel.1 onlink
sysctl -qw net.ipv4.ip_forward=1
"""


def table(name, chains, rules):
    return "\n".join([f"*{name}", *(f":{chain} - [0:0]" for chain in chains), *rules, "COMMIT", ""])


def masquerading(marked=()):
    """kube-proxy's end of postrouting: who has bit 0x4000 gets this host's address. `marked`: rules that set it."""
    return table(
        "nat",
        ["KUBE-POSTROUTING", "KUBE-MARK-MASQ"],
        [
            "-A POSTROUTING -j KUBE-POSTROUTING",
            "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
            "-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000",
            "-A KUBE-POSTROUTING -j MASQUERADE --random-fully",
            *marked,
        ],
    )


def calico(policies, marked=()):
    """Calico: a device of a pod for each 20 policies, which come to ten for each direction."""
    chains = ["cali-FORWARD", "cali-from-wl-dispatch", "cali-to-wl-dispatch"]
    rules = [
        "-A FORWARD -j cali-FORWARD",
        "-A cali-FORWARD -j MARK --set-xmark 0x0/0xe0000",
        "-A cali-FORWARD -i cali+ -j cali-from-wl-dispatch",
        "-A cali-FORWARD -o cali+ -j cali-to-wl-dispatch",
        "-A cali-FORWARD -m mark --mark 0x10000/0x10000 -j ACCEPT",
        "-A cali-FORWARD -j MARK --set-xmark 0x10000/0x10000",
    ]
    for pod in range(policies // 20):
        for way, option, first in (("from", "i", 0), ("to", "o", 10)):
            chain = f"cali-{way[0]}w-cali{pod:05x}"
            chains.append(chain)
            rules += [
                f"-A cali-{way}-wl-dispatch -{option} cali{pod:05x} -g {chain}",
                f"-A {chain} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
                f"-A {chain} -m conntrack --ctstate INVALID -j DROP",
                f"-A {chain} -j MARK --set-xmark 0x0/0x10000",
                f"-A {chain} -j MARK --set-xmark 0x0/0x20000",
            ]
            for policy in range(first, first + 10):
                rules += [
                    f"-A {chain} -m mark --mark 0x0/0x20000 -j cali-p-{(pod * 20 + policy) % policies}",
                    f"-A {chain} -m mark --mark 0x10000/0x10000 -j RETURN",
                ]
            rules.append(f"-A {chain} -m mark --mark 0x0/0x20000 -j DROP")
    for policy in range(policies):
        chain = f"cali-p-{policy}"
        chains.append(chain)
        source, ports = f"10.{policy // 250 % 250}.{policy % 250}.0/24", f"{policy % 60_000 + 1},443"
        rules += [
            f"-A {chain} -p tcp -s {source} -m multiport --dports {ports} -j MARK --set-xmark 0x10000/0x10000",
            f"-A {chain} -m mark --mark 0x10000/0x10000 -j RETURN",
            f"-A {chain} -d 10.{policy % 250}.0.0/16 -j MARK --set-xmark 0x10000/0x10000",
            f"-A {chain} -m mark --mark 0x10000/0x10000 -j RETURN",
        ]
    return table("filter", chains, rules) + masquerading(marked)


def calico_and_services(policies):
    """The same where a Service marks packets for masquerading, so that the mark has to be followed."""
    marked = [
        "-A PREROUTING -d 10.96.0.1/32 -p tcp -m tcp --dport 443 -j KUBE-MARK-MASQ",
        "-A OUTPUT -d 10.96.0.1/32 -p tcp -m tcp --dport 443 -j KUBE-MARK-MASQ",
        "-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000",
    ]
    return calico(policies, marked)


def calico_and_devices(policies):
    """The same with the devices of its pods, whose packets leave with this host's address: policies meet."""
    pods = range(policies // 20)
    shell("\n".join(f"ip link add cali{pod:05x} up type veth peer name pod{pod:05x}" for pod in pods))
    shell("\n".join(f"ip link set pod{pod:05x} up" for pod in pods))
    return calico_and_services(policies) + table("nat", [], ["-A POSTROUTING -s 10.0.0.0/8 ! -d 10.0.0.0/8 -j MASQUERADE"])


def neutron(taps):
    """neutron's hybrid driver: two chains for each tap, which packets of bridges get to."""
    chains = ["neutron-openvswi-FORWARD", "neutron-openvswi-sg-chain", "neutron-openvswi-sg-fallback"]
    rules = ["-A FORWARD -j neutron-openvswi-FORWARD", "-A neutron-openvswi-sg-fallback -j DROP"]
    for tap in range(taps):
        for way, port in (("i", "out"), ("o", "in")):
            chain = f"neutron-openvswi-{way}{tap:08x}"
            device = f"-m physdev --physdev-{port} tap{tap:08x}-0 --physdev-is-bridged"
            chains.append(chain)
            rules += [
                f"-A neutron-openvswi-FORWARD {device} -j neutron-openvswi-sg-chain",
                f"-A neutron-openvswi-sg-chain {device} -j {chain}",
                f"-A {chain} -m state --state RELATED,ESTABLISHED -j RETURN",
                f"-A {chain} -s 10.0.0.{tap % 250}/32 -p udp -m udp --sport 67 --dport 68 -j RETURN",
                f"-A {chain} -p tcp -m tcp -m multiport --dports 22,80,443 -j RETURN",
                f"-A {chain} -m state --state INVALID -j DROP",
                f"-A {chain} -j neutron-openvswi-sg-fallback",
            ]
    rules.append("-A neutron-openvswi-sg-chain -j ACCEPT")
    return table("filter", chains, rules) + masquerading()


def firewalld(zones):
    """firewalld's table: a device for each zone, of which every tenth masquerades."""
    bases = {
        "mangle_PREROUTING": ("filter hook prerouting priority -140", "PRE", "iifname"),
        "nat_PREROUTING": ("nat hook prerouting priority -90", "PRE", "iifname"),
        "nat_POSTROUTING": ("nat hook postrouting priority 110", "POST", "oifname"),
        "filter_INPUT": ("filter hook input priority 10", "IN", "iifname"),
        "filter_FORWARD": ("filter hook forward priority 10", "FWD", "iifname"),
    }
    parts = ["pre", "log", "deny", "allow", "post"]
    text = "table inet firewalld {\n"
    last = ""
    for base, (hook, short, device) in bases.items():
        kind = base.partition("_")[0]
        for zone in range(zones):
            chain = f"{kind}_{short}_zone{zone}"
            for part in parts:
                text += f"chain {chain}_{part} {{\n"
                if (kind, short, part) == ("nat", "POST", "allow") and zone % 10 == 0:
                    text += 'meta nfproto ipv4 oifname != "lo" masquerade\n'
                if (short, part) == ("IN", "allow"):
                    text += "tcp dport 22 accept\nip6 daddr fe80::/64 udp dport 546 accept\n"
                    text += f"ip saddr 10.{zone}.0.0/16 tcp dport 8000-8100 accept\n"
                text += "}\n"
            text += f"chain {chain} {{\n" + "".join(f"jump {chain}_{part}\n" for part in parts)
            text += {"IN": "meta l4proto { icmp, ipv6-icmp } accept\n", "FWD": f'oifname "port{zone}" accept\n'}.get(short, "")
            text += "}\n"
        text += f"chain {base}_ZONES {{\n"
        text += "".join(f'{device} "port{zone}" goto {kind}_{short}_zone{zone}\n' for zone in range(zones))
        text += f"goto {kind}_{short}_zone0\n}}\n"
        filters = 'ct state { established, related } accept\nct status dnat accept\niifname "lo" accept\nct state invalid drop\n'
        is_filter = kind == "filter"
        last += f"chain {base} {{\ntype {hook};\n{filters if is_filter else ''}jump {base}_ZONES\n"
        last += f"{'reject with icmpx admin-prohibited' if is_filter else ''}\n}}\n"
    return text + last + "}\n"


def address(number):
    return f"10.{number // 65536}.{number // 256 % 256}.{number % 256}"


def marks(count):
    rules = [f"-A FORWARD -s {address(number)} -j MARK --set-xmark 0x77" for number in range(count)]
    return table("mangle", [], rules) + masquerading()


def own_marks(count):
    rules = [f"-A FORWARD -s {address(number)} -j MARK --set-xmark {number + 1:#x}" for number in range(count)]
    return table("mangle", [], rules) + masquerading()


def drops(count):
    return table("mangle", [], [f"-A FORWARD -s {address(number)} -j DROP" for number in range(count)]) + masquerading()


def service(number):
    return f"10.{96 + number // 65536}.{number // 256 % 256}.{number % 256}", f"10.244.{number // 256 % 256}.{number % 256}"


def nftables_services(count):
    """kube-proxy in its mode nftables: Services are elements of a verdict map, each with two chains."""
    text, elements = "table ip kube-proxy {\n", []
    text += "chain mark-for-masquerade { meta mark set meta mark or 0x4000; }\n"
    text += "chain masquerading { meta mark & 0x4000 == 0 return; meta mark set meta mark ^ 0x4000; masquerade fully-random; }\n"
    for number in range(count):
        own, pod = service(number)
        text += f"chain endpoint-{number:08X} {{ ip saddr {pod} jump mark-for-masquerade; meta l4proto tcp dnat to {pod}:8080; }}\n"
        text += f"chain service-{number:08X} {{ ip daddr {own} tcp dport 80 ip saddr != 10.244.0.0/16 jump mark-for-masquerade; "
        text += f"goto endpoint-{number:08X}; }}\n"
        elements.append(f"{own} . tcp . 80 : goto service-{number:08X}")
    text += "map service-ips { type ipv4_addr . inet_proto . inet_service : verdict; elements = { " + ", ".join(elements) + " }; }\n"
    text += "chain services { ip daddr . meta l4proto . th dport vmap @service-ips; }\n"
    for hook, priority in (("prerouting", -100), ("output", -100)):
        text += f"chain nat-{hook} {{ type nat hook {hook} priority {priority}; jump services; }}\n"
    return text + "chain nat-postrouting { type nat hook postrouting priority 100; jump masquerading; }\n}\n"


def ipvs_services(count):
    """kube-proxy in its mode ipvs: Services are elements of an ipset, and the rules are few. For `ipset restore`."""
    lines = [f"create KUBE-CLUSTER-IP hash:ip,port family inet hashsize 1024 maxelem {max(65536, count)}"]
    return "\n".join(lines + [f"add KUBE-CLUSTER-IP {service(number)[0]},tcp:80" for number in range(count)] + [""])


def ipvs_rules():
    return masquerading(
        [
            ":KUBE-SERVICES - [0:0]",
            "-A PREROUTING -j KUBE-SERVICES",
            "-A OUTPUT -j KUBE-SERVICES",
            "-A KUBE-SERVICES ! -s 10.244.0.0/16 -m set --match-set KUBE-CLUSTER-IP dst,dst -j KUBE-MARK-MASQ",
            "-A KUBE-SERVICES -m set --match-set KUBE-CLUSTER-IP dst,dst -j ACCEPT",
            "-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000",
        ]
    )


GENERATORS = {
    "calico": calico,
    "calico-and-services": calico_and_services,
    "neutron": neutron,
    "firewalld": firewalld,
    "marks": marks,
    "own-marks": own_marks,
    "drops": drops,
    "services": services,
    "nftables-services": nftables_services,
}
NFT, LEGACY, NATIVE = "iptables-nft-restore", "iptables-legacy-restore", "nft -f -"
RECORDED = os.path.join(HERE, "..", "tests", "nodes", "nat-nftables.txt")
# Name: how its rules are made, and what is to be reached: milliseconds, and MiB where that is said.
SETS = {
    "Calico, 2,000 policies, iptables-nft": (lambda: shell(NFT, calico(2000)), 100, 40),
    "Calico, 2,000 policies, legacy": (lambda: shell(LEGACY, calico(2000)), 100, 40),
    "Calico, 5,000 policies, iptables-nft": (lambda: shell(NFT, calico(5000)), 200, None),
    "Calico, 5,000 policies, and a Service": (lambda: shell(NFT, calico_and_services(5000)), 200, None),
    "Calico, 2,000 policies, devices of pods": (lambda: shell(NFT + " -n", calico_and_devices(2000)), 100, 40),
    "neutron, 100 taps": (lambda: shell(NFT, neutron(100)), 60, None),
    "firewalld, 100 zones": (lambda: shell(NATIVE, firewalld(100)), 60, None),
    "10,000 sources with one mark": (lambda: shell(NFT, marks(10_000)), 150, None),
    "10,000 sources with marks of their own": (lambda: shell(NFT, own_marks(10_000)), 150, None),
    "10,000 sources dropped, iptables-nft": (lambda: shell(NFT, drops(10_000)), 60, None),
    "10,000 sources dropped, legacy": (lambda: shell(LEGACY, drops(10_000)), 60, None),
    "kube-proxy, 10,000 Services, iptables-nft": (lambda: shell(NFT, services(10_000)), 140, None),
    "kube-proxy, 10,000 Services, legacy": (lambda: shell(LEGACY, services(10_000)), 140, None),
    "kube-proxy, 10,000 Services, nftables": (lambda: shell(NATIVE, nftables_services(10_000)), 140, None),
    "kube-proxy, 10,000 Services, ipvs": (
        lambda: (shell("ipset restore", ipvs_services(10_000)), shell(NFT, ipvs_rules())),
        140,
        None,
    ),
    "35 nat chains, recorded": (lambda: None, 20, 14),
}


# A child's peak of memory begins with that of the process that started it: this one is small.
STARTER = """import posix, sys
child = posix.fork() or posix.execv(sys.argv[1], sys.argv[1:])
usage = posix.wait4(child, 0)[2]
posix.write(2, b"%f %d" % (usage.ru_utime + usage.ru_stime, usage.ru_maxrss))
"""


def run(command):
    """A whole process: CPU time in milliseconds, memory at its most in MiB, and what it says."""
    child = subprocess.run([sys.executable, "-I", "-S", "-c", STARTER, *command], capture_output=True, check=True)
    seconds, memory = child.stderr.split()[-2:]
    return 1e3 * float(seconds), int(memory) / 1024, json.loads(child.stdout)


def measure(name):
    """Measures in this namespace, which is the node's."""
    build, *_ = SETS[name]
    where = ["--from", RECORDED] if "recorded" in name else ["--network-namespace", "current"]
    shell(TUNNEL + ROUTES)
    build()
    binaries = os.environ.get("SCALE_COMPARE", NATWATCH).split(",")
    found = {binary: [] for binary in binaries}
    for _ in range(TIMES):
        for binary in binaries:
            found[binary].append(run([binary, "check", "--format", "json", *where]))
    rows = []
    for binary, runs in found.items():
        report = runs[-1][2]
        # No tunnel was up where the chains were recorded.
        about = ["snat-port-race"] + ([] if "recorded" in name else ["vxlan-double-snat-checksum"])
        unknown = [
            f"{advisory['id']}: {condition['id']}"
            for advisory in report["advisories"]
            for condition in advisory["conditions"]
            if condition["state"] == "unknown" and advisory["id"] in about
        ]
        rows.append(
            {
                "name": name,
                "binary": binary,
                "check": statistics.median(cost for cost, *_ in runs),
                "memory": max(memory for _, memory, _ in runs),
                "exact": not unknown,
                "unknown": unknown,
            }
        )
    return rows


def in_namespace(name):
    script = 'mount -t sysfs sysfs /sys; ip link set lo up; exec "$@"'
    command = ["unshare", "--net", "--mount", "sh", "-ec", script, "sh", sys.executable, __file__, "--here", name]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def line(row):
    _, time, memory = SETS[row["name"]]
    wanted = f"{time} ms" + (f", {memory} MiB" if memory else "")
    exact = "yes" if row["exact"] else "no: " + ", ".join(row["unknown"])
    return f"| {row['name']} | {row['check']:.0f} | {row['memory']:.0f} | {wanted} | {exact} |"


def main():
    if sys.argv[1:2] == ["--rules"]:
        print(GENERATORS[sys.argv[2]](int(sys.argv[3])), end="")
        return
    if sys.argv[1:2] == ["--here"]:
        json.dump(measure(sys.argv[2]), sys.stdout)
        return
    text = "| rules | `check`, ms | at most, MiB | wanted | exact |\n|---|---|---|---|---|\n"
    for name in sys.argv[1:] or SETS:
        for row in in_namespace(name):
            print(line(row) + (f" {row['binary']}" if "SCALE_COMPARE" in os.environ else ""), file=sys.stderr)
            text += line(row) + "\n"
    if sys.argv[1:] or "SCALE_COMPARE" in os.environ:
        return
    write_table(BEGIN, END, text)


if __name__ == "__main__":
    main()
