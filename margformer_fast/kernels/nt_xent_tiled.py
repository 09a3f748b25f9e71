"""NT-Xent by tiles of the similarity matrix, in plain tensor operations; memory linear in the batch.

Shapes: N pairs, M = 2N rows, D dim, R of the M rows that are asked for. The views of one object lie next to
each other: rows 2i and 2i + 1 are a pair, so that any range of pairs is one range of rows.

The matrix s_ij = z_i . z_j / temperature is symmetric. With all rows asked for, only tiles on and above the
diagonal are computed, and each serves its rows and its columns: M^2 D operations forward and 3 M^2 D
backward, against 2 and 4 without the symmetry. Almost all time goes into the matrix products, which run in
place on one buffer; base-2 exponentials are used because they are the cheaper ones here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch

LOG2_E = math.log2(math.e)
# Unit vectors bound |s| by 1 / temperature. Up to here exp(s), its sum over any batch and its reciprocal stay
# far inside the range of float32, so no maximum is subtracted.
LARGEST_BOUNDED_LOGIT = 60.0
# Of a tile; even, so that no pair is cut by an edge. Fewer rows starve the matrix product, more elements fall
# out of the cache, and in smaller tiles waking the threads costs more than the work.
MAX_ROWS = 512
MAX_COLUMNS = 2048
MIN_ELEMENTS = 1 << 18


class _Tile(NamedTuple):
    """Similarities of two ranges of rows, times log2(e); -inf where a pair is not negative."""

    rows: slice
    """Of the M rows."""
    columns: slice
    s: torch.Tensor
    mirrored: int
    """From this column of the tile on, its transpose is part of the matrix and is not visited."""


def _tile_shape(M: int, D: int, num_rows: int) -> tuple[int, int]:
    """Rows and columns of a tile. There are two, which in a large batch have 3/4 of the elements of z."""
    if num_rows * M <= MIN_ELEMENTS:
        return num_rows, M
    columns = max(MIN_ELEMENTS, 3 * M * D // 8) // MAX_ROWS // 2 * 2
    return min(MAX_ROWS, num_rows), min(MAX_COLUMNS, M, columns)


def _is_bounded(temperature: float) -> bool:
    return 1 / temperature <= LARGEST_BOUNDED_LOGIT


class _Similarities:
    """The asked-for rows of the matrix, tile by tile, through one buffer."""

    def __init__(
        self,
        z_MD: torch.Tensor,
        group_N: torch.Tensor | None,
        rows: range,
        temperature: float,
        precision: str,
    ) -> None:
        self.z_MD, self.rows = z_MD, rows
        self.scale = LOG2_E / temperature
        self.is_symmetric = len(rows) == len(z_MD)
        self.shape = _tile_shape(len(z_MD), z_MD.shape[1], len(rows))
        self._buffer = z_MD.new_empty(self.shape[0] * self.shape[1])
        self._scratch: torch.Tensor | None = None
        self._half: torch.Tensor | None = None
        if precision == "bf16":
            self.z_MD = z_MD.bfloat16()
            self._half = torch.empty_like(self._buffer, dtype=torch.bfloat16)
        self.ones = z_MD.new_ones(max(self.shape))
        self._group_M = None if group_N is None else group_N.repeat_interleave(2)
        pair = torch.arange(self.shape[0], device=z_MD.device) // 2
        self._same_pair = pair[:, None] == pair

    def __iter__(self) -> Iterator[_Tile]:
        M, (height, width) = len(self.z_MD), self.shape
        for top in range(self.rows.start, self.rows.stop, height):
            rows = slice(top, min(top + height, self.rows.stop))
            for left in range(top if self.is_symmetric else 0, M, width):
                columns = slice(left, min(left + width, M))
                num_columns = columns.stop - left
                mirrored = min(max(rows.stop - left, 0), num_columns) if self.is_symmetric else num_columns
                yield _Tile(rows, columns, self._compute(rows, columns), mirrored)

    def _compute(self, rows: slice, columns: slice) -> torch.Tensor:
        shape = (rows.stop - rows.start, columns.stop - columns.start)
        s = self._buffer[: shape[0] * shape[1]].view(shape)
        if self._half is None:
            # beta=0: what the buffer held before is not read.
            torch.addmm(s, self.z_MD[rows], self.z_MD[columns].T, beta=0, alpha=self.scale, out=s)
        else:
            half = self._half[: s.numel()].view(shape)
            torch.mul(torch.mm(self.z_MD[rows], self.z_MD[columns].T, out=half), self.scale, out=s)
        if self._group_M is not None:
            s.masked_fill_(self._group_M[rows, None] == self._group_M[columns], -torch.inf)
        first, last = max(rows.start, columns.start), min(rows.stop, columns.stop)
        if first < last:
            diagonal = s[:, first - columns.start : last - columns.start]
            same_pair = self._same_pair[: shape[0], first - rows.start : last - rows.start]
            diagonal.masked_fill_(same_pair, -torch.inf)
        return s

    def add_products(self, dz_RD: torch.Tensor, tile: _Tile) -> None:
        """Add a tile times its columns' z to its rows, and the mirrored part to its columns."""
        matrix = tile.s
        if self._half is not None:
            matrix = self._half[: matrix.numel()].view(matrix.shape).copy_(matrix)
        first = self.rows.start
        own = dz_RD[tile.rows.start - first : tile.rows.stop - first]
        self._add_product(own, matrix, self.z_MD[tile.columns])
        if tile.mirrored < matrix.shape[1]:
            other = dz_RD[tile.columns.start + tile.mirrored : tile.columns.stop]
            self._add_product(other, matrix[:, tile.mirrored :].T, self.z_MD[tile.rows])

    def _add_product(self, dz: torch.Tensor, matrix: torch.Tensor, z: torch.Tensor) -> None:
        if self._half is None:
            dz.addmm_(matrix, z)
        else:
            dz.add_(torch.mm(matrix, z))

    def scratch(self, like: torch.Tensor) -> torch.Tensor:
        """A second buffer of the shape of a tile."""
        if self._scratch is None:
            self._scratch = torch.empty_like(self._buffer)
        return self._scratch[: like.numel()].view(like.shape)


