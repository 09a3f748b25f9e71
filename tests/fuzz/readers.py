"""Feed every reader that is not compiled with files that are nearly right, many a second, in this process.

    python tests/fuzz/readers.py --inputs 100_000
    python tests/fuzz/readers.py --reader npy --seed 7 --inputs 1_000_000

An input is a small file of the package's own making, changed: bits flipped, numbers and words replaced, parts
left out, doubled, cut off or taken from another file, and the structure of its format changed with the rest
kept right (a JSON value, a card of a FITS header, an instruction of a pickle, the header of an array, the
checksum after a change). A reader may return, or raise a MargformerError of one line that can be printed.
Anything else is a finding: another exception, a warning, more than a second, more memory than is allowed.
The input is kept, and the command that runs it again is printed. `fuzz/run.py` does the same for what is
compiled.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import itertools
import json
import os
import pickle
import pickletools
import random
import re
import resource
import shlex
import shutil
import struct
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).parent.parent.parent
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / "tests")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from toy import toy_survey  # noqa: E402

from margformer_fast.catalogue.work import Work  # noqa: E402
from margformer_fast.config import FitConfig, ModelConfig  # noqa: E402
from margformer_fast.data.fetch.fields import unpack  # noqa: E402
from margformer_fast.data.fetch.journal import read_arrays, write_arrays  # noqa: E402
from margformer_fast.data.fetch.targets import read_classes, read_objids, read_positions  # noqa: E402
from margformer_fast.data.manifest import MANIFEST, is_store, read_manifest  # noqa: E402
from margformer_fast.data.pickles import holds_strings, load_string_array  # noqa: E402
from margformer_fast.data.store import _map_shard, read_store, write_store  # noqa: E402
from margformer_fast.data.survey import SDSS  # noqa: E402
from margformer_fast.data.tables import read_table  # noqa: E402
from margformer_fast.errors import DataError, MargformerError  # noqa: E402
from margformer_fast.evaluation.calibration import Calibration  # noqa: E402
from margformer_fast.files import read_json, read_record  # noqa: E402
from margformer_fast.learning.checkpoint import (  # noqa: E402
    load_model_directory,
    load_tensors,
    load_weights,
    save_model,
    save_tensors,
)
from margformer_fast.learning.loop import Stage, _State  # noqa: E402
from margformer_fast.nn.inputs import ScaledEncoder  # noqa: E402
from margformer_fast.ops.stamps import Stamps  # noqa: E402
from margformer_fast.reference.fits_header import parse_header  # noqa: E402

MAX_SECONDS = 1.0
MAX_MEGABYTES = 256  # by which the peak of this process may grow
MAX_ADDRESSES = 4 << 30  # memory that may be asked for, used or not

Mutate = Callable[[bytes, random.Random], bytes]


@dataclass(frozen=True)
class Reader:
    """One reader: what it begins with, how its format is changed, and what reads it.

    Parameters
    ----------
    seeds : list of bytes
        Sound files.
    read : callable
        Takes the bytes; reads them as the package does.
    mutate : list of callable
        Changes of the format, beside those of bytes.
    """

    seeds: list[bytes]
    read: Callable[[bytes], object]
    mutate: list[Mutate]


# ---- changes of bytes and of text ----

_NUMBERS = [0, 1, -1, 2, 7, 255, 256, 65535, 1 << 31, (1 << 31) - 1, 1 << 32, 10**12, (1 << 63) - 1, 1 << 63]
_TEXTS = [
    *(str(n).encode() for n in _NUMBERS),
    *(b"-9223372036854775808", b"1e400", b"-1e-400", b"NaN", b"nan", b"inf", b"1.5", b"1_000", b"0x10"),
    *(b"9" * 5000, b"", b" ", b"null", b"true", b"[]", b"{}", b'"', b"\\u0000", b"\\ud800", b"\x00", b"\xff"),
    *(b"\n", b"\r", b",", b"<script>", b"\x1b[2J", "é".encode(), b"[" * 3000, b"(" * 300),
]


def change_bytes(raw: bytes, rng: random.Random) -> bytes:
    """Change some bytes, wherever."""
    data = bytearray(raw)
    for _ in range(1 << rng.randrange(4)):
        size = len(data)
        at = rng.randrange(size + 1)
        kind = rng.randrange(9)
        if kind == 0 and size:
            data[at % size] ^= 1 << rng.randrange(8)
        elif kind == 1 and size:
            data[at % size] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, 0x20, 0x27, 0x2E, rng.randrange(256)))
        elif kind == 2:
            del data[at : at + rng.choice((1, 2, 4, 8, 80, rng.randrange(size + 1)))]
        elif kind == 3:
            data[at:at] = data[rng.randrange(size + 1) :][: rng.choice((1, 4, 8, 80, 300))]
        elif kind == 4:
            del data[at:]
        elif kind == 5:
            width, order = rng.choice((1, 2, 4, 8)), rng.choice(("little", "big"))
            value = rng.choice(_NUMBERS) & ((1 << 8 * width) - 1)
            data[at : at + width] = value.to_bytes(width, order)
        elif kind == 6:
            data[at:at] = rng.choice(_TEXTS)
        elif kind == 7:
            data[at:at] = bytes(rng.choice((1, 3, 80, 2880)))
        elif size:
            start = rng.randrange(size)
            width = rng.choice((1, 4, 8, 80))
            data[at : at + width] = data[start : start + width]
    return bytes(data)


_NUMBER = re.compile(rb"[+-]?[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]+)?")
_WORD = re.compile(rb"[A-Za-z_][A-Za-z_0-9]*")


def change_text(raw: bytes, rng: random.Random) -> bytes:
    """Replace a number or a word, or change the order of lines."""
    kind = rng.randrange(3)
    if kind == 2:
        lines = raw.splitlines(keepends=True)
        if not lines:
            return raw
        k = rng.randrange(len(lines))
        lines[k : k + 1] = rng.choice(([], [lines[k]] * 2, [rng.choice(lines)], [lines[k].strip()]))
        return b"".join(lines)
    found = list((_WORD if kind else _NUMBER).finditer(raw))
    if not found:
        return raw
    which = rng.choice(found)
    new = rng.choice(_TEXTS) if rng.random() < 0.7 else rng.choice(found)[0]
    return raw[: which.start()] + new + raw[which.end() :]


# ---- changes of formats ----


def change_value(value: Any, rng: random.Random, depth: int = 0) -> Any:
    """Return JSON with one node changed."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        key = rng.choice(list(value))
        kind = rng.randrange(8) if depth else rng.randrange(2, 8)
        new = dict(value)
        if kind == 0:
            del new[key]
        elif kind == 1:
            new[rng.choice(("", "x", "\x1b[31m", "é", key * 2))] = new.pop(key)
        else:
            new[key] = change_value(value[key], rng, depth + 1)
        return new
    if isinstance(value, list) and value and rng.random() < 0.8:
        k, new = rng.randrange(len(value)), list(value)
        new[k : k + 1] = rng.choice(([], [value[k]] * 2, [change_value(value[k], rng, depth + 1)]))
        return new
    odd = [*_NUMBERS, -1.5, 0.0, 1e308, 5e-324, "", "x", "\n", "\x00", "é", "../../etc/passwd", "9" * 400]
    odd += [
        None,
        True,
        False,
        [],
        {},
        [[]],
        [value],
        {"x": value},
        [None] * 3,
        "STAR",
        "GALAXY",
        "margformer",
    ]
    return rng.choice(odd)


