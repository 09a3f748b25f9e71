"""NT-Xent: golden values, a loop written from the paper, backends against float64, ranks, and refusals."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pytest
import torch
from nt_xent_cases import (
    TARGETS,
    Case,
    check_accuracy,
    exact,
    ours,
    poisoned_memory,
    random_case,
    relative_errors,
    skip_unless_usable,
)

from margformer_fast.backends import use_backend
from margformer_fast.errors import BackendUnavailable, ConfigError
from margformer_fast.kernels import nt_xent_compiled
from margformer_fast.ops.nt_xent import PRECISIONS, nt_xent, nt_xent_of_rank
from margformer_fast.reference.nt_xent import nt_xent as reference


@pytest.fixture(autouse=True)
def poisoned() -> Iterator[None]:
    with poisoned_memory():
        yield


@pytest.fixture(params=["cpp", "reference"])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    with use_backend(request.param):
        yield request.param


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the compiled module run what it has for one kind of processor."""
    skip_unless_usable(request.param)
    for name in ("log_sum_of_negatives", "gradient_of_negatives"):
        function = partial(getattr(nt_xent_compiled, name), target=request.param)
        monkeypatch.setattr(nt_xent_compiled, name, function)


@pytest.mark.parametrize(
    ("temperature", "loss"), [(0.07, 8.607722753566), (0.1, 6.253142159744), (0.5, 2.308427796620)]
)
def test_golden_values(backend: str, temperature: float, loss: float) -> None:
    i, j = torch.arange(4.0, dtype=torch.float64)[:, None], torch.arange(3.0, dtype=torch.float64)
    z1, z2 = torch.sin(1 + i + 2 * j), torch.cos(0.5 * i + j)
    assert nt_xent(z1, z2, temperature=temperature).item() == pytest.approx(loss, abs=1e-11)


def loop(z1: np.ndarray, z2: np.ndarray, temperature: float) -> float:
    z = np.concatenate([z1, z2])
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    n, losses = len(z1), []
    for a in range(2 * n):
        others = [math.exp(z[a] @ z[b] / temperature) for b in range(2 * n) if b != a]
        losses.append(-math.log(math.exp(z[a] @ z[(a + n) % (2 * n)] / temperature) / sum(others)))
    return float(np.mean(losses))


@pytest.mark.parametrize(("n", "dim"), [(2, 1), (3, 7), (13, 5), (31, 128)])
def test_against_a_loop(backend: str, target: None, n: int, dim: int, rng: np.random.Generator) -> None:
    z1, z2 = rng.normal(size=(2, n, dim))
    temperature = float(rng.uniform(0.05, 2))
    got = nt_xent(torch.from_numpy(z1), torch.from_numpy(z2), temperature=temperature)
    assert got.item() == pytest.approx(loop(z1, z2, temperature), rel=1e-12)


def test_gradients_by_differences(backend: str, target: None, rng: np.random.Generator) -> None:
    z1, z2 = (torch.from_numpy(z).requires_grad_() for z in rng.normal(size=(2, 5, 4)))
    assert torch.autograd.gradcheck(lambda a, b: nt_xent(a, b, temperature=0.3), (z1, z2))


@pytest.mark.parametrize("temperature", [0.01, 0.1, 10.0])
def test_identical_embeddings(backend: str, temperature: float) -> None:
    z = torch.ones(6, 3, dtype=torch.float64)
    assert nt_xent(z, z, temperature=temperature).item() == pytest.approx(math.log(11))


def test_finite_at_extremes(backend: str) -> None:
    z = torch.eye(4)
    z1 = z.clone().requires_grad_()
    loss = nt_xent(z1, -z, temperature=0.01)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(z1.grad).all()
    assert torch.isfinite(nt_xent(torch.zeros(3, 2), torch.zeros(3, 2), temperature=0.1))


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("temperature", [0.01, 0.016, 0.017, 0.1, 0.5, 10.0])
@pytest.mark.parametrize(("n", "dim"), [(2, 16), (5, 33), (64, 130), (201, 48)])
def test_accuracy(
    rng: np.random.Generator, target: None, n: int, dim: int, temperature: float, grouped: bool
) -> None:
    check_accuracy(random_case(rng, n, dim, temperature, grouped=grouped), "fp32", "cpu", "cpp")


