#!/usr/bin/env python3
"""The kept inputs of each fuzz target, packed into one file: one input a line, in Base64, so that a change shows its lines.

Beside them are `queries` and `responses`, messages that real programs wrote: proxy/tests/integration/decoders damages them.

    fuzz/corpus.py unpack TARGET DIRECTORY     one file for each input
    fuzz/corpus.py pack DIRECTORY TARGET       the other way round; sorted by size, then by content
"""

import base64
import hashlib
import pathlib
import sys

KEPT = pathlib.Path(__file__).resolve().parent / "corpus"


def unpack(target, folder):
    folder.mkdir(parents=True, exist_ok=True)
    for line in (KEPT / f"{target}.b64").read_text().split():
        octets = base64.b64decode(line, validate=True)
        (folder / hashlib.sha256(octets).hexdigest()[:16]).write_bytes(octets)


def pack(folder, target):
    inputs = sorted({file.read_bytes() for file in folder.iterdir()}, key=lambda octets: (len(octets), octets))
    KEPT.mkdir(exist_ok=True)
    (KEPT / f"{target}.b64").write_text("\n".join(base64.b64encode(octets).decode() for octets in inputs if octets) + "\n")


match sys.argv[1:]:
    case ["unpack", target, folder]:
        unpack(target, pathlib.Path(folder))
    case ["pack", folder, target]:
        pack(pathlib.Path(folder), target)
    case _:
        sys.exit(__doc__)
