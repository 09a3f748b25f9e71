"""What a processor is fast at."""

from __future__ import annotations

import pytest

from margformer_fast.learning.device import multiplies_bf16


def skip_unless_products_pay(precision: str) -> None:
    """Skip a benchmark in bfloat16 where PyTorch multiplies an element at a time: minutes for a round."""
    if precision == "bf16" and not multiplies_bf16():
        pytest.skip("PyTorch has no fast bfloat16 products for this processor")
