"""What the machine can do at most: large matrix products and a plain copy. Reports read shares from it."""

from __future__ import annotations

import pytest
import torch
from processor import skip_unless_products_pay
from pytest_benchmark.fixture import BenchmarkFixture

SIDE = 2048
COPIED = 256 << 20
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@pytest.mark.parametrize("precision", DTYPES)
def bench_roof_of_products(benchmark: BenchmarkFixture, precision: str) -> None:
    """A product of square matrices, large enough to run at the library's best."""
    skip_unless_products_pay(precision)
    a, b = (torch.randn(SIDE, SIDE).to(DTYPES[precision]) for _ in range(2))
    out = torch.empty_like(a)
    torch.mm(a, b, out=out)
    want = (a[:4].double() @ b.double()).float()
    assert (out[:4].float() - want).norm() <= {"fp32": 1e-5, "bf16": 1e-2}[precision] * want.norm()
    benchmark.group = "roof"
    benchmark.extra_info.update(roof=f"gflop_{precision}", gflop=2 * SIDE**3 / 1e9)
    benchmark(torch.mm, a, b, out=out)


def bench_roof_of_memory(benchmark: BenchmarkFixture) -> None:
    """A copy of 256 MiB: bytes read and bytes written count."""
    source = torch.randint(256, (COPIED,), dtype=torch.uint8)
    out = torch.empty_like(source)
    out.copy_(source)
    assert torch.equal(out, source)
    benchmark.group = "roof"
    benchmark.extra_info.update(roof="gigabytes", gigabytes=2 * COPIED / 1e9)
    benchmark(out.copy_, source)
