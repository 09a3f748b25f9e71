"""What a network looked at: shares of attention, occlusion, and which objects are asked about."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.text import Text
from torch import nn
from toy_results import toy_results, with_explained

from margformer_fast.config import LVIT, ModelConfig
from margformer_fast.errors import DataError
from margformer_fast.evaluation.attention import attention_shares, explain, occlusion
from margformer_fast.evaluation.attention_figures import attention_figures, attention_maps, contour_levels
from margformer_fast.evaluation.explained import Explained, objects_to_explain
from margformer_fast.evaluation.style import png
from margformer_fast.nn.inputs import ScaledEncoder
from margformer_fast.ops.patchify import patchify
from margformer_fast.reference.cross_attention import cross_attention, slot_weights
from margformer_fast.reference.encoder_layer import encoder_layer

SMALL = {"dim": 16, "depth": 2, "num_heads": 2, "slots": 5, "hidden": 24}


def network(rng):
    """Return a small MargFormer with random weights, in float64."""
    torch.manual_seed(int(rng.integers(2**31)))
    config = ModelConfig(**SMALL)
    return ScaledEncoder(config, 3).double().eval()


def objects(rng, config, n):
    """Return photometry (n, F) and stamps (n, bands, size, size)."""
    photometry = torch.from_numpy(20 + rng.normal(size=(n, config.num_features)))
    return photometry, torch.from_numpy(rng.normal(size=(n, config.num_bands, config.size, config.size)))


def tokens(model, stamps):
    return patchify(stamps, model.config.patch_size)


def softmax(value):
    value = np.exp(value - value.max())
    return value / value.sum()


def test_slot_weights_rebuild_the_attention(rng):
    """Weights summed by hand with the values give the output of the layer, and sum to 1 over slots."""
    model = network(rng)
    photometry, stamps = objects(rng, model.config, 3)
    x = model.encoder.tokens(*model.inputs(photometry, tokens(model, stamps)))
    weights, _ = model.encoder.layers()[0]
    heads, D = model.encoder.num_heads, x.shape[-1]
    expected = cross_attention(x, *weights, heads, 0.0)[:, 0]
    y = nn.functional.layer_norm(x, (D,), weights.norm_weight, weights.norm_bias)
    a = slot_weights(y, weights.w_q, weights.w_k, weights.proj_k, heads)
    torch.testing.assert_close(a.sum(dim=-1), torch.ones(3, heads, dtype=torch.float64), rtol=0, atol=1e-14)
    slot = weights.proj_v.T @ (y @ weights.w_v.T)
    size = D // heads
    read = torch.cat([a[:, h, None] @ slot[:, :, h * size : (h + 1) * size] for h in range(heads)], dim=-1)[
        :, 0
    ]
    torch.testing.assert_close(read @ weights.w_out.T + weights.b_out, expected, rtol=1e-12, atol=1e-12)


def test_shares_are_those_of_loops_over_heads_slots_and_tokens(rng):
    model = network(rng)
    photometry, stamps = objects(rng, model.config, 2)
    token = tokens(model, stamps)
    share = attention_shares(model, photometry, token)
    x = model.encoder.tokens(*model.inputs(photometry, token))
    (first, hidden), (last, _) = model.encoder.layers()
    heads = model.encoder.num_heads
    x = encoder_layer(x, first, hidden, heads, 0.0)
    w = {name: value.detach().numpy() for name, value in last._asdict().items()}
    size = x.shape[-1] // heads
    for one, got in zip(x.detach().numpy(), share.numpy(), strict=True):
        mean, spread = one.mean(axis=1, keepdims=True), one.std(axis=1, keepdims=True)
        y = (one - mean) / np.sqrt(spread**2 + 1e-5) * w["norm_weight"] + w["norm_bias"]
        query, key = w["w_q"] @ y[0], w["proj_k"].T @ (y @ w["w_k"].T)
        expected = np.zeros(len(one))
        for h in range(heads):
            mine = slice(h * size, (h + 1) * size)
            a = softmax(key[:, mine] @ query[mine] / np.sqrt(size))
            of_head = np.array(
                [sum(a[k] * abs(w["proj_v"][t, k]) for k in range(len(a))) for t in range(len(y))]
            )
            expected += of_head / of_head.sum() / heads
        np.testing.assert_allclose(got, expected, rtol=1e-10)


def test_shares_sum_to_one_and_follow_the_make_up_of_slots(rng):
    model = network(rng)
    photometry, stamps = objects(rng, model.config, 4)
    token = tokens(model, stamps)
    share = attention_shares(model, photometry, token)
    assert share.shape == (4, model.config.num_patches + 1)
    assert (share >= 0).all()
    torch.testing.assert_close(share.sum(dim=1), torch.ones(4, dtype=torch.float64))
    last, _ = model.encoder.layers()[-1]
    wanted = int(rng.integers(share.shape[1]))
    with torch.no_grad():
        last.proj_v.zero_()
        last.proj_v[wanted] = -1
    share = attention_shares(model, photometry, token)
    torch.testing.assert_close(share[:, wanted], torch.ones(4, dtype=torch.float64))


def test_another_encoder_has_no_query(rng):
    torch.manual_seed(0)
    model = ScaledEncoder(LVIT, 2).eval()
    photometry, stamps = (value.float() for value in objects(rng, LVIT, 1))
    with pytest.raises(DataError, match="has no photometric query; expected a MargFormer"):
        attention_shares(model, photometry, tokens(model, stamps))
    found = explain(model, photometry, stamps.numpy(), [7], method="supervised", seed=3)
    assert found.attention is None
    assert (found.rows.tolist(), found.method, found.seed) == ([7], "supervised", 3)
    assert np.isfinite(found.occlusion).all()


class Linear(nn.Module):
    """Logits that add up the light of each patch with a weight of its own, (P, C)."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def forward(self, photometry, token_BPL):
        return token_BPL.sum(dim=-1) @ self.weight + photometry[:, :1]


