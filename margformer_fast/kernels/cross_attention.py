"""Photometry-to-patch attention in Triton: its single query folded into the weights, tokens read once.

Shapes: B batch, b objects of a tile, T tokens, P = T - 1 patch tokens of a chunk, D dim, H heads, E = D/H
head dim, K slots, R = b H rows (a head of an object each), W programs.

Algebra. The order of products is that of `cross_attention_folded`. What LayerNorm multiplies and adds is
folded into the weights as well: with w' = w diag(norm_weight) and c = w norm_bias, queries, keys and values
are x^ w'^T + c of standardised tokens x^. So x^ is the one thing made of tokens; the keys' constants add
beta_h = q_h c_k to each t_h, the values' add delta_h = do_h c_v to each du_h, and the norm's parameters get
their gradients from those of w' and c. LayerNorm's backward needs two means over D for each token, which
are sums over H of numbers that exist anyway:

    dx = (dx^ - mean(dx^) - x^ mean(dx^ x^)) / deviation       dx^ = sum over h of u_h dz_h + dt_h r_h
    mean(dx^) = 0 if rows of w_k' and w_v' are centred, which changes no key and no value, as x^ sums to 0
    D mean(dx^ x^) = sum over h of u_h (x^ dz_h) + dt_h (x^ r_h)

Bounds. At T = 65 and D = 64 in bfloat16 an object has 8.3 KB, read once forward (450 cycles of one of 132
multiprocessors at 4.3 TB/s), read and written backward (900). Its products are 0.27 MFLOP, about 100 cycles
if nothing is padded. Lanes are the bound: statistics and x^ take 7 operations an element, 900 instructions
of a warp an object; softmax, dropout and what lies between the products make it about 2,800 forward (K =
64), 700 cycles at 4 instructions a cycle, and 7,800 backward. These are counts in the assembler's output;
none of it has been timed.

Tiles. Token 0 is treated apart, by lanes: 64 patch tokens fill a block that 65 tokens would double. In
bfloat16 up to D = 64, 8 objects of 8 heads are the 64 rows of Hopper's matrix instructions, and each of 8
warps has an object: products with tokens are batched, in blocks of 16 tokens by 8 heads without padding,
those with weights are of 64 rows by weights that rest in shared memory for all of a program's tiles.
Queries, values and output are then made in the same kernel (`FUSED`): one launch, and no B H D numbers in
memory. Elsewhere a tile is one object with its tokens spread over all warps, and query and output are
products of the library: D x D weights, read again for each such tile, would be 15 times the bytes of its
tokens at D = 256.

Backward. Everything is made anew from x; u and dt, and dz and r, go through products side by side, as heads
2h and 2h + 1, so that tokens are read from shared memory half as often. A tile has 4 objects at most: its
rows alone would fill the registers of 8. Gradients of proj_k and proj_v add up in the registers of a fixed
number of programs, each with its share in memory, summed last, so that two runs agree bit for bit. What
concerns D x D weights are products of the library from r, z and their gradients, H B D numbers each.

Written for Triton 3.6.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl

from ..reference.dropout import OF_ATTENTION_WEIGHTS, dropped_levels, kept_scale
from ..reference.weights import AttentionWeights
from .keep import keep_tile
from .nt_xent import INPUT_PRECISIONS
from .rounding import round_to_tf32
from .toolchain import is_interpreting

_LOG2_E = tl.constexpr(math.log2(math.e))
EPSILON = 1e-5
_EPSILON = tl.constexpr(EPSILON)
_PURPOSE = tl.constexpr(OF_ATTENTION_WEIGHTS)


@triton.jit
def _factor(value, ROUNDED: tl.constexpr, UPCAST: tl.constexpr):
    """Return what a product is given, `ROUNDED` to ``"bf16"``, ``"tf32"`` or not (``""``)."""
    if ROUNDED == "tf32":
        value = round_to_tf32(value)
    elif ROUNDED == "bf16":
        if UPCAST:  # The interpreter's product of bfloat16 is garbage, and it does not round to the nearest.
            bits = value.to(tl.uint32, bitcast=True)
            bits += 0x7FFF + ((bits >> 16) & 1)
            value = (bits & 0xFFFF0000).to(tl.float32, bitcast=True)
        else:
            value = value.to(tl.bfloat16)
    return value


@triton.jit
def _product(a, b, PRECISION: tl.constexpr):
    """Return a product for each object; of one object alone it is spread over all warps."""
    if a.shape[0] == 1:
        c = tl.dot(
            tl.reshape(a, (a.shape[1], a.shape[2])),
            tl.reshape(b, (b.shape[1], b.shape[2])),
            input_precision=PRECISION,
        )
        c = tl.reshape(c, (1, a.shape[1], b.shape[2]))
    else:
        c = tl.dot(a, b, input_precision=PRECISION)
    return c


@triton.jit
def _split_rows(value, BLOCK_B: tl.constexpr, BLOCK_H: tl.constexpr):
    """Return numbers of rows (R, X) by object, (b, X, H)."""
    return tl.permute(tl.reshape(value, (BLOCK_B, BLOCK_H, value.shape[1])), (0, 2, 1))


@triton.jit
def _join_rows(value):
    """Undo `_split_rows`."""
    rows: tl.constexpr = value.shape[0] * value.shape[2]
    return tl.reshape(tl.permute(value, (0, 2, 1)), (rows, value.shape[1]))


@triton.jit
def _join_pair(first_RX, second_RX, BLOCK_B: tl.constexpr, ROUNDED: tl.constexpr, UPCAST: tl.constexpr):
    """Return numbers of two kinds of rows as factors, side by side by object, (b, X, 2 H)."""
    pair_RX2 = _factor(tl.join(first_RX, second_RX), ROUNDED, UPCAST)
    BLOCK_H: tl.constexpr = first_RX.shape[0] // BLOCK_B
    X: tl.constexpr = first_RX.shape[1]
    pair_bXH2 = tl.permute(tl.reshape(pair_RX2, (BLOCK_B, BLOCK_H, X, 2)), (0, 2, 1, 3))
    return tl.reshape(pair_bXH2, (BLOCK_B, X, 2 * BLOCK_H))


@triton.jit
def _split_pair(pair_bXG):
    """Undo `_join_pair`, but for the rounding."""
    BLOCK_B: tl.constexpr = pair_bXG.shape[0]
    X: tl.constexpr = pair_bXG.shape[1]
    BLOCK_H: tl.constexpr = pair_bXG.shape[2] // 2
    pair_bHX2 = tl.permute(tl.reshape(pair_bXG, (BLOCK_B, X, BLOCK_H, 2)), (0, 2, 1, 3))
    return tl.split(tl.reshape(pair_bHX2, (BLOCK_B * BLOCK_H, X, 2)))


@triton.jit
def _load_matrix(w_ptr, rows, columns, num_rows, num_columns):
    inside = (rows[:, None] < num_rows) & (columns[None, :] < num_columns)
    w = tl.load(w_ptr + rows[:, None] * num_columns + columns[None, :], mask=inside, other=0.0)
    return w.to(tl.float32)


@triton.jit
def _load_rows(v_ptr, objects_R, heads_R, dims, B, H: tl.constexpr, D: tl.constexpr):
    """Return vectors (R, D) of (H, B, D); zeros for heads and objects that there are not."""
    inside = (objects_R[:, None] < B) & (heads_R[:, None] < H) & (dims[None, :] < D)
    places = (heads_R.to(tl.int64)[:, None] * B + objects_R[:, None]) * D + dims[None, :]
    return tl.load(v_ptr + places, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _store_rows(v_ptr, value, objects_R, heads_R, dims, B, H: tl.constexpr, D: tl.constexpr):
    inside = (objects_R[:, None] < B) & (heads_R[:, None] < H) & (dims[None, :] < D)
    places = (heads_R.to(tl.int64)[:, None] * B + objects_R[:, None]) * D + dims[None, :]
    tl.store(v_ptr + places, value, mask=inside)


@triton.jit
def _places(objects, tokens, dims, B, T: tl.constexpr, D: tl.constexpr):
    """Return where tokens of objects lie in (B, T, D), and which of them there are."""
    inside = (objects[:, None, None] < B) & (tokens[None, :, None] < T) & (dims[None, None, :] < D)
    first = objects.to(tl.int64)[:, None, None] * (T * D)
    return first + tokens[None, :, None] * D + dims[None, None, :], inside


@triton.jit
def _standardise(x, dims, D: tl.constexpr):
    """Return tokens (b, P, D) less their means over their deviations, and one over those, (b, P, 1)."""
    mean = tl.sum(x, 2, keep_dims=True) / D
    centred = tl.where(dims[None, None, :] < D, x - mean, 0.0)
    rstd = tl.rsqrt(tl.sum(centred * centred, 2, keep_dims=True) / D + _EPSILON)
    return centred * rstd, rstd


@triton.jit
def _load_tokens(
    x_ptr, objects, tokens, dims, B,
    T: tl.constexpr, D: tl.constexpr, ROUNDED: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Return standardised tokens as factors, and one over their deviations."""
    places, inside = _places(objects, tokens, dims, B, T, D)
    x = tl.load(x_ptr + places, mask=inside, other=0.0).to(tl.float32)
    x_hat, rstd = _standardise(x, dims, D)
    return _factor(x_hat, ROUNDED, UPCAST), rstd


