"""Several processes against one with the joint batch: losses, gradients, curves, kills, and what they say."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from rank_cases import of_all
from short_command import four_epochs
from toy import toy_survey

from margformer_fast import cli, train
from margformer_fast.data.store import write_store
from margformer_fast.errors import ConfigError, MargformerError
from margformer_fast.experiments import __main__ as experiments_command
from margformer_fast.learning import distributed
from margformer_fast.learning.checkpoint import load_tensors
from margformer_fast.learning.distributed import World, current, cutting, joined

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch has no torch.distributed")
TESTS = Path(__file__).parent
SHORT = (TESTS / "short_command.py",)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Ranks have one thread each, and another number of threads rounds sums in another order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def environment(**variables: object) -> dict[str, str]:
    here = {name: value for name, value in os.environ.items() if name not in distributed._VARIABLES}
    paths = os.pathsep.join([str(TESTS.parent), os.environ.get("PYTHONPATH", "")])
    return {**here, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, **{k: str(v) for k, v in variables.items()}}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_ranks(size: int, folder: Path, seed: int, device: str) -> list[dict[str, dict]]:
    """Start as many ranks, and return what each of them found."""
    folder.mkdir()
    port = free_port()
    ranks = [
        subprocess.Popen(
            [sys.executable, TESTS / "rank_cases.py", folder, str(seed), device],
            env=environment(
                RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=size, MASTER_ADDR="127.0.0.1", MASTER_PORT=port
            ),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    try:
        errors = [rank.communicate(timeout=120)[1] for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
    assert all(rank.returncode == 0 for rank in ranks), "\n".join(errors)
    assert "test: " in errors[0]
    assert not any(errors[1:]), "one rank shows progress"
    return [torch.load(folder / f"{rank}.pt") for rank in range(size)]


def check_ranks(size: int, folder: Path, seed: int, device: str) -> None:
    expected = of_all(seed, torch.device(device), folder / "alone")
    tolerance = 1e-6 if device == "cpu" else 1e-5  # products of other shapes are other kernels on a GPU
    ranks = run_ranks(size, folder / "ranks", seed, device)
    for name, value in expected.items():
        for rank in ranks:
            got = rank["found"][name]
            # The same on every rank to the last bit: else weights would drift apart.
            assert torch.equal(got.nan_to_num(7), ranks[0]["found"][name].nan_to_num(7)), name
            assert torch.equal(got.isnan(), value.isnan()), f"{name}: other weights have no gradient"
            scale = value.nan_to_num().abs().max()
            assert scale > 0, name
            worst = float((got - value).nan_to_num().abs().max() / scale)
            assert worst < (1e-11 if name.startswith("exact") else tolerance), f"{name}: {worst:.1e}"
    for name in ("probability", "probe.val_loss", "probe.weights"):
        assert torch.equal(ranks[-1]["found"][name], expected[name]), name
    for number, rank in enumerate(ranks):
        found = rank["decisions"]
        assert found["val_loss"] == [3.0, 2.0, 2.5, 2.5], "the first rank says when to stop"
        assert "gradient is inf in epoch 1, step 2: 2 of 4 steps were left out" in found["error"]
        assert found["skipped"] == [None, 1, None], "what one rank cannot do, none does"
        assert torch.equal(found["weights"], ranks[0]["decisions"]["weights"])
        by_first = ["labels.safetensors", "odd.safetensors", "once.safetensors", "probe.safetensors"]
        assert found["written"] == ([] if number else by_first)
        # Such a thread may want Python when that has ended, which aborts the process.
        assert not [name for name in rank["threads"] if "gloo" in name]


@pytest.mark.parametrize("size", [2, 4])
def test_ranks_take_the_steps_of_one_process(size: int, tmp_path: Path, rng: np.random.Generator) -> None:
    check_ranks(size, tmp_path, int(rng.integers(2**31)), "cpu")


@pytest.mark.gpu
def test_two_gpus_take_the_steps_of_one(tmp_path: Path, rng: np.random.Generator) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("fewer than two GPUs here")
    check_ranks(2, tmp_path, int(rng.integers(2**31)), "cuda")


# Batches and shares.


@pytest.mark.parametrize(("size", "parts"), [(1, 1), (1, 4), (2, 2), (2, 6), (3, 3), (4, 8)])
def test_shares_are_the_batch(size: int, parts: int, rng: np.random.Generator) -> None:
    for count in (1, 2, parts - 1, parts, parts + 1, 5 * parts + 3):
        if count == 0:
            continue
        rows = rng.permutation(1000)[:count]
        worlds = [World(rank, size, rank, CPU, parts) for rank in range(size)]
        shares = [world.cut(rows) for world in worlds if world.works_on(rows)]
        assert np.array_equal(np.concatenate([share.rows for share in shares]), rows)
        for share in shares:
            assert len(share.rows) == share.sizes[share.rank] > 0
            assert np.array_equal(rows[share.first : share.first + len(share.rows)], share.rows)
            assert share.is_whole == (len(shares) == 1)
        numbers = [number for share in shares for number, _ in share.parts]
        assert numbers == list(range(parts if count >= parts else 1))
        value = torch.from_numpy(rng.normal(size=1000))
        means = [share.mean(value[share.rows]) for share in shares]
        torch.testing.assert_close(sum(means), value[rows].mean())


def test_dropout_belongs_to_the_part_and_not_to_the_rank() -> None:
    def drawn(size: int, parts: int, seed: int) -> torch.Tensor:
        own = []
        for rank in range(size):
            torch.manual_seed(seed)
            share = World(rank, size, rank, CPU, parts).cut(np.arange(30))
            torch.rand(rank)  # what a rank has drawn before does not matter
            own.append(share.in_parts(lambda rows: torch.rand(len(rows))))
        return torch.cat(own)

    assert torch.equal(drawn(1, 6, 7), drawn(3, 6, 7))
    assert torch.equal(drawn(2, 6, 7), drawn(3, 6, 7))
    assert not torch.equal(drawn(3, 3, 7), drawn(3, 6, 7))
    assert not torch.equal(drawn(3, 6, 8), drawn(3, 6, 7))
    assert drawn(3, 6, 7).unique().numel() > 25, "each part has draws of its own"


def test_parts_that_ranks_cannot_share_are_told(caplog: pytest.LogCaptureFixture) -> None:
    with cutting(4):
        assert current() == World(parts=4)
        with distributed._being(World(1, 3, 1, CPU, 3)), cutting(4):
            assert current().parts == 3
    assert "3 processes cannot share 4 parts" in caplog.text
    assert current() == World()


# The environment.


@pytest.mark.parametrize("told", [{}, {"WORLD_SIZE": "1", "RANK": "0"}, {"LOCAL_RANK": "0"}])
def test_one_process_joins_nobody(monkeypatch: pytest.MonkeyPatch, told: dict[str, str]) -> None:
    for name in distributed._VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    with joined(torch.device("cpu")) as world:
        assert world == current() == World()
        assert not torch.distributed.is_initialized()
        assert world.from_main({}, [1])[1] == [1]
        assert world.total(torch.tensor(3.0)) == 3.0


@pytest.mark.parametrize(
    "told",
    [
        {"WORLD_SIZE": "2"},
        {"RANK": "0"},
        {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"},
        {"WORLD_SIZE": "2", "RANK": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "1"},
        {"WORLD_SIZE": "two", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "1"},
    ],
)
def test_half_an_environment_is_refused(monkeypatch: pytest.MonkeyPatch, told: dict[str, str]) -> None:
    for name in distributed._VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=r"name no process of a group.*torchrun"), joined(CPU):
        pass


def test_a_command_for_one_process_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    for name, value in zip(distributed._VARIABLES, ("0", "2", "0", "localhost", "1"), strict=True):
        monkeypatch.setenv(name, value)
    assert cli.run(experiments_command.main, ["--all", "--out", str(tmp_path / "table")]) == 2
    assert "margformer_fast.experiments was started in 2 processes; expected one" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert distributed._own_gpu(torch.device("cuda"), 1) == torch.device("cuda:1")
    for device, local_rank in (("cuda:1", 0), ("cuda", 2)):
        with pytest.raises(ConfigError, match="no GPU of its own"):
            distributed._own_gpu(torch.device(device), local_rank)


def test_lost_processes_are_named_in_one_line() -> None:
    with (
        pytest.raises(MargformerError, match=r"lost touch .* \(Connection closed\)"),
        distributed._lost_ranks_named(),
    ):
        raise RuntimeError("Connection closed\nby peer, at length")


# The command.


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("store") / "toy"
    write_store(path, toy_survey(90, np.random.default_rng(5)))
    return path


def arguments(*options: object) -> list[str]:
    return ["--exp", "1", "--runs", "1", *map(str, options)]


def torchrun(
    size: int, what: tuple[object, ...], *options: object, **variables: object
) -> subprocess.CompletedProcess:
    """Run the command in several processes."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size)]
    return subprocess.run(
        [*start, *map(str, what), *arguments(*options)],
        env=environment(**variables),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def curves(out: Path) -> dict[str, np.ndarray]:
    """Return the losses of each stage, epoch by epoch."""
    return {
        path.stem: np.array([[e["train_loss"], e["val_loss"]] for e in load_tensors(path)[1]["history"]])
        for path in sorted((out / "seed-0").glob("*.safetensors"))
    }


def test_a_killed_run_goes_on_with_other_numbers_of_processes(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    # Where photometry is hidden its branch has gradients of rounding alone, of which Adam makes full steps.
    data = ("--data", store, "--baselines", "none", "--pretrain-photometry", "shared")
    dead = torchrun(2, SHORT, *data, "--parts", 4, "--out", tmp_path / "4", MISFORTUNE="killed")
    assert dead.returncode != 0
    assert "SIGKILL" in dead.stderr, "torchrun says what ended the run"
    # torchrun may end the other process before it can say that it lost touch.
    lost = dead.stderr.count("error: lost touch with the other processes")
    assert dead.stderr.count("error: ") == lost < 2, dead.stderr
    # Nor need the first have written down the second epoch, which both ended.
    assert len(curves(tmp_path / "4")["pretrain"]) in (1, 2)
    shutil.copytree(tmp_path / "4", tmp_path / "1")
    four_epochs(monkeypatch)
    assert cli.run(train.main, arguments(*data, "--parts", 4, "--out", tmp_path / "alone")) == 0
    assert cli.run(train.main, arguments(*data, "--out", tmp_path / "1", "--resume")) == 0
    assert capsys.readouterr().out.count("report: ") == 2
    done = torchrun(4, SHORT, *data, "--out", tmp_path / "4", "--resume")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report: ") == 1, "one process reports"
    assert (tmp_path / "4" / "report.html").exists()
    expected = curves(tmp_path / "alone")
    for size in ("1", "4"):
        found = curves(tmp_path / size)
        assert set(found) == set(expected) == {"pretrain", "probe", "finetune"}
        for stage, curve in expected.items():
            assert found[stage].shape == curve.shape
            # A loss that falls to next to nothing keeps the rounding of what it was.
            atol = 1e-6 * curve.max()
            message = f"{stage}, {size} processes"
            np.testing.assert_allclose(found[stage], curve, rtol=2e-6, atol=atol, err_msg=message)
    refused = arguments(*data, "--parts", 2, "--out", tmp_path / "1", "--resume")
    assert cli.run(train.main, refused) == 1
    assert "was started with batches cut into 4 parts, now 2" in capsys.readouterr().err


def test_one_process_that_fails_ends_all_with_its_message(store: Path, tmp_path: Path) -> None:
    # Without --data, which the first process sees to.
    done = torchrun(2, SHORT, "--out", tmp_path / "run", MISFORTUNE="failing", STORE=store)
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert errors == ["error: process 1 of 2: tea was spilt on this disk"]
    assert f'File "{TESTS.parent}' not in done.stderr, "no traceback but torchrun's own"


def test_what_fails_everywhere_is_told_once(store: Path, tmp_path: Path) -> None:
    options = ("--data", store, "--out", tmp_path / "run", "--parts", 3)
    done = torchrun(2, ("-m", "margformer_fast.train"), *options)
    assert done.returncode != 0
    errors = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert errors == ["error: --parts is 3; expected a multiple of the 2 processes"]
    assert not (tmp_path / "run").exists()
