"""No byte leaves the machine unasked: with sockets that raise, all is imported, and a model made and used."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import licences
import pytest

CHECKOUT = Path(__file__).parent.parent

# Run first in a fresh interpreter: whatever opens a connection or asks for a name then ends in an error.
GUARD = """
import socket, sys
def refuse(*args, **kwargs):
    raise SystemExit(f"NETWORK: {args[:2]}")
socket.socket.connect = socket.socket.connect_ex = socket.socket.sendto = refuse
socket.getaddrinfo = socket.gethostbyname = socket.create_connection = refuse
def watch(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "socket.gethostbyname"):
        print("NETWORK:", event, args[:2], file=sys.stderr, flush=True)
        import os
        os._exit(97)
    if event == "os.system" or (event == "subprocess.Popen" and b"curl" in str(args).encode()):
        os._exit(98)
sys.addaudithook(watch)
"""


def run(code: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    path = f"import sys; sys.path[:0] = [{str(CHECKOUT)!r}, {str(CHECKOUT / 'tests')!r}]\n"
    return subprocess.run(
        [sys.executable, "-c", path + GUARD + code], cwd=cwd, capture_output=True, text=True, timeout=300
    )


def test_importing_everything(tmp_path):
    done = run(
        """
import importlib, pkgutil, margformer_fast
names = [m.name for m in pkgutil.walk_packages(margformer_fast.__path__, "margformer_fast.")]
skipped = []
for name in names:
    if not name.endswith("__main__") and not name.endswith("verify"):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            extras = ("triton", "onnx", "onnxscript", "fitsio", "pandas", "pyarrow", "hyrax")
            assert error.name in extras, error
            skipped.append(name)
print(len(names) - len(skipped))
""",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) > 150


def test_a_run_from_simulation_to_catalogue(tmp_path):
    done = run(
        """
import numpy as np
from toy import toy_survey
from margformer_fast.classify import main as classify
from margformer_fast.data.__main__ import main as data
from margformer_fast.data.store import write_store
from margformer_fast.learning.checkpoint import save_model
from test_learning import *
from pathlib import Path

assert data(["simulate", "--out", "survey", "--compact", "6", "--faint", "0"]) in (0, None)
assert data(["info", "survey"]) in (0, None)
rng = np.random.default_rng(0)
train, val = samples(24, rng), samples(12, rng, "validation", objid_from=1000)
model = encoder(train)
fit = FitConfig(1, 1, 12, 1e-3)
pretrain(model, train, val, fit, AugmentConfig(), photometry="hidden", precision="fp32", **where(Path(".")))
train_classifier(model, train, val, fit, AugmentConfig(), name="s", precision="fp32", **where(Path(".")))
save_model(Path("model"), model, train.classes, SDSS, simulated=True)
write_store("field", toy_survey(8, rng))
assert classify(["model", "field", "--out", "classes.fits", "--device", "cpu"]) in (0, None)
assert classify(["simulated-sg", "field", "--out", "classes.csv", "--device", "cpu"]) in (0, None)
""",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "classes.fits").is_file()
    assert (tmp_path / "classes.csv").is_file()


@pytest.mark.parametrize(
    "code",
    [
        "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9/')",
        "import socket; socket.socket().connect(('127.0.0.1', 9))",
        "import _socket; _socket.socket().connect(('127.0.0.1', 9))",
    ],
)
def test_the_guard_sees_it(code, tmp_path):
    done = run(code, tmp_path)
    assert done.returncode != 0
    assert "NETWORK" in done.stderr


def test_licences_are_told():
    rows = licences.closure()
    assert {"torch", "numpy", "astropy", "safetensors", "matplotlib", "scikit-learn"} <= set(rows)
    assert all(said != "not said" for _, said in rows.values())
