"""Every refusal of the package: those provoked here, as a table to be read, and where the others are tested.

    python tests/refusals.py           # what was done, and what was said
    python tests/refusals.py --all     # every message as it stands in the source

`CASES` provokes messages from files and options that a user may get wrong. A message is also tested if a test
quotes it. What is neither is in `UNTESTED`, with the reason; tests/test_refusals.py fails if it should not be
there, or something else should.
"""

from __future__ import annotations

import argparse
import ast
import gzip
import json
import re
import struct
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

CHECKOUT = Path(__file__).parent.parent
sys.path[:0] = [str(CHECKOUT), str(CHECKOUT / "tests")]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from toy import toy_survey  # noqa: E402

import margformer_fast  # noqa: E402
from margformer_fast import errors  # noqa: E402
from margformer_fast.catalogue.frames import open_frames  # noqa: E402
from margformer_fast.catalogue.inputs import open_source  # noqa: E402
from margformer_fast.catalogue.outputs import format_of  # noqa: E402
from margformer_fast.catalogue.work import open_work  # noqa: E402
from margformer_fast.classifier import Classifier  # noqa: E402
from margformer_fast.classify import main as classify  # noqa: E402
from margformer_fast.config import AugmentConfig, FitConfig, ModelConfig  # noqa: E402
from margformer_fast.data.cutouts import find_cutouts, read_unpacked  # noqa: E402
from margformer_fast.data.fetch.targets import parse_fields, read_classes, read_objids, read_positions  # noqa: E402
from margformer_fast.data.fits import map_image  # noqa: E402
from margformer_fast.data.margnet import read_margnet  # noqa: E402
from margformer_fast.data.npy import map_npy, read_npz  # noqa: E402
from margformer_fast.data.pickles import load_string_array  # noqa: E402
from margformer_fast.data.sdss.catalogue import read_catalogue  # noqa: E402
from margformer_fast.data.sdss.files import find_fields, read_bytes  # noqa: E402
from margformer_fast.data.sdss.frames import read_frame  # noqa: E402
from margformer_fast.data.simulate import simulate  # noqa: E402
from margformer_fast.data.splits import spatial_split  # noqa: E402
from margformer_fast.data.store import read_store, write_store  # noqa: E402
from margformer_fast.data.survey import LSST, SDSS, TASKS, Survey  # noqa: E402
from margformer_fast.data.tables import read_table  # noqa: E402
from margformer_fast.errors import MargformerError  # noqa: E402
from margformer_fast.evaluation.calibration import Calibration  # noqa: E402
from margformer_fast.evaluation.likeness import read_real  # noqa: E402
from margformer_fast.files import atomic_directory, atomic_file, read_json, read_record  # noqa: E402
from margformer_fast.learning.checkpoint import (  # noqa: E402
    load_model_directory,
    load_tensors,
    save_model,
    save_tensors,
    unpack_optimizer,
)
from margformer_fast.learning.device import pick_device, pick_precision  # noqa: E402
from margformer_fast.learning.loop import Stage, _State  # noqa: E402
from margformer_fast.learning.pretrain import pretrain  # noqa: E402
from margformer_fast.learning.samples import Samples  # noqa: E402
from margformer_fast.nn.inputs import ScaledEncoder  # noqa: E402
from margformer_fast.ops.decode import decode  # noqa: E402
from margformer_fast.ops.layers import encode  # noqa: E402
from margformer_fast.ops.nt_xent import nt_xent  # noqa: E402
from margformer_fast.ops.stamps import Stamps  # noqa: E402
from margformer_fast.protocol import make_protocol  # noqa: E402

PACKAGE = Path(margformer_fast.__file__).parent  # the one that runs: the checkout's or the installed one

KINDS = {name for name in vars(errors) if isinstance(getattr(errors, name), type)} & {
    "MargformerError",
    *(cls.__name__ for cls in (*MargformerError.__subclasses__(), *errors.DataError.__subclasses__())),
}


# ---- messages in the source ----


@dataclass(frozen=True)
class Site:
    """A place in the package that raises an error of ours."""

    module: str
    line: int
    end: int
    kind: str
    template: str
    quotes: tuple[str, ...]

    @property
    def key(self) -> str:
        """Name of the place that a change of other lines leaves as it is."""
        return f"{self.module}: {self.template[:60]}"


