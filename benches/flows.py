#!/usr/bin/python3
"""What reading entries of connection tracking costs where there are a million, beside `conntrack -L`, and what packets notice.

`flows.py` as root measures and writes its table into docs/performance.md (`make bench-flows` calls it); `flows.py --print` only
prints. `--entries N`: another number. The node is a network namespace; nf_conntrack_max, which is the whole machine's, is raised
meanwhile and set back.
"""

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time

sys.dont_write_bytecode = True
import entries as table
from nodes import NATWATCH, Server, cpu_of, shell, write_table
from scale import run

BEGIN, END = "<!-- written by benches/flows.py -->\n", "<!-- end of what benches/flows.py writes -->\n"
LIMIT = "/proc/sys/net/netfilter/nf_conntrack_max"
TIMES, LISTINGS = 9, 3
# Scrapes that are 30 s apart.
APART, SCRAPES = 30, 6
# Runs of the sender, with a reader and without in turn, and packets in each.
RUNS, PACKETS = 24, 10_000

NODE = """ip link set lo up
ip link add out type veth peer name in
ip addr add 192.0.2.1/24 dev out
ip link set out up
ip link set in up
ip neigh add 192.0.2.2 lladdr 02:00:00:00:00:02 dev out nud permanent
ip route add default via 192.0.2.2
sysctl -qw net.ipv4.ip_forward=1
iptables-nft -w -t nat -A POSTROUTING -o out -j MASQUERADE
"""
# A tunnel and a Service of UDP ask for filtered dumps.
EVERYTHING = """ip link add flannel.1 type vxlan id 1 dev out local 192.0.2.1 dstport 8472 nolearning
ip link set flannel.1 up
iptables-nft -w -t nat -A PREROUTING -d 10.96.0.10 -p udp --dport 53 -j DNAT --to 10.244.0.2
"""


