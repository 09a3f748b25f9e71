"""Imports and includes run one way, and in no circle."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parent.parent
PACKAGE = CHECKOUT / "margformer_fast"

# Floors of the house from the ground up; modules of one floor may use each other, but not in a circle.
FLOORS = (
    {"errors"},
    {"files", "progress", "cli"},
    {"config", "protocol", "flags"},
    {"_native"},
    {"reference"},
    {"kernels"},
    {"backends"},
    {"ops"},
    {"nn"},
    {"data"},
    {"learning"},
    {"evaluation"},
    {"experiments"},
    {"runner", "verification", "classifier"},
    {"catalogue"},
    {"info", "train", "classify", "export", "verify", "hyrax"},
    {"experiments.table"},  # runs the training command
    {"__main__"},
)
# What each folder of csrc/ may include, beside the standard library.
INCLUDES = {
    "core": ("core/",),
    "cpu": ("core/", "cpu/", "fcntl.h", "immintrin.h", "sys/stat.h", "unistd.h"),
    "cuda": ("core/", "cuda/", "cuda_runtime"),
    "bindings": ("core/", "cpu/", "cuda/launch.hpp", "bindings/", "pybind11/"),
}


def modules() -> dict[str, Path]:
    """Every module by its dotted name within the package."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name] = path
    return found


def floor(name: str) -> int:
    """The floor of a module; the package itself, with its version, lies under all."""
    if name == "":
        return -1
    parts = name.split(".")
    key = "__main__" if parts[-1] == "__main__" else parts[0]
    for level, names in enumerate(FLOORS):
        if name in names or (key in names and not any(name in others for others in FLOORS)):
            return level
    return pytest.fail(f"margformer_fast/{name} has no floor: say in FLOORS where it stands")


def imports(name: str, path: Path, known: dict[str, Path]) -> set[str]:
    """Modules of the package that a module imports, at its top or inside its functions."""
    package = name.split(".") if path.name == "__init__.py" and name else name.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level <= len(package) + 1, f"{name} imports from outside the package"
            base = [*package[: len(package) + 1 - node.level], *(node.module or "").split(".")]
            origin = ".".join(part for part in base if part)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "margformer_fast":
            origin = (node.module or "").partition(".")[2]
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "margformer_fast":
                    found.add(alias.name.partition(".")[2])
            continue
        else:
            continue
        for alias in node.names:
            deeper = f"{origin}.{alias.name}" if origin else alias.name
            found.add(deeper if deeper in known else origin)
    return found - {name}


def test_imports_run_one_way() -> None:
    known = modules()
    assert len(known) > 20
    upward = [
        f"{name or '__init__'} imports {other}"
        for name, path in known.items()
        for other in imports(name, path, known)
        if floor(other) > floor(name)
    ]
    assert not upward, "\n".join(upward)


def test_no_circles() -> None:
    known = modules()
    graph = {name: imports(name, path, known) & set(known) for name, path in known.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"a circle: {' -> '.join((*trail[trail.index(name) :], name))}"
        if name not in done:
            for other in sorted(graph[name]):
                visit(other, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_an_upward_import_would_be_seen(tmp_path: Path) -> None:
    known = modules()
    source = tmp_path / "decode.py"
    source.write_text("def f():\n    from ..data import store\n    import margformer_fast.train\n")
    assert imports("ops.decode", source, known) == {"data.store", "train"}
    assert floor("data.store") > floor("ops.decode")


def test_includes_run_one_way() -> None:
    checked = 0
    for path in sorted((CHECKOUT / "csrc").rglob("*")):
        if path.suffix not in {".hpp", ".cpp", ".cuh", ".cu"}:
            continue
        folder = path.relative_to(CHECKOUT / "csrc").parts[0]
        for included in re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', path.read_text(), re.MULTILINE):
            is_standard = re.fullmatch(r"[a-z_]+", included) is not None
            assert is_standard or included.startswith(INCLUDES[folder]), f"{path} includes {included}"
            checked += 1
    assert checked > 20


def test_compiled_module_is_imported_in_one_place() -> None:
    users = [name for name, path in modules().items() if re.search(r"\b_C\b", path.read_text()) is not None]
    assert users == ["_native"]