def change_json(raw: bytes, rng: random.Random) -> bytes:
    """Change one value of a JSON file."""
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError):
        return change_text(raw, rng)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        value = change_value(value, rng)
    return json.dumps(value).encode()


_DESCR = [
    "<f8",
    ">f4",
    "<i8",
    "|O",
    "<U3",
    "|S1",
    "<U0",
    "<f3",
    "|V8",
    "<M8[s]",
    "<c16",
    "|b1",
    "<f16",
    "",
    "f8,i4",
]


def change_npy(raw: bytes, rng: random.Random) -> bytes:
    """Change what the header of a .npy file says, with its lengths right."""
    if raw[:6] != b"\x93NUMPY":
        return change_bytes(raw, rng)
    length = struct.unpack("<H", raw[8:10].ljust(2, b"\0"))[0]
    text, data = raw[10 : 10 + length], raw[10 + length :]
    kind = rng.randrange(5)
    if kind == 0:
        shape = tuple(rng.choice((0, 1, 2, 3, 10**12, 1 << 62, -1)) for _ in range(rng.randrange(4)))
        text = re.sub(rb"\([0-9, ]*\)", str(shape).encode(), text)
    elif kind == 1:
        text = re.sub(rb"'[<>|][A-Za-z0-9]+'", repr(rng.choice(_DESCR)).encode(), text)
    elif kind == 2:
        text = change_text(text, rng)
    elif kind == 3:
        text = change_bytes(text, rng)
    else:
        data = change_bytes(data, rng)
    version, width = rng.choice(((1, "<H"), (1, "<H"), (2, "<I"), (3, "<I")))
    if len(text) >= 1 << 16:
        version, width = 2, "<I"
    return b"\x93NUMPY" + bytes((version, 0)) + struct.pack(width, len(text)) + text + data