def kinds(entries):
    """A node behind which 100,000 clients talk to 20,000 servers, most of them over TCP, and too many to one."""
    others = entries - 40_000
    to = lambda first, many: {"destination": [first, many], "translated": "192.0.2.1"}
    return [
        {"count": 40_000, "translated": "192.0.2.1"},
        {"count": others * 5 // 10, **to("198.18.1.0", 20_000)},
        {"count": others * 2 // 10, "state": 7, **to("198.18.1.0", 20_000), "port": 80},
        {"count": others * 2 // 10, "protocol": "udp", "status": 8, "port": 53, **to("198.19.0.0", 5_000)},
        {"count": others - others * 5 // 10 - 2 * (others * 2 // 10), "destination": ["10.244.0.0", 200], "port": 8080},
    ]


def list_entries():
    """CPU time of `conntrack -L | wc -l`, both processes."""
    return cpu_of(["sh", "-c", "conntrack -L | wc -l"])


HERE = ["--network-namespace", "current"]
WITHOUT = "--no-collector.flows"


def check(*flags):
    return run([NATWATCH, "check", "--format", "json", *HERE, *flags])[:2]


def scrapes(interval, count, pause):
    """CPU time of scrapes in milliseconds, and resident memory in MiB, each with flows and without."""
    flags = {True: f"--collector.flows.interval={interval}", False: WITHOUT}
    servers = {flows: Server([NATWATCH, "serve", *HERE, flag], 9102 - flows) for flows, flag in flags.items()}
    costs = {True: [], False: []}
    for _ in range(count):
        time.sleep(pause)
        for flows, server in servers.items():
            costs[flows].append(server.cpu_of_scrapes(1))
    resident = {flows: server.resident() for flows, server in servers.items()}
    for server in servers.values():
        server.process.terminate()
        server.process.wait()
    return costs, resident


class Sender:
    """Sends through connection tracking and NAT, as forwarded packets go: of flows that are there, or of new ones."""

    def __init__(self):
        self.raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self.raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        self.number = 0

    def packets(self, new):
        """Microseconds of CPU and of the clock for each packet."""
        address, prepared = ("198.18.200.1", 0), []
        for at in range(PACKETS):
            if new:
                self.number += 1
            number = self.number if new else at % 200
            source = b"\x0b" + (number >> 8 & 0xFFFFFF).to_bytes(3, "big")
            header = b"\x45\x00\x00\x1c\x00\x00\x00\x00\x40\x11\x00\x00" + source + socket.inet_aton(address[0])
            prepared.append(header + (40_000 + number % 256).to_bytes(2, "big") + (1000 + number // 5_000).to_bytes(2, "big") + b"\x00\x08\x00\x00")
        send = self.raw.sendto
        cpu, clock = time.thread_time(), time.monotonic()
        for packet in prepared:
            send(packet, address)
        return 1e6 * (time.thread_time() - cpu) / PACKETS, 1e6 * (time.monotonic() - clock) / PACKETS


def packets():
    """What a packet costs its sender while entries are read without pause on another CPU, and while that is busy otherwise."""
    os.sched_setaffinity(0, {0})
    sender, found = Sender(), {}
    loop = {True: f"while :; do {NATWATCH} check {' '.join(HERE)} >/dev/null 2>&1; done", False: "while :; do :; done"}
    for what, new in (("flows that are there", False), ("new flows", True)):
        results = {True: [], False: []}
        sender.packets(new)
        for run in range(RUNS):
            with_reader = run % 2 == 0
            busy = ["sh", "-c", loop[with_reader]]
            other = subprocess.Popen(busy, preexec_fn=lambda: (os.setsid(), os.sched_setaffinity(0, {1})))
            try:
                time.sleep(0.3)
                results[with_reader].append(sender.packets(new))
            finally:
                os.killpg(other.pid, signal.SIGKILL)
                other.wait()
        found[what] = {
            with_reader: [statistics.median(one[at] for one in each) for at in (0, 1)]
            for with_reader, each in results.items()
        }
    os.sched_setaffinity(0, range(os.cpu_count()))
    return found


def measure(entries):
    """In this namespace, which is the node's: rows of the table."""
    shell(NODE)
    table.fill(kinds(entries))
    with open("/proc/sys/net/netfilter/nf_conntrack_count", encoding="ascii") as file:
        count = int(file.read())
    assert count > 0.99 * entries, f"{count} of {entries} entries"
    rows = []

    def row(what, value, wanted=""):
        print(f"{what}: {value} ({wanted})", file=sys.stderr, flush=True)
        rows.append([what, value, wanted])

    milliseconds = lambda value: f"{value:,.1f} ms" if value < 100 else f"{value:,.0f} ms"
    listing = statistics.median(list_entries() for _ in range(LISTINGS))
    row("`conntrack -L \\| wc -l`", milliseconds(listing))
    # Of these, the first reads more than the sample, which the median leaves out.
    costs, resident = scrapes(0, 25, 0)
    sample = statistics.median(costs[True]) - statistics.median(costs[False])
    row("the sample, a scrape", milliseconds(sample), f"40 ms, 1/80 of the list: 1/{listing / sample:.0f}")
    row("memory of `serve` beside its own", f"{resident[True] - resident[False]:.1f} MiB of {resident[True]:.1f}", "3 MiB")
    ports = [check() for _ in range(TIMES)]
    cost = statistics.median(cost for cost, _ in ports)
    row("`check`, one destination counted exactly", milliseconds(cost), f"1/{listing / cost:.1f} of the list")
    shell(EVERYTHING)
    both = [(check(), check(WITHOUT)) for _ in range(TIMES)]
    cost = statistics.median(cost for (cost, _), _ in both)
    row("`check` with everything", milliseconds(cost), f"1/2 of the list: 1/{listing / cost:.1f}")
    row("memory of it beside its own", f"{statistics.median(one - other for (_, one), (_, other) in both):.1f} MiB", "3 MiB")
    for what, found in packets().items():
        for at, clock in enumerate(("CPU", "clock")):
            without, beside = found[False][at], found[True][at]
            row(f"a packet of {what}, {clock}", f"{beside:.2f} µs, without {without:.2f} µs", f"{100 * (beside / without - 1):+.1f} %")
    costs, _ = scrapes(APART, SCRAPES, APART)
    for flows, what in ((True, "with flows"), (False, "without")):
        median, mean = (milliseconds(value(costs[flows])) for value in (statistics.median, statistics.mean))
        row(f"a scrape each {APART} s, {what}", f"{median}, mean {mean}")
    return rows


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--entries", type=int, default=1_000_000)
    arguments.add_argument("--print", action="store_true")
    arguments.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    chosen = arguments.parse_args()
    if chosen.here:
        json.dump(measure(chosen.entries), sys.stdout)
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with open(LIMIT, encoding="ascii") as file:
        before = file.read()
    script = 'mount -t sysfs sysfs /sys; exec "$@"'
    command = ["unshare", "--net", "--mount", "sh", "-ec", script, "sh", sys.executable, __file__, "--here"]
    try:
        with open(LIMIT, "w", encoding="ascii") as file:
            file.write(str(max(int(before), chosen.entries * 11 // 10 + 2 * RUNS * PACKETS)))
        child = subprocess.run([*command, f"--entries={chosen.entries}"], stdout=subprocess.PIPE, check=True)
    finally:
        with open(LIMIT, "w", encoding="ascii") as file:
            file.write(before)
    text = "| | measured | wanted |\n|---|---|---|\n"
    text += "".join(f"| {' | '.join(row)} |\n" for row in json.loads(child.stdout))
    if chosen.print:
        print(text)
        return
    write_table(BEGIN, END, text)


if __name__ == "__main__":
    main()
