"""Edits captures; see README.md for which node got which edit."""

import json
import pathlib
import struct
import sys


def edit_meta(capture, **values):
    path = pathlib.Path(capture, "meta.json")
    meta = json.loads(path.read_text())
    meta.update(values)
    path.write_text(json.dumps(meta, indent=2) + "\n")


def answer(capture, name, text):
    path = pathlib.Path(capture, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    for state in ("absent", "denied", "failed"):
        path.with_name(path.name + "." + state).unlink(missing_ok=True)
    path.write_text(text)


def absent(capture, name):
    path = pathlib.Path(capture, name)
    path.unlink(missing_ok=True)
    path.with_name(path.name + ".absent").write_text(f"{path.name} does not exist")


def without_kind(capture, device):
    """Makes a veth look like a physical device: its IFLA_LINKINFO becomes an attribute nobody knows."""
    path = pathlib.Path(capture, "netlink/route/links")
    data = bytearray(path.read_bytes())
    at, index = 0, None
    while at < len(data):
        length, kind = struct.unpack_from("=IH", data, at)
        if kind == 16:
            attribute, names = at + 32, {}
            while attribute < at + length:
                size, number = struct.unpack_from("=HH", data, attribute)
                names[number & 0x3FFF] = (attribute, bytes(data[attribute + 4 : attribute + size]))
                attribute += (size + 3) & ~3
            if names[3][1].rstrip(b"\0") == device.encode():
                if 18 in names:
                    struct.pack_into("=H", data, names[18][0] + 2, 0x3FF0)
                (index,) = struct.unpack_from("=i", data, at + 20)
        at += (length + 3) & ~3
    path.write_bytes(data)
    return index


def main(action, capture, *rest):
    if action == "meta":
        edit_meta(capture, hostname="node-1", captured_at="2026-01-01T00:00:00Z", network_namespace="initial")
    elif action == "namespace":
        edit_meta(capture, network_namespace=rest[0])
    elif action == "text":
        answer(capture, rest[0], rest[1] + "\n")
    elif action == "kernel":
        release, version, *signature = rest
        answer(capture, "procfs/sys/kernel/osrelease", release + "\n")
        answer(capture, "procfs/sys/kernel/version", version + "\n")
        answer(capture, "procfs/version", f"Linux version {release} (builder@builder) {version}\n")
        if signature:
            answer(capture, "procfs/version_signature", signature[0] + "\n")
        else:
            absent(capture, "procfs/version_signature")
    elif action == "driver":
        index = without_kind(capture, "eth0")
        answer(capture, "sysfs/class/net/eth0/ifindex", f"{index}\n")
        answer(capture, "sysfs/class/net/eth0/device/driver", "../../../../bus/pci/drivers/" + rest[0] + "\n")
    else:
        sys.exit(f"unknown action {action}")


main(*sys.argv[1:])