def change_npz(raw: bytes, rng: random.Random) -> bytes:
    """Change the members of an .npz file, with its checksums right."""
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            members = [(name, archive.read(name)) for name in archive.namelist()]
    except Exception:  # of zipfile, over what an earlier change broke; our reader is not asked here
        return change_bytes(raw, rng)
    k = rng.randrange(len(members) or 1)
    if members:
        name, content = members[k]
        change = rng.choice((change_npy, change_npy, change_bytes, lambda raw, _: raw))
        if rng.random() < 0.2:
            name = rng.choice(("", "x", "../x.npy", "x.npy", members[0][0], name * 2))
        members[k : k + 1] = rng.choice(([(name, change(content, rng))], [(name, change(content, rng))], []))
    packing = zipfile.ZIP_DEFLATED if rng.random() < 0.1 else zipfile.ZIP_STORED
    out = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name that comes twice
        with zipfile.ZipFile(out, "w", packing) as archive:
            for name, content in members:
                archive.writestr(zipfile.ZipInfo(name or "_"), content, packing)
    return out.getvalue()


def change_pickle(raw: bytes, rng: random.Random) -> bytes:
    """Change the instructions of the pickle in a .npy file of strings."""
    start = 10 + struct.unpack("<H", raw[8:10].ljust(2, b"\0"))[0]
    payload = raw[start:]
    try:
        places = [place for _, _, place in pickletools.genops(payload)] + [len(payload)]
    except Exception:  # of pickletools, likewise
        return change_bytes(raw, rng)
    parts = [payload[a:b] for a, b in itertools.pairwise(places)]
    for _ in range(rng.choice((1, 1, 2, 4))):
        k = rng.randrange(len(parts))
        kind = rng.randrange(4)
        if kind == 0:
            del parts[k]
        elif kind == 1:
            parts.insert(k, rng.choice(parts))
        elif kind == 2:
            parts[k] = change_bytes(parts[k], rng)
        else:
            opcode = rng.choice(pickletools.opcodes)
            parts.insert(
                k, opcode.code.encode("latin-1") + rng.choice((b"", b"\x01", b"\x00" * 8, b"os\nsystem\n"))
            )
        if not parts:
            break
    return raw[:start] + b"".join(parts)


