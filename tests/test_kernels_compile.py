"""Triton kernels compiled for an H200 where there is none: do they compile, do they fit?"""

from __future__ import annotations

import math
import re
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

SHARED_MEMORY = 227 * 1024


@pytest.fixture(autouse=True)
def _empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


@pytest.fixture
def kernels() -> ModuleType:
    from margformer_fast.kernels import nt_xent

    return nt_xent


def compile_for_hopper(
    kernel: Any, types: dict[str, str], constants: dict[str, Any], options: dict[str, Any]
) -> Any:
    """Compile as a launch would with aligned pointers and sizes divisible by 16."""
    from triton import compile as compile_kernel
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = kernel.arg_names
    source = ASTSource(
        fn=kernel,
        signature={name: "constexpr" if name in constants else types.get(name, "i32") for name in names},
        constexprs={name: constants[name] for name in names if name in constants},
        attrs={
            (place,): [["tt.divisibility", 16]]
            for place, name in enumerate(names)
            if name not in constants and (name.endswith("_ptr") or name in ("M", "D"))
        },
    )
    return compile_kernel(source, target=GPUTarget("cuda", 90, 32), options=options)


def spilled_bytes(ptx: str, folder: Path) -> int:
    """Return what the assembler moves from registers to memory."""
    from triton.backends.nvidia.compiler import get_ptxas

    (folder / "kernel.ptx").write_text(ptx)
    told = subprocess.run(
        [get_ptxas(90).path, "-v", "-arch=sm_90a", "kernel.ptx", "-o", "kernel.cubin"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"(\d+) bytes spill stores", told.stderr)
    assert found is not None, told.stderr
    return int(found.group(1))


def no_narrow_units(ptx: str) -> bool:
    """Return whether no product goes through units of 8 columns, of which results were wrong on an H200."""
    return re.search(r"wgmma\.mma_async\S*\.m64n8k", ptx) is None


@pytest.mark.parametrize("name", ["sums_by_symmetry", "sums_by_rows", "gradient_by_rows"])
@pytest.mark.parametrize(
    ("precision", "dim", "variant"),
    [
        ("bf16", 128, "bounded"),
        ("bf16", 64, "grouped, unbounded"),
        ("bf16", 300, "bounded"),
        ("tf32", 300, "bounded"),
        ("fp32", 128, "bounded"),
        ("ieee", 128, "bounded"),
    ],
)
def test_nt_xent(
    kernels: ModuleType, tmp_path: Path, name: str, precision: str, dim: int, variant: str
) -> None:
    blocks = kernels.choose_blocks(dim, precision, gradient=name == "gradient_by_rows")
    is_grouped = variant.startswith("grouped")
    constants = kernels.constants(dim, blocks, torch.arange(8) if is_grouped else None, precision)
    options = {key: constants.pop(key) for key in ("num_warps", "num_stages", "enable_fp_fusion")}
    constants |= {
        "BLOCK": min(blocks.rows, blocks.columns),
        "BLOCK_I": blocks.rows,
        "BLOCK_J": blocks.columns,
        "BOUNDED": variant == "bounded",
        "UPCAST": False,
    }
    factor = "*bf16" if precision == "bf16" else "*fp32"
    types = dict.fromkeys(("sums_ptr", "log2_sum_ptr", "log2_total_ptr", "dz_ptr"), "*fp32")
    types |= {"z_ptr": factor, "group_ptr": "*i64" if is_grouped else factor, "scale": "fp32"}
    compiled = compile_for_hopper(getattr(kernels, name), types, constants, options)
    assert compiled.metadata.shared <= SHARED_MEMORY
    assert (
        spilled_bytes(compiled.asm["ptx"], tmp_path) <= 64
    )  # a few words; a block too large spills kilobytes
    assert ("wgmma" in compiled.asm["ptx"]) == (precision != "ieee")
    assert no_narrow_units(compiled.asm["ptx"])


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("forward", "forward_by_rows"),
        ("rows", "gradient_by_rows"),
        ("weights", "gradient_of_weights"),
    ],
)
# At D = 256 a tile of tokens in float32 takes half of the registers: some are spilled where rows are
# normalised and where results leave, once a tile.
@pytest.mark.parametrize(
    ("precision", "D", "largest_spill"), [("bf16", 64, 256), ("bf16", 256, 3000), ("fp32", 64, 512)]
)
def test_feed_forward(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    kind: str,
    name: str,
    precision: str,
    D: int,
    largest_spill: int,
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from margformer_fast.kernels import feed_forward

    M = 4 * D
    blocks = feed_forward.choose_blocks(D, M, precision, kind)
    constants = feed_forward.constants(D, M, blocks, precision, kind, dropout=True, update=True)
    options = {key: constants.pop(key) for key in ("num_warps", "num_stages", "enable_fp_fusion")}
    constants |= {"HARDWARE": True, "UPCAST": False}
    if kind != "weights":
        constants["RESIDUAL"] = True
    factor = "*bf16" if precision == "bf16" else "*fp32"
    types = dict.fromkeys(
        ("x_ptr", "update_ptr", "grad_ptr", "out_ptr", "dx_ptr", "w1_ptr", "w2_ptr"), factor
    )
    types |= dict.fromkeys(("b1_ptr", "b2_ptr", "db1_ptr", "db2_ptr", "dw1_ptr", "dw2_ptr"), "*fp32")
    types |= {"seed_ptr": "*i64", "scale": "fp32"}
    compiled = compile_for_hopper(getattr(feed_forward, name), types, constants, options)
    assert compiled.metadata.shared <= SHARED_MEMORY
    assert spilled_bytes(compiled.asm["ptx"], tmp_path) <= largest_spill
    assert no_narrow_units(compiled.asm["ptx"])
    assert "wgmma" in compiled.asm["ptx"] or "mma.sync" in compiled.asm["ptx"]
    if precision == "bf16":
        assert "wgmma" in compiled.asm["ptx"]
        # Units decided by a thread are its own: words of Philox are not exchanged.
        assert "tanh.approx.f32" in compiled.asm["ptx"]
        assert "erf" not in compiled.asm["ptx"]


@pytest.mark.parametrize("name", ["forward_kernel", "backward_kernel"])
@pytest.mark.parametrize(
    ("precision", "tokens", "sizes", "most_spilled"),
    [
        # A few dozen words among thousands of instructions; more with Triton 3.9 than with 3.6.
        ("bf16", "bf16", (65, 64, 8, 64), 192),
        ("bf16", "bf16", (65, 64, 8, 128), 384),
        ("bf16", "fp32", (65, 64, 8, 64), 128),
        ("bf16", "bf16", (65, 256, 8, 32), 64),
        ("bf16", "bf16", (197, 128, 16, 40), math.inf),
        ("tf32", "fp32", (65, 64, 8, 64), 64),
        ("fp32", "fp32", (65, 64, 8, 64), 256),
        # In float32 a chunk of longer tokens is more than there are registers for: slow, but it runs.
        ("fp32", "fp32", (65, 64, 8, 128), math.inf),
        ("fp32", "fp32", (65, 256, 8, 32), math.inf),
        ("ieee", "fp32", (65, 64, 8, 64), math.inf),
        # Small blocks for many warps, and float32 in several chunks: do they fit, and are units wide enough?
        ("tf32", "fp32", (65, 256, 8, 32), math.inf),
        ("bf16", "fp32", (17, 24, 3, 7), 64),
        ("bf16", "fp32", (2, 16, 2, 2), 64),
        ("fp32", "fp32", (197, 64, 8, 64), math.inf),
        ("fp32", "fp32", (101, 128, 16, 40), math.inf),
    ],
)
def test_cross_attention(
    tmp_path: Path, name: str, precision: str, tokens: str, sizes: tuple[int, ...], most_spilled: float
) -> None:
    from margformer_fast.kernels import cross_attention as kernels

    form = kernels.Form(*sizes)
    blocks = kernels.choose_blocks(
        form,
        {"bf16": torch.bfloat16, "fp32": torch.float32}[tokens],
        precision,
        gradient=name == "backward_kernel",
    )
    constants = kernels.constants(form, blocks, 0.1, precision) | {"UPCAST": False}
    options = {key: constants.pop(key) for key in ("num_warps", "num_stages", "enable_fp_fusion")}
    if name == "forward_kernel":
        constants["FUSED"] = blocks.objects > 1
    kernel = getattr(kernels, name)
    types = {argument: "*fp32" for argument in kernel.arg_names if argument.endswith("_ptr")}
    types |= dict.fromkeys(("x_ptr", "dx_ptr", "update_ptr"), f"*{tokens}")
    factor = "*bf16" if precision == "bf16" else "*fp32"
    types |= dict.fromkeys(("r_ptr", "z_ptr", "dz_ptr", "dr_ptr"), factor)
    types |= {"seed_ptr": "*i64", "score_scale": "fp32", "kept_scale": "fp32"}
    compiled = compile_for_hopper(kernel, types, constants, options)
    assert compiled.metadata.shared <= SHARED_MEMORY
    assert spilled_bytes(compiled.asm["ptx"], tmp_path) <= most_spilled
    assert ("mma" in compiled.asm["ptx"]) == (precision != "ieee")
    assert no_narrow_units(compiled.asm["ptx"])
    if name == "forward_kernel" and blocks.objects > 1 and sizes[1] >= 64:
        # Products with weights are by Hopper's units, and the next tile is loaded while one is worked on.
        assert "wgmma" in compiled.asm["ptx"]
        assert ("cp.async" in compiled.asm["ptx"]) == (tokens == "bf16")
