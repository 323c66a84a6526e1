#!/usr/bin/python3
"""Fills connection tracking of the network namespace that it runs in, through ctnetlink: some 200,000 entries a second.

`entries.py '[{"count": 1000, "translated": "192.0.2.1", "destination": "198.18.0.1"}]'` as root adds so many of each kind. What a
kind may say stands at `KIND`. Entries are IPv4, come from 10.0.0.0/8, and live an hour.
"""

import itertools
import json
import random
import socket
import struct
import sys

# `destination`: an address, or a list [first, how many]. `translated`: the address that sources get, each a port of `ports` of its
# own for each destination, in random order. `state`: enum tcp_conntrack. `status`: enum ip_conntrack_status, IPS_CONFIRMED included.
KIND = {
    "count": 0,
    "protocol": "tcp",
    "state": 3,
    "status": 0xE,
    "destination": "198.18.0.1",
    "port": 443,
    "source_ports": [32768, 60999],
    "translated": None,
    "ports": [1024, 65535],
    "zone": 0,
}
NESTED = 0x8000
BATCH = 256


def attribute(kind, value):
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def tuple_of(kind, protocol, source, destination):
    addresses = attribute(1, source[0]) + attribute(2, destination[0])
    ports = attribute(1, bytes([protocol])) + attribute(2, source[1]) + attribute(3, destination[1])
    return attribute(kind | NESTED, attribute(1 | NESTED, addresses) + attribute(2 | NESTED, ports))


def message(kind, source, destination, translated):
    """IPCTNL_MSG_CT_NEW, NLM_F_CREATE and NLM_F_EXCL."""
    protocol = {"tcp": 6, "udp": 17}[kind["protocol"]]
    body = tuple_of(1, protocol, source, destination) + tuple_of(2, protocol, destination, source)
    body += attribute(3, struct.pack(">I", kind["status"])) + attribute(7, struct.pack(">I", 3600))
    if protocol == 6:
        state = attribute(1, bytes([kind["state"]]))
        body += attribute(4 | NESTED, attribute(1 | NESTED, state))
    if translated:
        ports = attribute(1, translated[1]) + attribute(2, translated[1])
        body += attribute(6 | NESTED, attribute(1, translated[0]) + attribute(3 | NESTED, ports))
    if kind["zone"]:
        body += attribute(18, struct.pack(">H", kind["zone"]))
    # nfgenmsg: AF_INET, NFNETLINK_V0, no resource. Subsystem 1 is ctnetlink.
    return struct.pack("=IHHIIBBH", 20 + len(body), 1 << 8, 0x601, 0, 0, socket.AF_INET, 0, 0) + body


def messages(kind):
    kind = KIND | kind
    first, many = kind["destination"] if isinstance(kind["destination"], list) else (kind["destination"], 1)
    first = struct.unpack(">I", socket.inet_aton(first))[0]
    port, translated = struct.pack(">H", kind["port"]), kind["translated"] and socket.inet_aton(kind["translated"])
    low, high = kind["ports"]
    taken = random.sample(range(low, high + 1), min(high - low + 1, -(-kind["count"] // many)))
    # A message differs from the next of its kind in a few bytes: what is in between is made once.
    marks = [b"\xf1SRC", b"\xf2s", b"\xf3DST", b"\xf4TR!", b"\xf5t"]
    parts, rest, order = [], message(kind, (marks[0], marks[1]), (marks[2], port), translated and (translated, marks[4])), []
    while True:
        found = [(rest.find(mark), mark) for mark in marks if mark in rest]
        if not found:
            break
        at, mark = min(found)
        parts.append(rest[:at])
        order.append(marks.index(mark))
        rest = rest[at + len(mark) :]
    lowest, highest = kind["source_ports"]
    for number in range(kind["count"]):
        values = (
            b"\x0a" + random.getrandbits(24).to_bytes(3, "big"),
            random.randint(lowest, highest).to_bytes(2, "big"),
            (first + number % many).to_bytes(4, "big"),
            None,
            taken[number // many].to_bytes(2, "big") if translated else None,
        )
        yield b"".join(itertools.chain.from_iterable(zip(parts, (values[at] for at in order)))) + rest


def fill(kinds):
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as netlink:
        netlink.setsockopt(socket.SOL_SOCKET, 32, 4 << 20)  # SO_SNDBUFFORCE
        netlink.setsockopt(socket.SOL_SOCKET, 33, 4 << 20)  # SO_RCVBUFFORCE
        refused = 0
        for kind in kinds:
            waiting = messages(kind)
            while batch := list(itertools.islice(waiting, BATCH)):
                netlink.send(b"".join(batch))
                while True:
                    try:
                        answer = netlink.recv(65536, socket.MSG_DONTWAIT)
                    except BlockingIOError:
                        break
                    error = -struct.unpack_from("=i", answer, 16)[0]
                    # Two of a kind may come from one address and port.
                    if error != 17:
                        raise OSError(error, "an entry was refused")
                    refused += 1
    return refused


if __name__ == "__main__":
    random.seed(int(sys.argv[2]) if len(sys.argv) > 2 else None)
    print(json.dumps({"refused": fill(json.loads(sys.argv[1]))}))
