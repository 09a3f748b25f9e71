"""NT-Xent in Triton, tile by tile on the chip; memory linear in the batch, no atomics.

Shapes: M rows, D dim, R of the M rows that are asked for; I and J are blocks of rows, C a chunk of D. Rows 2i
and 2i + 1 are a pair.

Sums. The matrix is symmetric, so with all rows asked for only blocks J >= I are computed (M^2 D
operations). What a block adds to its columns belongs to rows of other programs. Rather than by atomics, whose
order changes from run to run, each of a fixed number of programs adds to a row of sums of its own; the sum
over programs comes last.

Gradient. Here what a block owes to its columns is a whole tile of the gradient. A partial gradient for every
program would not be linear in memory, adding into one in a fixed order would move more bytes than the chip
can, and atomics would not be repeatable. So each program owns its rows and runs over all columns: 4 M^2 D
operations where symmetry would need 3. Together 5 M^2 D, against 4 with symmetry throughout and 6 with none.

Written for Triton 3.6.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from .rounding import round_to_tf32, rounded_to_tf32
from .toolchain import is_interpreting

LOG2_E = math.log2(math.e)
# As on the host: up to here sums of exp(s) stay far inside the range of float32 without their maximum.
LARGEST_BOUNDED_LOGIT = 60.0
# How tl.dot is told. Three products in tf32 have the error of one in float32, on units six times as fast.
INPUT_PRECISIONS = {"ieee": "ieee", "fp32": "tf32x3", "tf32": "tf32", "bf16": "ieee"}


@triton.jit
def _load_rows(z_ptr, rows, chunk, M, D, BLOCK_C: tl.constexpr, UPCAST: tl.constexpr):
    """Columns of a chunk of some rows; zeros beyond either end."""
    dims = chunk * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = (rows[:, None] < M) & (dims[None, :] < D)
    z = tl.load(z_ptr + rows.to(tl.int64)[:, None] * D + dims[None, :], mask=inside, other=0.0)
    if UPCAST:  # The interpreter's product of bfloat16 is garbage.
        z = z.to(tl.float32)
    return z


@triton.jit
def _load_numbers(group_ptr, rows, M, GROUPED: tl.constexpr):
    """What two rows have in common if they are not negatives of each other."""
    if GROUPED:  # noqa: SIM108 - of two types, which only a branch of the compiler's own can have
        number = tl.load(group_ptr + rows // 2, mask=rows < M, other=0)
    else:
        number = rows // 2
    return number


@triton.jit
def _similarities(
    z_ptr,
    z_IC,
    z_JC,
    rows_I,
    columns_J,
    number_I,
    number_J,
    M,
    D,
    scale,
    BLOCK_C: tl.constexpr,
    NUM_CHUNKS: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Similarities in base 2; -inf where a pair is not negative. Loaded chunks are those of number 0."""
    s_IJ = tl.dot(z_IC, tl.trans(z_JC), input_precision=PRECISION)
    for chunk in range(1, NUM_CHUNKS):  # not unrolled: the chunks of all steps would be kept in registers
        more_IC = _load_rows(z_ptr, rows_I, chunk, M, D, BLOCK_C, UPCAST)
        more_JC = _load_rows(z_ptr, columns_J, chunk, M, D, BLOCK_C, UPCAST)
        s_IJ = tl.dot(more_IC, tl.trans(more_JC), s_IJ, input_precision=PRECISION)
    # One fused multiply-add scales, and takes columns beyond the end out.
    beyond_J = tl.where(columns_J < M, 0.0, float("-inf"))
    s_IJ = s_IJ * scale + beyond_J[None, :]
    return tl.where(number_I[:, None] == number_J[None, :], float("-inf"), s_IJ)


