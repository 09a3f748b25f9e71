"""The feed-forward half of a block in Triton, forward and backward, with hidden units in registers alone.

Shapes: R = B x T rows, T tokens of an object, D dim, M hidden, C a chunk of hidden units, P programs.

Nothing is saved for the backward but the input: normalised tokens, hidden units and mask are computed again.
As the second half of a layer the kernels take x + update of the object, made when rows are loaded, and add it
to the result, so the middle of the layer is never stored. A row moves 4 D bytes forward and 6 D backward in
bfloat16 (4 D for each further program that loads tokens and gradient), which is not what bounds.

The affine part of the norm is folded into the first map: W = w1 norm_weight, b = b1 + w1 norm_bias. Tiles
need no vectors of it, and the gradients of the norm's weights are small sums over dW and db in the end rather
than sums over all rows. Its cost is one launch, which also casts and turns the weights.

What bounds at D = 64, M = 256 are plain lane operations. A row takes 16 clocks of a multiprocessor's tensor
cores forward (two products) and a hidden unit 10 instructions without dropout and 17 with it, by the
assembler's output for sm_90: 21 and 35 clocks a row on four schedulers. So:

- A counter of Philox decides eight units. Their order is changed (`keep.unit_of_column`) so that the thread
  that asked holds all eight in its accumulator; neither words nor bits go through shared memory.
- In bf16, GELU is x (1 + tanh(x (a + b x^2))) / 2 with the hardware's tanh: four operations beside it. The
  halving and dropout's scale are moved to the last product's result (backward, to the gradient). The fit
  is within 2.8e-4 of GELU; the hardware's tanh, with a relative error of 2^-11, adds at most 2.5e-4 |x|.
  Rounding hidden units to bfloat16 costs up to 2e-3 |x|. Other precisions use erf.
- Where weights are resident, the bias is a product of ones with its two halves in bfloat16: tensor cores have
  time, and the bias would take 64 registers.
- Weights stay in shared memory (64 KB in bf16), tiles have 64 rows and 4 warps; two programs share a
  multiprocessor, so that one's products run under the other's GELU. Where weights do not fit, chunks are
  loaded ahead.

Backward there are two kernels: one has tiles of rows and all hidden units (three products) and gives dx, one
has chunks of hidden units and ranges of rows (four products) and gives parts of the weights' gradients, which
are added up in a fixed order: no atomics. One kernel for both would need five products instead of seven and
half of the lane operations, but also the gradients of all weights in registers: 128 of each of 256 threads,
beside 96 for the tiles of a step. In drafts of it the assembler spilled 2 KB a thread, more than the first
cache holds, with one program a multiprocessor to hide it. It is worth another try where it can be timed. At D
= 256 the accumulators do not fit at all.

Written for Triton 3.6.
"""

# A kernel's tuples of tiles grow while it is compiled.
# mypy: disable-error-code="assignment"

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from ..reference.dropout import OF_HIDDEN_UNITS, dropped_levels, kept_scale
from ..reference.weights import FeedForwardWeights
from .keep import keep_tile_by_thread, unit_of_column
from .nt_xent import INPUT_PRECISIONS
from .rounding import round_to_tf32
from .toolchain import is_interpreting

EPSILON = tl.constexpr(1e-5)
PURPOSE = tl.constexpr(OF_HIDDEN_UNITS)
# tanh(x (a + b x^2)) is nearest to erf(x / sqrt 2) in what GELU makes of it: fitted to the largest error.
TANH_LINEAR = tl.constexpr(0.80015)
TANH_CUBIC = tl.constexpr(0.0347041)
SQRT_HALF = tl.constexpr(math.sqrt(0.5))
# Twice the density of the normal distribution is 2^(x^2 DENSITY_SLOPE + DENSITY_START).
DENSITY_SLOPE = tl.constexpr(-0.5 / math.log(2))
DENSITY_START = tl.constexpr(math.log2(2 / math.sqrt(2 * math.pi)))
# Rows whose sums stay apart until the end, so that adding up rows of a tile needs no exchange between
# threads.
SUM_ROWS = tl.constexpr(16)


@triton.jit
def _product(a, b, total, PRECISION: tl.constexpr, UPCAST: tl.constexpr):
    if UPCAST:  # The interpreter's product of bfloat16 is garbage.
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    if PRECISION == "tf32":
        a = round_to_tf32(a)
        b = round_to_tf32(b)
    return tl.dot(a, b, total, input_precision=PRECISION)


@triton.jit
def _load_rows(ptr, first, locals_R, dims_D, num_rows, D, EVICT: tl.constexpr):
    """`num_rows` rows from `first` on in float32, zeros beyond either end."""
    inside = (locals_R[:, None] < num_rows) & (dims_D[None, :] < D)
    offsets = locals_R[:, None] * D + dims_D[None, :]
    return tl.load(ptr + first * D + offsets, mask=inside, other=0.0, eviction_policy=EVICT).to(tl.float32)


