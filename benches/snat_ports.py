#!/usr/bin/python3
"""At which share of used source ports towards one destination new connections begin to be lost, measured with real packets.

`snat_ports.py` as root measures the running kernel in a network namespace of its own and prints tables; `--kernels DIR` boots each
kernel of a directory (tests/kernels/debian.sh makes one) in qemu and measures there. `make measure-ports` calls it, and
docs/snat-ports.md has what it printed.

Flows are packets of their own source address and port, sent through a raw socket to one destination, which a rule of nftables
masquerades to the one address of the device. They pass connection tracking and NAT as a forwarded packet does; what NAT cannot give
a port is dropped at confirmation, which send() reports as EPERM and connection tracking as insert_failed: both are counted, and have
to agree. Timeouts are long, so each flow that was sent holds a port.
"""

import argparse
import errno
import glob
import json
import os
import random
import select
import socket
import struct
import subprocess
import sys
import tempfile
import time

NAMESPACE, SINK = "natwatch-ports", "natwatch-sink"
DESTINATION, PORT = "198.18.0.1", 443
SYSCTLS = "/proc/sys/net/netfilter/nf_conntrack_"
# Ports of the range, and how often it is filled. 64,512 is what a rule without a range has.
RANGES = {128: 400, 512: 400, 2048: 160, 8192: 48, 64512: 12}
# Per cent used. Losses and tuples tried are counted between one and the next.
LEVELS = [0, 50, 60, 70, 75, 80, 82, 84, 85, 86, 87, 88, 89, 90, 91, 92, 93, 94, 95, 96, 97, 98, 99, 100]
# Those that are printed.
SHOWN = [50, 60, 70, 80, 85, 88, 90, 92, 94, 96]
CHURN = [50, 60, 70, 75, 80, 82, 84, 85, 86, 88, 90, 92, 94, 96]
HERE = os.path.dirname(os.path.abspath(__file__))


def run(*command, **options):
    return subprocess.run(command, check=True, text=True, capture_output=True, **options).stdout


def write(name, value):
    with open(SYSCTLS + name, "w") as file:
        file.write(str(value))


def read(name):
    with open(SYSCTLS + name) as file:
        return int(file.read())


def counters():
    """Sums over CPUs of /proc/net/stat/nf_conntrack."""
    with open("/proc/net/stat/nf_conntrack") as file:
        names = file.readline().split()
        sums = [0] * len(names)
        for line in file:
            sums = [total + int(word, 16) for total, word in zip(sums, line.split())]
    return dict(zip(names, sums))