def template_of(node: ast.expr | None) -> str:
    """Return a text as it stands in the source, with ``...`` for what is filled in."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(v.value) if isinstance(v, ast.Constant) else "..." for v in node.values)
    return "..."


def sites() -> list[Site]:
    """Return every place that raises an error of ours, by module and line."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        module = str(path.relative_to(PACKAGE).with_suffix(""))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            call = node.exc if isinstance(node, ast.Raise) else None
            if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in KINDS):
                continue
            parts = {keyword.arg: template_of(keyword.value) for keyword in call.keywords}
            text = template_of(call.args[0] if call.args else None)
            text += f"; expected {parts['expected']}" if "expected" in parts else ""
            text += f". {parts['mend']}" if "mend" in parts else ""
            constants = [
                c.value for c in ast.walk(call) if isinstance(c, ast.Constant) and isinstance(c.value, str)
            ]
            quotes = tuple(dict.fromkeys(quote for each in constants for quote in quotations(each)))
            found.append(Site(module, node.lineno, node.end_lineno or 0, call.func.id, text, quotes))
    return found


_QUOTE = 9  # characters that make a quotation


def quotations(text: str) -> list[str]:
    """Return what a test would quote of a text: three of its words, or all if there are fewer."""
    words = text.split()
    runs = [" ".join(words[k : k + 3]) for k in range(max(len(words) - 2, 1))]
    return [run for run in runs if len(run) >= _QUOTE]


def quoted(everything: list[Site]) -> set[str]:
    """Return the keys of the places whose words a test has."""
    text = ""
    for path in sorted((CHECKOUT / "tests").rglob("*.py")):
        if path.name not in ("refusals.py", "test_refusals.py"):
            text += path.read_text(encoding="utf-8")
    # As a pattern has them, and as they are; a test may split a long one.
    text = re.sub(r'"\s*\n\s*f?r?"', "", text).replace("\\", "")
    return {site.key for site in everything if any(quote.replace("\\", "") in text for quote in site.quotes)}


# ---- messages that are provoked ----


@dataclass(frozen=True)
class Case:
    """A mistake, and how the message about it begins after the place."""

    name: str
    provoke: Callable[[Path], object]
    start: str