def change_tensors(raw: bytes, rng: random.Random) -> bytes:
    """Change the header of a safetensors file, its length right, and its checksum where it can be had."""
    length = int.from_bytes(raw[:8], "little")
    try:
        header = json.loads(raw[8 : 8 + length])
    except (ValueError, RecursionError):
        return change_bytes(raw, rng)
    if not isinstance(header, dict):
        return change_bytes(raw, rng)
    data = raw[8 + length :]
    kind = rng.randrange(3)
    if kind == 0 and isinstance(header.get("__metadata__"), dict):
        about = header["__metadata__"].get("about", "")
        header["__metadata__"]["about"] = change_json(str(about).encode(), rng).decode("utf-8", "replace")
    elif kind == 1:
        data = change_bytes(data, rng)
    else:
        header = change_value(header, rng)
    if isinstance(header, dict) and isinstance(header.get("__metadata__"), dict):
        header["__metadata__"].pop("sha256", None)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def change_cards(raw: bytes, rng: random.Random) -> bytes:
    """Change a card of a FITS header, with all others in their places."""
    ends = [m.start() for m in re.finditer(rb"END {77}", raw) if m.start() % 80 == 0] or [
        max(len(raw) - 80, 0)
    ]
    cards = range(0, max(ends) + 1, 80)
    data = bytearray(raw)
    for _ in range(rng.choice((1, 1, 2, 3))):
        at = rng.choice(cards)
        card = bytes(data[at : at + 80])
        kind = rng.randrange(6)
        if kind == 0:
            card = change_text(card, rng)
        elif kind == 1:
            card = change_bytes(card, rng)
        elif kind == 2:
            other = rng.choice(cards)
            card = bytes(data[other : other + 80])
        elif kind == 3:
            card = card[:10] + rng.choice(_TEXTS).rjust(20)
        elif kind == 4:
            value = rng.choice(
                (b"'1PD(9)'", b"'9D'", b"'0A'", b"'1X'", b"'1000000000000D'", b"'K'", b"''", b"T")
            )
            card = card[:10] + value
        else:
            key = rng.choice(
                (b"TSCAL1", b"TZERO1", b"TNULL1", b"TDIM1", b"THEAP", b"PCOUNT", b"NAXIS2", b"HIERARCH")
            )
            card = key.ljust(8) + b"= " + rng.choice(_TEXTS).rjust(20)
        data[at : at + 80] = card[:80].ljust(80)
    return bytes(data)


# ---- the readers ----


def in_file(place: Path, *readers: Callable[[Path], object]) -> Callable[[bytes], object]:
    """Return what writes the bytes to a file and lets each of `readers` have it; refused if all refuse."""

    def read(raw: bytes) -> None:
        place.write_bytes(raw)
        refusals = []
        for reader in readers:
            try:
                reader(place)
            except MargformerError as error:
                refusals.append(error)
        if len(refusals) == len(readers):
            raise refusals[-1]

    return read


def _npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    return out.getvalue()


def _pickles(folder: Path) -> Reader:
    names = np.array(["STAR", "GALAXY", "QSO", "STAR", "naïve ☆"], object)
    seeds = [_npy(names), _npy(names[:0]), _npy(names.astype(str)), _npy(names.astype(">U7"))]
    whole = seeds[0]
    start = 10 + struct.unpack("<H", whole[8:10])[0]
    seeds += [whole[:start] + pickle.dumps(names, protocol) for protocol in range(6)]
    return Reader(
        seeds, in_file(folder / "y.npy", load_string_array, holds_strings), [change_pickle, change_npy]
    )


def _arrays(folder: Path) -> Reader:
    some = _objids()
    seeds = [
        *(_npy(some), _npy(some.astype(">i8")), _npy(some[:0]), _npy(np.eye(3)), _npy(np.eye(3, dtype="u1"))),
        *(_npy(np.asfortranarray(np.ones((4, 3)))), _npy(np.float32(3)), _npy(np.array([True, False]))),
    ]
    return Reader(
        seeds,
        in_file(folder / "a.npy", read_objids, lambda path: read_classes(path, 3)),
        [change_npy, change_npy],
    )


def _objids() -> np.ndarray:
    return np.array([1237645876861337601, 1237645876861337602, 1237648720693755918], np.int64)


def _lists(folder: Path) -> Reader:
    rows = "".join(
        f"{objid},{kind}\n" for objid, kind in zip(_objids(), ("STAR", "GALAXY", "QSO"), strict=True)
    )
    text = [
        "objid,class\n" + rows,
        "# a comment\n\n" + "\n".join(map(str, _objids())) + "\n",
        "ra,dec\n10.5,-1.25\n359.9,89\n",
        "10.5 -1.25\n11 0\n",
        "STAR\nGALAXY\nQSO\n",
        '"objid","class"\n"1237645876861337601","STAR"\n',
    ]
    return Reader(
        [each.encode() for each in text],
        in_file(folder / "list.csv", read_objids, read_positions, lambda path: read_classes(path, 3)),
        [change_text, change_text],
    )


