#!/usr/bin/env python3
"""A recorded node as one text, and back: `archive.py pack DIR FILE`, `archive.py unpack FILE DIR`. src/capture/archive/text.rs says how it looks."""
import os
import sys

NAME = b"-- %b --\n"
# Of an answer that there is not: the file holds the reason.
STATES = (".absent", ".denied", ".failed")


def is_text(content):
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    printable = all(byte >= 0x20 or byte in b"\t\n" for byte in content)
    return printable and (not content or content.endswith(b"\n")) and not any(line.startswith(b"-- ") for line in content.splitlines())


def pack(directory, file):
    names = [os.path.relpath(os.path.join(at, name), directory) for at, _, names in os.walk(directory) for name in names]
    with open(file, "wb") as archive:
        for name in sorted(names, key=lambda name: (name != "meta.json", name)):
            with open(os.path.join(directory, name), "rb") as source:
                content = source.read()
            if name.endswith(STATES) and not content.endswith(b"\n"):
                content += b"\n"
            if is_text(content):
                archive.write(NAME % name.encode() + content)
            else:
                archive.write(NAME % (name.encode() + b" hex"))
                for at in range(0, len(content), 32):
                    archive.write(content[at:at + 32].hex().encode() + b"\n")


def unpack(file, directory):
    os.makedirs(directory)  # fails where there is one
    target, is_hex = None, False
    with open(file, "rb") as archive:
        for line in archive:
            if line.startswith(b"-- ") and line.endswith(b" --\n"):
                name = line[3:-4].decode()
                is_hex = name.endswith(" hex")
                path = os.path.join(directory, name.removesuffix(" hex"))
                os.makedirs(os.path.dirname(path), exist_ok=True)
                if target:
                    target.close()
                target = open(path, "xb")
            elif target:
                target.write(bytes.fromhex(line.decode()) if is_hex else line)
    target.close()


{"pack": pack, "unpack": unpack}[sys.argv[1]](*sys.argv[2:])
