"""The verify command: it knows every operator, and it sees a wrong one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from margformer_fast.backends import operators
from margformer_fast.ops import decode_patchify, feed_forward
from margformer_fast.verification import cases, verify
from margformer_fast.verify import main


def test_every_operator_has_a_case() -> None:
    assert cases() == set(operators())


def test_all_is_well(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--device", "cpu", "--seed", "3"]) == 0
    told = capsys.readouterr().out
    assert "FAILED" not in told
    count = len(list(verify(torch.device("cpu"), seed=3)))
    assert f"{count} of {count} within their limits" in told
    assert count > 20


@pytest.mark.parametrize(
    ("module", "wrong"),
    [
        (feed_forward, lambda out: out * (1 + 2e-5)),
        (decode_patchify, lambda out: out.flip(0)),
    ],
)
def test_a_wrong_backend_is_seen(
    module: Any,
    wrong: Callable[[torch.Tensor], torch.Tensor],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    operator = module.OPERATOR
    first = next(each for each in operator.implementations if each.name == "cpp")
    broken = replace(first, run=lambda *args, **kwargs: wrong(first.run(*args, **kwargs)))
    monkeypatch.setattr(operator, "implementations", (broken, *operator.implementations[-1:]))
    assert main(["--device", "cpu"]) == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if line.endswith("FAILED")]
    assert failed
    assert all(line.startswith(f"{operator.name} ") and " cpp " in line for line in failed)
