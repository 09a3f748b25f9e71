"""What classifying a large survey takes: ``python benchmarks/survey_plan.py --worker NAME=RATE@PRICE ...``.

RATE is in objects a second of one worker, measured (by `classify_catalogue.py`, `bench_classifier.py`), and
PRICE what an hour of it costs. Nothing is measured here but the arithmetic of one object, counted by PyTorch.
Printed: how large the survey is; hours, money and workers; and at which rate each part of the way is full.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace

import torch
from torch.utils.flop_counter import FlopCounterMode

from margformer_fast import cli
from margformer_fast.backends import use_backend
from margformer_fast.config import ModelConfig
from margformer_fast.data.survey import PROFILES, SurveyProfile
from margformer_fast.nn.inference import Inference
from margformer_fast.nn.inputs import ScaledEncoder

OUTPUT_BYTES = 64  # objid, ra, dec, three probabilities, label, set and flag
SECONDS_A_DAY = 86_400
MODELS = {"4 layers (quick)": ModelConfig(depth=4), "12 layers (paper)": ModelConfig()}


@dataclass(frozen=True)
class Worker:
    """One of what the work is spread over."""

    name: str
    rate: float
    price: float


def worker(text: str) -> Worker:
    """Read NAME=RATE@PRICE."""
    name, _, numbers = text.rpartition("=")
    rate, _, price = numbers.partition("@")
    try:
        found = Worker(name, float(rate), float(price))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=RATE@PRICE") from None
    if not (name and found.rate > 0 and found.price >= 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=RATE@PRICE with a rate above 0")
    return found


def object_bytes(profile: SurveyProfile, size: int, pixel_bytes: int) -> int:
    """Bytes of a stamp and its features, identifier and position."""
    return len(profile.bands) * size * size * pixel_bytes + 4 * profile.num_features + 24


def object_flops(config: ModelConfig) -> int:
    """Floating-point operations of the products for one object, by the reference."""
    graph = Inference(ScaledEncoder(config, 2).eval(), 1.0)
    count = 8
    images = torch.zeros(count, config.num_bands, config.size, config.size)
    with torch.no_grad(), use_backend("reference"), FlopCounterMode(display=False) as counter:
        graph(images, torch.zeros(count, config.num_features))
    return counter.get_total_flops() // count


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--objects", type=float, default=20e9)
    parser.add_argument("--survey", choices=PROFILES, default="lsst")
    parser.add_argument("--days", type=float, default=30, help="in which it is to be done")
    parser.add_argument("--network", type=float, default=10, help="Gbit/s that stamps come by, in all")
    parser.add_argument("--worker", type=worker, nargs="+", default=[], metavar="NAME=RATE@PRICE")
    parser.add_argument("--peak", type=float, nargs="*", default=[], metavar="TFLOP/s", help="of a processor")
    options = parser.parse_args()
    profile, count = PROFILES[options.survey], options.objects
    size = profile.stamp_size
    bands = "".join(profile.bands)
    print(f"{count:,.0f} objects of {options.survey.upper()}, {bands}, {size} x {size} pixels\n")
    kinds = {"float32": 4, "float16 or 16-bit integers": 2}
    sizes = {kind: object_bytes(profile, size, width) for kind, width in kinds.items()}
    rows = [(kind, f"{each:,}", f"{each * count / 1e12:,.0f}") for kind, each in sizes.items()]
    rows.append(("classes", f"{OUTPUT_BYTES}", f"{OUTPUT_BYTES * count / 1e12:,.1f}"))
    print(cli.table(("stored as", "bytes an object", "TB"), rows))

    seconds = options.days * SECONDS_A_DAY
    if options.worker:
        print(f"\nCompute, to be done in {options.days:g} days:\n")
        heads = ("worker", "objects/s", "worker-hours", "price", "workers", "Gbit/s a worker reads")
        rows = [
            (
                each.name,
                f"{each.rate:,.0f}",
                f"{count / each.rate / 3600:,.0f}",
                f"{count / each.rate / 3600 * each.price:,.0f}",
                f"{count / each.rate / seconds:,.1f}",
                f"{each.rate * sizes['float32'] * 8 / 1e9:.3f}",
            )
            for each in options.worker
        ]
        print(cli.table(heads, rows))

    print(f"\nBytes, by {options.network:g} Gbit/s:\n")
    rows = []
    for kind, each in sizes.items():
        rate = options.network * 1e9 / 8 / each
        full = [f"{rate / w.rate:,.1f} x {w.name}" for w in options.worker]
        rows.append((kind, f"{rate:,.0f}", f"{count / rate / SECONDS_A_DAY:,.1f}", "; ".join(full)))
    print(cli.table(("stored as", "objects/s", "days", "as fast as"), rows))

    print("\nArithmetic of the products, as the reference does them (counted; a bound, not a rate):\n")
    rows = []
    for name, config in MODELS.items():
        fitted = replace(config, num_bands=len(profile.bands), num_features=profile.num_features, size=size)
        flops = object_flops(fitted)
        bounds = [f"{peak * 1e12 / flops:,.0f}" for peak in options.peak]
        rows.append((name, f"{flops / 1e6:,.1f}", *bounds))
    print(
        cli.table(("model", "MFLOP an object", *(f"objects/s at {p:g} TFLOP/s" for p in options.peak)), rows)
    )
    return cli.OK


if __name__ == "__main__":
    raise SystemExit(main())