def _store(folder: Path) -> tuple[Path, bytes, bytes]:
    """Write a store of four objects; return it, its manifest and its catalogue."""
    place = folder / "store"
    write_store(place, toy_survey(4, np.random.default_rng(0)))
    return place, (place / MANIFEST).read_bytes(), (place / "catalog.fits").read_bytes()


def _manifest(folder: Path) -> Reader:
    place, manifest, _ = _store(folder)

    def read(file: Path) -> None:
        is_store(file.parent)
        read_manifest(file.parent)

    return Reader([manifest], in_file(place / MANIFEST, read), [change_json, change_json, change_text])


def _columns(folder: Path) -> Reader:
    place, manifest, catalogue = _store(folder)
    said = json.loads(manifest)

    def read(file: Path) -> None:
        # The manifest has the size of what is there: what wrote it is no better than what wrote the table.
        said["catalog"]["bytes"] = file.stat().st_size
        (place / MANIFEST).write_text(json.dumps(said))
        survey = read_store(file.parent)
        if len(survey) != 4 or survey.features.shape != (4, 24) or survey.features.dtype != np.float64:
            raise AssertionError(
                f"{len(survey)} objects with features {survey.features.dtype} {survey.features.shape}"
            )

    return Reader(
        [catalogue], in_file(place / "catalog.fits", read), [change_cards, change_cards, change_cards]
    )


def _stamps(folder: Path) -> Reader:
    place, manifest, _ = _store(folder)
    name = json.loads(manifest)["stamps"][0]["file"]

    def read(file: Path) -> None:
        Stamps((_map_shard(file, 4, SDSS),)).decode()

    return Reader([(place / name).read_bytes()], in_file(place / name, read), [change_cards, change_cards])


class _Small(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))


def _checkpoint(folder: Path) -> Reader:
    model = _Small()
    config = FitConfig(max_epochs=3, patience=2, batch_size=2, learning_rate=0.1)
    stage = Stage("stage", 1, model, 4, config, lambda rows, epoch: None, lambda epoch: {})
    state = _State(stage)
    model.layer(torch.ones(2, 3)).sum().backward()
    state.optimizer.step()
    state.history.append({"epoch": 1, "train_loss": 1.0, "val_loss": 0.5, "seconds": 1.0, "rate": 4.0})
    state.keep_best()
    path, key = folder / "stage.safetensors", {"stage": "stage", "seed": 0}
    state.save(path, key)
    seeds = [path.read_bytes()]
    save_tensors(path, {"a": torch.zeros(0, 3), "b": torch.ones(2, dtype=torch.bfloat16)}, {})
    seeds.append(path.read_bytes())

    def load(file: Path) -> None:
        _State(stage).load(file, key)

    def weights(file: Path) -> None:
        tensors, _ = load_tensors(file)
        load_weights(model, tensors, file)

    return Reader(seeds, in_file(path, load, weights), [change_tensors, change_tensors, change_tensors])


_TINY = ModelConfig(slots=2, depth=1, dim=8, num_heads=2, hidden=8, patch_size=16)


def _config(folder: Path) -> Reader:
    model = ScaledEncoder(_TINY, 2)
    save_model(
        folder / "model", model, ("GALAXY", "STAR"), SDSS, True, feature_range=np.tile([0.0, 1.0], (24, 1))
    )
    file = folder / "model/config.json"
    return Reader(
        [file.read_bytes()],
        in_file(file, lambda file: load_model_directory(file.parent)),
        [change_json, change_json, change_text],
    )


def _calibration(folder: Path) -> Reader:
    rng = np.random.default_rng(0)
    p = rng.uniform(size=40)
    fitted = Calibration.fit(rng.integers(2, size=40), np.stack([p, 1 - p], axis=1))
    classes = ("GALAXY", "STAR")

    def read(file: Path) -> None:
        calibration = Calibration.from_dict(read_json(file), classes, file)
        calibration.sets(np.array([[0.25, 0.75]]), 0.9)

    seed = json.dumps(fitted.to_dict(classes)).encode()
    return Reader([seed], in_file(folder / "calibration.json", read), [change_json, change_json, change_text])