@pytest.mark.parametrize("temperature", [0.1, 0.5, 10.0])
@pytest.mark.parametrize(("n", "dim"), [(5, 33), (64, 130), (301, 128)])
def test_accuracy_in_bf16(
    rng: np.random.Generator, target: None, n: int, dim: int, temperature: float
) -> None:
    check_accuracy(random_case(rng, n, dim, temperature), "bf16", "cpu", "cpp")


def test_accuracy_in_a_batch_of_many_blocks(rng: np.random.Generator) -> None:
    check_accuracy(random_case(rng, 1301, 48, 0.1), "fp32", "cpu", "cpp")
    check_accuracy(random_case(rng, 1100, 48, 0.01), "fp32", "cpu", "cpp")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_input_types(rng: np.random.Generator, backend: str, dtype: torch.dtype) -> None:
    """Results differ from float64 only by the rounding of what is returned in the type of the input."""
    case = random_case(rng, 30, 20, 0.2)
    z1 = case.z1.to(dtype, copy=True).requires_grad_()
    loss = nt_xent(z1, case.z2.to(dtype), temperature=0.2)
    loss.backward()
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert z1.grad.dtype == dtype
    errors = relative_errors(ours(case, "fp32", "cpu", backend, dtype), exact(case))
    assert errors[0] < 1e-6
    assert max(errors[1:]) < max(1e-6, torch.finfo(dtype).eps)
    if dtype == torch.float64:
        assert max(errors) < 1e-12


@pytest.mark.parametrize("temperature", [0.02, 0.03])
def test_all_digits_of_float64(rng: np.random.Generator, temperature: float) -> None:
    """Also where a negative is so much nearer than the partner that its loss is all but their difference."""
    case = random_case(rng, 40, 3, temperature)
    assert max(relative_errors(ours(case, "fp32", "cpu", "cpp", torch.float64), exact(case))) < 1e-12
    far = Case(torch.eye(2, dtype=torch.float64), torch.eye(2, dtype=torch.float64).flip(0), 1 / 23)
    loss = ours(far, "fp32", "cpu", "cpp", torch.float64)[0].item()
    assert loss == pytest.approx(math.log1p(math.exp(23) + 1), rel=1e-14)


def test_strides_do_not_matter(rng: np.random.Generator) -> None:
    case = random_case(rng, 21, 10, 0.3)
    wide = torch.zeros(42, 40, dtype=torch.float64)
    wide[::2, 3:33:3] = case.z1
    strided = [wide[::2, 3:33:3].requires_grad_(), case.z2.T.contiguous().T.requires_grad_()]
    loss = nt_xent(*strided, temperature=0.3, backend="cpp")
    got = (loss, *torch.autograd.grad(loss, strided))
    want = ours(case, "fp32", "cpu", "cpp", torch.float64)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_expanded_inputs_and_gradients(rng: np.random.Generator) -> None:
    row = torch.from_numpy(rng.normal(size=(1, 6)))
    other = torch.from_numpy(rng.normal(size=(7, 6)))
    grads = []
    for loss_of in (lambda a, b: nt_xent(a, b, temperature=0.2), lambda a, b: reference(a, b, 0.2)):
        leaf, views = row.clone().requires_grad_(), other.clone().requires_grad_()
        loss = loss_of(leaf.expand(7, 6), views)
        loss.expand(3, 5).backward(torch.tensor(0.5, dtype=torch.float64).expand(3, 5))
        grads.append((leaf.grad, views.grad))
    for got, want in zip(*grads, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-11, atol=1e-13)


def test_gradient_of_a_zero_row_is_that_of_the_reference() -> None:
    grads = []
    for which in ("cpp", "reference"):
        z1 = torch.tensor([[0.0, 0.0], [1.0, 2.0], [1e-13, 0.0]], dtype=torch.float64, requires_grad=True)
        nt_xent(z1, torch.eye(3, 2, dtype=torch.float64), temperature=0.5, backend=which).backward()
        grads.append(z1.grad)
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-12, atol=1e-12)
    assert grads[0][0].norm() > 1e9