@triton.jit
def sums_by_symmetry(
    z_ptr,
    group_ptr,
    sums_ptr,
    M,
    D,
    scale,
    num_blocks,
    blocks_a_chunk,
    num_programs,
    BLOCK: tl.constexpr,
    BLOCK_C: tl.constexpr,
    NUM_CHUNKS: tl.constexpr,
    GROUPED: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Add exp(s) of blocks J >= I to the rows of I and of J, in this program's own row of `sums` (P, M).

    A piece of work is a block I and those J of one chunk of columns not left of it. Chunk k has pieces
    I = 0 .. min((k + 1) blocks_a_chunk, num_blocks) - 1; they are dealt out to the programs one by one.
    """
    sums_ptr += tl.program_id(0).to(tl.int64) * M
    I = tl.program_id(0)  # noqa: E741
    chunk = 0
    pieces = tl.minimum(blocks_a_chunk, num_blocks)
    while (pieces <= I) & (chunk * blocks_a_chunk < num_blocks):
        I -= pieces  # noqa: E741
        chunk += 1
        pieces = tl.minimum((chunk + 1) * blocks_a_chunk, num_blocks)
    while chunk * blocks_a_chunk < num_blocks:
        rows_I = I * BLOCK + tl.arange(0, BLOCK)
        number_I = _load_numbers(group_ptr, rows_I, M, GROUPED)
        z_IC = _load_rows(z_ptr, rows_I, 0, M, D, BLOCK_C, UPCAST)
        sum_I = tl.zeros((BLOCK,), tl.float32)
        for J in range(tl.maximum(I, chunk * blocks_a_chunk), pieces):
            columns_J = J * BLOCK + tl.arange(0, BLOCK)
            number_J = _load_numbers(group_ptr, columns_J, M, GROUPED)
            z_JC = _load_rows(z_ptr, columns_J, 0, M, D, BLOCK_C, UPCAST)
            s_IJ = _similarities(
                z_ptr, z_IC, z_JC, rows_I, columns_J, number_I, number_J, M, D, scale,
                BLOCK_C, NUM_CHUNKS, PRECISION, UPCAST,
            )  # fmt: skip
            e_IJ = tl.exp2(s_IJ)
            sum_I += tl.sum(e_IJ, 1)
            # Not for J = I, whose sums other threads store below. Rows beyond the end need no mask: the
            # last I has no J right of it.
            right_J = (columns_J >= (I + 1) * BLOCK) & (columns_J < M)
            before_J = tl.load(sums_ptr + columns_J, mask=right_J, other=0.0)
            tl.store(sums_ptr + columns_J, before_J + tl.sum(e_IJ, 0), mask=right_J)
        before_I = tl.load(sums_ptr + rows_I, mask=rows_I < M, other=0.0)
        tl.store(sums_ptr + rows_I, before_I + sum_I, mask=rows_I < M)
        # Other threads of this program read these sums in the next piece.
        tl.debug_barrier()
        I += num_programs  # noqa: E741
        while (pieces <= I) & (chunk * blocks_a_chunk < num_blocks):
            I -= pieces  # noqa: E741
            chunk += 1
            pieces = tl.minimum((chunk + 1) * blocks_a_chunk, num_blocks)


@triton.jit
def sums_by_rows(
    z_ptr,
    group_ptr,
    log2_sum_ptr,
    M,
    D,
    scale,
    first,
    stop,
    BLOCK_I: tl.constexpr,
    BLOCK_J: tl.constexpr,
    BLOCK_C: tl.constexpr,
    NUM_CHUNKS: tl.constexpr,
    GROUPED: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Log2 of the sum of 2^s over all columns, for rows first .. stop - 1; with a running maximum."""
    rows_I = first + tl.program_id(0) * BLOCK_I + tl.arange(0, BLOCK_I)
    number_I = _load_numbers(group_ptr, rows_I, M, GROUPED)
    z_IC = _load_rows(z_ptr, rows_I, 0, M, D, BLOCK_C, UPCAST)
    top_I = tl.full((BLOCK_I,), float("-inf"), tl.float32)
    sum_I = tl.zeros((BLOCK_I,), tl.float32)
    for left in range(0, M, BLOCK_J):
        columns_J = left + tl.arange(0, BLOCK_J)
        number_J = _load_numbers(group_ptr, columns_J, M, GROUPED)
        z_JC = _load_rows(z_ptr, columns_J, 0, M, D, BLOCK_C, UPCAST)
        s_IJ = _similarities(
            z_ptr, z_IC, z_JC, rows_I, columns_J, number_I, number_J, M, D, scale,
            BLOCK_C, NUM_CHUNKS, PRECISION, UPCAST,
        )  # fmt: skip
        highest_I = tl.maximum(top_I, tl.max(s_IJ, 1))
        # Of a row without negatives so far any number will do, where -inf - -inf would be NaN.
        reference_I = tl.where(highest_I == float("-inf"), 0.0, highest_I)
        sum_I = sum_I * tl.exp2(top_I - reference_I) + tl.sum(tl.exp2(s_IJ - reference_I[:, None]), 1)
        top_I = highest_I
    tl.store(log2_sum_ptr + rows_I - first, tl.log2(sum_I) + top_I, mask=rows_I < stop)


@triton.jit
def gradient_by_rows(
    z_ptr,
    group_ptr,
    log2_total_ptr,
    dz_ptr,
    M,
    D,
    scale,
    first,
    stop,
    BOUNDED: tl.constexpr,
    BLOCK_I: tl.constexpr,
    BLOCK_J: tl.constexpr,
    BLOCK_C: tl.constexpr,
    NUM_CHUNKS: tl.constexpr,
    GROUPED: tl.constexpr,
    PRECISION: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Sum over negatives of (2^(s - l_i) + 2^(s - l_j)) z_j, one chunk of D for rows first .. stop - 1."""
    rows_I = first + tl.program_id(0) * BLOCK_I + tl.arange(0, BLOCK_I)
    own_chunk = tl.program_id(1)
    number_I = _load_numbers(group_ptr, rows_I, M, GROUPED)
    z_IC = _load_rows(z_ptr, rows_I, 0, M, D, BLOCK_C, UPCAST)
    log2_total_I = tl.load(log2_total_ptr + rows_I, mask=rows_I < M, other=0.0)
    dz_IC = tl.zeros((BLOCK_I, BLOCK_C), tl.float32)
    for left in range(0, M, BLOCK_J):
        columns_J = left + tl.arange(0, BLOCK_J)
        number_J = _load_numbers(group_ptr, columns_J, M, GROUPED)
        log2_total_J = tl.load(log2_total_ptr + columns_J, mask=columns_J < M, other=0.0)
        z_JC = _load_rows(z_ptr, columns_J, 0, M, D, BLOCK_C, UPCAST)
        s_IJ = _similarities(
            z_ptr, z_IC, z_JC, rows_I, columns_J, number_I, number_J, M, D, scale,
            BLOCK_C, NUM_CHUNKS, PRECISION, UPCAST,
        )  # fmt: skip
        if BOUNDED:  # One exponential an element instead of two.
            weight_IJ = tl.exp2(-log2_total_I)[:, None] + tl.exp2(-log2_total_J)[None, :]
            p_IJ = tl.exp2(s_IJ) * weight_IJ
        else:
            p_IJ = tl.exp2(s_IJ - log2_total_I[:, None]) + tl.exp2(s_IJ - log2_total_J[None, :])
        if NUM_CHUNKS > 1:
            z_JC = _load_rows(z_ptr, columns_J, own_chunk, M, D, BLOCK_C, UPCAST)
        if PRECISION == "tf32":
            p_IJ = round_to_tf32(p_IJ)
        dz_IC = tl.dot(p_IJ.to(z_JC.dtype), z_JC, dz_IC, input_precision=PRECISION)
    dims = own_chunk * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = (rows_I[:, None] < stop) & (dims[None, :] < D)
    tl.store(dz_ptr + (rows_I - first).to(tl.int64)[:, None] * D + dims[None, :], dz_IC, mask=inside)


class Blocks(NamedTuple):
    """Shape of a block and what the compiler is told about it."""

    rows: int
    columns: int
    dims: int
    num_warps: int
    num_stages: int


# For an H200, by precision and whether it is for the gradient: up to which D a row is taken whole, and beyond
# that, in which chunks. The largest blocks tried that fit into its 227 KiB of shared memory (the rows' block
# takes one part, each stage of columns another) and, by the assembler's report, keep all else in registers.
BLOCKS: dict[tuple[str, bool], tuple[tuple[float, Blocks], ...]] = {
    ("bf16", False): (
        (128, Blocks(128, 128, 128, 8, 3)),
        (256, Blocks(128, 128, 256, 8, 2)),
        (math.inf, Blocks(128, 128, 128, 8, 2)),
    ),
    ("bf16", True): (
        (128, Blocks(128, 128, 128, 8, 3)),
        (256, Blocks(128, 64, 256, 8, 2)),
        (math.inf, Blocks(128, 64, 128, 8, 2)),
    ),
    ("tf32", False): (
        (128, Blocks(128, 64, 128, 8, 2)),
        (256, Blocks(64, 64, 256, 4, 2)),
        (math.inf, Blocks(128, 64, 128, 8, 1)),
    ),
    ("tf32", True): (
        (128, Blocks(128, 64, 128, 8, 2)),
        (256, Blocks(64, 32, 256, 8, 2)),
        (math.inf, Blocks(64, 32, 128, 8, 1)),
    ),
    ("fp32", False): ((128, Blocks(64, 64, 128, 4, 1)), (math.inf, Blocks(64, 64, 64, 4, 1))),
    ("fp32", True): ((128, Blocks(128, 32, 128, 8, 2)), (math.inf, Blocks(128, 32, 64, 8, 1))),
    ("ieee", False): ((math.inf, Blocks(64, 64, 32, 8, 1)),),
    ("ieee", True): ((128, Blocks(32, 32, 128, 8, 1)), (math.inf, Blocks(64, 64, 32, 8, 1))),
}


def choose_blocks(D: int, precision: str, *, gradient: bool) -> Blocks:
    """Return the blocks for rows of D numbers.

    From a table rather than by autotuning: blocks decide the order of additions, and a choice that depends on
    timings would make results depend on them.
    """
    blocks = next(blocks for largest, blocks in BLOCKS[precision, gradient] if largest >= D)
    return blocks._replace(dims=min(blocks.dims, max(16, triton.next_power_of_2(D))))


def _factors(z_MD: torch.Tensor, precision: str) -> torch.Tensor:
    if precision == "tf32":
        return rounded_to_tf32(z_MD)
    return z_MD.bfloat16() if precision == "bf16" else z_MD


def constants(D: int, blocks: Blocks, group_N: torch.Tensor | None, precision: str) -> dict[str, Any]:
    """Return what a kernel is compiled for, and with which options."""
    return {
        "BLOCK_C": blocks.dims,
        "NUM_CHUNKS": triton.cdiv(D, blocks.dims),
        "GROUPED": group_N is not None,
        "PRECISION": INPUT_PRECISIONS[precision],
        "UPCAST": precision == "bf16" and is_interpreting(),
        "num_warps": blocks.num_warps,
        "num_stages": blocks.num_stages,
        "enable_fp_fusion": True,
    }


def _num_programs(z_MD: torch.Tensor) -> int:
    """Programs that run at once, one a multiprocessor."""
    if z_MD.device.type != "cuda":
        return 3
    return torch.cuda.get_device_properties(z_MD.device).multi_processor_count


def log_sum_of_negatives(
    z_MD: torch.Tensor, group_N: torch.Tensor | None, rows: range, temperature: float, precision: str
) -> torch.Tensor:
    """Return log(sum of exp(s_ij) over the negatives j of row i), shape (R,); -inf where there is none.

    Parameters
    ----------
    z_MD : Tensor of float32
        Unit rows, contiguous.
    group_N : Tensor of int64 or None
        Objects with the same number are not negatives of each other.
    rows : range
        Which of the M rows are asked for.
    temperature : float
        Divides the products.
    precision : str
        Of the products: ``"ieee"`` (in float32 units), ``"fp32"`` (as exact, by three products in tf32),
        ``"tf32"`` or ``"bf16"``. Sums are float32.
    """
    M, D = z_MD.shape
    factors = _factors(z_MD, precision)
    blocks = choose_blocks(D, precision, gradient=False)
    compiled_for = constants(D, blocks, group_N, precision)
    group = factors if group_N is None else group_N.contiguous()
    if len(rows) == M and 1 / temperature <= LARGEST_BOUNDED_LOGIT:
        block = min(blocks.rows, blocks.columns)
        num_blocks = triton.cdiv(M, block)
        num_programs = min(_num_programs(z_MD), num_blocks * (num_blocks + 1) // 2)
        # Long pieces load fewer rows, short ones spread better.
        blocks_a_chunk = max(1, min(16, num_blocks**2 // (16 * num_programs)))
        sums_PM = z_MD.new_zeros(num_programs, M)
        sums_by_symmetry[(num_programs,)](
            factors, group, sums_PM, M, D, LOG2_E / temperature, num_blocks, blocks_a_chunk, num_programs,
            BLOCK=block, **compiled_for,
        )  # fmt: skip
        return sums_PM.sum(0).log_()
    log2_sum_R = z_MD.new_empty(len(rows))
    sums_by_rows[(triton.cdiv(len(rows), blocks.rows),)](
        factors, group, log2_sum_R, M, D, LOG2_E / temperature, rows.start, rows.stop,
        BLOCK_I=blocks.rows, BLOCK_J=blocks.columns, **compiled_for,
    )  # fmt: skip
    return log2_sum_R.div_(LOG2_E)


def gradient_of_negatives(
    z_MD: torch.Tensor,
    group_N: torch.Tensor | None,
    rows: range,
    temperature: float,
    precision: str,
    log_total_M: torch.Tensor,
) -> torch.Tensor:
    """Return sum over the negatives j of row i of (exp(s_ij - l_i) + exp(s_ij - l_j)) z_j, shape (R, D).

    l is `log_total_M`: each anchor's log of the sum over its partner and negatives. Other arguments as above.
    """
    D = z_MD.shape[1]
    factors = _factors(z_MD, precision)
    blocks = choose_blocks(D, precision, gradient=True)
    dz_RD = z_MD.new_empty(len(rows), D)
    gradient_by_rows[(triton.cdiv(len(rows), blocks.rows), triton.cdiv(D, blocks.dims))](
        factors,
        factors if group_N is None else group_N.contiguous(),
        log_total_M * LOG2_E,
        dz_RD,
        len(z_MD),
        D,
        LOG2_E / temperature,
        rows.start,
        rows.stop,
        BOUNDED=1 / temperature <= LARGEST_BOUNDED_LOGIT,
        BLOCK_I=blocks.rows,
        BLOCK_J=blocks.columns,
        **constants(D, blocks, group_N, precision),
    )
    return dz_RD