def _records(folder: Path) -> Reader:
    seed = json.dumps(
        {"version": "1", "settings": {"seed": 1, "method": "simclr"}, "cells": {"a": ""}}
    ).encode()
    return Reader(
        [seed],
        in_file(folder / "run.json", lambda file: read_record(file, "settings", "cells", mend="Remove it.")),
        [change_json, change_text],
    )


def _header(folder: Path) -> Reader:
    from fuzz.seeds import SEEDS

    def read(raw: bytes) -> None:
        offset = 0
        while offset < len(raw):
            header = parse_header(memoryview(raw), offset)
            for key in header:
                with contextlib.suppress(MargformerError):
                    header[key]
            offset = header.next_offset

    return Reader(list(SEEDS["header"]().values()), read, [change_cards, change_cards])


def _npz(folder: Path) -> Reader:
    path = folder / "000000.npz"
    rows = {
        "p": np.ones((3, 2), np.float32),
        "flag": np.zeros(3, np.int32),
        "name": np.array(["a", "b", "cc"]),
    }
    write_arrays(path, rows)
    seeds = [path.read_bytes()]
    write_arrays(path, {"objid": _objids(), "label": np.zeros(3, np.int8)})
    seeds.append(path.read_bytes())
    work = Work(folder, {})

    def piece(file: Path) -> None:
        if work.load(0, 3) is None:  # a piece that is made again
            raise DataError("is none")

    return Reader(
        seeds,
        in_file(path, piece, lambda file: unpack(read_arrays(file))),
        [change_npz, change_npz, change_npz],
    )


def _tables(folder: Path) -> Reader:
    from astropy.table import Table

    table = Table({"objid": _objids(), "ra": [1.0, 2, 3], "class": ["STAR", "QSO", "GALAXY"]})
    seeds = []
    ends = {".csv": "ascii.csv", ".ecsv": "ascii.ecsv", ".vot": "votable", ".fits": "fits"}
    for end, kind in ends.items():
        path = folder / f"table{end}"
        table.write(path, format=kind)
        # The first byte says which it is.
        seeds.append(bytes([list(ends).index(end)]) + path.read_bytes())

    def read(raw: bytes) -> None:
        path = folder / f"table{list(ends)[(raw[:1] or b'0')[0] % len(ends)]}"
        path.write_bytes(raw[1:])
        read_table(path)

    def change(raw: bytes, rng: random.Random) -> bytes:
        if raw[:1] == b"\x03":
            return raw[:1] + change_cards(raw[1:], rng)
        return raw[:1] + change_text(raw[1:], rng)

    return Reader(seeds, read, [change, change])


READERS: dict[str, Callable[[Path], Reader]] = {
    "pickles": _pickles,
    "npy": _arrays,
    "lists": _lists,
    "manifest": _manifest,
    "columns": _columns,
    "stamps": _stamps,
    "checkpoint": _checkpoint,
    "config": _config,
    "calibration": _calibration,
    "records": _records,
    "header": _header,
    "npz": _npz,
    "tables": _tables,
}


# ---- the run ----


def mutated(reader: Reader, rng: random.Random) -> bytes:
    """Return one changed input."""
    raw = rng.choice(reader.seeds)
    kind = rng.random()
    if kind < 0.08:  # the head of one file and the tail of another
        other = rng.choice(reader.seeds)
        return raw[: rng.randrange(len(raw) + 1)] + other[rng.randrange(len(other) + 1) :]
    if kind < 0.3:
        return change_bytes(raw, rng)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        raw = rng.choice(reader.mutate)(raw, rng)
    return change_bytes(raw, rng) if kind < 0.35 else raw