def test_groups_are_left_out(rng: np.random.Generator, backend: str) -> None:
    """A repeated object that is no negative of its copy, by hand; one number a pair changes nothing."""
    z1, z2 = torch.from_numpy(rng.normal(size=(2, 6, 4)))
    alone = nt_xent(z1, z2, temperature=0.3)
    assert nt_xent(z1, z2, temperature=0.3, group_N=torch.tensor([7, 3, -2, 5, 0, 9])).item() == alone.item()
    group = torch.tensor([4, 1, 4, 2, 1, 4])
    z = torch.cat([z1, z2]) / torch.cat([z1, z2]).norm(dim=1, keepdim=True)
    total = 0.0
    for a in range(12):
        partner = (a + 6) % 12
        among = [b for b in range(12) if b == partner or group[b % 6] != group[a % 6]]
        s = z[a] @ z.T / 0.3
        total += float(s[among].logsumexp(0) - s[partner]) / 12
    assert nt_xent(z1, z2, temperature=0.3, group_N=group).item() == pytest.approx(total, rel=1e-12)


@pytest.mark.parametrize("temperature", [0.01, 0.2])
def test_without_any_negative(backend: str, temperature: float) -> None:
    z1 = torch.eye(3, 4).requires_grad_()
    loss = nt_xent(z1, torch.ones(3, 4), temperature=temperature, group_N=torch.zeros(3, dtype=torch.int64))
    loss.backward()
    assert loss.item() == 0
    assert (z1.grad == 0).all()


def test_tiny_loss_keeps_its_digits() -> None:
    """Orthogonal pairs: the loss, 14 exp(-50), lies far below the last digit of a logit of 50."""
    z = torch.eye(8)
    loss = nt_xent(z, z, temperature=0.02, backend="cpp").item()
    assert loss == pytest.approx(math.log1p(14 * math.exp(-50)), rel=1e-5)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("temperature", [0.01, 0.1])
