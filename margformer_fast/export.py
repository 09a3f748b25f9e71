"""A trained model as one file that needs no margformer_fast: ``python -m margformer_fast.export``.

What surrounds the network (scaling of inputs, what stands in for missing values, temperature) is inside the
graph: inputs ``images`` (N, C, S, S) and ``features`` (N, F), output ``probability`` (N, K), all float32. It
takes any number N of objects.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import __version__, cli
from .errors import BackendUnavailable, DataError, OutputError
from .files import atomic_file

if TYPE_CHECKING:
    import numpy as np

    from .classifier import Classifier

FORMATS = ("onnx", "torch-export")

CHECKED_SIZES = (1, 13, 256)
"""Numbers of objects that an exported graph is compared with the model for."""

TOLERANCE = 1e-5
"""Largest difference of a probability: float32 sums in another order."""

ABOUT = "about.json"
"""Extra file of a torch-export archive with what ONNX holds as metadata."""

_Run = Callable[["np.ndarray", "np.ndarray"], "np.ndarray"]


def about(model: Classifier) -> dict[str, str]:
    """Return what an exported file says of itself; lists are JSON."""
    profile = model.profile
    return {
        "software": f"margformer_fast {__version__}",
        "classes": json.dumps(model.classes),
        "survey": profile.name,
        "bands": json.dumps(profile.bands),
        "flux_unit": profile.flux_unit,
        "stamp_size": str(model.config.size),
        "features": json.dumps(profile.feature_names),
        "feature_units": json.dumps(profile.feature_units),
        "temperature": str(model.temperature),
        "calibrated": json.dumps(model.calibration is not None),
        "trained_on_simulated_data": json.dumps(model.simulated),
    }


def to_onnx(model: Classifier) -> bytes:
    """Return a model as an ONNX file.

    Raises
    ------
    BackendUnavailable
        If onnx or onnxscript is not installed.
    """
    _require("onnx", "onnxscript")
    import torch

    from .backends import use_backend

    graph, inputs, dynamic = _graph(model)
    with use_backend("reference"), _quiet():
        program = torch.onnx.export(
            graph,
            inputs,
            input_names=["images", "features"],
            output_names=["probability"],
            dynamic_shapes=dynamic,
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # noqa: S101 - it is, with dynamo
    proto = program.model_proto
    for key, value in about(model).items():
        entry = proto.metadata_props.add()
        entry.key, entry.value = key, value
    return bytes(proto.SerializeToString())


def to_torch_export(model: Classifier) -> bytes:
    """Return a model as an archive of ``torch.export``, which ``torch.export.load`` reads."""
    import torch

    from .backends import use_backend

    graph, inputs, dynamic = _graph(model)
    with use_backend("reference"):
        program = torch.export.export(graph, inputs, dynamic_shapes=dynamic)
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={ABOUT: json.dumps(about(model))})
    return file.getvalue()


def run_onnx(data: bytes) -> _Run:
    """Return a function that runs an ONNX file with onnxruntime.

    Raises
    ------
    BackendUnavailable
        If onnxruntime is not installed.
    """
    _require("onnxruntime")
    import onnxruntime

    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return lambda images, features: session.run(None, {"images": images, "features": features})[0]


def run_torch_export(data: bytes) -> _Run:
    """Return a function that runs an archive of ``torch.export``."""
    import torch

    module = torch.export.load(io.BytesIO(data)).module()
    return lambda images, features: (
        module(torch.from_numpy(images), torch.from_numpy(features)).detach().numpy()
    )


def largest_difference(model: Classifier, run: _Run) -> float:
    """Return by how much an exported graph's probabilities differ from the model's, at most.

    Objects are random, as bright and as noisy as those trained on; some lack features, bands or everything.

    Raises
    ------
    DataError
        If the graph returns another shape, or a number where the model returns none, or the reverse.
    """
    import numpy as np

    rng = np.random.default_rng(0)
    worst = 0.0
    for count in CHECKED_SIZES:
        images, features = _objects(model, count, rng)
        found = run(images, features)
        wanted = model.predict_proba(images, features)
        if found.shape != wanted.shape or not np.array_equal(np.isnan(found), np.isnan(wanted)):
            raise DataError(
                f"the exported graph returns shape {found.shape} and {np.isnan(found).sum()} NaN for {count} "
                f"objects",
                expected=f"{wanted.shape} and {np.isnan(wanted).sum()}",
                mend="Please report this, with the versions of torch and onnx.",
            )
        worst = max(worst, float(np.nanmax(np.abs(found - wanted))))
    return worst


def export(path: Path, form: str, out: Path, *, overwrite: bool = False) -> str:
    """Export a model, compare it with itself, then write it.

    Parameters
    ----------
    path : Path
        The model directory.
    form : {"onnx", "torch-export"}
        What to write.
    out : Path
        The file.
    overwrite : bool
        Replace a file that is there.

    Returns
    -------
    str
        What was compared, in a sentence.

    Raises
    ------
    BackendUnavailable
        If a package that the format needs is not installed.
    DataError
        If the model cannot be read, or the graph differs from it by more than `TOLERANCE`.
    OutputError
        If the file is there already or cannot be written.
    """
    from .classifier import Classifier

    if out.exists() and not overwrite:
        raise OutputError("already exists", where=out, mend="Choose another place, or pass --overwrite.")
    model = Classifier.load(path, device="cpu")
    data = to_onnx(model) if form == "onnx" else to_torch_export(model)
    if form == "onnx" and not _has("onnxruntime"):
        compared = "not compared with the model: onnxruntime is not installed"
    else:
        difference = largest_difference(model, (run_onnx if form == "onnx" else run_torch_export)(data))
        if not difference <= TOLERANCE:
            raise DataError(
                f"probabilities of the exported graph differ by {difference:.1e} from the model's",
                where=path,
                expected=f"at most {TOLERANCE:.0e}",
                mend="Nothing was written. Please report this, with the versions of torch and onnx.",
            )
        by = "onnxruntime" if form == "onnx" else "torch.export"
        sizes = ", ".join(map(str, CHECKED_SIZES))
        compared = (
            f"run by {by} on {sizes} objects: probabilities within {difference:.1e} of the model's "
            f"(limit {TOLERANCE:.0e})"
        )
    with atomic_file(out) as temporary:
        temporary.write_bytes(data)
    return compared


def _graph(model: Classifier) -> tuple[Any, tuple[Any, ...], tuple[Any, ...]]:
    """Return what is exported, inputs to trace it with, and which of their sizes may be others."""
    import torch

    from .errors import ConfigError
    from .nn.inference import Inference

    if not model.classifies:
        raise ConfigError(
            "the model's head was never trained: there are no probabilities to export",
            mend="Use a run with --method simclr or supervised.",
        )
    config = model.config
    # More than one object: torch.export takes a size of 1 for a promise.
    images = torch.zeros(2, config.num_bands, config.size, config.size)
    features = torch.zeros(2, config.num_features)
    objects = torch.export.Dim("objects")
    graph = Inference(model.model, model.temperature).eval()
    return graph, (images, features), ({0: objects}, {0: objects})


def _objects(model: Classifier, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return random stamps and features of `count` objects, float32, with gaps if there are several."""
    import numpy as np

    config, inputs = model.config, model.model.inputs
    mean, std, noise = (x.numpy() for x in (inputs.mean, inputs.std, inputs.noise))
    y, x = np.mgrid[: config.size, : config.size] - (config.size - 1) / 2
    light = np.exp(-(x**2 + y**2) / (2 * rng.uniform(1, 3, (count, 1, 1, 1)) ** 2))
    peak = 10 ** rng.uniform(0, 3, (count, config.num_bands, 1, 1))
    shape = (count, config.num_bands, config.size, config.size)
    images = (noise[:, None, None] * (peak * light + rng.normal(size=shape))).astype(np.float32)
    features = (mean + std * rng.normal(size=(count, config.num_features))).astype(np.float32)
    if count > 4:
        features[0, 0], features[1], features[2, 1] = np.nan, np.nan, -9999
        images[2, 0], images[3, 0, 0, 0], images[4] = np.nan, np.inf, np.nan
        features[4] = np.nan  # nothing at all is known of it
    return images, features


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep torch's exporter from warning of its own parts and of packages that nobody asked for."""
    log = logging.getLogger("torch.onnx")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)


def _has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _require(*packages: str) -> None:
    missing = [package for package in packages if not _has(package)]
    if missing:
        raise BackendUnavailable(
            f"{' and '.join(missing)} cannot be imported",
            where="ONNX",
            mend="pip install 'margformer-fast[export]', or use --format torch-export.",
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Export a model.

    Parameters
    ----------
    arguments : sequence of str, optional
        Command-line arguments in place of those of the process.
    """
    parser = cli.Parser(
        prog="python -m margformer_fast.export",
        description="A trained model as one file that needs no margformer_fast: raw stamps and features in, "
        "calibrated probabilities out. It is compared with the model before it is written.",
        example="python -m margformer_fast.export runs/mine/seed-0/model --format onnx --out stars.onnx",
    )
    parser.add_argument("model", type=Path, metavar="MODEL", help="model directory, RUN/seed-0/model")
    parser.add_argument("--format", choices=FORMATS, default="onnx", help="what to write (onnx)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    options: argparse.Namespace = parser.parse_args(arguments)
    compared = export(options.model, options.format, options.out, overwrite=options.overwrite)
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.1f} MB, {options.format}; {compared}")


if __name__ == "__main__":
    sys.exit(cli.run(main))
