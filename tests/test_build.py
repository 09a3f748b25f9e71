"""What the build made: a module that knows no torch and no driver, from every source in the tree."""

from __future__ import annotations

import importlib
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from margformer_fast import _native

CHECKOUT = Path(__file__).parent.parent
MODULE = Path(importlib.import_module("margformer_fast._C").__file__ or "")


def read_elf(*options: str) -> str:
    if shutil.which("readelf") is None:
        pytest.skip("no readelf here: symbols of the module are not looked at")
    return subprocess.run(
        ["readelf", "--wide", *options, MODULE], check=True, capture_output=True, text=True
    ).stdout


def test_module_needs_nothing_but_the_system() -> None:
    """Without torch, the driver or a shared CUDA runtime it loads beside every torch, GPU or not."""
    needed = {
        line.split("[")[1].rstrip("]") for line in read_elf("--dynamic").splitlines() if "(NEEDED)" in line
    }
    known = (
        "libc.so",
        "libm.so",
        "libstdc++.so",
        "libgcc_s.so",
        "libpthread.so",
        "libdl.so",
        "librt.so",
        "ld-linux",
    )
    assert not {name for name in needed if not name.startswith(known)}


def test_module_asks_for_no_symbol_of_torch_or_the_driver() -> None:
    undefined = [
        line.split()[7]
        for line in read_elf("--dyn-syms").splitlines()
        if " UND " in line and len(line.split()) > 7
    ]
    assert undefined, "readelf showed no symbols at all"
    for name in undefined:
        assert not any(part in name for part in ("c10", "2at", "torch")), name
        assert not name.startswith(("cu", "nv")), name


def test_module_shows_nothing_but_its_entry() -> None:
    shown = [
        line.split()[7]
        for line in read_elf("--dyn-syms").splitlines()
        if " GLOBAL " in line and " DEFAULT " in line and " UND " not in line
    ]
    assert shown == ["PyInit__C"]


def test_every_source_is_compiled() -> None:
    build = (CHECKOUT / "CMakeLists.txt").read_text()
    sources = [
        path.relative_to(CHECKOUT).as_posix()
        for path in CHECKOUT.glob("csrc/**/*.c[pu]*")
        if path.suffix != ".cuh"
    ]
    assert len(sources) >= 6
    assert not [source for source in sources if source not in build]


def test_cuda_sources_are_compiled_where_there_is_a_compiler() -> None:
    info = _native.build_info()
    if "MARGFORMER_CUDA=OFF" in info["cuda_why_not"]:
        pytest.skip("built with MARGFORMER_CUDA=OFF")
    if shutil.which("nvcc") is None:
        assert info["cuda"] or info["cuda_why_not"]
        pytest.skip("no nvcc here: no CUDA source is compiled")
    assert info["cuda"], info["cuda_why_not"]
    assert info["cuda_why_not"] == ""
    assert info["cuda_architectures"] != "native"


FATBIN_MAGIC = struct.pack("<I", 0xBA55ED50)
KINDS = {1: "PTX", 2: "machine code"}


def device_code(module: bytes) -> list[set[tuple[str, int]]]:
    """The device code in a module, one set for each CUDA source: the kind and the architecture it is for.

    nvcc puts it behind a magic number, a version, the size of this header and that of the entries; an entry
    says its kind, the sizes of its own header and code, and at byte 28 its architecture. NVIDIA does not
    document this; cuobjdump, which reads it, is missing from many toolkits.
    """
    found = []
    start = module.find(FATBIN_MAGIC)
    while start >= 0:
        version, header_size, size = struct.unpack_from("<HHQ", module, start + 4)
        assert version == 1
        place, entries = start + header_size, set()
        end = place + size
        while place < end:
            kind, entry_header_size, code_size = struct.unpack_from("<H2xIQ", module, place)
            (architecture,) = struct.unpack_from("<I", module, place + 28)
            entries.add((KINDS[kind], architecture))
            place += entry_header_size + code_size
        found.append(entries)
        start = module.find(FATBIN_MAGIC, end)
    return found


def test_device_code_is_for_every_architecture_asked_for() -> None:
    """A100 and H100 find machine code; what comes later compiles the PTX when it loads it."""
    info = _native.build_info()
    if not info["cuda"]:
        pytest.skip(f"built without CUDA: {info['cuda_why_not']}")
    if "CUDAARCHS" not in os.environ:
        assert info["cuda_architectures"] == "80-real 90"
    wanted = set()
    for asked in info["cuda_architectures"].split():
        number, _, only = asked.partition("-")
        wanted |= {
            (kind, int(number))
            for kind, word in (("PTX", "real"), ("machine code", "virtual"))
            if only != word
        }
    sources = list(CHECKOUT.glob("csrc/**/*.cu"))
    assert device_code(MODULE.read_bytes()) == [wanted] * len(sources)


def python(code: str, **environment: str) -> str:
    """Run Python in a process of its own, away from the checkout."""
    return subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd="/",
        env={**os.environ, **environment},
    ).stdout.strip()


def test_module_loads_where_there_is_no_device() -> None:
    code = "from margformer_fast import _native as n; print(n.why_not(), len(n.cuda_why_not()))"
    assert python(code, CUDA_VISIBLE_DEVICES="") == "() 1"


def test_driver_and_torch_stay_out_until_they_are_needed() -> None:
    """Where there is a driver, too: what is not loaded cannot be missed."""
    code = "import margformer_fast._C; print(open('/proc/self/maps').read())"
    if not Path("/proc/self/maps").exists():
        pytest.skip("no /proc here: loaded libraries are not looked at")
    loaded = {Path(line.split()[-1]).name for line in python(code).splitlines() if "/" in line}
    assert MODULE.name in loaded
    assert not [name for name in loaded if name.startswith(("libcuda", "libnvidia", "libtorch", "libc10"))]


def test_import_is_light() -> None:
    """Reading a file must not cost the import of torch, nor training that of matplotlib."""
    code = "import sys, margformer_fast{}; print([name for name in {} if name in sys.modules])"
    heavy = ["torch", "matplotlib", "sklearn", "astropy", "scipy"]
    assert python(code.format("", [*heavy, "numpy"])) == "[]"
    assert python(code.format(".data.fits", heavy)) == "[]"


def test_checkout_does_not_hide_the_compiled_module() -> None:
    """Run from the root, the source folder stands before the installed package on the path."""
    code = "import margformer_fast as m, margformer_fast._C as c; print(m.__file__, c.__file__)"
    run = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=CHECKOUT
    ).stdout.split()
    assert Path(run[0]).parent.parent == CHECKOUT
    assert Path(run[1]) == MODULE