def test_two_runs_agree_bit_for_bit(rng: np.random.Generator, precision: str, temperature: float) -> None:
    case = random_case(rng, 700, 96, temperature)
    first, second = (ours(case, precision, "cpu", "cpp") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def peak_of_extra_memory(run: Callable[[], None]) -> int:
    """Bytes that torch's allocator held at most beyond what it held at the start, by its own account."""
    run()  # what is made once is not counted
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profiler:
        run()
    events = [each for each in profiler.profiler.kineto_results.events() if each.name() == "[memory]"]
    steps = [each.nbytes() for each in sorted(events, key=lambda each: each.start_ns())]
    assert steps
    return int(np.cumsum(steps).max())


@pytest.mark.parametrize("temperature", [0.01, 0.1])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_memory_is_linear_and_at_most_four_copies(precision: str, temperature: float) -> None:
    """Both views count as one copy; the gradients that are returned are counted in."""
    peaks = []
    for n in (3072, 6144):
        z1, z2 = torch.randn(2, n, 128)
        z1, z2 = z1.requires_grad_(), z2.requires_grad_()

        def run(z1: torch.Tensor = z1, z2: torch.Tensor = z2) -> None:
            loss = nt_xent(z1, z2, temperature=temperature, precision=precision, backend="cpp")
            torch.autograd.grad(loss, (z1, z2))

        peaks.append(peak_of_extra_memory(run))
        assert peaks[-1] <= 4 * 2 * z1.nbytes
    assert 1.5 * peaks[0] < peaks[1] <= 2.01 * peaks[0]


def test_the_measure_of_memory_sees_a_matrix() -> None:
    z = torch.randn(1024, 8)
    assert peak_of_extra_memory(lambda: reference(z, z, 0.1)) > 2048 * 2048 * 4


class Ranks:
    """Several ranks in one process, one thread each, that meet to gather."""

    def __init__(self, sizes: list[int]) -> None:
        self.sizes = sizes
        self._barrier = threading.Barrier(len(sizes))
        self._slots: list[torch.Tensor | None] = [None] * len(sizes)

    def gather(self, rank: int) -> Callable[[torch.Tensor], torch.Tensor]:
        def run(own: torch.Tensor) -> torch.Tensor:
            assert not own.requires_grad
            self._slots[rank] = own
            self._barrier.wait(30)
            gathered = torch.cat(self._slots)
            self._barrier.wait(30)
            return gathered

        return run

    def run(self, work: Callable[[int, int], None]) -> None:
        """Call work(rank, first) for all ranks at once."""
        errors: list[BaseException] = []

        def guarded(rank: int) -> None:
            try:
                work(rank, sum(self.sizes[:rank]))
            except BaseException as error:
                errors.append(error)
                self._barrier.abort()

        threads = [threading.Thread(target=guarded, args=(rank,)) for rank in range(len(self.sizes))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]


def check_shares(case: Case, sizes: list[int], device: str, precision: str, tolerance: float) -> None:
    """Hold the sum of all ranks' shares and each rank's gradients to those of the joint loss."""
    dtype = torch.float64 if device == "cpu" else torch.float32
    loss, *grads = exact(case)
    ranks, shares = Ranks(sizes), [torch.tensor(0.0)] * len(sizes)
    got = [torch.full_like(case.z1, torch.nan) for _ in range(2)]

    def work(rank: int, first: int) -> None:
        own = slice(first, first + sizes[rank])
        z1, z2 = (z[own].to(device, dtype, copy=True).requires_grad_() for z in (case.z1, case.z2))
        share = nt_xent_of_rank(
            z1,
            z2,
            temperature=case.temperature,
            first=first,
            gather=ranks.gather(rank),
            group_n=None if case.group is None else case.group[own].to(device),
            precision=precision,
        )
        (2 * share).backward()
        shares[rank] = share.detach().double().cpu()
        got[0][own], got[1][own] = z1.grad.double().cpu(), z2.grad.double().cpu()

    ranks.run(work)
    answer = (sum(shares), got[0] / 2, got[1] / 2)
    assert max(relative_errors(answer, (loss, *grads))) < tolerance


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("sizes", [[6, 6], [1, 4, 0, 5], [11], [70, 3, 130]], ids=str)
def test_shares_of_ranks_make_the_joint_loss(
    rng: np.random.Generator, backend: str, target: None, sizes: list[int], grouped: bool
) -> None:
    check_shares(random_case(rng, sum(sizes), 7, 0.15, grouped=grouped), sizes, "cpu", "fp32", 1e-10)


@pytest.mark.parametrize("first", [-1, 3])
def test_rank_outside_of_what_was_gathered(first: int) -> None:
    z = torch.randn(2, 3)
    with pytest.raises(ConfigError, match=f"2 pairs from {first} on are not among the 4 gathered"):
        nt_xent_of_rank(z, z, temperature=0.1, first=first, gather=lambda own: torch.cat([own, own]))


def test_registered_operators(rng: np.random.Generator) -> None:
    z1, z2 = (torch.from_numpy(z).float().requires_grad_() for z in rng.normal(size=(2, 9, 5)))
    group = torch.arange(9) // 2
    torch.library.opcheck(
        torch.ops.margformer_fast.nt_xent.default, (z1, z2, group, 0, 9, 0.2, "fp32", "cpp")
    )
    torch.library.opcheck(
        torch.ops.margformer_fast.nt_xent_backward.default,
        (torch.tensor(0.7), z1.detach(), z2.detach(), None, torch.randn(18), 2, 4, 0.2, "fp32", "cpp"),
    )


@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
def test_compiles_to_one_graph(rng: np.random.Generator, compiler: str) -> None:
    torch.compiler.reset()
    case = random_case(rng, 14, 6, 0.2)

    @torch.compile(fullgraph=True, backend=compiler)
    def loss(z1: torch.Tensor, z2: torch.Tensor) -> torch.Tensor:
        return nt_xent(2 * z1, z2, temperature=0.2)

    z1, z2 = (z.float().requires_grad_() for z in (case.z1, case.z2))
    got = loss(z1, z2)
    got.backward()
    want, d1, d2 = ours(case, "fp32", "cpu", "cpp")
    # Twice the first view has the same directions, so half of its gradient, and comes out doubled.
    assert max(relative_errors((got.detach(), z1.grad, z2.grad), (want, d1, d2))) < 1e-6


@pytest.mark.parametrize("backward_inside", [False, True])
def test_autocast_has_no_say(rng: np.random.Generator, backend: str, backward_inside: bool) -> None:
    if backend == "reference" and backward_inside:
        pytest.skip("autocast reaches the backward of plain PyTorch, as it warns")
    z1, z2 = (torch.from_numpy(z).float() for z in rng.normal(size=(2, 40, 12)))
    answers = []
    for enabled in (False, True):
        leaf = z1.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = nt_xent(leaf, z2, temperature=0.1)
            if backward_inside:
                loss.backward()
        if not backward_inside:
            loss.backward()
        answers.append((loss.detach(), leaf.grad))
    assert all(torch.equal(a, b) for a, b in zip(*answers, strict=True))


def test_one_view_may_need_no_gradient() -> None:
    z1, z2 = torch.randn(2, 5, 3)
    nt_xent(z1, z2.requires_grad_(), temperature=0.1).backward()
    assert z1.grad is None
    assert z2.grad.norm() > 0


@pytest.mark.parametrize(
    ("dtype", "precision", "asked", "message"),
    [
        (torch.float32, "bf16", "reference", "reference: it does not multiply in bf16"),
        (torch.float64, "bf16", "cpp", "cpp: it does not multiply float64 in bf16"),
        (torch.float32, "tf32", "auto", "no backend can .*cpp: it does not multiply float32 in tf32"),
    ],
)
def test_precisions_that_cannot_be_had(dtype: torch.dtype, precision: str, asked: str, message: str) -> None:
    z = torch.ones(3, 4, dtype=dtype)
    with pytest.raises(BackendUnavailable, match=message):
        nt_xent(z, z, temperature=0.1, precision=precision, backend=asked)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("temperature", [0.01, 0.1, 10.0])
@pytest.mark.parametrize(("n", "dim"), [(2, 16), (29, 33), (301, 128), (700, 200), (150, 300)])
def test_accuracy_on_a_gpu(
    rng: np.random.Generator, n: int, dim: int, temperature: float, grouped: bool, precision: str
) -> None:
    check_accuracy(random_case(rng, n, dim, temperature, grouped=grouped), precision, "cuda", "triton")


@pytest.mark.gpu
@pytest.mark.parametrize("precision", PRECISIONS)
def test_two_runs_on_a_gpu_agree_bit_for_bit(rng: np.random.Generator, precision: str) -> None:
    case = random_case(rng, 3001, 128, 0.1)
    first, second = (ours(case, precision, "cuda", "triton") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_memory_on_a_gpu(precision: str) -> None:
    peaks = []
    for n in (16384, 32768):
        z1, z2 = torch.randn(2, n, 128, device="cuda")
        z1, z2 = z1.requires_grad_(), z2.requires_grad_()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        loss = nt_xent(z1, z2, temperature=0.1, precision=precision, backend="triton")
        torch.autograd.grad(loss, (z1, z2))
        peaks.append(torch.cuda.max_memory_allocated() - before)
        assert peaks[-1] <= 4 * 2 * z1.nbytes
    assert peaks[1] <= 2.01 * peaks[0]


@pytest.mark.gpu
def test_shares_of_ranks_on_a_gpu(rng: np.random.Generator) -> None:
    case = random_case(rng, 300, 64, 0.15)
    check_shares(case, [100, 37, 163], "cuda", "fp32", 1e-5)


@pytest.mark.gpu
def test_compiles_on_a_gpu(rng: np.random.Generator) -> None:
    torch.compiler.reset()
    z1, z2 = (torch.from_numpy(z).float().cuda() for z in rng.normal(size=(2, 300, 64)))
    compiled = torch.compile(lambda a, b: nt_xent(a, b, temperature=0.2, backend="triton"), fullgraph=True)
    torch.testing.assert_close(compiled(z1, z2), nt_xent(z1, z2, temperature=0.2, backend="triton"))


@pytest.mark.parametrize(
    ("z1", "z2", "temperature", "message"),
    [
        (torch.ones(1, 4), torch.ones(1, 4), 0.1, "at least 2"),
        (torch.ones(3, 4), torch.ones(2, 4), 0.1, r"shapes \(3, 4\) and \(2, 4\)"),
        (torch.ones(3, 4), torch.ones(3, 4), 0.0, "temperature is 0.0"),
        (torch.ones(3, 4), torch.ones(3, 4), math.nan, "temperature is nan"),
        (torch.ones(3, 4), torch.ones(3, 4).double(), 0.1, "torch.float32 and torch.float64"),
        (torch.ones(3, 4).int(), torch.ones(3, 4).int(), 0.1, "floating-point type"),
    ],
)
def test_refusals(z1: torch.Tensor, z2: torch.Tensor, temperature: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        nt_xent(z1, z2, temperature=temperature)


@pytest.mark.parametrize(
    "group",
    [torch.zeros(2, dtype=torch.int64), torch.zeros(3), torch.zeros(3, 1, dtype=torch.int64)],
    ids=str,
)
def test_groups_that_do_not_fit(group: torch.Tensor) -> None:
    z = torch.ones(3, 4)
    with pytest.raises(ConfigError, match=r"groups are of .* expected torch.int64 and shape \(3,\)"):
        nt_xent(z, z, temperature=0.1, group_N=group)
