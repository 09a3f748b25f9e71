"""Who runs an operator: what is asked for by name runs or raises, the rest is picked and said."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from margformer_fast import backends
from margformer_fast.backends import Implementation, Operator, Problem, operators, use_backend
from margformer_fast.errors import BackendUnavailable, ConfigError

CPU = Problem("cpu", "float32", ((2, 3),))


@pytest.fixture
def operator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Operator]:
    """An operator whose fast backend cannot run float64, and whose fastest never runs."""
    monkeypatch.delenv("MARGFORMER_BACKEND", raising=False)
    operators()  # so that the registry below is complete
    monkeypatch.setattr(backends, "_registry", dict(backends._registry))
    monkeypatch.setattr(backends, "_announced", set())
    monkeypatch.setattr(backends, "_used", set())
    backends._parse.cache_clear()
    yield Operator(
        "toy",
        (
            Implementation("warp", lambda x: x, lambda problem: ("no warp drive", "no crew")),
            Implementation(
                "cpp", lambda x: 2 * x, lambda problem: ("float64",) * (problem.dtype == "float64")
            ),
            Implementation("reference", lambda x: 3 * x),
        ),
    )
    backends._parse.cache_clear()


def test_auto_takes_the_first_that_can_and_says_so_once(
    operator: Operator, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "margformer_fast.backends"):
        assert operator.resolve(CPU).run(5) == 10
        assert operator.resolve(Problem("cpu", "float32", ((9,),))).name == "cpp"
        assert operator.resolve(Problem("cpu", "float64")).name == "reference"
    assert [record.message for record in caplog.records] == [
        "toy runs on cpp (warp: no warp drive; no crew)",
        "toy runs on reference (warp: no warp drive; no crew | cpp: float64)",
    ]
    assert {record.levelname for record in caplog.records} == {"INFO"}
    assert operator.used == ("cpp", "reference")


def test_named_backend_runs_or_raises_with_every_reason(operator: Operator) -> None:
    assert operator.resolve(CPU, "reference").name == "reference"
    with pytest.raises(BackendUnavailable) as caught:
        operator.resolve(Problem("cpu", "float64", ((2, 3),)), "cpp")
    message = str(caught.value)
    for part in (
        "toy: backend 'cpp' cannot run Problem(device='cpu', dtype='float64', shapes=((2, 3),)",
        "(warp: no warp drive; no crew | cpp: float64 | reference: can run)",
        "python -m margformer_fast.info",
    ):
        assert part in message


def test_nobody_can(operator: Operator) -> None:
    never = Operator("never", operator.implementations[:1])
    with pytest.raises(BackendUnavailable, match=r"never: no backend can run .* no warp drive; no crew"):
        never.resolve(CPU)


def test_unknown_backend_of_a_call(operator: Operator) -> None:
    with pytest.raises(
        ConfigError, match="toy: there is no backend 'gpu'; expected auto or one of warp, cpp, ref"
    ):
        operator.resolve(CPU, "gpu")


def test_precedence(operator: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARGFORMER_BACKEND", "warp")
    with pytest.raises(BackendUnavailable):
        operator.resolve(CPU)
    with use_backend("toy=reference"):
        assert operator.resolve(CPU).name == "reference"
        assert operator.resolve(CPU, "cpp").name == "cpp"
        with use_backend("auto"):
            assert operator.resolve(CPU).name == "cpp"
        assert operator.resolve(CPU).name == "reference"
    with pytest.raises(BackendUnavailable):
        operator.resolve(CPU)


def test_bare_name_goes_to_the_operators_that_have_it(operator: Operator) -> None:
    with use_backend("warp"):
        assert operators()["decode"].resolve(CPU).name == "cpp"
        with pytest.raises(BackendUnavailable):
            operator.resolve(CPU)


def test_list_by_operator(operator: Operator) -> None:
    with use_backend("reference, toy=cpp ,decode=auto"):
        assert operator.resolve(CPU).name == "cpp"
        assert operators()["decode"].resolve(CPU).name == "cpp"
        assert operators()["parse_header"].resolve(CPU).name == "reference"


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ("fast", "no operator has a backend 'fast'; expected auto or one of"),
        ("decoed=cpp", "there is no operator 'decoed'; expected one of .*decode, "),
        ("toy=cuda", "operator 'toy' has no backend 'cuda'; expected auto or one of warp, cpp, reference"),
        ("cpp,", "no operator has a backend ''"),
        ("toy=", "operator 'toy' has no backend ''"),
    ],
)
def test_requests_that_mean_nothing(
    operator: Operator, monkeypatch: pytest.MonkeyPatch, request_: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message), use_backend(request_):
        pytest.fail("the block must not be entered")
    monkeypatch.setenv("MARGFORMER_BACKEND", request_)
    with pytest.raises(ConfigError, match=f"MARGFORMER_BACKEND={request_}: {message}"):
        operator.resolve(CPU)


def test_error_in_a_block_ends_its_request(operator: Operator) -> None:
    with pytest.raises(ZeroDivisionError), use_backend("reference"):
        raise ZeroDivisionError
    assert operator.resolve(CPU).name == "cpp"


def test_request_reaches_other_threads(operator: Operator) -> None:
    """Backward passes on a GPU run on threads that torch starts."""
    seen = []
    with use_backend("reference"):
        thread = threading.Thread(target=lambda: seen.append(operator.resolve(CPU).name))
        thread.start()
        thread.join()
    assert seen == ["reference"]


def test_implementation_that_throws_is_an_error(operator: Operator) -> None:
    def broken(x: int) -> int:
        raise RuntimeError("kernel failed")

    bad = Operator("bad", (Implementation("cpp", broken), Implementation("reference", lambda x: x)))
    with pytest.raises(RuntimeError, match="kernel failed"):
        bad.resolve(CPU).run(1)


def test_problem_of_tensors() -> None:
    x, w = torch.zeros(2, 3, dtype=torch.bfloat16), torch.zeros(4, 5, requires_grad=True)
    assert Problem.of(x, w) == Problem("cpu", "bfloat16", ((2, 3), (4, 5)), contiguous=True, needs_grad=True)
    assert Problem.of(x.T) == Problem("cpu", "bfloat16", ((3, 2),), contiguous=False, needs_grad=False)


def test_every_operator_can_be_asked_without_shapes_and_ends_with_the_reference() -> None:
    for name, operator in operators().items():
        assert operator.name == name
        assert operator.backends[-1] == "reference"
        assert operator.why_not(Problem("cpu"))["reference"] == ()
        operator.why_not(Problem("cuda"))


def test_compiled_graphs_hold_the_choice_and_follow_a_new_request(operator: Operator) -> None:
    """fullgraph: resolving must not break the graph, not even the first time, when it logs."""

    @torch.compile(fullgraph=True, backend="eager")
    def run(x: torch.Tensor) -> torch.Tensor:
        return operator.resolve(Problem.of(x)).run(x)

    one = torch.ones(3)
    assert run(one).tolist() == [2, 2, 2]
    assert operator.used == ("cpp",)
    with use_backend("toy=reference"):
        assert run(one).tolist() == [3, 3, 3]
    assert run(one).tolist() == [2, 2, 2]
    assert run(one.double()).tolist() == [3, 3, 3]
    np.testing.assert_array_equal(operator.used, ("cpp", "reference"))