@triton.jit
def _load_tokens(
    x_ptr, update_ptr, first, locals_R, dims_D, num_rows, T, D, HAS_UPDATE: tl.constexpr, EVICT: tl.constexpr
):
    """Rows of the input, with the update of the object they belong to."""
    x_RD = _load_rows(x_ptr, first, locals_R, dims_D, num_rows, D, EVICT)
    if HAS_UPDATE:
        # One division of 64 bits a tile; those of its rows are of 32.
        objects_R = ((first % T).to(tl.int32) + locals_R) // T
        inside = (locals_R[:, None] < num_rows) & (dims_D[None, :] < D)
        offsets = objects_R[:, None] * D + dims_D[None, :]
        x_RD += tl.load(update_ptr + first // T * D + offsets, mask=inside, other=0.0).to(tl.float32)
    return x_RD


@triton.jit
def _moments(x_RD, dims_D, D):
    mean_R = tl.sum(x_RD, 1) / D
    centred_RD = tl.where(dims_D[None, :] < D, x_RD - mean_R[:, None], 0.0)
    return mean_R, tl.rsqrt(tl.sum(centred_RD * centred_RD, 1) / D + EPSILON)


@triton.jit
def _normalise(x_RD, mean_R, rstd_R, dims_D, D):
    return tl.where(dims_D[None, :] < D, (x_RD - mean_R[:, None]) * rstd_R[:, None], 0.0)


@triton.jit
def _load_weights(w_ptr, units_C, dims_D, M, D):
    inside = (units_C[:, None] < M) & (dims_D[None, :] < D)
    return tl.load(w_ptr + units_C[:, None] * D + dims_D[None, :], mask=inside, other=0.0)


@triton.jit
def _load_bias(b1_ptr, units_C, M, FACTOR: tl.constexpr):
    """The bias as two rows of factors, which add up to it, and fourteen of zeros."""
    bias_C = tl.load(b1_ptr + units_C, mask=units_C < M, other=0.0)
    high_C = bias_C.to(FACTOR)
    low_C = (bias_C - high_C.to(tl.float32)).to(FACTOR)
    part = tl.arange(0, 16)[:, None]
    return tl.where(part == 0, high_C[None, :], tl.where(part == 1, low_C[None, :], 0.0)).to(FACTOR)


@triton.jit
def _tanh(x, HARDWARE: tl.constexpr):
    if HARDWARE:
        t = tl.inline_asm_elementwise(
            "tanh.approx.f32 $0, $1;", "=r,r", [x], tl.float32, is_pure=True, pack=1
        )
    else:
        t = 1.0 - 2.0 / (tl.exp(tl.minimum(2.0 * x, 80.0)) + 1.0)
    return t


@triton.jit
def _erf_of_gelu(pre, APPROXIMATE: tl.constexpr, HARDWARE: tl.constexpr):
    """2 Phi(pre) - 1, so that GELU is pre (1 + this) / 2."""
    if APPROXIMATE:
        t = _tanh(pre * (TANH_LINEAR + TANH_CUBIC * (pre * pre)), HARDWARE)
    else:
        t = tl.erf(pre * SQRT_HALF)
    return t


@triton.jit
def _hidden(
    pre_RC,
    seed,
    first,
    first_unit,
    levels,
    DROPOUT: tl.constexpr,
    APPROXIMATE: tl.constexpr,
    HARDWARE: tl.constexpr,
):
    """Twice the hidden units, not yet scaled for dropout."""
    t_RC = _erf_of_gelu(pre_RC, APPROXIMATE, HARDWARE)
    if DROPOUT:
        # What is dropped is put out before the last multiply-add: after it, the compiler would round to
        # bfloat16 first and choose between 16-bit halves, at three instructions more.
        keep_RC = keep_tile_by_thread(
            seed, first, first_unit, levels, PURPOSE, pre_RC.shape[0], pre_RC.shape[1]
        )
        pre_RC = tl.where(keep_RC, pre_RC, 0.0)
    return pre_RC * t_RC + pre_RC


@triton.jit
def _hidden_and_slope(
    pre_RC,
    seed,
    first,
    first_unit,
    levels,
    DROPOUT: tl.constexpr,
    APPROXIMATE: tl.constexpr,
    HARDWARE: tl.constexpr,
):
    """Twice the hidden units, and twice their derivative 2 (Phi(pre) + pre phi(pre)); dropped ones are 0."""
    t_RC = _erf_of_gelu(pre_RC, APPROXIMATE, HARDWARE)
    slope_RC = (1.0 + t_RC) + pre_RC * tl.exp2(pre_RC * pre_RC * DENSITY_SLOPE + DENSITY_START)
    if DROPOUT:
        keep_RC = keep_tile_by_thread(
            seed, first, first_unit, levels, PURPOSE, pre_RC.shape[0], pre_RC.shape[1]
        )
        pre_RC = tl.where(keep_RC, pre_RC, 0.0)
        slope_RC = tl.where(keep_RC, slope_RC, 0.0)
    return pre_RC * t_RC + pre_RC, slope_RC


@triton.jit
def fold_norm(
    norm_weight_ptr,
    norm_bias_ptr,
    w1_ptr,
    b1_ptr,
    w2_ptr,
    folded_w1_ptr,
    folded_b1_ptr,
    turned_w2_ptr,
    M,
    D,
    BLOCK_C: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Weights as the other kernels want them: the affine part of the norm in the first, the second turned."""
    units_C = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    dims_D = tl.arange(0, BLOCK_D)
    inside = (units_C[:, None] < M) & (dims_D[None, :] < D)
    at = units_C[:, None] * D + dims_D[None, :]
    norm_weight_D = tl.load(norm_weight_ptr + dims_D, mask=dims_D < D, other=0.0).to(tl.float32)
    norm_bias_D = tl.load(norm_bias_ptr + dims_D, mask=dims_D < D, other=0.0).to(tl.float32)
    w1_CD = tl.load(w1_ptr + at, mask=inside, other=0.0).to(tl.float32)
    b1_C = tl.load(b1_ptr + units_C, mask=units_C < M, other=0.0).to(tl.float32)
    w2_CD = tl.load(w2_ptr + dims_D[None, :] * M + units_C[:, None], mask=inside, other=0.0)
    tl.store(folded_w1_ptr + at, w1_CD * norm_weight_D[None, :], mask=inside)
    tl.store(folded_b1_ptr + units_C, b1_C + tl.sum(w1_CD * norm_bias_D[None, :], 1), mask=units_C < M)
    tl.store(turned_w2_ptr + at, w2_CD, mask=inside)


@triton.jit
def forward_by_rows(
    x_ptr,
    update_ptr,
    w1_ptr,
    b1_ptr,
    w2_ptr,
    b2_ptr,
    seed_ptr,
    out_ptr,
    R,
    T,
    M,
    D,
    levels,
    scale,
    num_programs,
    HAS_UPDATE: tl.constexpr,
    RESIDUAL: tl.constexpr,
    DROPOUT: tl.constexpr,
    RESIDENT: tl.constexpr,
    NUM_CHUNKS: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
    APPROXIMATE: tl.constexpr,
    HARDWARE: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """The half of the block, for every `num_programs`-th tile of rows."""
    FACTOR: tl.constexpr = w1_ptr.dtype.element_ty
    locals_R = tl.arange(0, BLOCK_R)
    dims_D = tl.arange(0, BLOCK_D)
    order_C = unit_of_column(BLOCK_C)
    ones_R16 = tl.full((BLOCK_R, 16), 1.0, FACTOR)
    seed = 0
    if DROPOUT:
        seed = tl.load(seed_ptr)
    w1 = ()
    w2 = ()
    bias = ()
    if RESIDENT:
        for chunk in tl.static_range(NUM_CHUNKS):
            units_C = chunk * BLOCK_C + order_C
            w1 = w1 + (_load_weights(w1_ptr, units_C, dims_D, M, D),)  # noqa: RUF005
            w2 = w2 + (_load_weights(w2_ptr, units_C, dims_D, M, D),)  # noqa: RUF005
            bias = bias + (_load_bias(b1_ptr, units_C, M, FACTOR),)  # noqa: RUF005
    for tile in range(tl.program_id(0), tl.cdiv(R, BLOCK_R), num_programs):
        first = tl.cast(tile, tl.int64) * BLOCK_R
        num_rows = tl.minimum(R - first, BLOCK_R).to(tl.int32)
        x_RD = _load_tokens(
            x_ptr, update_ptr, first, locals_R, dims_D, num_rows, T, D, HAS_UPDATE, "evict_last"
        )
        mean_R, rstd_R = _moments(x_RD, dims_D, D)
        y_RD = _normalise(x_RD, mean_R, rstd_R, dims_D, D).to(FACTOR)
        out_RD = tl.zeros((BLOCK_R, BLOCK_D), tl.float32)
        if RESIDENT:
            for chunk in tl.static_range(NUM_CHUNKS):
                pre_RC = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
                pre_RC = _product(ones_R16, bias[chunk], pre_RC, PRECISION, UPCAST)
                pre_RC = _product(y_RD, tl.trans(w1[chunk]), pre_RC, PRECISION, UPCAST)
                h_RC = _hidden(pre_RC, seed, first, chunk * BLOCK_C, levels, DROPOUT, APPROXIMATE, HARDWARE)
                out_RD = _product(h_RC.to(FACTOR), w2[chunk], out_RD, PRECISION, UPCAST)
        else:
            for chunk in range(NUM_CHUNKS):
                units_C = chunk * BLOCK_C + order_C
                w1_CD = _load_weights(w1_ptr, units_C, dims_D, M, D)
                w2_CD = _load_weights(w2_ptr, units_C, dims_D, M, D)
                b1_C = tl.load(b1_ptr + units_C, mask=units_C < M, other=0.0)
                pre_RC = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
                pre_RC = _product(y_RD, tl.trans(w1_CD), pre_RC, PRECISION, UPCAST) + b1_C[None, :]
                h_RC = _hidden(pre_RC, seed, first, chunk * BLOCK_C, levels, DROPOUT, APPROXIMATE, HARDWARE)
                out_RD = _product(h_RC.to(FACTOR), w2_CD, out_RD, PRECISION, UPCAST)
        b2_D = tl.load(b2_ptr + dims_D, mask=dims_D < D, other=0.0).to(tl.float32)
        out_RD = out_RD * scale + b2_D[None, :]
        if RESIDUAL:  # Read again, with another policy so that the compiler does not keep it in registers.
            out_RD += _load_tokens(
                x_ptr, update_ptr, first, locals_R, dims_D, num_rows, T, D, HAS_UPDATE, "evict_first"
            )
        inside = (locals_R[:, None] < num_rows) & (dims_D[None, :] < D)
        tl.store(out_ptr + first * D + locals_R[:, None] * D + dims_D[None, :], out_RD, mask=inside)


@triton.jit
def gradient_by_rows(
    grad_ptr,
    x_ptr,
    update_ptr,
    w1_ptr,
    b1_ptr,
    w2_ptr,
    seed_ptr,
    dx_ptr,
    db2_ptr,
    R,
    T,
    M,
    D,
    levels,
    scale,
    num_programs,
    HAS_UPDATE: tl.constexpr,
    RESIDUAL: tl.constexpr,
    DROPOUT: tl.constexpr,
    RESIDENT: tl.constexpr,
    NUM_CHUNKS: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
    APPROXIMATE: tl.constexpr,
    HARDWARE: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """The gradient of the input, for every `num_programs`-th tile of rows, and this program's part of db2."""
    FACTOR: tl.constexpr = w1_ptr.dtype.element_ty
    locals_R = tl.arange(0, BLOCK_R)
    dims_D = tl.arange(0, BLOCK_D)
    order_C = unit_of_column(BLOCK_C)
    ones_R16 = tl.full((BLOCK_R, 16), 1.0, FACTOR)
    seed = 0
    if DROPOUT:
        seed = tl.load(seed_ptr)
    w1 = ()
    w2 = ()
    bias = ()
    if RESIDENT:
        for chunk in tl.static_range(NUM_CHUNKS):
            units_C = chunk * BLOCK_C + order_C
            w1 = w1 + (_load_weights(w1_ptr, units_C, dims_D, M, D),)  # noqa: RUF005
            w2 = w2 + (_load_weights(w2_ptr, units_C, dims_D, M, D),)  # noqa: RUF005
            bias = bias + (_load_bias(b1_ptr, units_C, M, FACTOR),)  # noqa: RUF005
    db2_SD = tl.zeros((SUM_ROWS, BLOCK_D), tl.float32)
    for tile in range(tl.program_id(0), tl.cdiv(R, BLOCK_R), num_programs):
        first = tl.cast(tile, tl.int64) * BLOCK_R
        num_rows = tl.minimum(R - first, BLOCK_R).to(tl.int32)
        g_RD = _load_rows(grad_ptr, first, locals_R, dims_D, num_rows, D, "evict_last")
        db2_SD += tl.sum(tl.reshape(g_RD, (BLOCK_R // SUM_ROWS, SUM_ROWS, BLOCK_D)), 0)
        g_RD = (g_RD * scale).to(FACTOR)
        x_RD = _load_tokens(
            x_ptr, update_ptr, first, locals_R, dims_D, num_rows, T, D, HAS_UPDATE, "evict_last"
        )
        mean_R, rstd_R = _moments(x_RD, dims_D, D)
        y_RD = _normalise(x_RD, mean_R, rstd_R, dims_D, D).to(FACTOR)
        dy_RD = tl.zeros((BLOCK_R, BLOCK_D), tl.float32)
        if RESIDENT:
            for chunk in tl.static_range(NUM_CHUNKS):
                pre_RC = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
                pre_RC = _product(ones_R16, bias[chunk], pre_RC, PRECISION, UPCAST)
                pre_RC = _product(y_RD, tl.trans(w1[chunk]), pre_RC, PRECISION, UPCAST)
                dh_RC = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
                dh_RC = _product(g_RD, tl.trans(w2[chunk]), dh_RC, PRECISION, UPCAST)
                _, slope_RC = _hidden_and_slope(
                    pre_RC, seed, first, chunk * BLOCK_C, levels, DROPOUT, APPROXIMATE, HARDWARE
                )
                dy_RD = _product((dh_RC * slope_RC).to(FACTOR), w1[chunk], dy_RD, PRECISION, UPCAST)
        else:
            for chunk in range(NUM_CHUNKS):
                units_C = chunk * BLOCK_C + order_C
                w1_CD = _load_weights(w1_ptr, units_C, dims_D, M, D)
                w2_CD = _load_weights(w2_ptr, units_C, dims_D, M, D)
                b1_C = tl.load(b1_ptr + units_C, mask=units_C < M, other=0.0)
                pre_RC = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
                pre_RC = _product(y_RD, tl.trans(w1_CD), pre_RC, PRECISION, UPCAST) + b1_C[None, :]
                dh_RC = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
                dh_RC = _product(g_RD, tl.trans(w2_CD), dh_RC, PRECISION, UPCAST)
                _, slope_RC = _hidden_and_slope(
                    pre_RC, seed, first, chunk * BLOCK_C, levels, DROPOUT, APPROXIMATE, HARDWARE
                )
                dy_RD = _product((dh_RC * slope_RC).to(FACTOR), w1_CD, dy_RD, PRECISION, UPCAST)
        # Read again, with another policy so that the compiler does not keep it in registers.
        x_RD = _load_tokens(
            x_ptr, update_ptr, first, locals_R, dims_D, num_rows, T, D, HAS_UPDATE, "evict_first"
        )
        y_RD = _normalise(x_RD, mean_R, rstd_R, dims_D, D)
        along_R = tl.sum(dy_RD * y_RD, 1) / D
        dx_RD = (dy_RD - (tl.sum(dy_RD, 1) / D)[:, None] - y_RD * along_R[:, None]) * rstd_R[:, None]
        if RESIDUAL:
            dx_RD += _load_rows(grad_ptr, first, locals_R, dims_D, num_rows, D, "evict_first")
        inside = (locals_R[:, None] < num_rows) & (dims_D[None, :] < D)
        tl.store(dx_ptr + first * D + locals_R[:, None] * D + dims_D[None, :], dx_RD, mask=inside)
    tl.store(db2_ptr + tl.program_id(0) * D + dims_D, tl.sum(db2_SD, 0), mask=dims_D < D)


@triton.jit
def gradient_of_weights(
    grad_ptr,
    x_ptr,
    update_ptr,
    w1_ptr,
    b1_ptr,
    w2_ptr,
    seed_ptr,
    dw1_ptr,
    db1_ptr,
    dw2_ptr,
    R,
    T,
    M,
    D,
    levels,
    scale,
    num_programs,
    HAS_UPDATE: tl.constexpr,
    DROPOUT: tl.constexpr,
    NUM_CHUNKS: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PRECISION: tl.constexpr,
    APPROXIMATE: tl.constexpr,
    HARDWARE: tl.constexpr,
    UPCAST: tl.constexpr,
):
    """Gradients of `NUM_CHUNKS` chunks of hidden units' weights: one program's part, over some tiles of rows.

    Gradients are of the folded weights; `dw2` (P, M, D) is turned like the weights.
    """
    FACTOR: tl.constexpr = w1_ptr.dtype.element_ty
    locals_R = tl.arange(0, BLOCK_R)
    dims_D = tl.arange(0, BLOCK_D)
    first_unit = tl.program_id(1) * NUM_CHUNKS * BLOCK_C
    order_C = first_unit + unit_of_column(BLOCK_C)
    ones_R16 = tl.full((BLOCK_R, 16), 1.0, FACTOR)
    # As wide as the units of a product of 64 rows by 8 warps must be: see `cross_attention.choose_blocks`.
    ones_R32 = tl.full((BLOCK_R, 32), 1.0, FACTOR)
    seed = 0
    if DROPOUT:
        seed = tl.load(seed_ptr)
    w1 = ()
    w2 = ()
    bias = ()
    dw1 = ()
    dw2 = ()
    db1 = ()
    for chunk in tl.static_range(NUM_CHUNKS):
        units_C = chunk * BLOCK_C + order_C
        w1 = w1 + (_load_weights(w1_ptr, units_C, dims_D, M, D),)  # noqa: RUF005
        w2 = w2 + (_load_weights(w2_ptr, units_C, dims_D, M, D),)  # noqa: RUF005
        bias = bias + (_load_bias(b1_ptr, units_C, M, FACTOR),)  # noqa: RUF005
        dw1 = dw1 + (tl.zeros((BLOCK_C, BLOCK_D), tl.float32),)  # noqa: RUF005
        dw2 = dw2 + (tl.zeros((BLOCK_C, BLOCK_D), tl.float32),)  # noqa: RUF005
        db1 = db1 + (tl.zeros((BLOCK_C, 32), tl.float32),)  # noqa: RUF005
    for tile in range(tl.program_id(0), tl.cdiv(R, BLOCK_R), num_programs):
        first = tl.cast(tile, tl.int64) * BLOCK_R
        num_rows = tl.minimum(R - first, BLOCK_R).to(tl.int32)
        g_RD = (_load_rows(grad_ptr, first, locals_R, dims_D, num_rows, D, "") * scale).to(FACTOR)
        x_RD = _load_tokens(x_ptr, update_ptr, first, locals_R, dims_D, num_rows, T, D, HAS_UPDATE, "")
        mean_R, rstd_R = _moments(x_RD, dims_D, D)
        y_RD = _normalise(x_RD, mean_R, rstd_R, dims_D, D).to(FACTOR)
        more_dw1 = ()
        more_dw2 = ()
        more_db1 = ()
        for chunk in tl.static_range(NUM_CHUNKS):
            pre_RC = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
            pre_RC = _product(ones_R16, bias[chunk], pre_RC, PRECISION, UPCAST)
            pre_RC = _product(y_RD, tl.trans(w1[chunk]), pre_RC, PRECISION, UPCAST)
            dh_RC = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
            dh_RC = _product(g_RD, tl.trans(w2[chunk]), dh_RC, PRECISION, UPCAST)
            h_RC, slope_RC = _hidden_and_slope(
                pre_RC, seed, first, first_unit + chunk * BLOCK_C, levels, DROPOUT, APPROXIMATE, HARDWARE
            )
            dpre_CR = tl.trans((dh_RC * slope_RC).to(FACTOR))
            h_CR = tl.trans(h_RC.to(FACTOR))
            more_dw1 = more_dw1 + (_product(dpre_CR, y_RD, dw1[chunk], PRECISION, UPCAST),)  # noqa: RUF005
            more_dw2 = more_dw2 + (_product(h_CR, g_RD, dw2[chunk], PRECISION, UPCAST),)  # noqa: RUF005
            more_db1 = more_db1 + (_product(dpre_CR, ones_R32, db1[chunk], PRECISION, UPCAST),)  # noqa: RUF005
        dw1 = more_dw1
        dw2 = more_dw2
        db1 = more_db1
    part = tl.program_id(0).to(tl.int64) * M
    for chunk in tl.static_range(NUM_CHUNKS):
        units_C = chunk * BLOCK_C + order_C
        inside = (units_C[:, None] < M) & (dims_D[None, :] < D)
        at = (part + units_C)[:, None] * D + dims_D[None, :]
        tl.store(dw1_ptr + at, dw1[chunk], mask=inside)
        tl.store(dw2_ptr + at, dw2[chunk], mask=inside)
        # All columns are alike.
        one_of_them = tl.where(tl.arange(0, 32)[None, :] == 0, db1[chunk], 0.0)
        tl.store(db1_ptr + part + units_C, tl.sum(one_of_them, 1), mask=units_C < M)


@triton.jit
def add_parts(
    dw1_parts_ptr,
    db1_parts_ptr,
    dw2_parts_ptr,
    norm_weight_ptr,
    norm_bias_ptr,
    w1_ptr,
    dw1_ptr,
    db1_ptr,
    dw2_ptr,
    norm_parts_ptr,
    M,
    D,
    num_parts,
    BLOCK_C: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Gradients of some hidden units' weights from their parts, and what these units add to the norm's.

    With y = normalised * norm_weight + norm_bias and W the folded w1, dw1 = dW norm_weight + db1 norm_bias;
    the gradient of norm_weight is the sum over units of dW w1, and that of norm_bias the sum of db1 w1.
    """
    units_C = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    dims_D = tl.arange(0, BLOCK_D)
    inside = (units_C[:, None] < M) & (dims_D[None, :] < D)
    at = units_C[:, None] * D + dims_D[None, :]
    dw1_CD = tl.zeros((BLOCK_C, BLOCK_D), tl.float32)
    dw2_CD = tl.zeros((BLOCK_C, BLOCK_D), tl.float32)
    db1_C = tl.zeros((BLOCK_C,), tl.float32)
    for _ in range(num_parts):
        dw1_CD += tl.load(dw1_parts_ptr + at, mask=inside, other=0.0)
        dw2_CD += tl.load(dw2_parts_ptr + at, mask=inside, other=0.0)
        db1_C += tl.load(db1_parts_ptr + units_C, mask=units_C < M, other=0.0)
        dw1_parts_ptr += M * D
        dw2_parts_ptr += M * D
        db1_parts_ptr += M
    norm_weight_D = tl.load(norm_weight_ptr + dims_D, mask=dims_D < D, other=0.0).to(tl.float32)
    norm_bias_D = tl.load(norm_bias_ptr + dims_D, mask=dims_D < D, other=0.0).to(tl.float32)
    w1_CD = tl.load(w1_ptr + at, mask=inside, other=0.0).to(tl.float32)
    of_dw1_CD = dw1_CD * norm_weight_D[None, :] + db1_C[:, None] * norm_bias_D[None, :]
    tl.store(dw1_ptr + at, of_dw1_CD, mask=inside)
    tl.store(db1_ptr + units_C, db1_C, mask=units_C < M)
    tl.store(dw2_ptr + dims_D[None, :] * M + units_C[:, None], dw2_CD, mask=inside)
    norm_parts_ptr += tl.program_id(0) * 2 * D + dims_D
    tl.store(norm_parts_ptr, tl.sum(dw1_CD * w1_CD, 0), mask=dims_D < D)
    tl.store(norm_parts_ptr + D, tl.sum(db1_C[:, None] * w1_CD, 0), mask=dims_D < D)


class Blocks(NamedTuple):
    """Shape of a tile and what the compiler is told about it."""

    rows: int
    units: int
    """Hidden units of a chunk."""
    num_warps: int
    num_stages: int
    programs: int
    """Of a multiprocessor, at once."""
    resident: bool = False
    """Whether all weights stay in shared memory."""
    chunks: int = 1
    """Of a program of the weights' gradient."""
    in_float32_units: bool = False
    """Whether products are made there although tensor cores would be exact enough."""


KINDS = ("forward", "rows", "weights")
# FeedForwardWeights up to here stay in shared memory, of which two programs share a multiprocessor's 227 KiB.
RESIDENT_BYTES = 1 << 16
# Partial gradients of the weights are written and read again: a program takes at least so many rows.
ROWS_OF_A_PART = 1024
# Of a program that adds parts up: few, so that there are many programs.
UNITS_TO_ADD = 4
# For an H200, by whether factors are bfloat16 and the kind of kernel: up to which D which tiles. The largest
# tried that fit, with a chunk of 32 units at least, and of these the ones that the assembler reports the
# fewest spills of.
BLOCKS: dict[tuple[bool, str], tuple[tuple[float, Blocks], ...]] = {
    (True, "forward"): (
        (64, Blocks(64, 64, 4, 2, 2)),
        (256, Blocks(128, 64, 8, 2, 1)),
        (math.inf, Blocks(64, 32, 8, 1, 1)),
    ),
    (True, "rows"): (
        (64, Blocks(64, 64, 4, 2, 2)),
        (128, Blocks(128, 64, 8, 2, 1)),
        (256, Blocks(128, 32, 8, 2, 1)),
        (math.inf, Blocks(64, 32, 8, 1, 1)),
    ),
    (True, "weights"): (
        (64, Blocks(128, 64, 8, 1, 1, chunks=2)),
        (128, Blocks(128, 64, 8, 1, 1)),
        (256, Blocks(64, 64, 8, 1, 1)),
        (math.inf, Blocks(16, 32, 8, 1, 1)),
    ),
    (False, "forward"): (
        (64, Blocks(64, 32, 4, 1, 2)),
        (256, Blocks(32, 32, 4, 1, 2)),
        (math.inf, Blocks(16, 32, 8, 1, 1, in_float32_units=True)),
    ),
    (False, "rows"): (
        (64, Blocks(64, 32, 4, 1, 2)),
        (256, Blocks(16, 32, 4, 1, 2)),
        (math.inf, Blocks(16, 32, 8, 1, 1, in_float32_units=True)),
    ),
    (False, "weights"): (
        (64, Blocks(32, 32, 4, 1, 2)),
        (math.inf, Blocks(16, 32, 8, 1, 1, in_float32_units=True)),
    ),
}


def choose_blocks(D: int, M: int, precision: str, kind: str) -> Blocks:
    """Return the tiles of one of `KINDS` of kernels.

    From a table rather than by autotuning: tiles decide the order of additions, and a choice that depends on
    timings would make results depend on them.
    """
    is_bf16 = precision == "bf16"
    blocks = next(blocks for largest, blocks in BLOCKS[is_bf16, kind] if largest >= D)
    if is_bf16 and kind != "weights" and 4 * M * D <= RESIDENT_BYTES:
        # Nothing is left to be loaded ahead.
        return blocks._replace(resident=True, num_stages=1)
    return blocks


def constants(
    D: int, M: int, blocks: Blocks, precision: str, kind: str, *, dropout: bool, update: bool
) -> dict[str, Any]:
    """Return what a kernel of one of `KINDS` is compiled for, apart from the residual."""
    told: dict[str, Any] = {
        "HAS_UPDATE": update,
        "DROPOUT": dropout,
        "NUM_CHUNKS": blocks.chunks if kind == "weights" else triton.cdiv(M, blocks.units),
        "BLOCK_R": blocks.rows,
        "BLOCK_C": blocks.units,
        "BLOCK_D": max(16, triton.next_power_of_2(D)),
        "PRECISION": "ieee" if blocks.in_float32_units else INPUT_PRECISIONS[precision],
        "APPROXIMATE": precision == "bf16",
        "HARDWARE": not is_interpreting(),
        "UPCAST": precision == "bf16" and is_interpreting(),
        "num_warps": blocks.num_warps,
        "num_stages": blocks.num_stages,
        "enable_fp_fusion": True,
    }
    return told if kind == "weights" else told | {"RESIDENT": blocks.resident}


class _Folded(NamedTuple):
    """FeedForwardWeights as the kernels take them: (M, D), (M,) and (M, D)."""

    w1: torch.Tensor
    b1: torch.Tensor
    w2: torch.Tensor


def _fold(weights: FeedForwardWeights, precision: str) -> _Folded:
    M, D = weights.w1.shape
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    w1_MD, w2_MD = (weights.w1.new_empty((M, D), dtype=dtype) for _ in range(2))
    b1_M = weights.w1.new_empty(M, dtype=torch.float32)
    fold_norm[(triton.cdiv(M, 16),)](
        *(weight.contiguous() for weight in weights[:5]), w1_MD, b1_M, w2_MD, M, D,
        BLOCK_C=16, BLOCK_D=triton.next_power_of_2(D),
    )  # fmt: skip
    return _Folded(w1_MD, b1_M, w2_MD)


def _num_programs(blocks: Blocks, R: int, device: torch.device, rows_of_a_program: int) -> int:
    """As many as run at once, or fewer if each has too little to do."""
    at_once = 3
    if device.type == "cuda":
        at_once = torch.cuda.get_device_properties(device).multi_processor_count * blocks.programs
    return max(1, min(at_once, triton.cdiv(R, max(blocks.rows, rows_of_a_program))))


class _Launch:
    """What the launches of one call have in common."""

    def __init__(
        self,
        x_BTD: torch.Tensor,
        weights: FeedForwardWeights,
        seed: torch.Tensor | None,
        dropout: float,
        precision: str,
        update_BD: torch.Tensor | None,
    ) -> None:
        B, self.T, self.D = x_BTD.shape
        self.R, self.M = B * self.T, len(weights.b1)
        self.precision, self.device = precision, x_BTD.device
        self.x = x_BTD.contiguous()
        self.update = None if update_BD is None else update_BD.contiguous()
        self.seed = seed if dropout > 0 else None
        self.folded = _fold(weights, precision)
        # Hidden units and slopes are computed twice as large.
        self.scale = 0.5 if self.seed is None else kept_scale(dropout) / 2
        self.levels = dropped_levels(dropout)

    def blocks(self, kind: str) -> Blocks:
        return choose_blocks(self.D, self.M, self.precision, kind)

    def inputs(self) -> tuple[torch.Tensor, ...]:
        """What every kernel reads; one pointer stands in for another that is not followed."""
        update = self.x if self.update is None else self.update
        return self.x, update, *self.folded

    def numbers(self, num_programs: int) -> tuple[float, ...]:
        return self.R, self.T, self.M, self.D, self.levels, self.scale, num_programs

    def compiled_for(self, kind: str) -> dict[str, Any]:
        return constants(
            self.D, self.M, self.blocks(kind), self.precision, kind,
            dropout=self.seed is not None, update=self.update is not None,
        )  # fmt: skip


def forward(
    x_BTD: torch.Tensor,
    weights: FeedForwardWeights,
    seed: torch.Tensor | None,
    dropout: float,
    precision: str,
    *,
    update_BD: torch.Tensor | None = None,
    residual: bool = False,
) -> torch.Tensor:
    """Return the half of the block of x' = x + update, shape (B, T, D), in the type of `x_BTD`.

    Parameters
    ----------
    x_BTD : Tensor of float32 or bfloat16
        Tokens before normalisation.
    weights : FeedForwardWeights
        See the reference.
    seed : Tensor of int64, shape (), or None
        Of dropout, where the data are; None for none.
    dropout : float
        Probability of dropping a hidden unit.
    precision : str
        Of the products: ``"ieee"`` (in float32 units), ``"fp32"`` (as exact, by three products in tf32),
        ``"tf32"`` or ``"bf16"``, which also has a GELU of its precision. Sums are float32.
    update_BD : Tensor, optional
        Added to each token of its object before anything else.
    residual : bool
        Whether x' is added to the result.
    """
    launch = _Launch(x_BTD, weights, seed, dropout, precision, update_BD)
    out_BTD = torch.empty_like(launch.x)
    if launch.R == 0:
        return out_BTD
    num_programs = _num_programs(launch.blocks("forward"), launch.R, launch.device, 0)
    forward_by_rows[(num_programs,)](
        *launch.inputs(),
        weights.b2.contiguous(),
        launch.folded.b1 if launch.seed is None else launch.seed,
        out_BTD,
        *launch.numbers(num_programs),
        RESIDUAL=residual,
        **launch.compiled_for("forward"),
    )
    return out_BTD


def backward(
    grad_BTD: torch.Tensor,
    x_BTD: torch.Tensor,
    weights: FeedForwardWeights,
    seed: torch.Tensor | None,
    dropout: float,
    precision: str,
    *,
    update_BD: torch.Tensor | None = None,
    residual: bool = False,
) -> tuple[torch.Tensor, ...]:
    """Return the gradients of `x_BTD`, of `update_BD` if there is one, and of each of `weights`.

    Each is in the type of what it belongs to. `grad_BTD` is that of the result of :func:`forward`; the rest
    is what that was given.
    """
    launch = _Launch(x_BTD, weights, seed, dropout, precision, update_BD)
    R, M, D = launch.R, launch.M, launch.D
    grad = grad_BTD.contiguous()
    seed_or_any = launch.folded.b1 if launch.seed is None else launch.seed
    dx_BTD = torch.empty_like(launch.x)
    num_programs = _num_programs(launch.blocks("rows"), R, launch.device, 0)
    db2_PD = launch.folded.b1.new_empty(num_programs, D)
    gradient_by_rows[(num_programs,)](
        grad, *launch.inputs(), seed_or_any, dx_BTD, db2_PD, *launch.numbers(num_programs),
        RESIDUAL=residual, **launch.compiled_for("rows"),
    )  # fmt: skip
    blocks = launch.blocks("weights")
    num_groups = triton.cdiv(M, blocks.units * blocks.chunks)
    num_parts = triton.cdiv(_num_programs(blocks, R * num_groups, launch.device, ROWS_OF_A_PART), num_groups)
    dw1_PMD, dw2_PMD = (db2_PD.new_empty(num_parts, M, D) for _ in range(2))
    db1_PM = db2_PD.new_empty(num_parts, M)
    gradient_of_weights[(num_parts, num_groups)](
        grad, *launch.inputs(), seed_or_any, dw1_PMD, db1_PM, dw2_PMD, *launch.numbers(num_parts),
        **launch.compiled_for("weights"),
    )  # fmt: skip
    dw1_MD, db1_M, dw2_DM = (
        torch.empty_like(weight, memory_format=torch.contiguous_format) for weight in weights[2:5]
    )
    norm_G2D = db2_PD.new_empty(triton.cdiv(M, UNITS_TO_ADD), 2, D)
    add_parts[(len(norm_G2D),)](
        dw1_PMD, db1_PM, dw2_PMD, *(weight.contiguous() for weight in weights[:3]),
        dw1_MD, db1_M, dw2_DM, norm_G2D,
        M, D, num_parts, BLOCK_C=UNITS_TO_ADD, BLOCK_D=triton.next_power_of_2(D),
    )  # fmt: skip
    d_norm_2D = norm_G2D.sum(0)
    grads = (d_norm_2D[0], d_norm_2D[1], dw1_MD, db1_M, dw2_DM, db2_PD.sum(0))
    of_weights = (grad.to(weight.dtype) for grad, weight in zip(grads, weights, strict=True))
    if update_BD is None:
        return dx_BTD, *of_weights
    return dx_BTD, dx_BTD.sum(1, dtype=torch.float32).to(update_BD.dtype), *of_weights
