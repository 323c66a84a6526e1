#!/usr/bin/python3
"""What natwatch costs on nodes of several shapes, side by side with the programs that users know.

CPU time of whole processes and of scrapes, medians of alternated runs. Each node is a network namespace of its own, in a
process of its own, and vanishes with it. `make bench` runs it as root and writes docs/performance.md and docs/img/growth.svg.
"""

import http.client
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
PAGE = os.path.join(HERE, "..", "docs", "performance.md")
PLOT = os.path.join(HERE, "..", "docs", "img", "growth.svg")
BEGIN, END = "<!-- written by `make bench` -->\n", "<!-- end of what `make bench` writes -->\n"

NATWATCH = os.environ.get("NATWATCH", os.path.join(HERE, "..", "target", "release", "natwatch"))
NODE_EXPORTER = os.environ.get("NODE_EXPORTER")

TUNNEL = """ip link add eth0 type veth peer name peer0
ip addr add 192.168.0.1/16 dev eth0
ip link set eth0 up
ip link set peer0 up
ip link add flannel.1 type vxlan id 1 dev eth0 local 192.168.0.1 dstport 8472 nolearning
ip addr add 10.244.0.0/32 dev flannel.1
ip link set flannel.1 up
bridge fdb append 02:00:00:00:ff:01 dst 192.168.0.2 dev flannel.1 self permanent
"""


def write_table(begin, end, text):
    """Puts a table between two lines of the page."""
    with open(PAGE, encoding="utf-8") as page:
        before, rest = page.read().split(begin)
    with open(PAGE, "w", encoding="utf-8") as page:
        page.write(before + begin + "\n" + text + "\n" + end + rest.split(end)[1])


def shell(script, given=""):
    subprocess.run(["sh", "-ec", script], input=given, text=True, check=True, stdout=subprocess.DEVNULL)


def services(count):
    """Rules as kube-proxy writes them, five for each Service."""
    lines = ["*nat", ":KUBE-SERVICES -", ":KUBE-POSTROUTING -", ":KUBE-MARK-MASQ -"]
    lines += [f":KUBE-{kind}-{n:016X} -" for n in range(count) for kind in ("SVC", "SEP")]
    lines += [
        "-A PREROUTING -j KUBE-SERVICES",
        "-A OUTPUT -j KUBE-SERVICES",
        "-A POSTROUTING -j KUBE-POSTROUTING",
        "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
        "-A KUBE-POSTROUTING -j MARK --xor-mark 0x4000",
        "-A KUBE-POSTROUTING -j MASQUERADE --random-fully",
        "-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000",
    ]
    for n in range(count):
        service = f"10.{96 + n // 65536}.{n // 256 % 256}.{n % 256}"
        pod = f"10.244.{n // 256 % 256}.{n % 256}"
        comment = f'-m comment --comment "default/svc{n}:http"'
        port = f"-d {service}/32 -p tcp {comment} -m tcp --dport 80"
        lines += [
            f"-A KUBE-SERVICES {port} -j KUBE-SVC-{n:016X}",
            f"-A KUBE-SVC-{n:016X} ! -s 10.244.0.0/16 {port} -j KUBE-MARK-MASQ",
            f"-A KUBE-SVC-{n:016X} {comment} -j KUBE-SEP-{n:016X}",
            f"-A KUBE-SEP-{n:016X} -s {pod}/32 {comment} -j KUBE-MARK-MASQ",
            f"-A KUBE-SEP-{n:016X} -p tcp {comment} -m tcp -j DNAT --to-destination {pod}:8080",
        ]
    return "\n".join(lines + ["COMMIT", ""])