def _largest_memory(*, forget: bool = False) -> int:
    """Return the most memory that was resident, in KiB: ever, or since it was last to be forgotten.

    Without forgetting, what one input needs hides behind what was needed before it.
    """
    if forget:
        with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def outcome(read: Callable[[bytes], object], raw: bytes) -> tuple[str, str]:
    """Read one input; return "read" or "refused" and the message, or "finding" and what happened."""
    # Of the processor: on a busy machine the clock goes on without us.
    before, started = _largest_memory(forget=True), time.process_time()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            read(raw)
            result = ("read", "")
        except MargformerError as error:
            message = str(error)
            result = ("refused", message)
            if not message.isprintable() or not message:
                result = ("finding", f"a message that cannot be printed: {message!r}")
        except Exception as error:
            place = [f for f in traceback.extract_tb(error.__traceback__) if "margformer_fast" in f.filename]
            at = f"{Path(place[-1].filename).name}:{place[-1].lineno}" if place else "outside the package"
            result = ("finding", f"{type(error).__name__} at {at}: {error}"[:300])
    seconds = time.process_time() - started
    grown = (_largest_memory() - before) / 1024
    if told:
        result = ("finding", f"a warning: {told[0].category.__name__}: {told[0].message}"[:300])
    if seconds > MAX_SECONDS:
        result = ("finding", f"{seconds:.1f} s")
    if grown > MAX_MEGABYTES:
        result = ("finding", f"{grown:,.0f} MB more memory")
    return result


@dataclass
class Account:
    """What became of the inputs of one reader."""

    inputs: int = 0
    read: int = 0
    refused: int = 0
    kinds: int = 0
    seconds: float = 0.0
    findings: dict[str, bytes] = None  # type: ignore[assignment]


def fuzz(
    name: str, inputs: int, seed: int, seconds: float = float("inf"), folder: Path | None = None
) -> Account:
    """Feed one reader; the seeds themselves come first, and must be read or refused as they are."""
    account, rng = Account(findings={}), random.Random(f"{name} {seed}")
    kinds = set()
    root = folder or Path(
        tempfile.mkdtemp(prefix="readers-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    )
    try:
        place = root / name
        place.mkdir(parents=True)
        reader = READERS[name](place)
        started = time.monotonic()
        while account.inputs < inputs and time.monotonic() - started < seconds:
            first = account.inputs < len(reader.seeds)
            raw = reader.seeds[account.inputs] if first else mutated(reader, rng)
            result, told = outcome(reader.read, raw)
            account.inputs += 1
            if result == "finding":
                account.findings.setdefault(re.sub(r"'.*|0x[0-9a-f]+|[0-9]{2,}(?!\d*$)", "", told)[:120], raw)
            elif result == "read":
                account.read += 1
            else:
                account.refused += 1
                kinds.add(re.sub(r"'.*|\(.*|[^a-z ]", "", told.partition(": ")[2])[:40])
        account.seconds, account.kinds = time.monotonic() - started, len(kinds)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return account


def main() -> int:
    """Run what is asked for; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--reader", choices=READERS, action="append", help="may be repeated; default: all")
    parser.add_argument("--inputs", type=int, default=100_000, help="how many inputs a reader gets")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="end a reader after this time")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "little"))
    parser.add_argument("--folder", type=Path, default=CHECKOUT / "build/fuzz/readers", help="for findings")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run one input, with its traceback")
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_AS, (_addresses() + MAX_ADDRESSES, resource.RLIM_INFINITY))
    names = options.reader or list(READERS)
    if options.replay:
        if len(names) != 1:
            parser.error("--replay needs the one --reader that the input is for")
        with tempfile.TemporaryDirectory() as folder:
            READERS[names[0]](Path(folder)).read(options.replay.read_bytes())
        return 0
    print(f"seed {options.seed}", flush=True)
    failed = False
    for name in names:
        account = fuzz(name, options.inputs, options.seed, options.seconds)
        rate = account.inputs / max(account.seconds, 1e-9)
        print(
            f"{name}: {account.inputs:,} inputs in {account.seconds:,.0f} s ({rate:,.0f} a second): "
            f"{account.read:,} read, {account.refused:,} refused by {account.kinds:,} messages, "
            f"{'no finding' if not account.findings else f'{len(account.findings)} FINDINGS'}",
            flush=True,
        )
        for told, raw in account.findings.items():
            failed = True
            options.folder.mkdir(parents=True, exist_ok=True)
            kept = options.folder / f"{name}-{hashlib.sha256(raw).hexdigest()[:12]}"
            kept.write_bytes(raw)
            again = [sys.executable, __file__, "--reader", name, "--replay", str(kept)]
            print(f"  {told}\n  again with:  {shlex.join(again)}", flush=True)
    return int(failed)


def _addresses() -> int:
    """Return the bytes of memory that this process has asked for."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    sys.exit(main())