@triton.jit
def _load_first_tokens(x_ptr, objects_R, dims, B, T: tl.constexpr, D: tl.constexpr):
    """Return token 0, standardised, once for each row."""
    inside = (objects_R[:, None] < B) & (dims[None, :] < D)
    x_RD = tl.load(x_ptr + objects_R.to(tl.int64)[:, None] * (T * D) + dims[None, :], mask=inside, other=0.0)
    x_RD = x_RD.to(tl.float32)
    centred = tl.where(dims[None, :] < D, x_RD - tl.sum(x_RD, 1, keep_dims=True) / D, 0.0)
    return centred * tl.rsqrt(tl.sum(centred * centred, 1, keep_dims=True) / D + _EPSILON)


@triton.jit
def _softmax(s_RK, slots, K: tl.constexpr):
    s_RK = tl.where(slots[None, :] < K, s_RK, float("-inf"))
    e_RK = tl.exp2(s_RK * _LOG2_E - tl.max(s_RK, 1, keep_dims=True) * _LOG2_E)
    return e_RK * (1.0 / tl.sum(e_RK, 1, keep_dims=True))


@triton.jit
def _kept_scale(
    seed_ptr, objects_R, heads_R, dropped_levels, kept_scale,
    H: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Return what attention weights are multiplied by under dropout."""
    rows = objects_R.to(tl.int64) * H + heads_R
    keep_RK = keep_tile(tl.load(seed_ptr), rows, 0, dropped_levels, _PURPOSE, BLOCK_R, BLOCK_K)
    return tl.where(keep_RK, kept_scale, 0.0)


@triton.jit
def forward_kernel(
    x_ptr, r_ptr, beta_ptr, proj_k_ptr, proj_v_ptr, z_ptr, u_sum_ptr, seed_ptr,
    norm_weight_ptr, norm_bias_ptr, w_q_ptr, w_k_ptr, w_v_ptr, w_out_ptr, b_out_ptr, update_ptr,
    B, num_programs, dropped_levels, kept_scale, score_scale,
    T: tl.constexpr, D: tl.constexpr, H: tl.constexpr, K: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_H: tl.constexpr,
    BLOCK_K: tl.constexpr, NUM_CHUNKS: tl.constexpr, FUSED: tl.constexpr, DROPS: tl.constexpr,
    ROUNDED: tl.constexpr, UPCAST: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Update of each object from its tokens (`FUSED`), or z of each head from r of each head.

    Parameters
    ----------
    x_ptr
        (B, T, D).
    r_ptr, beta_ptr
        q w_k' (H, B, D) and q c_k (H, B), unless fused.
    z_ptr, u_sum_ptr
        sum_t u_t x^_t (H, B, D) and sum_t u_t (H, B) are written here, unless fused.
    norm_weight_ptr, ..., b_out_ptr
        AttentionWeights, of use if fused, as is `score_scale`.
    update_ptr
        (B, D), written if fused.
    """
    BLOCK_R: tl.constexpr = BLOCK_B * BLOCK_H
    dims, slots = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_K)
    tokens = 1 + tl.arange(0, BLOCK_T)
    heads_R = tl.arange(0, BLOCK_R) % BLOCK_H
    # AttentionWeights rest in shared memory while the program's tiles go by.
    proj_k_PK = _factor(_load_matrix(proj_k_ptr, tokens, slots, T, K), ROUNDED, UPCAST)
    proj_v_PK = _factor(_load_matrix(proj_v_ptr, tokens, slots, T, K), ROUNDED, UPCAST)
    if FUSED:
        gain = tl.load(norm_weight_ptr + dims, mask=dims < D, other=0.0).to(tl.float32)[None, :]
        offset = tl.load(norm_bias_ptr + dims, mask=dims < D, other=0.0).to(tl.float32)[None, :]
        w_q = _load_matrix(w_q_ptr, dims, dims, D, D)
        w_k = _load_matrix(w_k_ptr, dims, dims, D, D)
        w_v = _load_matrix(w_v_ptr, dims, dims, D, D)
        w_out = _factor(_load_matrix(w_out_ptr, dims, dims, D, D), ROUNDED, UPCAST)
        c_q, c_k, c_v = tl.sum(w_q * offset, 1), tl.sum(w_k * offset, 1), tl.sum(w_v * offset, 1)
        w_q = _factor(w_q * gain, ROUNDED, UPCAST)
        w_k = _factor(w_k * gain, ROUNDED, UPCAST)
        w_v = _factor(w_v * gain, ROUNDED, UPCAST)
        own_RD = (dims[None, :] // (D // H)) == heads_R[:, None]
    # Hoisted out of the loop, places in shared memory would take registers that there are not.
    for tile in tl.range(tl.program_id(0), tl.cdiv(B, BLOCK_B), num_programs, disable_licm=True):
        objects = tile * BLOCK_B + tl.arange(0, BLOCK_B)
        objects_R = tile * BLOCK_B + tl.arange(0, BLOCK_R) // BLOCK_H
        rows_inside = (objects_R < B) & (heads_R < H)
        x_bPD, _ = _load_tokens(x_ptr, objects, tokens, dims, B, T, D, ROUNDED, UPCAST)
        first_RD = _load_first_tokens(x_ptr, objects_R, dims, B, T, D)
        if FUSED:  # Each row has the queries of all heads, then of its own alone.
            q_RD = tl.dot(_factor(first_RD, ROUNDED, UPCAST), tl.trans(w_q), input_precision=PRECISION)
            q_RD = tl.where(own_RD, (q_RD + c_q[None, :]) * score_scale, 0.0)
            beta_R = tl.sum(q_RD * c_k[None, :], 1)
            r_RD = tl.dot(_factor(q_RD, ROUNDED, UPCAST), w_k, input_precision=PRECISION)
        else:
            r_RD = _load_rows(r_ptr, objects_R, heads_R, dims, B, H, D)
            beta_R = tl.load(beta_ptr + heads_R * B + objects_R, mask=rows_inside, other=0.0)
        r_bDH = _split_rows(_factor(r_RD, ROUNDED, UPCAST), BLOCK_B, BLOCK_H)
        t_RP = _join_rows(_product(x_bPD, r_bDH, PRECISION)) + beta_R[:, None]
        s_RK = tl.dot(_factor(t_RP, ROUNDED, UPCAST), proj_k_PK, input_precision=PRECISION)
        for chunk in range(1, NUM_CHUNKS):
            more = tokens + chunk * BLOCK_T
            more_bPD, _ = _load_tokens(x_ptr, objects, more, dims, B, T, D, ROUNDED, UPCAST)
            t_RP = _join_rows(_product(more_bPD, r_bDH, PRECISION)) + beta_R[:, None]
            more_PK = _factor(_load_matrix(proj_k_ptr, more, slots, T, K), ROUNDED, UPCAST)
            s_RK = tl.dot(_factor(t_RP, ROUNDED, UPCAST), more_PK, s_RK, input_precision=PRECISION)
        t_first_R = tl.sum(r_RD * first_RD, 1) + beta_R
        proj_k_first = tl.load(proj_k_ptr + slots, mask=slots < K, other=0.0).to(tl.float32)
        a_RK = _softmax(s_RK + t_first_R[:, None] * proj_k_first[None, :], slots, K)
        if DROPS:
            a_RK *= _kept_scale(seed_ptr, objects_R, heads_R, dropped_levels, kept_scale, H, BLOCK_R, BLOCK_K)
        proj_v_first = tl.load(proj_v_ptr + slots, mask=slots < K, other=0.0).to(tl.float32)
        u_first_R = tl.sum(a_RK * proj_v_first[None, :], 1)
        factor_RK = _factor(a_RK, ROUNDED, UPCAST)
        u_RP = tl.dot(factor_RK, tl.trans(proj_v_PK), input_precision=PRECISION)
        u_sum_R = u_first_R + tl.sum(u_RP, 1)
        u_bPH = _split_rows(_factor(u_RP, ROUNDED, UPCAST), BLOCK_B, BLOCK_H)
        z_bDH = _product(tl.permute(x_bPD, (0, 2, 1)), u_bPH, PRECISION)
        for chunk in range(1, NUM_CHUNKS):
            more = tokens + chunk * BLOCK_T
            more_bPD, _ = _load_tokens(x_ptr, objects, more, dims, B, T, D, ROUNDED, UPCAST)
            more_PK = _factor(_load_matrix(proj_v_ptr, more, slots, T, K), ROUNDED, UPCAST)
            u_RP = tl.dot(factor_RK, tl.trans(more_PK), input_precision=PRECISION)
            u_sum_R += tl.sum(u_RP, 1)
            u_bPH = _split_rows(_factor(u_RP, ROUNDED, UPCAST), BLOCK_B, BLOCK_H)
            z_bDH += _product(tl.permute(more_bPD, (0, 2, 1)), u_bPH, PRECISION)
        z_RD = _join_rows(z_bDH) + u_first_R[:, None] * first_RD
        if FUSED:
            o_RD = tl.dot(_factor(z_RD, ROUNDED, UPCAST), tl.trans(w_v), input_precision=PRECISION)
            o_RD = tl.where(own_RD, o_RD + u_sum_R[:, None] * c_v[None, :], 0.0)
            update_RD = tl.dot(_factor(o_RD, ROUNDED, UPCAST), tl.trans(w_out), input_precision=PRECISION)
            update_bD = tl.sum(tl.reshape(update_RD, (BLOCK_B, BLOCK_H, BLOCK_D)), 1)
            update_bD += tl.load(b_out_ptr + dims, mask=dims < D, other=0.0).to(tl.float32)[None, :]
            inside = (objects[:, None] < B) & (dims[None, :] < D)
            RESULT_ROUNDED: tl.constexpr = "bf16" if update_ptr.dtype.element_ty == tl.bfloat16 else ""
            update_bD = _factor(update_bD, RESULT_ROUNDED, UPCAST)
            tl.store(update_ptr + objects.to(tl.int64)[:, None] * D + dims[None, :], update_bD, mask=inside)
        else:
            _store_rows(z_ptr, _factor(z_RD, ROUNDED, UPCAST), objects_R, heads_R, dims, B, H, D)
            tl.store(u_sum_ptr + heads_R * B + objects_R, u_sum_R, mask=rows_inside)


@triton.jit
def _add_to_partial(partial_ptr, value_PK, tokens, slots, T: tl.constexpr, K: tl.constexpr):
    """Add to a program's own gradient of a projection, in memory."""
    inside = (tokens[:, None] < T) & (slots[None, :] < K)
    places = partial_ptr + tokens[:, None] * K + slots[None, :]
    tl.store(places, tl.load(places, mask=inside, other=0.0) + value_PK, mask=inside)


@triton.jit
def _along(u_RP, du_RP, dt_RP, t_RP, D: tl.constexpr, BLOCK_B: tl.constexpr):
    """Return mean(dx^ x^) of each token, (b, P)."""
    along_RP = u_RP * du_RP + dt_RP * t_RP
    BLOCK_H: tl.constexpr = along_RP.shape[0] // BLOCK_B
    return tl.sum(tl.reshape(along_RP, (BLOCK_B, BLOCK_H, along_RP.shape[1])), 1) / D


@triton.jit
def _store_gradient_of_tokens(
    dx_ptr, x_bPD, rstd_bP1, along_bP, owed_bPG, rows_bGD, objects, tokens, dims, B,
    T: tl.constexpr, D: tl.constexpr, UPCAST: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Go through the norm with what tokens owe (u and dt) to what rows are (dz and r)."""
    dx_bPD = _product(owed_bPG, rows_bGD, PRECISION)
    dx_bPD = (dx_bPD - x_bPD.to(tl.float32) * along_bP[:, :, None]) * rstd_bP1
    places, inside = _places(objects, tokens, dims, B, T, D)
    RESULT_ROUNDED: tl.constexpr = "bf16" if dx_ptr.dtype.element_ty == tl.bfloat16 else ""
    tl.store(dx_ptr + places, _factor(dx_bPD, RESULT_ROUNDED, UPCAST), mask=inside)


@triton.jit
def backward_kernel(
    x_ptr, r_ptr, beta_ptr, dz_ptr, delta_ptr, proj_k_ptr, proj_v_ptr, seed_ptr,
    dx_ptr, d_first_ptr, z_ptr, u_sum_ptr, dr_ptr, dt_sum_ptr, d_proj_k_ptr, d_proj_v_ptr,
    B, num_programs, dropped_levels, kept_scale,
    T: tl.constexpr, D: tl.constexpr, H: tl.constexpr, K: tl.constexpr,
    BLOCK_B: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_H: tl.constexpr,
    BLOCK_K: tl.constexpr, NUM_CHUNKS: tl.constexpr, DROPS: tl.constexpr,
    ROUNDED: tl.constexpr, UPCAST: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """From the gradient of z to those of patch tokens, of r and of the projections.

    Parameters
    ----------
    x_ptr, r_ptr, beta_ptr
        As in the forward.
    dz_ptr, delta_ptr
        do w_v' (H, B, D) and do c_v (H, B).
    dx_ptr
        (B, T, D), written but for token 0.
    d_first_ptr
        Gradient of token 0, standardised, (B, D), but for what it owes to the query.
    z_ptr, u_sum_ptr, dr_ptr, dt_sum_ptr
        z, sum_t u_t, gradient of r and sum_t dt_t, written.
    d_proj_k_ptr, d_proj_v_ptr
        (W, T, K): each program's share; zeros on entry.
    """
    BLOCK_R: tl.constexpr = BLOCK_B * BLOCK_H
    dims, slots = tl.arange(0, BLOCK_D), tl.arange(0, BLOCK_K)
    tokens = 1 + tl.arange(0, BLOCK_T)
    heads_R = tl.arange(0, BLOCK_R) % BLOCK_H
    d_proj_k_ptr += tl.program_id(0).to(tl.int64) * (T * K)
    d_proj_v_ptr += tl.program_id(0).to(tl.int64) * (T * K)
    proj_k_PK = _factor(_load_matrix(proj_k_ptr, tokens, slots, T, K), ROUNDED, UPCAST)
    proj_v_PK = _factor(_load_matrix(proj_v_ptr, tokens, slots, T, K), ROUNDED, UPCAST)
    d_proj_k_PK = tl.zeros((BLOCK_T, BLOCK_K), tl.float32)
    d_proj_v_PK = tl.zeros((BLOCK_T, BLOCK_K), tl.float32)
    d_proj_k_first = tl.zeros((BLOCK_K,), tl.float32)
    d_proj_v_first = tl.zeros((BLOCK_K,), tl.float32)
    # Hoisted out of the loop, places in shared memory would take registers that there are not.
    for tile in tl.range(tl.program_id(0), tl.cdiv(B, BLOCK_B), num_programs, disable_licm=True):
        objects = tile * BLOCK_B + tl.arange(0, BLOCK_B)
        objects_R = tile * BLOCK_B + tl.arange(0, BLOCK_R) // BLOCK_H
        rows_inside = (objects_R < B) & (heads_R < H)
        x_bPD, rstd_bP1 = _load_tokens(x_ptr, objects, tokens, dims, B, T, D, ROUNDED, UPCAST)
        first_RD = _load_first_tokens(x_ptr, objects_R, dims, B, T, D)
        r_RD = _load_rows(r_ptr, objects_R, heads_R, dims, B, H, D)
        dz_RD = _load_rows(dz_ptr, objects_R, heads_R, dims, B, H, D)
        beta_R = tl.load(beta_ptr + heads_R * B + objects_R, mask=rows_inside, other=0.0)
        delta_R = tl.load(delta_ptr + heads_R * B + objects_R, mask=rows_inside, other=0.0)
        proj_k_first = tl.load(proj_k_ptr + slots, mask=slots < K, other=0.0).to(tl.float32)
        proj_v_first = tl.load(proj_v_ptr + slots, mask=slots < K, other=0.0).to(tl.float32)
        rows_bDG = _join_pair(dz_RD, r_RD, BLOCK_B, ROUNDED, UPCAST)
        t_first_R = tl.sum(r_RD * first_RD, 1) + beta_R
        du_first_R = tl.sum(dz_RD * first_RD, 1) + delta_R
        # To the softmax from both sides at once.
        du_RP, t_RP = _split_pair(_product(x_bPD, rows_bDG, PRECISION))
        t_factor_RP = _factor(t_RP + beta_R[:, None], ROUNDED, UPCAST)
        du_factor_RP = _factor(du_RP + delta_R[:, None], ROUNDED, UPCAST)
        s_RK = tl.dot(t_factor_RP, proj_k_PK, input_precision=PRECISION)
        da_RK = tl.dot(du_factor_RP, proj_v_PK, input_precision=PRECISION)
        for chunk in range(1, NUM_CHUNKS):
            more = tokens + chunk * BLOCK_T
            more_bPD, _ = _load_tokens(x_ptr, objects, more, dims, B, T, D, ROUNDED, UPCAST)
            more_du_RP, more_t_RP = _split_pair(_product(more_bPD, rows_bDG, PRECISION))
            more_PK = _factor(_load_matrix(proj_k_ptr, more, slots, T, K), ROUNDED, UPCAST)
            more_RP = _factor(more_t_RP + beta_R[:, None], ROUNDED, UPCAST)
            s_RK = tl.dot(more_RP, more_PK, s_RK, input_precision=PRECISION)
            more_PK = _factor(_load_matrix(proj_v_ptr, more, slots, T, K), ROUNDED, UPCAST)
            more_RP = _factor(more_du_RP + delta_R[:, None], ROUNDED, UPCAST)
            da_RK = tl.dot(more_RP, more_PK, da_RK, input_precision=PRECISION)
        a_RK = _softmax(s_RK + t_first_R[:, None] * proj_k_first[None, :], slots, K)
        da_RK += du_first_R[:, None] * proj_v_first[None, :]
        dropped_RK = a_RK
        if DROPS:
            scale_RK = _kept_scale(
                seed_ptr, objects_R, heads_R, dropped_levels, kept_scale, H, BLOCK_R, BLOCK_K
            )
            dropped_RK = a_RK * scale_RK
            da_RK *= scale_RK
        ds_RK = a_RK * (da_RK - tl.sum(a_RK * da_RK, 1, keep_dims=True))
        # Away from it.
        u_first_R = tl.sum(dropped_RK * proj_v_first[None, :], 1)
        dt_first_R = tl.sum(ds_RK * proj_k_first[None, :], 1)
        d_proj_k_first += tl.sum(ds_RK * t_first_R[:, None], 0)
        d_proj_v_first += tl.sum(dropped_RK * du_first_R[:, None], 0)
        a_RK = _factor(dropped_RK, ROUNDED, UPCAST)
        ds_RK = _factor(ds_RK, ROUNDED, UPCAST)
        d_proj_k_PK = tl.dot(tl.trans(t_factor_RP), ds_RK, d_proj_k_PK, input_precision=PRECISION)
        d_proj_v_PK = tl.dot(tl.trans(du_factor_RP), a_RK, d_proj_v_PK, input_precision=PRECISION)
        u_RP = tl.dot(a_RK, tl.trans(proj_v_PK), input_precision=PRECISION)
        dt_RP = tl.dot(ds_RK, tl.trans(proj_k_PK), input_precision=PRECISION)
        u_sum_R = u_first_R + tl.sum(u_RP, 1)
        dt_sum_R = dt_first_R + tl.sum(dt_RP, 1)
        along_bP = _along(u_RP, du_RP, dt_RP, t_RP, D, BLOCK_B)
        owed_bPG = _join_pair(u_RP, dt_RP, BLOCK_B, ROUNDED, UPCAST)
        rows_bGD = tl.permute(rows_bDG, (0, 2, 1))
        sums_bDG = _product(tl.permute(x_bPD, (0, 2, 1)), owed_bPG, PRECISION)
        for chunk in range(1, NUM_CHUNKS):
            more = tokens + chunk * BLOCK_T
            more_bPD, more_rstd_bP1 = _load_tokens(x_ptr, objects, more, dims, B, T, D, ROUNDED, UPCAST)
            more_du_RP, more_t_RP = _split_pair(_product(more_bPD, rows_bDG, PRECISION))
            more_RP = _factor(more_t_RP + beta_R[:, None], ROUNDED, UPCAST)
            more_PK = tl.dot(tl.trans(more_RP), ds_RK, input_precision=PRECISION)
            _add_to_partial(d_proj_k_ptr, more_PK, more, slots, T, K)
            more_RP = _factor(more_du_RP + delta_R[:, None], ROUNDED, UPCAST)
            more_PK = tl.dot(tl.trans(more_RP), a_RK, input_precision=PRECISION)
            _add_to_partial(d_proj_v_ptr, more_PK, more, slots, T, K)
            more_PK = _factor(_load_matrix(proj_v_ptr, more, slots, T, K), ROUNDED, UPCAST)
            more_u_RP = tl.dot(a_RK, tl.trans(more_PK), input_precision=PRECISION)
            more_PK = _factor(_load_matrix(proj_k_ptr, more, slots, T, K), ROUNDED, UPCAST)
            more_dt_RP = tl.dot(ds_RK, tl.trans(more_PK), input_precision=PRECISION)
            u_sum_R += tl.sum(more_u_RP, 1)
            dt_sum_R += tl.sum(more_dt_RP, 1)
            more_along_bP = _along(more_u_RP, more_du_RP, more_dt_RP, more_t_RP, D, BLOCK_B)
            more_bPG = _join_pair(more_u_RP, more_dt_RP, BLOCK_B, ROUNDED, UPCAST)
            sums_bDG += _product(tl.permute(more_bPD, (0, 2, 1)), more_bPG, PRECISION)
            _store_gradient_of_tokens(
                dx_ptr, more_bPD, more_rstd_bP1, more_along_bP, more_bPG, rows_bGD, objects, more, dims, B,
                T, D, UPCAST, PRECISION,
            )  # fmt: skip
        # Read anew rather than kept in registers that there are not.
        first_RD = _load_first_tokens(x_ptr, objects_R, dims, B, T, D)
        r_RD = _load_rows(r_ptr, objects_R, heads_R, dims, B, H, D)
        dz_RD = _load_rows(dz_ptr, objects_R, heads_R, dims, B, H, D)
        z_RD, dr_RD = _split_pair(sums_bDG)
        z_RD += u_first_R[:, None] * first_RD
        dr_RD += dt_first_R[:, None] * first_RD
        _store_rows(z_ptr, _factor(z_RD, ROUNDED, UPCAST), objects_R, heads_R, dims, B, H, D)
        _store_rows(dr_ptr, _factor(dr_RD, ROUNDED, UPCAST), objects_R, heads_R, dims, B, H, D)
        tl.store(u_sum_ptr + heads_R * B + objects_R, u_sum_R, mask=rows_inside)
        tl.store(dt_sum_ptr + heads_R * B + objects_R, dt_sum_R, mask=rows_inside)
        d_first_RD = u_first_R[:, None] * dz_RD + dt_first_R[:, None] * r_RD
        d_first_bD = tl.sum(tl.reshape(d_first_RD, (BLOCK_B, BLOCK_H, BLOCK_D)), 1)
        inside = (objects[:, None] < B) & (dims[None, :] < D)
        tl.store(d_first_ptr + objects.to(tl.int64)[:, None] * D + dims[None, :], d_first_bD, mask=inside)
        _store_gradient_of_tokens(
            dx_ptr, x_bPD, rstd_bP1, along_bP, owed_bPG, rows_bGD, objects, tokens, dims, B, T, D,
            UPCAST, PRECISION,
        )  # fmt: skip
    inside = (tokens[:, None] < T) & (slots[None, :] < K)
    # Later chunks were added in memory.
    tl.store(d_proj_k_ptr + tokens[:, None] * K + slots[None, :], d_proj_k_PK, mask=inside)
    tl.store(d_proj_v_ptr + tokens[:, None] * K + slots[None, :], d_proj_v_PK, mask=inside)
    tl.store(d_proj_k_ptr + slots, d_proj_k_first, mask=slots < K)
    tl.store(d_proj_v_ptr + slots, d_proj_v_first, mask=slots < K)


class Form(NamedTuple):
    """The sizes that are compiled for."""

    T: int
    D: int
    H: int
    K: int


class Blocks(NamedTuple):
    """Shape of a tile and what the compiler is told about it."""

    objects: int
    tokens: int
    heads: int
    num_warps: int
    num_stages: int
    programs_a_multiprocessor: int


# Products of 64 rows by 8 warps, four of which repeat the work of the others, get half of the columns at a
# time: with 16 columns units of 8, which gave wrong numbers and illegal addresses on an H200 with Triton 3.6.
_NARROWEST = 32


def choose_blocks(form: Form, x_dtype: torch.dtype, precision: str, *, gradient: bool) -> Blocks:
    """Return the tile for objects of a form; see above for why.

    As for NT-Xent a rule and not autotuning, so that results do not depend on timings. Of the tiles tried,
    those that fit into the 227 KiB of shared memory of an H200 and, by the assembler's report, keep all else
    in registers.
    """
    dims, slots, heads = _padded(form.D), _padded(form.K), max(8, triton.next_power_of_2(form.H))
    tokens = min(64, _padded(form.T - 1))
    if precision == "bf16" and dims <= 64 and not gradient and heads <= 16 and slots <= 128:
        # While one tile is worked on, the tokens of the next are on their way, if there is room for them.
        num_stages = 2 if form.T <= 65 and x_dtype == torch.bfloat16 else 1
        num_warps = 64 // heads if min(dims, tokens, slots) >= _NARROWEST else 4
        return Blocks(64 // heads, tokens, heads, num_warps, num_stages, 1)
    if precision == "bf16" and dims <= 64 and gradient and heads == 8 and slots <= 64:
        return Blocks(4, tokens, heads, 8, 1, 1)
    # Float32 is twice as long, and a product in "fp32" needs each factor twice.
    most = {"bf16": 2**14, "tf32": 2**14, "ieee": 2**13, "fp32": 2**13}[precision]
    tokens = min(tokens, max(16, min(most // dims, (most if precision == "bf16" else most // 2) // slots)))
    if precision == "fp32" and gradient and (dims > 64 or tokens < form.T - 1):
        tokens = min(tokens, 32)
    heads = max(_NARROWEST if not gradient and dims > 128 and tokens >= 64 else 16, heads)
    return Blocks(1, tokens, heads, 8 if gradient or dims > 128 else 4, 1, 1 if gradient else 2)


def _padded(length: int) -> int:
    """Return the length of a block that something is put into as a whole."""
    return max(16, triton.next_power_of_2(length))


def constants(form: Form, blocks: Blocks, dropout: float, precision: str) -> dict[str, Any]:
    """Return what a kernel is compiled for, and with which options."""
    return form._asdict() | {
        "BLOCK_B": blocks.objects,
        "BLOCK_T": blocks.tokens,
        "BLOCK_D": _padded(form.D),
        "BLOCK_H": blocks.heads,
        "BLOCK_K": _padded(form.K),
        "NUM_CHUNKS": max(1, triton.cdiv(form.T - 1, blocks.tokens)),
        "DROPS": dropout > 0,
        "ROUNDED": precision if precision in ("bf16", "tf32") else "",
        "UPCAST": precision == "bf16" and is_interpreting(),
        "PRECISION": INPUT_PRECISIONS[precision],
        "num_warps": blocks.num_warps,
        "num_stages": blocks.num_stages,
        "enable_fp_fusion": True,
    }


def _num_programs(x_BTD: torch.Tensor, blocks: Blocks) -> int:
    """Return how many programs share the objects: those that run at once, if there are as many tiles."""
    num_tiles = triton.cdiv(len(x_BTD), blocks.objects)
    if x_BTD.device.type != "cuda":
        return min(3, num_tiles)
    multiprocessors = torch.cuda.get_device_properties(x_BTD.device).multi_processor_count
    return min(blocks.programs_a_multiprocessor * multiprocessors, num_tiles)


class _Folded(NamedTuple):
    """AttentionWeights on standardised tokens, and the constants that they add.

    Rows of `w_k` and `w_v` are centred, which changes nothing where tokens sum to zero.
    """

    w_q: torch.Tensor
    w_k: torch.Tensor
    w_v: torch.Tensor
    c_q: torch.Tensor
    c_k: torch.Tensor
    c_v: torch.Tensor


def _fold(weights: AttentionWeights) -> _Folded:
    w_3DD = torch.stack([weights.w_q, weights.w_k, weights.w_v]).float()
    folded_3DD = w_3DD * weights.norm_weight.float()
    folded_3DD[1:] -= folded_3DD[1:].mean(2, keepdim=True)
    return _Folded(*folded_3DD, *(w_3DD @ weights.norm_bias.float()))


def _unfold(
    weights: AttentionWeights, d_w_3DD: torch.Tensor, d_c_3D: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return gradients of the norm's parameters and of weights from those of what they are folded to."""
    w_3DD = torch.stack([weights.w_q, weights.w_k, weights.w_v]).float()
    d_gain_D = (w_3DD * d_w_3DD).sum((0, 1))
    d_offset_D = (d_c_3D[:, None] @ w_3DD).sum((0, 1))
    d_w_3DD = d_w_3DD * weights.norm_weight.float() + d_c_3D[:, :, None] * weights.norm_bias.float()
    return d_gain_D, d_offset_D, d_w_3DD


def _multiply(a: torch.Tensor, b: torch.Tensor, precision: str) -> torch.Tensor:
    """Return a product of matrices, or of batches of them, by the library."""
    if precision == "bf16":
        return a.bfloat16() @ b.bfloat16()
    return a.float() @ b.float()


def _by_head(x_BD: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Return vectors, or rows of a weight, cut by head: (H, B, E) of (B, D)."""
    return x_BD.view(len(x_BD), num_heads, -1).transpose(0, 1)


def _rows_by_head(w_DD: torch.Tensor, num_heads: int) -> torch.Tensor:
    return w_DD.view(num_heads, -1, w_DD.shape[1])


def _joined(x_HBE: torch.Tensor) -> torch.Tensor:
    """Undo :func:`_by_head`."""
    return x_HBE.transpose(0, 1).flatten(1)


class _Query(NamedTuple):
    """Token 0, standardised, (B, D), q (H, B, E), r (H, B, D) and beta (H, B)."""

    first: torch.Tensor
    q: torch.Tensor
    r: torch.Tensor
    beta: torch.Tensor


def _ask(x_BTD: torch.Tensor, folded: _Folded, num_heads: int, precision: str) -> _Query:
    D = x_BTD.shape[2]
    first_BD = torch.nn.functional.layer_norm(x_BTD[:, 0].float(), (D,), eps=EPSILON)
    q_BD = (_multiply(first_BD, folded.w_q.T, precision) + folded.c_q) * (D // num_heads) ** -0.5
    q_HBE = _by_head(q_BD, num_heads)
    r_HBD = _multiply(q_HBE, _rows_by_head(folded.w_k, num_heads), precision)
    return _Query(first_BD, q_HBE, r_HBD, (q_HBE * folded.c_k.view(num_heads, 1, -1)).sum(2))


def forward(
    x_BTD: torch.Tensor,
    weights: AttentionWeights,
    num_heads: int,
    seed: torch.Tensor | None,
    dropout: float,
    precision: str,
) -> torch.Tensor:
    """Return the update of all tokens, shape (B, D), in the type of `x_BTD`.

    Parameters
    ----------
    x_BTD : Tensor of float32 or bfloat16
        Tokens before normalisation, contiguous.
    weights : AttentionWeights
        See the reference; contiguous.
    num_heads : int
        Number of heads.
    seed : Tensor of int64, shape (), or None
        Of dropout, on the device of the tokens; None for none.
    dropout : float
        Probability of dropping an attention weight, from 0 to 1; without a seed it has no effect.
    precision : str
        Of the products: ``"ieee"``, ``"fp32"``, ``"tf32"`` or ``"bf16"``, as for NT-Xent. Sums, statistics
        and the softmax are float32.
    """
    B, T, D = x_BTD.shape
    form = Form(T, D, num_heads, weights.proj_k.shape[1])
    blocks = choose_blocks(form, x_BTD.dtype, precision, gradient=False)
    dropout = 0.0 if seed is None else dropout
    compiled_for = constants(form, blocks, dropout, precision)
    num_programs = _num_programs(x_BTD, blocks)
    dropping = (dropped_levels(dropout), kept_scale(dropout), (D // num_heads) ** -0.5)
    pointers = (weights.proj_k, weights.proj_v)
    seed_pointer = x_BTD if seed is None else seed
    if blocks.objects > 1:
        update_BD = torch.empty_like(x_BTD[:, 0], memory_format=torch.contiguous_format)
        forward_kernel[(num_programs,)](
            x_BTD, x_BTD, x_BTD, *pointers, x_BTD, x_BTD, seed_pointer,
            weights.norm_weight, weights.norm_bias, weights.w_q, weights.w_k, weights.w_v, weights.w_out,
            weights.b_out, update_BD, B, num_programs, *dropping, FUSED=True, **compiled_for,
        )  # fmt: skip
        return update_BD
    folded = _fold(weights)
    query = _ask(x_BTD, folded, num_heads, precision)
    z_HBD, u_sum_HB = torch.empty_like(query.r), torch.empty_like(query.beta)
    forward_kernel[(num_programs,)](
        x_BTD, query.r, query.beta, *pointers, z_HBD, u_sum_HB, seed_pointer, *[x_BTD] * 8,
        B, num_programs, *dropping, FUSED=False, **compiled_for,
    )  # fmt: skip
    o_BD = _values(z_HBD, u_sum_HB, folded, num_heads, precision)
    return (_multiply(o_BD, weights.w_out.T, precision) + weights.b_out).to(x_BTD.dtype)


def _values(
    z_HBD: torch.Tensor, u_sum_HB: torch.Tensor, folded: _Folded, num_heads: int, precision: str
) -> torch.Tensor:
    """Return what heads say, (B, D)."""
    o_HBE = _multiply(z_HBD, _rows_by_head(folded.w_v, num_heads).transpose(1, 2), precision)
    return _joined(o_HBE + u_sum_HB[:, :, None] * folded.c_v.view(num_heads, 1, -1))


def backward(
    grad_BD: torch.Tensor,
    x_BTD: torch.Tensor,
    weights: AttentionWeights,
    num_heads: int,
    seed: torch.Tensor | None,
    dropout: float,
    precision: str,
) -> tuple[torch.Tensor, ...]:
    """Return the gradients of `x_BTD` and of each of `weights`, each in the type of what it belongs to.

    `grad_BD` is that of the result of :func:`forward`; the rest is what that was given.
    """
    (B, T, D), H, K = x_BTD.shape, num_heads, weights.proj_k.shape[1]
    form = Form(T, D, H, K)
    blocks = choose_blocks(form, x_BTD.dtype, precision, gradient=True)
    dropout = 0.0 if seed is None else dropout
    num_programs = _num_programs(x_BTD, blocks)
    folded = _fold(weights)
    w_k_HED, w_v_HED = _rows_by_head(folded.w_k, H), _rows_by_head(folded.w_v, H)
    query = _ask(x_BTD, folded, H, precision)
    do_HBE = _by_head(_multiply(grad_BD, weights.w_out, precision), H)
    dz_HBD = _multiply(do_HBE, w_v_HED, precision)
    delta_HB = (do_HBE * folded.c_v.view(H, 1, -1)).sum(2)
    dx_BTD, d_first_BD = torch.empty_like(x_BTD), torch.empty_like(query.first)
    z_HBD, dr_HBD = torch.empty_like(dz_HBD), torch.empty_like(dz_HBD)
    u_sum_HB, dt_sum_HB = torch.empty_like(query.beta), torch.empty_like(query.beta)
    d_proj_2WTK = query.first.new_zeros(2, num_programs, T, K)
    backward_kernel[(num_programs,)](
        x_BTD, query.r, query.beta, dz_HBD, delta_HB, weights.proj_k, weights.proj_v,
        x_BTD if seed is None else seed,
        dx_BTD, d_first_BD, z_HBD, u_sum_HB, dr_HBD, dt_sum_HB, *d_proj_2WTK,
        B, num_programs, dropped_levels(dropout), kept_scale(dropout),
        **constants(form, blocks, dropout, precision),
    )  # fmt: skip
    # What r owes to the query, and that to token 0.
    dq_HBE = _multiply(dr_HBD, w_k_HED.transpose(1, 2), precision)
    dq_HBE = (dq_HBE + dt_sum_HB[:, :, None] * folded.c_k.view(H, 1, -1)) * (D // H) ** -0.5
    dq_BD = _joined(dq_HBE)
    d_first_BD += _multiply(dq_BD, folded.w_q, precision)
    x_BD = x_BTD[:, 0].float()
    _, mean, rstd = torch.native_layer_norm(x_BD, [D], None, None, EPSILON)
    dx_BTD[:, 0] = torch.ops.aten.native_layer_norm_backward(
        d_first_BD, x_BD, [D], mean, rstd, None, None, [True, False, False]
    )[0]
    # Weights.
    d_w = (
        _multiply(dq_BD.T, query.first, precision),
        _multiply(query.q.transpose(1, 2), dr_HBD, precision).view(D, D),
        _multiply(do_HBE.transpose(1, 2), z_HBD, precision).view(D, D),
    )
    d_c = (
        dq_BD.sum(0),
        (query.q * dt_sum_HB[:, :, None]).sum(1).flatten(),
        (do_HBE * u_sum_HB[:, :, None]).sum(1).flatten(),
    )
    d_gain_D, d_offset_D, d_w_3DD = _unfold(weights, torch.stack(d_w).float(), torch.stack(d_c).float())
    o_BD = _values(z_HBD, u_sum_HB, folded, H, precision)
    d_w_out = _multiply(grad_BD.T, o_BD, precision)
    d_b_out = grad_BD.float().sum(0)
    grads = (d_gain_D, d_offset_D, *d_w_3DD, *d_proj_2WTK.sum(1), d_w_out, d_b_out)
    return dx_BTD, *(grad.to(weight.dtype) for grad, weight in zip(grads, weights, strict=True))
