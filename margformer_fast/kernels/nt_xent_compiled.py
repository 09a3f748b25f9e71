"""NT-Xent by the compiled module, tile by tile on the host; memory linear in the batch.

Shapes: N pairs, M = 2N rows, D dim, R of the M rows that are asked for. The views of one object lie next to
each other: rows 2i and 2i + 1 are a pair, so that any range of pairs is one range of rows.

``csrc/cpu/nt_xent`` has the loops. What they work in is allocated here, so that torch's allocator knows it.
"""

from __future__ import annotations

from typing import Any

import torch

from .. import _native

# Rows of a gradient are padded to a multiple of this: kGradientColumns of csrc/cpu/nt_xent/nt_xent.hpp.
GRADIENT_COLUMNS = 32


def log_sum_of_negatives(
    z_MD: torch.Tensor,
    group_N: torch.Tensor | None,
    rows: range,
    temperature: float,
    precision: str,
    target: str = "",
) -> torch.Tensor:
    """Return log(sum of exp(s_ij) over the negatives j of row i), shape (R,); -inf where there is none.

    Parameters
    ----------
    z_MD : Tensor of float32 or float64
        Unit rows in main memory, contiguous.
    group_N : Tensor of int64 or None
        Objects with the same number are not negatives of each other.
    rows : range
        Which of the M rows are asked for.
    temperature : float
        Divides the products.
    precision : str
        Of the products. ``"bf16"``: their factors are rounded to bfloat16, sums are float32. Anything else:
        that of `z_MD`.
    target : str
        One of the kinds of processors that the compiled module names; the best by default.
    """
    out_R = z_MD.new_empty(len(rows))
    settings, space = _prepare(z_MD, rows, temperature, precision, target, backward=False)
    _native.compiled().nt_xent_sums(z_MD.numpy(), _labels(group_N), out_R.numpy(), space, **settings)
    return out_R


def gradient_of_negatives(
    z_MD: torch.Tensor,
    group_N: torch.Tensor | None,
    rows: range,
    temperature: float,
    precision: str,
    log_total_M: torch.Tensor,
    target: str = "",
) -> torch.Tensor:
    """Return sum over the negatives j of row i of (exp(s_ij - l_i) + exp(s_ij - l_j)) z_j, shape (R, D).

    l is `log_total_M`: each anchor's log of the sum over its partner and negatives. The two terms are the
    push of j as a negative of i, and of i as a negative of j. Other arguments as above.
    """
    D = z_MD.shape[1]
    dz_RC = z_MD.new_empty(len(rows), -(-D // GRADIENT_COLUMNS) * GRADIENT_COLUMNS)
    settings, space = _prepare(z_MD, rows, temperature, precision, target, backward=True)
    _native.compiled().nt_xent_gradient(
        z_MD.numpy(), _labels(group_N), log_total_M.numpy(), dz_RC.numpy(), space, **settings
    )
    return dz_RC[:, :D].contiguous()


def _prepare(
    z_MD: torch.Tensor, rows: range, temperature: float, precision: str, target: str, *, backward: bool
) -> tuple[dict[str, Any], Any]:
    """Return what both functions of the module are told, and where they work."""
    shared = {"halves": precision == "bf16", "threads": _native.num_threads(), "target": target}
    size = _native.compiled().nt_xent_workspace(z_MD.numpy(), num_own=len(rows), backward=backward, **shared)
    space = z_MD.new_empty(size, dtype=torch.uint8).numpy()
    return {**shared, "first_row": rows.start, "temperature": temperature}, space


def _labels(group_N: torch.Tensor | None) -> Any:
    """Return small numbers, equal where those of the groups are."""
    return None if group_N is None else torch.unique(group_N, return_inverse=True)[1].int().numpy()
