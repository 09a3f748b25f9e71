"""Several at once: two on one output refuse each other; forks, spawns and threads read one store alike."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
from sdss_files import write_field
from short_runs import shorten
from toy import toy_survey

from margformer_fast import Classifier, classify, cli, train
from margformer_fast.catalogue.work import open_work, work_folder
from margformer_fast.data import __main__ as data
from margformer_fast.data import simulate, simulated
from margformer_fast.data.store import StoreWriter, read_store, verify_store, write_store
from margformer_fast.data.survey import SDSS, Survey
from margformer_fast.files import atomic_directory, held

MODEL = "simulated-sg"
REFUSED = ": another process is at work on it. Wait for it, or choose another place.\n"


@pytest.fixture
def store(tmp_path: Path, rng: np.random.Generator) -> Path:
    write_store(tmp_path / "store", toy_survey(72, rng))
    return tmp_path / "store"


def refuses(
    holder: AbstractContextManager[object],
    main: Callable[[list[str]], int],
    arguments: list[object],
    out: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Insist that a command is refused, with one line, while its output is held, and works afterwards."""
    given = [str(each) for each in arguments]
    with holder:
        before = sorted(out.parent.iterdir())
        assert cli.run(main, given) == 1
        errors = [line for line in capsys.readouterr().err.splitlines(keepends=True) if "error" in line]
        assert errors == [f"error: {out}{REFUSED}"]
        assert sorted(out.parent.iterdir()) == before


def test_simulate_and_ingest(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(simulate, "BLOCK", 16)
    write_field(tmp_path / "field", np.array([40.0, 60.0]), np.array([40.0, 50.0]))
    for command in (["simulate", "--compact", 3, "--faint", 0], ["ingest", tmp_path / "field"]):
        out = tmp_path / f"out-{command[0]}"
        arguments = [*command, "--out", out]
        refuses(atomic_directory(out), data.main, arguments, out, capsys)
        assert cli.run(data.main, [*map(str, arguments), "--overwrite"]) == 0
        assert verify_store(out).ok
        refuses(atomic_directory(out, overwrite=True), data.main, [*arguments, "--overwrite"], out, capsys)


def test_classify(tmp_path, store, capsys):
    out = tmp_path / "classes.csv"
    arguments = [MODEL, store, "--out", out]
    refuses(open_work(out, {}, {}), classify.main, arguments, out, capsys)
    shutil.rmtree(work_folder(out))
    assert cli.run(classify.main, [str(each) for each in arguments]) == 0
    assert sorted(each.name for each in tmp_path.iterdir()) == ["classes.csv", "store"]


def test_train(tmp_path, store, capsys, monkeypatch):
    shorten(monkeypatch)
    out = tmp_path / "run"
    arguments = ["--exp", 1, "--data", store, "--runs", 1, "--baselines", "none", "--out", out]
    assert cli.run(train.main, [str(each) for each in arguments]) == 0
    before = json.loads((out / "metrics.json").read_text())
    refuses(held(out), train.main, [*arguments, "--resume"], out, capsys)
    new = tmp_path / "new"
    refuses(atomic_directory(new), train.main, [*arguments[:-1], new], new, capsys)
    assert json.loads((out / "metrics.json").read_text()) == before


def test_a_survey_that_another_process_makes_is_waited_for(tmp_path, monkeypatch, rng):
    path = tmp_path / "simulated"
    monkeypatch.setattr(simulated, "cached_store", lambda *_: path)
    monkeypatch.setattr(simulated, "_WAIT", 0.02)
    monkeypatch.setattr(simulated, "simulate", None)  # nothing is to be simulated here
    survey, entered = toy_survey(9, rng), threading.Event()

    def other() -> None:
        with StoreWriter(path, SDSS, name="s", simulated=True, provenance={}) as writer:
            entered.set()
            time.sleep(0.3)
            writer.append(survey)

    thread = threading.Thread(target=other)
    thread.start()
    assert entered.wait(10)
    assert simulated.made_once(3, 3) == path
    thread.join()
    assert len(read_store(path)) == 9
    assert list(tmp_path.iterdir()) == [path]


def digest(survey: Survey) -> tuple[bytes, bytes]:
    return survey.stamps.decode().tobytes(), survey.features.tobytes()


def digest_of(path: Path) -> tuple[bytes, bytes]:
    return digest(read_store(path))


def probability_of(model: str, path: Path) -> np.ndarray:
    survey = read_store(path)
    return Classifier.load(model, device="cpu").predict(survey.stamps.decode(), survey.features).probability


FORKED = """
import os, sys
from test_two_at_once import digest
from margformer_fast.data.store import read_store
survey = read_store(sys.argv[1])  # opened once, in the parent
expected = digest(survey)
children = []
for _ in range(4):
    child = os.fork()
    if child == 0:
        os._exit(0 if all(digest(survey) == expected for _ in range(20)) else 1)
    children.append(child)
assert all(digest(survey) == expected for _ in range(20))
assert all(os.waitpid(child, 0)[1] == 0 for child in children)
print("alike")
"""


def test_a_store_opened_before_a_fork_is_read_in_every_child(store):
    # In a process without threads: a fork beside threads is not what is asked here.
    environment = {**os.environ, "PYTHONPATH": f"{Path(__file__).parent}:{Path(__file__).parents[1]}"}
    done = subprocess.run(
        [sys.executable, "-c", FORKED, store], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, "alike\n"), done.stderr


def test_a_spawned_process_reads_and_predicts_the_same(store):
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        assert pool.submit(digest_of, store).result() == digest_of(store)
        found = pool.submit(probability_of, MODEL, store).result()
    np.testing.assert_array_equal(found, probability_of(MODEL, store))


def test_many_threads_read_one_store_and_use_one_classifier(store):
    survey = read_store(store)
    model = Classifier.load(MODEL, device="cpu")
    images, expected = survey.stamps.decode(), digest(survey)
    # Rows of their own for each thread: what one computes must not reach another.
    rows = [np.roll(np.arange(len(survey)), k)[: 20 + k] for k in range(12)]
    alone = [model.predict(images[each], survey.features[each]).probability for each in rows]
    barrier = threading.Barrier(len(rows))

    def work(k: int) -> bool:
        barrier.wait(60)
        for _ in range(3):
            assert digest(survey) == expected
            found = model.predict(images[rows[k]], survey.features[rows[k]])
            np.testing.assert_array_equal(found.probability, alone[k])
        return True

    with ThreadPoolExecutor(len(rows)) as pool:
        assert all(pool.map(work, range(len(rows))))