def log_sum_of_negatives(
    z_MD: torch.Tensor, group_N: torch.Tensor | None, rows: range, temperature: float, precision: str
) -> torch.Tensor:
    """Return log(sum of exp(s_ij) over the negatives j of row i), shape (R,); -inf where there is none.

    Parameters
    ----------
    z_MD : Tensor of float32 or float64
        Unit rows, contiguous.
    group_N : Tensor of int64 or None
        Objects with the same number are not negatives of each other.
    rows : range
        Which of the M rows are asked for.
    temperature : float
        Divides the products.
    precision : str
        Of the products. ``"bf16"``: factors and results of a product are rounded to bfloat16, its sums are
        float32 within and over tiles. Anything else: that of `z_MD`.
    """
    tiles = _Similarities(z_MD, group_N, rows, temperature, precision)
    if _is_bounded(temperature):
        total_R = z_MD.new_zeros(len(rows))
        for tile in tiles:
            tile.s.exp2_()
            _add_sums(total_R, rows.start, tile, tiles.ones)
        return total_R.log_()
    top_R, total_R = z_MD.new_full((len(rows),), -torch.inf), z_MD.new_zeros(len(rows))
    for tile in tiles:
        scratch = tiles.scratch(tile.s)
        own = slice(tile.rows.start - rows.start, tile.rows.stop - rows.start)
        _fold_in(top_R[own], total_R[own], tile.s, scratch)
        if tile.mirrored < tile.s.shape[1]:
            other = slice(tile.columns.start + tile.mirrored, tile.columns.stop)
            part = tile.s[:, tile.mirrored :]
            _fold_in(top_R[other], total_R[other], part.T, scratch[:, tile.mirrored :].T)
    return total_R.log_().add_(top_R, alpha=1 / LOG2_E)


def _add_sums(total_R: torch.Tensor, first: int, tile: _Tile, ones: torch.Tensor) -> None:
    """Add the row sums of a tile, and the column sums of the part whose mirror image is not visited."""
    height, width = tile.s.shape
    total_R[tile.rows.start - first : tile.rows.stop - first].addmv_(tile.s, ones[:width])
    if tile.mirrored < width:
        other = total_R[tile.columns.start + tile.mirrored : tile.columns.stop]
        other.addmv_(tile.s[:, tile.mirrored :].T, ones[:height])


def _fold_in(top: torch.Tensor, total: torch.Tensor, s: torch.Tensor, scratch: torch.Tensor) -> None:
    """Add 2^s along rows to sums that are kept relative to the largest exponent seen, in place."""
    highest = torch.maximum(top, s.amax(1))
    # A row of -inf alone: any finite number keeps its terms at zero, where -inf - -inf would be NaN.
    reference = highest.nan_to_num(neginf=0.0)
    torch.sub(s, reference[:, None], out=scratch)
    total.mul_(torch.exp2(top - reference)).add_(scratch.exp2_().sum(1))
    top.copy_(highest)


def gradient_of_negatives(
    z_MD: torch.Tensor,
    group_N: torch.Tensor | None,
    rows: range,
    temperature: float,
    precision: str,
    log_total_M: torch.Tensor,
) -> torch.Tensor:
    """Return sum over the negatives j of row i of (exp(s_ij - l_i) + exp(s_ij - l_j)) z_j, shape (R, D).

    l is `log_total_M`: each anchor's log of the sum over its partner and negatives. The two terms are the
    push of j as a negative of i, and of i as a negative of j. Other arguments as above.
    """
    tiles = _Similarities(z_MD, group_N, rows, temperature, precision)
    log2_total_M = log_total_M * LOG2_E
    weight_M = torch.exp2(-log2_total_M)
    is_bounded = _is_bounded(temperature)
    dz_RD = z_MD.new_zeros(len(rows), z_MD.shape[1])
    for tile in tiles:
        s, scratch = tile.s, tiles.scratch(tile.s)
        if is_bounded:
            torch.add(weight_M[tile.rows, None], weight_M[tile.columns], out=scratch)
            s.exp2_().mul_(scratch)
        else:
            torch.sub(s, log2_total_M[tile.rows, None], out=scratch)
            s.sub_(log2_total_M[tile.columns]).exp2_().add_(scratch.exp2_())
        tiles.add_products(dz_RD, tile)
    return dz_RD
