"""Are the fast paths right on this machine: ``python -m margformer_fast.verify``."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from . import cli


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the errors of every operator, backend and precision; 1 if one is out of its limits.

    Parameters
    ----------
    arguments : sequence of str, optional
        Command-line arguments in place of those of the process.
    """
    parser = cli.Parser(
        prog="python -m margformer_fast.verify",
        description="Hold every fast path that this machine can run to the reference in float64: errors of "
        "values and gradients relative to the largest, beside those of plain PyTorch in the same precision.",
        example="python -m margformer_fast.verify --device cuda",
    )
    parser.add_argument("--device", default="auto", metavar="NAME", help="auto, cpu, cuda or cuda:1")
    cli.add_seed(parser)
    options = parser.parse_args(arguments)

    from .learning.device import pick_device
    from .verification import verify

    results = list(verify(pick_device(options.device), seed=options.seed))
    header = ("operator", "backend", "precision", "value", "plain", "gradient", "plain", "verdict")
    rows = [
        (
            each.operator,
            each.backend,
            each.precision,
            *(
                "" if error is None else f"{error:.1e}" if error else "0"
                for error in (
                    each.value_error,
                    each.plain_value_error,
                    each.gradient_error,
                    each.plain_gradient_error,
                )
            ),
            "ok" if each.passed else "FAILED",
        )
        for each in results
    ]
    print(cli.table(header, rows))
    failed = sum(not each.passed for each in results)
    print(f"\n{len(results) - failed} of {len(results)} within their limits")
    return cli.FAILURE if failed else cli.OK


if __name__ == "__main__":
    sys.exit(cli.run(main))
