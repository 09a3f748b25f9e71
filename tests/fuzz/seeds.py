"""What the fuzzers begin with: small files that are right, odd or wrong in one way each.

    python tests/fuzz/seeds.py FOLDER    # writes FOLDER/header/* and FOLDER/image/*

They are made here rather than kept as files: blocks of blanks are most of a FITS file. An input that once was
a finding belongs here, too, by a name that says what it was.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

BLOCK = 2880
# Of an input: three HDUs without data before the last, or two with. More takes time and is no odder.
MAX_BYTES = 3 * BLOCK + 512
PIXELS = bytes(range(256)) * 3  # data: every byte, no two neighbours equal


def header(*cards: str, end: bool = True) -> bytes:
    """Cards as the blocks of a header."""
    text = "".join(card.ljust(80) for card in (*cards, *(["END"] if end else [])))
    return text.ljust(-(-len(text) // BLOCK) * BLOCK).encode("latin-1")


def hdu(
    bitpix: int, axes: Sequence[int], *cards: str, first: str = "SIMPLE  = T", data: bytes | None = None
) -> bytes:
    """An HDU without padding, as a file may end; `data` in place of as many bytes as its axes take."""
    structure = [first, f"BITPIX  = {bitpix}", f"NAXIS   = {len(axes)}"]
    structure += [f"{f'NAXIS{place}':8}= {length}" for place, length in enumerate(axes, start=1)]
    size = abs(bitpix) // 8 if axes else 0
    for length in axes:
        size *= length
    return header(*structure, *cards) + (PIXELS[:size] if data is None else data)


def padded(raw: bytes) -> bytes:
    """The bytes, filled up to a whole number of blocks."""
    return raw.ljust(-(-len(raw) // BLOCK) * BLOCK, b"\0")


IMAGE = "XTENSION= 'IMAGE   '"
TABLE = "XTENSION= 'BINTABLE'"
SCALED = ("BSCALE  = 0.25", "BZERO   = -3", "BLANK   = 772")


def image_seeds() -> dict[str, bytes]:
    """Images of every type, with every number of axes, in every place of a file."""
    seeds = {}
    for bitpix in (8, 16, 32, 64, -32, -64):
        seeds[f"bitpix{bitpix}"] = hdu(bitpix, (5, 3))
        seeds[f"bitpix{bitpix}-scaled"] = hdu(bitpix, (4, 3, 2), *SCALED)
    seeds |= {
        "unsigned": hdu(16, (7, 2), "BZERO   = 32768"),
        "axes0": hdu(16, ()),
        "axes1": hdu(16, (11,)),
        "axes4": hdu(-32, (4, 3, 2, 5)),
        "axes5": hdu(16, (2, 2, 2, 2, 3)),
        "axes65": hdu(8, (1,) * 65),
        "empty-axis": hdu(-32, (0, 4, 3)),
        "many-empty-rows": hdu(8, (0, 2**40)),
        "no-pixels-in-more-rows-than-numpy-has": hdu(8, (0, 2**63 - 1)),
        "second-hdu": hdu(8, ()) + hdu(-32, (4, 4), "EXTNAME = 'SCI'", first=IMAGE),
        "third-hdu": hdu(8, ()) + hdu(8, (), first=IMAGE) + hdu(16, (2, 2), first=IMAGE),
        "behind-a-table": padded(hdu(8, (6, 4), "PCOUNT  = 9", "GCOUNT  = 1", first=TABLE, data=PIXELS[:33]))
        + hdu(-64, (3, 3), first=IMAGE),
        "two-groups": hdu(8, ()) + hdu(16, (3, 2), "GCOUNT  = 2", first=IMAGE, data=PIXELS[:24]),
        "huge-scale": hdu(-64, (4, 2), "BSCALE  = 1E300", "BZERO   = -1E300"),
        "blank-beyond-the-type": hdu(8, (9, 2), "BLANK   = -1"),
        "blank-no-integer": hdu(16, (2, 2), "BLANK   = 'x'"),
        "scale-no-number": hdu(16, (2, 2), "BSCALE  = T"),
    }
    return seeds


def header_seeds() -> dict[str, bytes]:
    """Headers of many shapes with little data."""
    seeds = {
        "minimal": header("SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 0"),
        "values": hdu(
            16,
            (2, 2),
            "A       = 'it''s'  / remark",
            "B       = -1.5D-3",
            "C       = 9223372036854775807",
            "D       = 9223372036854775808",
            "E       =",
            "F       = F",
            "G       = '   '",
            "H       = 4.9406564584124654E-324",
            "I       = -0.0E99999",
        ),
        "malformed-values": hdu(
            16,
            (2, 2),
            "A       = 'not closed",
            "B       = 1 2",
            "C       = 1E",
            "D       = 1E999",
            "E       = NaN",
            "F       = .",
            "G       = 'a' b",
            "H       = caf\xe9",
        ),
        "continue": hdu(
            16,
            (2, 2),
            "LONG    = 'one &'",
            "CONTINUE  'two &' / remark",
            "CONTINUE  'three'",
            "CONTINUE  'of nobody'",
            "BROKEN  = 'a&'",
            "CONTINUE  5",
        ),
        "hierarch": hdu(
            16, (2, 2), "HIERARCH ESO  DET CHIP1 = 'a = b' / x", "HIERARCH none", "HIERARCH  = 4"
        ),
        "repeated": hdu(16, (2, 2), "NAXIS1  = 7", "BITPIX  = -64", "KEY     = 1", "KEY     = 2"),
        "two-blocks": hdu(8, (3,), *(f"KEY{n:<5}= {n}" for n in range(40))),
        "random-groups": hdu(-32, (0, 2), "GROUPS  = T", "PCOUNT  = 1", "GCOUNT  = 2"),
        "no-end": header("SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 0", end=False),
        "cut-header": header("SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 0")[:1000],
        "cut-data": hdu(16, (30, 10), data=PIXELS[:599]),
        "cut-card": hdu(16, (2, 2))[:310],
        "negative-axis": hdu(16, (2, -2), data=b""),
        "product-beyond-64-bits": hdu(8, (2**32, 2**32), data=b""),
        "bytes-beyond-64-bits": hdu(64, (2**61,), data=b""),
        "beyond-64-bits-but-empty": hdu(8, (2**32, 2**32, 0), data=b""),
        "no-bitpix": header("SIMPLE  = T", "NAXIS   = 0"),
        "wrong-bitpix": hdu(17, (2,), data=PIXELS),
        "simple-false": hdu(16, (2,), first="SIMPLE  = F"),
        "wrong-extension": hdu(16, (2,), first="XTENSION= 5"),
        "huge-groups": hdu(8, (2,), "PCOUNT  = 9223372036854775807", first=TABLE),
        "negative-groups": hdu(8, (2,), "PCOUNT  = -1", "GCOUNT  = 0", first=TABLE),
        "not-fits": b"\x89PNG\r\n" + bytes(200),
        "empty": b"",
        "one-byte": b"S",
    }
    kept = ("second-hdu", "behind-a-table", "two-groups", "axes0", "axes65", "many-empty-rows")
    return seeds | {name: seed for name, seed in image_seeds().items() if name in kept}


def views_seeds() -> dict[str, bytes]:
    """What is asked for is a hash of the first bytes, so that any bytes will do."""
    one = bytes([0x7F, 0x80, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F, 0xC0, 0, 1])  # among them no numbers
    return {f"case{n}": bytes([n] * 8) + PIXELS + one * 200 for n in range(40)}


SEEDS = {"header": header_seeds, "image": image_seeds, "views": views_seeds}


def write_seeds(target: str, folder: Path) -> int:
    """Write the seeds of a target into a folder, one file each; return how many there are."""
    folder.mkdir(parents=True, exist_ok=True)
    seeds = SEEDS[target]()
    for name, seed in seeds.items():
        (folder / name).write_bytes(seed)
    return len(seeds)


if __name__ == "__main__":
    for wanted in SEEDS:
        print(wanted, write_seeds(wanted, Path(sys.argv[1]) / wanted))
