"""Triton kernels compiled for an H200 where there is none: do they compile, do they fit?"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")

SHARED_MEMORY = 227 * 1024


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
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
            if name.endswith("_ptr") or name in ("M", "D")
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