def test_occlusion_of_a_linear_model_is_what_each_patch_adds(rng):
    P, n = 6, 5
    weight = torch.from_numpy(rng.normal(size=(P, 2)))
    token = torch.from_numpy(rng.normal(size=(n, P, 4)))
    photometry = torch.from_numpy(rng.normal(size=(n, 3)))
    fall = occlusion(Linear(weight), photometry, token)
    light = token.sum(dim=-1)
    sign = torch.where((light @ weight).argmax(dim=1) == 0, 1.0, -1.0)
    expected = sign[:, None] * light * (weight[:, 0] - weight[:, 1])
    torch.testing.assert_close(fall, expected, rtol=1e-10, atol=1e-10)


def test_an_empty_patch_and_no_objects(rng):
    model = network(rng)
    photometry, stamps = objects(rng, model.config, 2)
    token = tokens(model, stamps)
    token[:, 3] = 0
    assert (occlusion(model, photometry, token)[:, 3].abs() < 1e-12).all()
    with pytest.raises(DataError, match="no object to ask the model about"):
        explain(model, photometry[:0], stamps[:0].numpy(), [], method="m", seed=0)


def test_maps_lie_as_the_image_lies(rng):
    """Only one patch holds light; its place in the map is its place in the stamp."""
    model = network(rng)
    photometry, stamps = objects(rng, model.config, 1)
    p, side = model.config.patch_size, model.config.size // model.config.patch_size
    row, column = (int(k) for k in rng.permutation(side)[:2])
    light = stamps[..., row * p : (row + 1) * p, column * p : (column + 1) * p].clone()
    stamps[:] = 0
    stamps[..., row * p : (row + 1) * p, column * p : (column + 1) * p] = light
    found = explain(model.float(), photometry.float(), stamps.float().numpy(), [0], method="m", seed=0)
    assert found.occlusion.shape == (1, side, side)
    fall = np.abs(found.occlusion[0])
    assert fall[row, column] > 10 * np.sort(fall.ravel())[-2]


