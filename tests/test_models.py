"""Model forms against golden values, parameter counts, key order and an independent formulation."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from margformer_fast.config import LVIT, ModelConfig
from margformer_fast.errors import ConfigError
from margformer_fast.nn.lvit import LViT
from margformer_fast.nn.margformer import MargFormer
from margformer_fast.nn.simclr import SimCLR
from margformer_fast.reference.encoder_layer import encoder_layer

# Logits and embeddings of the published modules for weights and inputs given by the formulas below.
GOLDEN = {
    (64, 2): (
        [[-0.26150910, -0.75887835], [-0.26297404, -0.75937347]],
        [19.59355661, 1.94538514, 13.16535700, -0.33527292],
    ),
    (64, 3): (
        [[-0.26150910, -0.75887835, -0.75848574], [-0.26297404, -0.75937347, -0.75769802]],
        [19.59355661, 1.94538514, 13.16535700, -0.33527292],
    ),
    (128, 2): (
        [[0.21836697, -0.59393533], [0.22251123, -0.59008210]],
        [9.26285956, -5.32202100, 0.62903963, 3.02242422],
    ),
}


def golden_model(slots: int, num_classes: int) -> MargFormer:
    model = MargFormer(ModelConfig(slots=slots), num_classes).double().eval()
    weights = {}
    for t, (key, value) in enumerate(model.state_dict().items()):
        j = torch.arange(value.numel(), dtype=torch.float64)
        fill = 0.2 * torch.sin(0.7 * j + 1.3 * t + 0.1)
        is_norm_weight = key.endswith("norm.weight") or key in (
            "to_patch_embedding.1.weight",
            "to_patch_embedding.3.weight",
            "mlp_head.0.weight",
        )
        weights[key] = (fill + is_norm_weight).reshape(value.shape)
    model.load_state_dict(weights)
    return model


def golden_inputs() -> tuple[torch.Tensor, torch.Tensor]:
    b, i = torch.arange(2.0, dtype=torch.float64), torch.arange(24.0, dtype=torch.float64)
    photometry = 20 + 2 * torch.sin(0.3 * i + b[:, None])
    s, c = torch.arange(32.0, dtype=torch.float64), torch.arange(5.0, dtype=torch.float64)
    image = torch.sin(0.11 * s + 0.23 * s[:, None] + 0.5 * c[:, None, None] + b[:, None, None, None])
    return photometry, image


@pytest.mark.parametrize(("slots", "num_classes"), GOLDEN)
def test_golden_vectors(slots: int, num_classes: int) -> None:
    logits, embedding = GOLDEN[slots, num_classes]
    model = golden_model(slots, num_classes)
    with torch.no_grad():
        got = model(*golden_inputs())
        got_embedding = model.embed(*golden_inputs())[0, :4]
    # The golden values are printed to eight decimals.
    torch.testing.assert_close(got, torch.tensor(logits, dtype=torch.float64), rtol=0, atol=1e-8)
    torch.testing.assert_close(got_embedding, torch.tensor(embedding, dtype=torch.float64), rtol=0, atol=1e-8)


@pytest.mark.parametrize(
    ("slots", "num_classes", "count"),
    [(64, 2, 1_405_410), (64, 3, 1_405_475), (128, 2, 1_505_250), (128, 3, 1_505_315)],
)
def test_margformer_parameter_count(slots: int, num_classes: int, count: int) -> None:
    model = MargFormer(ModelConfig(slots=slots), num_classes)
    assert sum(p.numel() for p in model.parameters()) == count


def published_keys() -> list[str]:
    keys = ["pos_embedding"]
    keys += [f"to_patch_embedding.{i}.{w}" for i in (1, 2, 3) for w in ("weight", "bias")]
    keys += [f"to_dnn.{i}.{w}" for i in (0, 3, 6, 9) for w in ("weight", "bias")]
    attention = [
        "proj_k",
        "proj_v",
        "to_q.weight",
        "to_k.weight",
        "to_v.weight",
        "to_out.weight",
        "to_out.bias",
    ]
    feed_forward = ["w1.weight", "w1.bias", "w2.weight", "w2.bias"]
    for layer in range(12):
        for i, inner in enumerate((attention, feed_forward)):
            prefix = f"transformer.net.layers.{layer}.{i}"
            keys += [f"{prefix}.fn.{name}" for name in inner] + [
                f"{prefix}.norm.weight",
                f"{prefix}.norm.bias",
            ]
    return keys + [f"mlp_head.{i}.{w}" for i in (0, 1) for w in ("weight", "bias")]


def test_margformer_keys_in_published_order() -> None:
    keys = list(MargFormer(ModelConfig(), 2).state_dict())
    assert len(keys) == 199
    assert keys == published_keys()


def test_simclr_keys_and_count() -> None:
    model = SimCLR(MargFormer(ModelConfig(), 2), 64)
    projector = [f"projector.{i}.{w}" for i in (0, 2) for w in ("weight", "bias")]
    assert list(model.state_dict()) == [f"backbone.{key}" for key in published_keys()] + projector
    assert sum(p.numel() for p in model.parameters()) == 1_430_242


def test_lvit_keys_and_counts() -> None:
    encoder = LViT(LVIT, 0)
    block = ["norm1.weight", "norm1.bias", "attn.E_k", "attn.E_v", "attn.qkv.weight", "attn.proj.weight"]
    block += [
        "attn.proj.bias",
        "norm2.weight",
        "norm2.bias",
        "mlp.0.weight",
        "mlp.0.bias",
        "mlp.3.weight",
        "mlp.3.bias",
    ]
    keys = ["pos_embed_patches", "cls_pos", "patch_embed.weight", "patch_embed.bias"]
    keys += ["pf_proj.0.weight", "pf_proj.0.bias", "pf_proj.2.weight", "pf_proj.2.bias"]
    keys += [f"blocks.{i}.{name}" for i in range(8) for name in block] + ["norm.weight", "norm.bias"]
    assert list(encoder.state_dict()) == keys
    assert sum(p.numel() for p in encoder.parameters()) == 6_390_016
    simclr = SimCLR(encoder, 256, hidden=1024)
    assert sum(p.numel() for p in simclr.parameters()) == 6_784_384


def test_lvit_embedding_is_the_published_convolution() -> None:
    """Tokens times reordered weights must be Conv2d with stride = kernel."""
    torch.manual_seed(int(torch.seed() % 2**31))
    model = LViT(LVIT, 3).double().eval()
    photometry, image = (
        torch.randn(3, 24, dtype=torch.float64),
        torch.randn(3, 5, 32, 32, dtype=torch.float64),
    )
    seen = {}
    model.blocks[0].register_forward_pre_hook(lambda _, args: seen.update(x=args[0]))
    model(photometry, image)
    expected = (
        F.conv2d(image, model.patch_embed.weight, model.patch_embed.bias, stride=4).flatten(2).transpose(1, 2)
    )
    torch.testing.assert_close(seen["x"][:, 1:], expected + model.pos_embed_patches)


def test_lvit_attention_by_loops() -> None:
    """One head, one query at a time, straight from the definition."""
    torch.manual_seed(int(torch.seed() % 2**31))
    config = ModelConfig(form="lvit", slots=3, depth=1, dim=6, num_heads=2, hidden=8, size=8, dropout=0.0)
    block = LViT(config, 0).double().blocks[0]
    x = torch.randn(2, 5, 6, dtype=torch.float64)
    y = F.layer_norm(x, (6,), block.norm1.weight, block.norm1.bias)
    q, k, v = (y @ w.T for w in block.attn.qkv.weight.chunk(3))
    out = torch.zeros_like(x)
    for b in range(2):
        for h in range(2):
            part = slice(3 * h, 3 * h + 3)
            keys, values = block.attn.E_k.T @ k[b, :, part], block.attn.E_v.T @ v[b, :, part]
            for t in range(5):
                out[b, t, part] = (keys @ q[b, t, part] / math.sqrt(3)).softmax(0) @ values
    torch.testing.assert_close(
        block.attn(x, block.norm1), out @ block.attn.proj.weight.T + block.attn.proj.bias
    )


@pytest.mark.parametrize("form", ["margformer", "lvit"])
@pytest.mark.parametrize("depth", [1, 3])
def test_dead_work_of_the_last_layer_is_not_missed(form: str, depth: int) -> None:
    """Running all layers on all tokens gives the same embedding and gradients."""
    torch.manual_seed(int(torch.seed() % 2**31))
    config = ModelConfig(form=form, slots=5, depth=depth, dim=12, num_heads=3, hidden=20, size=8)
    model = (LViT if form == "lvit" else MargFormer)(config, 2).double().eval()
    inputs = torch.randn(3, 24, dtype=torch.float64), torch.randn(3, 5, 8, 8, dtype=torch.float64)
    embedding = model.embed(*inputs)
    if form == "lvit":
        seen = []
        hook = model.blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        model.embed(*inputs)
        hook.remove()
        full = model.norm(nn.Sequential(*model.blocks)(seen[0])[:, 0])
    else:
        tokens = [model.to_dnn(inputs[0])[:, None], model.to_patch_embedding(inputs[1])]
        full = torch.cat(tokens, dim=1) + model.pos_embedding
        for layer in model.layers():
            full = encoder_layer(full, *layer, num_heads=3, dropout=0.0)
        full = full[:, 0]
    torch.testing.assert_close(embedding, full, rtol=1e-12, atol=1e-13)
    trained = {name: p for name, p in model.named_parameters() if not name.startswith(("head", "mlp_head"))}
    target = torch.randn_like(embedding)
    grads = [
        torch.autograd.grad((each * target).sum(), list(trained.values()), retain_graph=True)
        for each in (embedding, full)
    ]
    for name, got, want in zip(trained, *grads, strict=True):
        assert want.abs().max() > 0, name
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-12)


def test_last_layer_works_on_one_token() -> None:
    config = ModelConfig(form="lvit", slots=5, depth=2, dim=12, num_heads=3, hidden=20, size=8)
    model = LViT(config, 2)
    tokens = []
    for block in model.blocks:
        block.register_forward_hook(lambda _, _args, out: tokens.append(out.shape[1]))
    model.embed(torch.randn(3, 24), torch.randn(3, 5, 8, 8))
    assert tokens == [5, 1]


def test_self_attention_refuses_more_queries_than_tokens() -> None:
    block = LViT(ModelConfig(form="lvit", depth=1, dim=6, num_heads=2, hidden=8, size=8), 0).blocks[0]
    for count in (0, 6):
        with pytest.raises(
            ConfigError, match=f"self_attention: {count} tokens are to query; expected 1 to 5"
        ):
            block(torch.randn(2, 5, 6), count)


def test_dropout_acts_in_training_only() -> None:
    model = MargFormer(ModelConfig(depth=2), 2)
    photometry, image = torch.randn(2, 24), torch.randn(2, 5, 32, 32)
    assert not torch.equal(model(photometry, image), model(photometry, image))
    model.eval()
    assert torch.equal(model(photometry, image), model(photometry, image))


def test_images_and_their_tokens_agree() -> None:
    model = MargFormer(ModelConfig(depth=2), 2).eval()
    photometry, image = torch.randn(3, 24), torch.randn(3, 5, 32, 32)
    assert torch.equal(model(photometry, image), model(photometry, model.to_patch_embedding[0](image)))