def _write(path: Path, content: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def _store(folder: Path) -> Path:
    write_store(folder / "store", toy_survey(4, np.random.default_rng(0)))
    return folder / "store"


def _changed_store(folder: Path, **changes: object) -> Path:
    path = _store(folder)
    manifest = json.loads((path / "survey.json").read_text())
    _write(path / "survey.json", json.dumps({**manifest, **changes}))
    return path


def _model(folder: Path, **changes: object) -> Path:
    config = ModelConfig(slots=2, depth=1, dim=8, num_heads=2, hidden=8, patch_size=16)
    save_model(folder / "model", ScaledEncoder(config, 2), ("GALAXY", "STAR"), SDSS, True)
    said = json.loads((folder / "model/config.json").read_text())
    _write(folder / "model/config.json", json.dumps({**said, **changes}))
    return folder / "model"


def _samples(change: Callable[[np.ndarray, np.ndarray], object]) -> Samples:
    survey = toy_survey(12, np.random.default_rng(0))
    pixels, features = survey.stamps.decode(), survey.features.copy()
    change(pixels, features)
    changed = replace(survey, stamps=Stamps((pixels,)), features=features)
    return Samples(changed, TASKS["sg"], torch.device("cpu"), "training")


def _set(array: np.ndarray, where: object, value: float) -> None:
    array[where] = value


def _card(key: str, value: object) -> bytes:
    return f"{key:8}= {value!s:>20}".ljust(80).encode()


def _fits(*cards: bytes) -> bytes:
    return b"".join([*cards, b"END".ljust(80)]).ljust(2880)


def _image(side: int, data: bytes = b"") -> bytes:
    head = (
        _card("SIMPLE", "T"),
        _card("BITPIX", -32),
        _card("NAXIS", 2),
        _card("NAXIS1", side),
        _card("NAXIS2", side),
    )
    return _fits(*head) + data


def _table(*axes: str) -> bytes:
    head = (_card("XTENSION", "'BINTABLE'"), _card("BITPIX", 8), _card("NAXIS", len(axes)))
    more = (_card("PCOUNT", 0), _card("GCOUNT", 1), _card("TFIELDS", 0))
    return _fits(*head, *(_card(axis, 1) for axis in axes), *more) + bytes(2880)


def _survey() -> Survey:
    return toy_survey(4, np.random.default_rng(0))


def _without(model: Path, key: str) -> Path:
    said = json.loads((model / "config.json").read_text())
    del said[key]
    _write(model / "config.json", json.dumps(said))
    return model


def _stage(folder: Path, tensors: dict[str, torch.Tensor], about: dict[str, object]) -> None:
    save_tensors(folder / "s.safetensors", tensors, about)
    fit = FitConfig(max_epochs=1, patience=1, batch_size=1, learning_rate=1.0)
    stage = Stage("s", 1, torch.nn.Linear(1, 1), 1, fit, lambda rows, epoch: torch.ones(()), lambda epoch: {})
    _State(stage).load(folder / "s.safetensors", {"seed": 1})


def _classifier() -> Classifier:
    return Classifier.load("simulated-sg", device="cpu")


def _npy(descr: str, shape: str) -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def _work(folder: Path, settings: dict[str, object]) -> None:
    with open_work(folder / "out.fits", settings, {}):
        pass


def _open(path: Path) -> object:
    return open_source(path, SDSS, 32, chunk=10)


CASES = [
    # Stores
    Case(
        "a store that is not there",
        lambda t: read_store(t / "field"),
        "is no directory; expected a survey store",
    ),
    Case("a folder that is no store", lambda t: read_store(t), "is no survey store: survey.json is missing"),
    Case(
        "a store of a later version",
        lambda t: read_store(_changed_store(t, schema_version=9)),
        "the store has schema version 9; expected 1. Read it with the version",
    ),
    Case(
        "a store that reaches outside",
        lambda t: read_store(
            _changed_store(t, catalog={"file": "../x", "count": 4, "bytes": 1, "sha256": ""})
        ),
        "the store lists files",
    ),
    Case(
        "a manifest that lacks an entry",
        lambda t: read_store(_changed_store(t, profile={})),
        "entry 'name' is missing",
    ),
    Case(
        "a manifest with text for a number",
        lambda t: read_store(_changed_store(t, simulated="yes")),
        "an entry is of the wrong kind ('yes' is no bool)",
    ),
    Case(
        "a store without its catalogue",
        lambda t: ((p := _store(t)), (p / "catalog.fits").unlink(), read_store(p)),
        "is missing. Copy or make the store again",
    ),
    Case(
        "a store that is there already",
        lambda t: write_store(_store(t), toy_survey(4, np.random.default_rng(0))),
        "already exists. Choose another place",
    ),
    Case(
        "a store in the place of other files",
        lambda t: write_store(
            _write(t / "a/notes.txt", "x").parent, toy_survey(4, np.random.default_rng(0)), overwrite=True
        ),
        "holds something else than a survey store",
    ),
    # JSON
    Case(
        "JSON that is cut",
        lambda t: read_json(_write(t / "a.json", '{"a": 1')),
        "does not hold JSON (Expecting",
    ),
    Case("JSON that is missing", lambda t: read_json(t / "a.json"), "is missing"),
    Case(
        "JSON that is nested without end",
        lambda t: read_json(_write(t / "a.json", "[" * 100_000)),
        "does not hold JSON (it is nested too deeply)",
    ),
    Case("a folder for JSON", lambda t: read_json(t), "is no regular file"),
    Case(
        "a record of another shape",
        lambda t: read_record(_write(t / "run.json", "[]"), "settings", mend="Choose another --out."),
        "holds a list; expected an object with settings. Choose",
    ),
    # Arrays
    Case("an array that is missing", lambda t: map_npy(t / "a.npy"), "is missing"),
    Case(
        "an array that is none",
        lambda t: map_npy(_write(t / "a.npy", "hello")),
        "is not a .npy file of one array",
    ),
    Case(
        "an array that says it is larger",
        lambda t: map_npy(_write(t / "a.npy", _npy("<f8", "(1000000000000,)"))),
        "is not a whole .npy file: 0 bytes of data; expected 8,000,000,000,000",
    ),
    Case(
        "an array of objects",
        lambda t: map_npy(_write(t / "a.npy", _npy("|O", "(1,)"))),
        "holds values of type '|O'; expected numbers",
    ),
    Case(
        "labels with a pickle that calls",
        lambda t: load_string_array(_write(t / "y.npy", _npy("|O", "(1,)") + b"cos\nsystem\n(S'x'\ntR.")),
        "the pickle in it holds a reference to 'os.system'; expected an array of strings",
    ),
    Case(
        "labels of numbers",
        lambda t: load_string_array(_write(t / "y.npy", _npy("<f8", "(0,)"))),
        "holds values of type '<f8'; expected strings",
    ),
    Case(
        "an archive that is none",
        lambda t: read_npz(_write(t / "a.npz", "x"), 100),
        "is not a whole .npz file",
    ),
    Case(
        "an archive that is too large",
        lambda t: read_npz(_write(t / "a.npz", "x" * 200), 100),
        "has 200 bytes; expected at most 100",
    ),
    # FITS
    Case("an image that is missing", lambda t: map_image(t / "a.fits"), "is missing"),
    Case("an empty image", lambda t: map_image(_write(t / "a.fits", "")), "the file is empty"),
    Case(
        "an image that is cut",
        lambda t: map_image(_write(t / "a.fits", _image(10**6))),
        "the data are cut short",
    ),
    Case(
        "an image that is text",
        lambda t: map_image(_write(t / "a.fits", "hello " * 999)),
        "this is no FITS header",
    ),
    Case(
        "no such HDU",
        lambda t: map_image(_write(t / "a.fits", _image(1, bytes(2880))), 3),
        "the file has only 1 HDUs",
    ),
    Case(
        "a packed file that is cut",
        lambda t: read_bytes(_write(t / "a.fits.gz", gzip.compress(bytes(99))[:-9])),
        "the compressed file is cut short or damaged",
    ),
    Case(
        "a packed cut-out that is cut",
        lambda t: read_unpacked(str(_write(t / "a.fits.gz", gzip.compress(bytes(99))[:-9]))),
        "the compressed file is cut short or damaged",
    ),
    Case("no cut-outs", lambda t: find_cutouts(t), "holds no FITS file"),
    Case("a pattern without files", lambda t: find_cutouts(str(t / "{id}.fits")), "no file has such a name"),
    Case(
        "a pattern that needs bands",
        lambda t: find_cutouts(str(t / "{id}-{band}.fits")),
        "the pattern has {band} in it",
    ),
    Case(
        "a frame by another name",
        lambda t: read_frame(t / "x.fits"),
        "is not named like a frame; expected frame-",
    ),
    Case(
        "a catalogue by another name", lambda t: read_catalogue(t / "x.fits"), "is not named like a catalogue"
    ),
    Case("no SDSS field", lambda t: find_fields([t]), "no SDSS field is there; expected frame-"),
    Case("no folder of fields", lambda t: find_fields([t / "x"]), "is not a folder"),
    # Tables
    Case(
        "a table of an unknown kind",
        lambda t: read_table(t / "a.h5"),
        "is a table of no known kind; expected",
    ),
    Case("a table that is missing", lambda t: read_table(t / "a.csv"), "is missing"),
    Case(
        "a table that is packed",
        lambda t: read_table(_write(t / "a.csv", gzip.compress(b"ra,dec"))),
        "is packed; expected text. Unpack it first",
    ),
    Case(
        "a table that is none",
        lambda t: read_table(_write(t / "a.ecsv", "ra,dec\n1,2\n")),
        "cannot be read as a table",
    ),
    Case(
        "a VOTable that fetches",
        lambda t: read_table(_write(t / "a.vot", '<VOTABLE><STREAM href="ftp://x"/></VOTABLE>')),
        "takes its rows from another place; expected a VOTable that holds its rows",
    ),
    Case(
        "a VOTable with entities",
        lambda t: read_table(_write(t / "a.vot", '<!DOCTYPE v [<!ENTITY x "y">]><v/>')),
        "defines an entity",
    ),
    Case("a VOTable that is cut", lambda t: read_table(_write(t / "a.vot", "<VOTABLE>")), "is no whole XML"),
    Case(
        "an ECSV nested without end",
        lambda t: read_table(_write(t / "a.ecsv", "# " + "[" * 99)),
        "the header is too long or too deeply nested",
    ),
    Case(
        "a FITS table with columns without end",
        lambda t: read_table(
            _write(
                t / "a.fits",
                _fits(_card("SIMPLE", "T"), _card("BITPIX", 8), _card("NAXIS", 0))
                + _fits(
                    b"XTENSION= 'BINTABLE'".ljust(80),
                    _card("BITPIX", 8),
                    _card("NAXIS", 2),
                    _card("NAXIS1", 8),
                    _card("NAXIS2", 0),
                    _card("PCOUNT", 0),
                    _card("GCOUNT", 1),
                    _card("TFIELDS", 10**12),
                ),
            )
        ),
        "TFIELDS is 1000000000000; expected 0 to 999",
    ),
    # Catalogues to classify
    Case("no input", lambda t: _open(t / "x.fits"), "does not exist; expected a store, a table"),
    Case(
        "an empty folder",
        lambda t: _open(t),
        "holds neither a survey store nor parquet files. SDSS frames need",
    ),
    Case("an input of an unknown kind", lambda t: _open(_write(t / "x.txt", "a")), "is of no known kind"),
    Case(
        "a table without features",
        lambda t: _open(_write(t / "x.csv", "a,b\n1,2\n")),
        "has neither features nor stamps",
    ),
    Case(
        "a table with some features",
        lambda t: _open(_write(t / "x.csv", "dered_u,b\n1,2\n")),
        "has no column deVRad_u",
    ),
    Case(
        "work of other settings",
        lambda t: (_work(t, {"level": 0.9}), _work(t, {"level": 0.5})),
        "was begun with another level. Give the same",
    ),
    # Lists
    Case(
        "a rounded identifier",
        lambda t: read_objids(_write(t / "a.csv", "1.2376e18\n")),
        "'1.2376e18' is no object identifier; expected a whole number of 19 digits. It was rounded",
    ),
    Case("an empty list", lambda t: read_objids(_write(t / "a.csv", "# nothing\n")), "the list is empty"),
    Case(
        "a list without its column",
        lambda t: read_objids(_write(t / "a.csv", "name\nx\n")),
        "has no column 'objid'",
    ),
    Case(
        "a position off the sky",
        lambda t: read_positions(_write(t / "a.csv", "ra,dec\n10,95\n")),
        "the position is not on the sky; expected 0 <= ra < 360",
    ),
    Case(
        "a position that is none",
        lambda t: read_positions(_write(t / "a.csv", "10,x\n")),
        "'10,x' is no position",
    ),
    Case(
        "an unknown class",
        lambda t: read_classes(_write(t / "a.csv", "NOVA\n"), 1),
        "row 0 has the class 'NOVA'",
    ),
    Case(
        "too few classes",
        lambda t: read_classes(_write(t / "a.csv", "STAR\n"), 2),
        "has 1 classes; expected 2",
    ),
    Case(
        "a field that is none",
        lambda t: parse_fields(["94-9-12"]),
        "'94-9-12' is no field; expected run-camcol-field",
    ),
    Case("no published arrays", lambda t: read_margnet(t, 1, "sg"), "X_exp1.npy, dnnx_exp1.npy"),
    Case("an unknown experiment", lambda t: read_margnet(t, 4, "sg"), "there is no experiment 4"),
    Case("nothing to compare with", lambda t: read_real(t), "holds no objects to compare with"),
    # Models
    Case("a folder that is no model", lambda t: load_model_directory(t), "is no model directory; expected"),
    Case(
        "a model of another schema",
        lambda t: load_model_directory(_model(t, schema=7)),
        "has schema 7; expected 1",
    ),
    Case(
        "a model of other classes",
        lambda t: load_model_directory(_model(t, classes=["STAR", "NOVA"])),
        "classes are ['STAR', 'NOVA']; expected two or more of",
    ),
    Case(
        "a model of an unknown survey",
        lambda t: load_model_directory(_model(t, survey="des")),
        "survey is 'des'",
    ),
    Case(
        "a model larger than its weights",
        lambda t: load_model_directory(_model(t, model={"depth": 10**6})),
        "describes a model of",
    ),
    Case(
        "a model with an odd setting",
        lambda t: load_model_directory(_model(t, model={"dim": "8"})),
        "dim is '8'; expected int",
    ),
    Case("a checkpoint that is missing", lambda t: load_tensors(t / "a.safetensors"), "is missing"),
    Case(
        "a checkpoint that is none",
        lambda t: load_tensors(_write(t / "a.safetensors", "x" * 99)),
        "is not a whole checkpoint",
    ),
    Case(
        "a calibration of another schema",
        lambda t: Calibration.from_dict({}, ("GALAXY", "STAR"), t),
        "has schema None",
    ),
    Case(
        "a model without its classes",
        lambda t: load_model_directory(_model(t, classes=None)),
        "classes are None",
    ),
    Case(
        "a model of other bands",
        lambda t: load_model_directory(_model(t, bands=["r"])),
        "bands are ['r']; expected u, g, r",
    ),
    Case(
        "a model without a survey",
        lambda t: load_model_directory(_without(_model(t), "survey")),
        "has no 'survey'",
    ),
    Case("a stage that is none", lambda t: _stage(t, {}, {}), "does not say of which stage it is"),
    Case(
        "a stage of other settings",
        lambda t: _stage(t, {}, {"key": {"seed": 2}}),
        "was written with other settings (seed)",
    ),
    Case(
        "a stage without its state",
        lambda t: _stage(t, {}, {"key": {"seed": 1}}),
        "does not hold the state of a stage",
    ),
    Case(
        "a stage with other tensors",
        lambda t: _stage(t, {"x/y": torch.ones(1)}, {"key": {"seed": 1}}),
        "holds 'x/y'; expected",
    ),
    Case(
        "an optimizer of another model",
        lambda t: unpack_optimizer(torch.optim.AdamW([torch.ones(2)]), {"0.exp_avg": torch.ones(3)}, t),
        "its optimizer state '0.exp_avg' fits no",
    ),
    Case(
        "an optimizer that is cut",
        lambda t: unpack_optimizer(
            torch.optim.AdamW([torch.ones(2), torch.ones(2)]),
            {"0.exp_avg": torch.ones(2), "1.step": torch.ones(())},
            t,
        ),
        "its optimizer state is not whole",
    ),
    # Objects
    Case(
        "surveys of two kinds",
        lambda t: _survey().joined(replace(_survey(), profile=replace(SDSS, name="x"))),
        "a survey x is to be joined",
    ),
    Case("an object twice", lambda t: _survey().joined(_survey()), "4 objects are on both sides"),
    Case(
        "a feature that is no number",
        lambda t: _samples(lambda x, f: _set(f, (3, 4), np.nan)),
        "1 of 12 objects have a feature that is not finite; the first is objid 4, dered_g = nan",
    ),
    Case(
        "a stamp without a band",
        lambda t: _samples(lambda x, f: _set(x, (5, 2), np.nan)),
        "1 of 12 stamps have a band without one finite pixel; the first is objid 6, band r",
    ),
    Case(
        "a saturated pixel",
        lambda t: _samples(lambda x, f: _set(x, (5, 2, 3, 3), 3e38)),
        "objid 6 has a pixel of 3e+38 in band r",
    ),
    Case(
        "a band that is empty",
        lambda t: _samples(lambda x, f: _set(x, (slice(None), 3), 0)).pixel_noise(),
        "all pixels of band i are the same",
    ),
    Case(
        "images of another shape",
        lambda t: _classifier().predict(np.zeros((2, 5, 16, 16)), None),
        "images have shape",
    ),
    Case(
        "neither images nor features",
        lambda t: _classifier().predict(None, None),
        "there are neither images nor features",
    ),
    Case(
        "images and features of other numbers",
        lambda t: _classifier().predict(np.zeros((2, 5, 32, 32)), np.zeros((3, 24))),
        "2 images come with 3 rows of features",
    ),
    Case(
        "a level that cannot be had",
        lambda t: _classifier().predict(None, np.zeros((1, 24)), level=1.0),
        "level is 1.0",
    ),
    Case(
        "too few objects for a split on the sky",
        lambda t: spatial_split(np.arange(2.0), np.zeros(2), 0.2, 0.2),
        "2 objects are too few for three strips of sky",
    ),
    # Options
    Case("an unknown device", lambda t: pick_device("tpu"), "there is no device 'tpu'; expected auto, cpu"),
    Case("a GPU that is not here", lambda t: pick_device("cuda:99"), "device 'cuda:99' is not here"),
    Case(
        "an unknown precision",
        lambda t: pick_precision("fp8", torch.device("cpu")),
        "there is no precision 'fp8'",
    ),
    Case("an unknown protocol", lambda t: make_protocol("dirty", ()), "there is no protocol 'dirty'"),
    Case(
        "an unknown setting",
        lambda t: FitConfig.from_dict({"epochs": 3}),
        "FitConfig has no setting 'epochs'",
    ),
    Case("a setting that is missing", lambda t: FitConfig.from_dict({}), "FitConfig lacks 'max_epochs'"),
    Case(
        "a setting out of range", lambda t: AugmentConfig(max_shift=2), "max_shift is 2; expected in [0, 1)"
    ),
    Case(
        "noise that is text",
        lambda t: AugmentConfig.from_dict({"noise": ["x"]}),
        "noise holds 'x'; expected numbers",
    ),
    Case(
        "a contrastive batch of one",
        lambda t: nt_xent(torch.zeros(1, 4), torch.zeros(1, 4), temperature=1.0),
        "a contrastive batch has 1 object(s)",
    ),
    Case(
        "no positions for a drawing",
        lambda t: classify(["M", "I", "--out", str(t / "a.csv"), "--draw", "x.png"]),
        "--draw and",
    ),
    Case(
        "an output of no known format",
        lambda t: format_of(t / "a.doc", None),
        "--out a.doc ends on no known format",
    ),
    Case("a seed that is too large", lambda t: simulate(1, 0, seed=1 << 64), "seed is 18446744073709551616"),
    Case(
        "rows that are no integers",
        lambda t: decode(np.zeros((2, 2), ">f4"), np.zeros(1)),
        "rows are float64 of shape (1,)",
    ),
    Case(
        "views of two shapes",
        lambda t: nt_xent(torch.zeros(2, 4), torch.zeros(3, 4), temperature=1.0),
        "views have shapes",
    ),
    # Catalogues and positions
    Case(
        "a collection without a catalogue",
        lambda t: _open(_write(t / "c/collection.properties", b"\xff = 1").parent),
        "names no primary table; expected hats_primary_table_url",
    ),
    Case(
        "a collection whose catalogue is elsewhere",
        lambda t: _open(_write(t / "c/collection.properties", "hats_primary_table_url = ..").parent),
        "names .. as its primary table, which is not there",
    ),
    Case(
        "a store of another survey",
        lambda t: open_source(_store(t), LSST, 32, chunk=10),
        "has bands ugriz; expected ugrizy",
    ),
    Case(
        "a column that is not there",
        lambda t: open_source(
            _write(t / "a.csv", "ra,dec\n1,2\n"), SDSS, 32, chunk=10, names={"ra": "alpha"}
        ),
        "has no column 'alpha', which --columns calls ra",
    ),
    Case(
        "frames for a model of six bands",
        lambda t: open_frames(t, t / "p.csv", LSST),
        "frames have bands ugriz; expected ugrizy",
    ),
    Case(
        "positions without a column",
        lambda t: open_frames(t, _write(t / "p.csv", "x,y\n1,2\n"), SDSS),
        "has no column 'ra'; expected ra and dec in degrees",
    ),
    Case(
        "a place on no sky",
        lambda t: open_frames(t, _write(t / "p.csv", "ra,dec\n1,2\n3,91\n"), SDSS),
        "row 1 has no position; expected finite degrees",
    ),
    Case(
        "magnitudes that are words",
        lambda t: read_real(_write(t / "m.csv", "u,g,r,i,z,class\n1,2,bright,4,5,STAR\n")),
        "holds something else than numbers",
    ),
    Case(
        "XML in an encoding that cannot be",
        lambda t: read_table(_write(t / "a.vot", '<?xml version="1.0" encoding="big5"?><a/>')),
        "is no XML (multi-byte encodings are not supported",
    ),
    Case(
        "a table with one axis",
        lambda t: read_table(_write(t / "a.fits", _image(1, bytes(2880)) + _table("NAXIS1"))),
        "a table has 1 axes; expected 2",
    ),
    # Arguments from Python
    Case(
        "photometry of an unknown kind",
        lambda t: pretrain(
            *(None, None, None, None),
            None,
            photometry="odd",
            weights="best",
            precision="fp32",
            seed=0,
            directory=t,
            label="",
        ),
        "photometry is 'odd'; expected varied",
    ),
    Case(
        "tokens with an axis too few",
        lambda t: encode(torch.zeros(2, 3), None, None, 1, 0.0, backend="reference"),
        "tokens have 2 axes; expected objects, tokens, dim",
    ),
    Case(
        "stamps of two types",
        lambda t: Stamps((np.zeros((1, 5, 32, 32), np.float32), np.zeros((1, 5, 32, 32), np.int16))).stored(
            np.arange(2)
        ),
        "stamps are stored as <f4, <i2; expected one type",
    ),
    # Outputs
    Case(
        "a file where a folder is",
        lambda t: atomic_file(t).__enter__(),
        "is no regular file. Choose another place",
    ),
    Case(
        "a folder where a file is",
        lambda t: atomic_directory(_write(t / "a", ""), overwrite=True).__enter__(),
        "is a file",
    ),
]

UNTESTED: dict[str, tuple[int, str]] = {
    "_native": (1, "why the compiled module cannot be had; tests/test_native.py"),
    "backends": (2, "put together from reasons; tests/test_backends.py"),
    "catalogue/drawing": (1, "no test"),
    "catalogue/inputs": (1, "needs pyarrow to be missing; no test"),
    "catalogue/outputs": (2, "need pyarrow or hats to be missing; no test"),
    "cli": (1, "argparse's words; tests/test_cli.py"),
    "data/__main__": (1, "no test"),
    "data/fetch/http": (2, "said when the command is ending anyway; no test"),
    "data/fetch/sample": (1, "no test"),
    "data/fetch/targets": (4, "few words of their own; tests/test_fetch_lists.py"),
    "data/fits": (2, "one in tests/test_hostile.py, few words of its own; one has no test"),
    "data/fits_stream": (1, "few words of its own; tests/test_fits_stream.py"),
    "data/margnet": (1, "few words of its own; tests/test_margnet.py"),
    "data/measurements": (3, "few words of their own; tests/test_classifier.py"),
    "data/pickles": (1, "few words of its own; tests/test_pickles.py"),
    "data/sdss/catalogue": (2, "few words of their own; tests/test_sdss_catalogue.py"),
    "data/sdss/frames": (1, "few words of its own; tests/test_sdss_frames.py"),
    "data/sdss/objid": (1, "few words of its own; tests/test_sdss_objid.py"),
    "data/sdss/photometry_check": (1, "no test"),
    "data/store": (5, "their words come from helpers; tests/test_store.py, tests/test_hostile.py"),
    "data/survey": (1, "no test"),
    "data/tables": (1, "few words of its own; tests/test_hostile.py"),
    "evaluation/attention_figures": (1, "no test"),
    "evaluation/baselines": (1, "no test"),
    "evaluation/conformal": (1, "no test"),
    "evaluation/embedding_figures": (1, "no test"),
    "files": (1, "few words of its own; tests/test_hostile.py"),
    "learning/graphed": (1, "few words of its own; tests/test_graphed.py"),
    "reference/fits_header": (1, "says again what was found before; tests/test_fits_header.py"),
    "reference/fits_image": (1, "few words of its own; tests/test_fits.py"),
}
"""By module: how many of its messages are neither provoked nor quoted, and why, or where they are tested."""


@dataclass(frozen=True)
class Provoked:
    """What came of a case: the message with the folder left out, and the place that raised it."""

    kind: str
    message: str
    where: tuple[str, int]


def provoke(case: Case, folder: Path) -> Provoked:
    """Make the mistake of a case; return what was said about it."""
    folder.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            case.provoke(folder)
        except MargformerError as error:
            frames = [f for f in traceback.extract_tb(error.__traceback__) if str(PACKAGE) in f.filename]
            module = str(Path(frames[-1].filename).relative_to(PACKAGE).with_suffix(""))
            message = str(error).replace(f"{folder}/", "").replace(str(folder), ".")
            return Provoked(type(error).__name__, message, (module, frames[-1].lineno or 0))
    raise AssertionError(f"{case.name}: nothing was refused")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--all", action="store_true", help="print every message as it stands in the source")
    everything = sites()
    if parser.parse_args().all:
        print("| where | error | message |\n|---|---|---|")
        for site in everything:
            print(f"| {site.module} | {site.kind} | {site.template.replace('|', '/')} |")
        return
    print("| what was done | error | what was said |\n|---|---|---|")
    hit = set()
    with tempfile.TemporaryDirectory() as folder:
        for number, case in enumerate(CASES):
            found = provoke(case, Path(folder) / str(number))
            hit |= places(found, everything)
            print(f"| {case.name} | {found.kind} | {found.message.replace('|', '/')[:300]} |")
    both = hit | quoted(everything)
    here, tested = count(hit, everything), count(both, everything)
    print(
        f"\n{len(everything)} places raise an error of ours: {here} are provoked here, {tested - here} "
        f"others are quoted by a test, {len(everything) - tested} are neither."
    )


def places(found: Provoked, everything: list[Site]) -> set[str]:
    """Return the key of the place that raised a provoked error."""
    module, line = found.where
    return {site.key for site in everything if site.module == module and site.line <= line <= site.end}


def count(keys: set[str], everything: list[Site]) -> int:
    """Return how many places have one of some keys."""
    return sum(site.key in keys for site in everything)


if __name__ == "__main__":
    main()