class Netlink:
    """Entries of connection tracking, deleted through ctnetlink."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.socket.bind((0, 0))

    @staticmethod
    def attribute(kind, value):
        return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)

    def message(self, kind, flags, payload=b""):
        # nfgenmsg: AF_INET, NFNETLINK_V0, no resource. Subsystem 1 is ctnetlink.
        return struct.pack("=IHHIIBBH", 20 + len(payload), 1 << 8 | kind, 1 | flags, 0, 0, socket.AF_INET, 0, 0) + payload

    def flush(self):
        self.socket.send(self.message(2, 4))
        assert self.error() == 0, "the entries could not be flushed"

    def error(self):
        answer = self.socket.recv(65536)
        assert struct.unpack_from("=H", answer, 4)[0] == 2, "an error or an acknowledgement"
        return struct.unpack_from("=i", answer, 16)[0]

    def delete(self, flows, protocol):
        """IPCTNL_MSG_CT_DELETE by original tuple; nothing is answered where it succeeds."""
        nest = 0x8000
        messages = []
        for source, port in flows:
            addresses = self.attribute(1, source) + self.attribute(2, socket.inet_aton(DESTINATION))
            ports = self.attribute(2, struct.pack(">H", port)) + self.attribute(3, struct.pack(">H", PORT))
            tuple_ = self.attribute(1 | nest, addresses) + self.attribute(2 | nest, self.attribute(1, bytes([protocol])) + ports)
            messages.append(self.message(2, 0, self.attribute(1 | nest, tuple_)))
        self.socket.send(b"".join(messages))
        assert not select.select([self.socket], [], [], 0)[0], f"an entry could not be deleted: {self.error()}"


class Node:
    """This namespace as a node with one address that masquerades."""

    def __init__(self):
        run("ip", "link", "set", "lo", "up")
        run("ip", "netns", "add", SINK)
        ours, theirs = "02:00:00:00:00:01", "02:00:00:00:00:03"
        run("ip", "link", "add", "out", "address", ours, "type", "veth", "peer", "name", "in", "address", theirs, "netns", SINK)
        for at, device, address in (((), "out", "192.0.2.1/24"), (("-n", SINK), "in", "192.0.2.3/24")):
            run("ip", *at, "addr", "add", address, "dev", device)
            run("ip", *at, "link", "set", device, "up")
        run("ip", "-n", SINK, "neigh", "add", "192.0.2.1", "lladdr", ours, "dev", "in", "nud", "permanent")
        run("ip", "neigh", "add", "192.0.2.3", "lladdr", theirs, "dev", "out", "nud", "permanent")
        # Nobody has this one, so that nobody answers.
        run("ip", "neigh", "add", "192.0.2.2", "lladdr", "02:00:00:00:00:02", "dev", "out", "nud", "permanent")
        run("ip", "route", "add", "198.18.0.0/15", "via", "192.0.2.2")
        run("nft", "add table ip ports; add chain ip ports post { type nat hook postrouting priority 100; }")
        for name in ("udp_timeout", "tcp_timeout_syn_sent"):
            write(name, 86400)
        self.raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        self.raw.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        self.netlink = Netlink()

    def rule(self, protocol, ports, flags):
        """masquerade, with a range of so many ports; all that a port above 1,023 may become needs none."""
        ends = "" if ports == 64512 else f"to :1024-{1023 + ports}"
        run("nft", f"flush chain ip ports post; add rule ip ports post oifname out meta l4proto {protocol} masquerade {ends} {flags}")

    def flow(self, kind, destination=DESTINATION):
        """A packet of a new flow: where it is from, and whether it got a port. Clients take ports as Linux does."""
        source = b"\x0a" + random.getrandbits(24).to_bytes(3, "big")
        port = random.randrange(32768, 61000)
        target = socket.inet_aton(destination)
        header = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 0, 0, 0, 64, kind, 0, source, target)
        if kind == socket.IPPROTO_UDP:
            rest = struct.pack(">HHHH", port, PORT, 8, 0)
        else:
            rest = struct.pack(">HHIIBBHHH", port, PORT, random.getrandbits(32), 0, 0x50, 2, 65535, 0, 0)
        try:
            self.raw.sendto(header + rest, (destination, 0))
        except OSError as error:
            if error.errno != errno.EPERM:
                raise
            return source, port, False
        return source, port, True


def fill(node, kind, ports):
    """One destination's ports are taken until hardly any are left: where the first loss was, and each level's attempts, losses and
    tuples found in use."""
    node.netlink.flush()
    start = now = counters()
    used = attempts = lost = 0
    first = None
    levels = {}
    for low, high in zip(LEVELS, LEVELS[1:]):
        tried, missed = attempts, lost
        # Above, most are lost: a full range is not waited for.
        bound = attempts + 8 * max(1, (high - low) * ports // 100) + 8
        while used * 100 < high * ports and attempts < bound:
            attempts += 1
            if node.flow(kind)[2]:
                used += 1
            else:
                lost += 1
                if first is None:
                    first = used / ports
        before, now = now, counters()
        levels[low] = [attempts - tried, lost - missed, now["found"] - before["found"]]
        if attempts > 1.3 * ports + 200 or attempts == bound:
            break
    assert read("count") == used, f"{read('count')} entries, {used} flows that were sent"
    told = {name: now[name] - start[name] for name in ("insert_failed", "drop", "early_drop")}
    assert told["early_drop"] == 0 and max(told["insert_failed"], told["drop"]) == lost, f"{lost} lost, the kernel says {told}"
    return first, used / ports, levels


def churn(node, kind, ports):
    """The share of used ports stays, each new flow after an old one has gone: attempts, losses and tuples found in use, by level. As
    many flows as the range has ports, in groups, each of which is tried until the share is reached again."""
    protocol = {socket.IPPROTO_UDP: "udp", socket.IPPROTO_TCP: "tcp"}[kind]
    levels = {}
    node.netlink.flush()
    flows = []
    for level in CHURN:
        want = level * ports // 100
        for _ in range(4 * ports):
            if len(flows) >= want:
                break
            source, port, sent = node.flow(kind)
            if sent:
                flows.append((source, port))
        assert len(flows) >= want, f"{protocol}: {level} % of {ports} ports could not be filled"
        group = max(1, min(64, ports // 100))
        attempts = lost = 0
        before = counters()
        while attempts < max(ports, 4096):
            # The oldest go first, as their timeouts end first.
            gone, flows = flows[:group], flows[group:]
            node.netlink.delete(gone, kind)
            for _ in range(8 * group):
                if len(flows) >= want:
                    break
                attempts += 1
                source, port, sent = node.flow(kind)
                if sent:
                    flows.append((source, port))
                else:
                    lost += 1
        levels[level] = [attempts, lost, counters()["found"] - before["found"]]
    return levels


def mixed(node, flags, share, flows=4000):
    """Tuples found for each new flow where this share of new flows goes to the full destination, by level; others go to 40,000."""
    node.rule("udp", 64512, flags)
    node.netlink.flush()
    kind, ports = socket.IPPROTO_UDP, 64512
    used, levels = 0, {}
    for level in CHURN:
        for _ in range(2 * ports):
            if used * 100 >= level * ports:
                break
            used += node.flow(kind)[2]
        before = counters()["found"]
        for _ in range(flows):
            if random.random() < share:
                used += node.flow(kind)[2]
            else:
                number = random.randrange(40000)
                node.flow(kind, f"198.19.{number >> 8}.{number & 255}")
        levels[level] = (counters()["found"] - before) / flows
    return levels


def time_wait(node, flags, first):
    """Whether a SYN gets a port where all are held by connections in TIME_WAIT: of so many new connections, how many came up."""
    ports, more = 128, 32
    node.rule("tcp", ports, flags)
    node.netlink.flush()
    write("tcp_timeout_time_wait", 3600)
    # All of these addresses are this node's.
    run("ip", "route", "replace", "local", "10.0.0.0/8", "dev", "lo")
    server = ["ip", "netns", "exec", SINK, sys.executable, "-I", "-S", os.path.abspath(__file__), "--listen"]
    with subprocess.Popen(server, stdout=subprocess.PIPE) as server:
        try:
            server.stdout.readline()
            closed = sum(connect(first + number) for number in range(ports))
            for _ in range(50):
                # The last FIN may still be under way.
                held = states()
                if held.count("TIME_WAIT") == len(held):
                    break
                time.sleep(0.1)
            came = sum(connect(first + ports + number) for number in range(more))
        finally:
            server.kill()
    return {"ports": ports, "closed": closed, "time_wait": held.count("TIME_WAIT"), "tried": more, "came": came}


def states():
    """The states of the TCP connections of this namespace."""
    with open("/proc/net/nf_conntrack") as file:
        return [line.split()[5] for line in file if " tcp " in line]


def connect(number):
    """A connection of a client of its own, which closes first. A lost SYN is not sent again within the time."""
    with socket.socket() as client:
        client.bind((f"10.0.{number // 200}.{1 + number % 200}", 40000 + number))
        client.settimeout(0.8)
        try:
            client.connect(("192.0.2.3", PORT))
            client.shutdown(socket.SHUT_WR)
            return client.recv(1) == b""
        except OSError:
            return False


def listen():
    """Accepts, and closes after the peer has."""
    with socket.create_server(("0.0.0.0", PORT), backlog=256) as server:
        print("listening", flush=True)
        while True:
            client, _ = server.accept()
            client.recv(1)
            client.close()


def inside(fills, parts):
    """Everything, in this namespace: a document."""
    random.seed(1)
    node = Node()
    result = {"release": os.uname().release, "fills": [], "churn": [], "mixed": []}
    kinds = {"udp": socket.IPPROTO_UDP, "tcp": socket.IPPROTO_TCP}
    for number, flags in enumerate(("fully-random", "")):
        if "time-wait" in parts:
            result.setdefault("time_wait", {})[flags] = time_wait(node, flags, 1000 * number)
            progress(f"time-wait {flags}: {result['time_wait'][flags]}")
        for ports, times in RANGES.items():
            for protocol, kind in kinds.items():
                key = {"protocol": protocol, "ports": ports, "flags": flags}
                if "fill" in parts:
                    node.rule(protocol, ports, flags)
                    result["fills"].append(key | {"runs": [fill(node, kind, ports) for _ in range(max(2, round(times * fills)))]})
                    first = sorted(run[0] or run[1] for run in result["fills"][-1]["runs"])
                    progress(f"fill {key}: first loss at {first[0]:.4f}, median {first[len(first) // 2]:.4f}")
                if "churn" in parts and protocol == "udp" and ports > 128:
                    node.rule(protocol, ports, flags)
                    result["churn"].append(key | {"levels": churn(node, kind, ports)})
                    progress(f"churn {key}: {result['churn'][-1]['levels']}")
        if "mixed" in parts:
            for share in (0.1, 0.02):
                result["mixed"].append({"flags": flags, "share": share, "levels": mixed(node, flags, share)})
                progress(f"mixed {result['mixed'][-1]}")
    return result


def progress(text):
    print(f"[{time.monotonic():.0f}] {text}", file=sys.stderr, flush=True)


def here(arguments):
    run("ip", "netns", "add", NAMESPACE)
    try:
        command = ["ip", "netns", "exec", NAMESPACE, sys.executable, "-I", "-S", os.path.abspath(__file__), "--inside", *arguments]
        return json.loads(subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout)
    finally:
        for namespace in (SINK, NAMESPACE):
            subprocess.run(["ip", "netns", "del", namespace], stderr=subprocess.DEVNULL)



# Where a guest's kernel has these as modules.
MODULES = "af_packet veth nf_conntrack nf_conntrack_netlink nf_nat nf_tables nft_chain_nat nft_masq nfnetlink"
INIT = """#!/bin/busybox sh
/bin/busybox mkdir -p /sbin
/bin/busybox ln -s /bin/busybox /sbin/modprobe
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox mount -t tmpfs tmp /run
export PATH=/bin
for module in MODULES; do /sbin/modprobe $module 2>/dev/null; done
# Memory decides them, and a guest has little.
echo 131072 >/sys/module/nf_conntrack/parameters/hashsize
echo 262144 >/proc/sys/net/netfilter/nf_conntrack_max
if python3 -I -S /bin/snat_ports.py --inside ARGUMENTS >/result; then echo "== $(/bin/busybox cat /result)"; fi
/bin/busybox poweroff -f
"""


def guest(kernel, arguments, seconds=7200):
    """Everything, in a guest with this kernel, plainly emulated."""
    kernels = os.path.dirname(HERE) + "/tests/kernels"
    with tempfile.TemporaryDirectory() as work:
        init = f"{work}/init"
        with open(init, "w") as file:
            file.write(INIT.replace("MODULES", MODULES).replace("ARGUMENTS", " ".join(arguments)))
        directory, name = os.path.split(kernel)
        modules = f"{directory}/lib/modules/{name.removeprefix('vmlinuz-')}" if name.startswith("vmlinuz-") else ""
        run(f"{kernels}/initramfs.sh", f"{work}/initramfs", init, modules, "/usr/bin/python3", os.path.abspath(__file__))
        qemu = ["timeout", str(seconds), "qemu-system-x86_64", "-accel", "tcg,thread=multi", "-cpu", "max", "-machine", "q35"]
        qemu += ["-smp", "2", "-m", "1024", "-nographic", "-no-reboot", "-nic", "none", "-kernel", kernel]
        qemu += ["-append", "console=ttyS0 quiet loglevel=3 panic=-1", "-initrd", f"{work}/initramfs"]
        said = []
        with subprocess.Popen(qemu, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, errors="replace") as process:
            for line in process.stdout:
                if "== " in line:
                    return json.loads(line.split("== ", 1)[1])
                said.append(line)
                progress(f"{name}: {line.strip()}")
    raise SystemExit(f"{name} did not come to its end:\n{''.join(said)}")


def percent(part, whole):
    return "–" if not whole else "0" if not part else f"{100 * part / whole:.2g} %"


def row(*cells):
    print("| " + " | ".join(str(cell) for cell in cells) + " |")


def head(*cells):
    row(*cells)
    print("|---" * len(cells) + "|")


def tables(result):
    """What was measured, as it stands in docs/snat-ports.md."""
    print(f"Linux {result['release']}\n")
    words = {"fully-random": "random", "": "plain"}
    shown = [f"{level} %" for level in SHOWN]
    if result["fills"]:
        print("Ports fill up and none becomes free, new flows that were lost, from the share on:\n")
        head("ports", "protocol", "NAT", "fills", "first loss: lowest", "median", *shown)
        for entry in result["fills"]:
            firsts = sorted(run[0] or run[1] for run in entry["runs"])
            cells = []
            for level in SHOWN:
                at = [run[2][str(level)] for run in entry["runs"] if str(level) in run[2]]
                cells.append(percent(sum(one[1] for one in at), sum(one[0] for one in at)))
            first = [f"{firsts[0]:.3f}", f"{firsts[len(firsts) // 2]:.3f}"]
            row(f"{entry['ports']:,}", entry["protocol"], words[entry["flags"]], len(firsts), *first, *cells)
        print()
    for title, at in (("new flows that were lost", 1), ("ports tried in vain for each new flow", 2)):
        if result["churn"]:
            print(f"The share stays, an old flow goes for each new one, {title}:\n")
            head("ports", "NAT", *shown)
            for entry in result["churn"]:
                known = [entry["levels"][str(level)] for level in SHOWN]
                cells = [percent(one[1], one[0]) if at == 1 else f"{one[2] / one[0]:.1f}" for one in known]
                row(f"{entry['ports']:,}", words[entry["flags"]], *cells)
            print()
    if result["mixed"]:
        print("64,512 ports fill up, and this share of new flows goes there, ports tried in vain for each new flow:\n")
        head("share", "NAT", *shown)
        for entry in result["mixed"]:
            row(f"{100 * entry['share']:.0f} %", words[entry["flags"]], *(f"{entry['levels'][str(level)]:.1f}" for level in SHOWN))
        print()
    if "time_wait" in result:
        head("NAT", "ports", "held in TIME_WAIT", "new connections", "came up")
        for flags, one in result["time_wait"].items():
            row(words[flags], one["ports"], one["time_wait"], one["tried"], one["came"])
        print()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kernels", metavar="DIR", help="boot each kernel of DIR instead")
    parser.add_argument("--fills", type=float, default=1, help="so many times as often as usual")
    parser.add_argument("--part", action="append", choices=["fill", "churn", "mixed", "time-wait"], help="only these")
    parser.add_argument("--json", metavar="FILE", help="what was counted, too")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--listen", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    parts = arguments.part or ["fill", "churn", "mixed", "time-wait"]
    if arguments.listen:
        return listen()
    if arguments.inside:
        return print(json.dumps(inside(arguments.fills, parts)))
    passed = ["--fills", str(arguments.fills), *(word for part in parts for word in ("--part", part))]
    if arguments.kernels:
        kernels = sorted(glob.glob(f"{arguments.kernels}/vmlinuz-*") + glob.glob(f"{arguments.kernels}/bzImage-*"))
        assert kernels, f"{arguments.kernels} has no kernels"
        results = (guest(os.path.abspath(kernel), passed) for kernel in kernels)
    else:
        results = [here(passed)]
    kept = []
    for result in results:
        tables(result)
        sys.stdout.flush()
        kept.append(result)
        if arguments.json:
            with open(arguments.json, "w") as file:
                json.dump(kept, file)


if __name__ == "__main__":
    main()