def rules(count, restore, tunnel=False):
    if tunnel:
        shell(TUNNEL)
    shell(restore, services(count // 5))


def peers(count):
    """A flannel node: a forwarding entry, a neighbour and a route for each peer."""
    shell(TUNNEL)
    lines, entries = [], []
    for n in range(1, count):
        mac, network = f"02:00:00:00:{n >> 8:02x}:{n & 255:02x}", f"10.{16 + n // 256}.{n % 256}.0"
        lines.append(f"neigh add {network} lladdr {mac} dev flannel.1 nud permanent")
        lines.append(f"route add {network}/24 via {network} dev flannel.1 onlink")
        entries.append(f"fdb append {mac} dst 192.168.{1 + n // 250}.{1 + n % 250} dev flannel.1 self permanent")
    shell("ip -batch -", "\n".join(lines) + "\n")
    shell("bridge -batch -", "\n".join(entries) + "\n")


def veths(count):
    shell("ip -batch -", "".join(f"link add v{n} type veth peer name w{n}\n" for n in range(count // 2)))


# A recorded node, as if the kernel had printed so many lines of counters: more CPUs than there are cannot be had.
CPUS = {f"{count:,} CPUs, recorded": count for count in (2, 64, 512, 4096)}

NFT_SAVE, LEGACY_SAVE = [["iptables-nft-save"]], [["iptables-legacy-save"]]
# Name: how it is built, what `check` is compared with, how often, and what it is a point of in the plot.
NODES = {
    "idle": (lambda: None, None, 15, ("rules", 0)),
    "100 rules, iptables-nft": (lambda: rules(100, "iptables-nft-restore"), NFT_SAVE, 31, ("rules", 100)),
    "1,000 rules, iptables-nft": (lambda: rules(1000, "iptables-nft-restore"), NFT_SAVE, 9, ("rules", 1000)),
    "10,000 rules, iptables-nft": (lambda: rules(10_000, "iptables-nft-restore"), NFT_SAVE, 5, ("rules", 10_000)),
    "50,000 rules, iptables-nft": (lambda: rules(50_000, "iptables-nft-restore"), NFT_SAVE, 3, ("rules", 50_000)),
    "50,000 rules, iptables-nft, VXLAN": (lambda: rules(50_000, "iptables-nft-restore", True), NFT_SAVE, 3, None),
    "50,000 rules, legacy, VXLAN": (lambda: rules(50_000, "iptables-legacy-restore", True), LEGACY_SAVE, 7, None),
    "100 peers": (lambda: peers(100), [["bridge", "-j", "fdb"], ["ip", "-j", "route"]], 11, ("peers", 100)),
    "1,000 peers": (lambda: peers(1000), [["bridge", "-j", "fdb"], ["ip", "-j", "route"]], 11, ("peers", 1000)),
    "5,000 peers": (lambda: peers(5000), [["bridge", "-j", "fdb"], ["ip", "-j", "route"]], 11, ("peers", 5000)),
    "100 veths": (lambda: veths(100), [["ip", "-d", "-j", "link"]], 11, ("links", 100)),
    "1,000 veths": (lambda: veths(1000), [["ip", "-d", "-j", "link"]], 11, ("links", 1000)),
    "5,000 veths": (lambda: veths(5000), [["ip", "-d", "-j", "link"]], 11, ("links", 5000)),
}


def cpu_of(*commands):
    """CPU time of processes that run one after the other, in milliseconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    for command in commands:
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return 1e3 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


class Server:
    """An exporter that is scraped as Prometheus scrapes it."""

    def __init__(self, command, port):
        begun = time.monotonic()
        self.port = port
        self.process = subprocess.Popen(
            [*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while True:
            try:
                self.scrape()
                break
            except ConnectionRefusedError:
                assert time.monotonic() - begun < 60, f"{command} does not listen"
                time.sleep(0.002)
        self.start = 1e3 * (time.monotonic() - begun)
        for _ in range(3):
            self.scrape()

    def scrape(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", "/metrics", headers={"Accept-Encoding": "gzip"})
        answer = connection.getresponse()
        answer.read()
        connection.close()
        assert answer.status == 200, answer.status

    def cpu_of_scrapes(self, count):
        clock = (~self.process.pid << 3) | 2  # its CPU clock, as clock_getcpuclockid(3) makes it
        before = time.clock_gettime(clock)
        for _ in range(count):
            self.scrape()
        return 1e3 * (time.clock_gettime(clock) - before) / count

    def resident(self):
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as status:
            return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmRSS"))


def recorded(name):
    """What `check --from` costs of this namespace with another number of CPUs."""
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run([NATWATCH, "capture", directory], stdout=subprocess.DEVNULL, check=True)
        counters = os.path.join(directory, "procfs/thread-self/net/stat/nf_conntrack")
        with open(counters, encoding="ascii") as file:
            head, row, *_ = file.readlines()
        with open(counters, "w", encoding="ascii") as file:
            file.write(head + CPUS[name] * row)
        for cpus in ("online", "possible"):
            with open(os.path.join(directory, "sysfs/devices/system/cpu", cpus), "w", encoding="ascii") as file:
                file.write(f"0-{CPUS[name] - 1}\n")
        check = statistics.median(cpu_of([NATWATCH, "check", "--from", directory]) for _ in range(31))
    node = dict.fromkeys(("scrape", "peer", "others", "start", "resident"))
    return node | {"name": name, "check": check, "tools": "", "point": ("CPUs", CPUS[name])}


def measure(name):
    """Measures in this namespace, which is the node's."""
    build, tools, times, point = NODES[name]
    build()
    # First, while connection tracking has no entries yet of the scrapes.
    own, others = [], []
    for _ in range(times):
        own.append(cpu_of([NATWATCH, "check"]))
        if tools:
            others.append(cpu_of(*tools))
    servers = {"natwatch": Server([NATWATCH, "serve"], 9101)}
    if NODE_EXPORTER:
        servers["node_exporter"] = Server([NODE_EXPORTER], 9102)
    scrapes = {server: [] for server in servers}
    for _ in range(5):
        for server, running in servers.items():
            # node_exporter takes seconds for thousands of devices.
            scrapes[server].append(running.cpu_of_scrapes(3 if "veths" in name and server != "natwatch" else 40))
    resident, start = servers["natwatch"].resident(), servers["natwatch"].start
    for server in servers.values():
        server.process.terminate()
        server.process.wait()
    median = {server: statistics.median(values) for server, values in scrapes.items()}
    return {
        "name": name,
        "scrape": median["natwatch"],
        "peer": median.get("node_exporter"),
        "check": statistics.median(own),
        "tools": " + ".join(f"`{' '.join(tool)}`" for tool in tools or []),
        "others": statistics.median(others) if others else None,
        "start": start,
        "resident": resident,
        "point": point,
    }


def in_namespace(name):
    """Measures a node in a child, whose namespaces go with it."""
    script = 'mount -t sysfs sysfs /sys; ip link set lo up; exec "$@"'
    command = ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-ec", script, "sh"]
    child = subprocess.run([*command, sys.executable, __file__, name], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(child.stdout)


def ratio(own, other):
    if not own or not other:
        return ""
    return f"1/{other / own:.1f}" if own < other else f"{own / other:.1f} ×"


def number(value):
    return "" if value is None else f"{value:.2f}" if value < 10 else f"{value:,.0f}"


def table(nodes):
    """What was measured, in Markdown."""
    text = "| node | scrape, ms | node_exporter | ratio | `check`, ms | tools | ms | ratio | start, ms | resident, MiB |\n"
    text += "|---|---|---|---|---|---|---|---|---|---|\n"
    for node in nodes:
        cells = [
            node["name"],
            number(node["scrape"]),
            number(node["peer"]),
            ratio(node["scrape"], node["peer"]),
            number(node["check"]),
            node["tools"],
            number(node["others"]),
            ratio(node["check"], node["others"]),
            "" if node["start"] is None else f"{node['start']:.0f}",
            "" if node["resident"] is None else f"{node['resident']:.1f}",
        ]
        text += f"| {' | '.join(cells)} |\n"
    return text


def plot(nodes):
    """CPU time over what grows, on a logarithmic scale in both directions, as SVG."""
    colours = {"rules": "#1f6f8b", "peers": "#b3541e", "links": "#5b7f2b", "CPUs": "#7a4b94"}
    x = lambda size: 60 + 140 * math.log10(max(size, 10) / 10)
    y = lambda cost: 300 - 90 * math.log10(max(cost, 0.1) / 0.1)
    parts = ['<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 680 340" font-family="sans-serif" font-size="12">']
    parts.append('<rect width="680" height="340" fill="#ffffff"/>')
    for power in range(1, 6):
        parts.append(f'<text x="{x(10 ** power):.0f}" y="320" text-anchor="middle">{10 ** power:,}</text>')
        parts.append(f'<path d="M{x(10 ** power):.0f} 30V300" stroke="#dddddd"/>')
    for power in range(-1, 3):
        parts.append(f'<text x="52" y="{y(10 ** power) + 4:.0f}" text-anchor="end">{10.0 ** power:g} ms</text>')
        parts.append(f'<path d="M60 {y(10 ** power):.0f}H620" stroke="#dddddd"/>')
    at = 20
    for what, colour in colours.items():
        for measured, dashes in (("scrape", ""), ("check", ' stroke-dasharray="5 3"')):
            shown = [node for node in nodes if node["point"] and node["point"][0] == what and node[measured]]
            points = sorted((node["point"][1], node[measured]) for node in shown)
            if not points:
                continue
            line = " ".join(f"{x(size):.1f},{y(cost):.1f}" for size, cost in points)
            parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>')
            parts.append(f'<path d="M80 {at}H110" stroke="{colour}" stroke-width="2"{dashes}/>')
            parts.append(f'<text x="116" y="{at + 4}">{measured}, by {what}</text>')
            at += 16
    return "\n".join([*parts, "</svg>", ""])


def main():
    if len(sys.argv) > 1:
        name = sys.argv[1]
        json.dump(recorded(name) if name in CPUS else measure(name), sys.stdout)
        return
    nodes = []
    for name in [*NODES, *CPUS]:
        print(name, file=sys.stderr)
        nodes.append(in_namespace(name))
    write_table(BEGIN, END, table(nodes))
    with open(PLOT, "w", encoding="ascii") as file:
        file.write(plot(nodes))


if __name__ == "__main__":
    main()