def test_pixels_without_a_value_count_as_zero(rng):
    model = network(rng).float()
    photometry, stamps = (value.float() for value in objects(rng, model.config, 2))
    gaps = stamps.numpy().copy()
    gaps[:, 0, 2:5] = np.nan
    whole = np.nan_to_num(gaps)
    with_gaps, without = (
        explain(model, photometry, images, [0, 1], method="m", seed=0) for images in (gaps, whole)
    )
    np.testing.assert_array_equal(with_gaps.occlusion, without.occlusion)
    np.testing.assert_array_equal(with_gaps.attention, without.attention)
    assert np.isnan(with_gaps.stamps).any()


# What is drawn, and of which objects


def test_contours_show_the_object_and_not_the_noise(rng):
    y, x = np.mgrid[:32, :32] - 15.5
    noise = rng.normal(size=(32, 32))
    bright = 1000 * np.exp(-(x**2 + y**2) / 10)
    expected = np.array([0.1, 0.3, 0.7]) * bright.max()
    np.testing.assert_allclose(contour_levels(bright + noise), expected, rtol=0.02)
    assert len(contour_levels(bright / 50 + noise)) < 3
    assert contour_levels(noise / 10 + 5) == []
    assert contour_levels(np.zeros((32, 32))) == []
    neighbour = bright.copy()
    neighbour[2, 2] = 1e6
    assert contour_levels(neighbour + noise) == contour_levels(bright + noise)


@pytest.mark.parametrize("shares", [True, False])
def test_the_figure_names_what_it_shows(rng, shares):
    header, test, outcomes = toy_results(rng, task="sgq", n=200)
    test = with_explained(rng, test, outcomes[0])
    if not shares:
        test = replace(test, explained=replace(test.explained, attention=None))
    figure = attention_maps(header, test, outcomes)
    png(figure, dpi=40)
    text = [each.get_text() for each in figure.findobj(Text)]
    for row in test.explained.rows:
        assert f"{header.classes[test.label[row]]}, r = {test.r_obs[row]:.2f}" in text
    assert sum("wrong" in line for line in text) == 3
    assert sum(line == "patches 90 %" for line in text) == (6 if shares else 0)
    [named] = attention_figures(header, test, outcomes)
    assert ("photometric query read" in named.caption) == shares
    assert list(attention_figures(header, replace(test, explained=None), outcomes)) == []


def test_one_wrong_and_the_rest_right_of_each_class(rng):
    label = np.repeat([0, 1, 2], 40)
    probability = rng.dirichlet(np.ones(3), 120)
    rows = objects_to_explain(label, probability, 9)
    called, sure = probability.argmax(axis=1), probability.max(axis=1)
    assert len(rows) == len(np.unique(rows)) == 9
    for k, mine in enumerate(rows.reshape(3, 3)):
        assert (label[mine] == k).all()
        assert (called[mine] == k).tolist() == [True, True, False]
        assert sure[mine[2]] == sure[(label == k) & (called != k)].max()


@pytest.mark.parametrize("count", [0, 1, 2, 6])
def test_few_objects(count):
    label = np.array([0, 0, 1])
    right = np.eye(2)[[0, 0, 1]]
    rows = objects_to_explain(label, right, count)
    assert len(rows) == len(np.unique(rows)) <= count
    wrong = objects_to_explain(label, 1 - right, count)
    assert len(wrong) == len(np.unique(wrong)) <= count


def test_maps_that_do_not_fit():
    stamps, maps = np.zeros((2, 5, 8, 8), np.float32), np.zeros((2, 2, 2))
    Explained("m", 0, np.arange(2), stamps, maps, maps)
    for bad in (
        (np.arange(3), stamps, maps, None),
        (np.arange(2), stamps[0], maps, None),
        (np.arange(2), stamps, maps[:, :1], None),
        (np.arange(2), stamps, maps, maps[:1]),
    ):
        with pytest.raises(DataError, match="stamps and maps"):
            Explained("m", 0, *bad)
