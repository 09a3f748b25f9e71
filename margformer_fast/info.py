"""What was built, what is usable here, and why the rest is not: ``python -m margformer_fast.info``."""

from __future__ import annotations

import importlib.metadata
import json
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import __version__, _native, cli
from .backends import Problem, operators

_OPTIONAL = {
    "fitsio": "reads Rice-compressed frames (.fz); pip install 'margformer-fast[fits]'",
    "onnx": "exports models; pip install 'margformer-fast[export]'",
    "onnxscript": "the same",
    "onnxruntime": "runs exported models, and checks them",
    "triton": "compiles GPU kernels; comes with CUDA builds of torch",
}
_REQUIRED = ("torch", "numpy", "astropy", "safetensors", "scikit-learn", "matplotlib")


def collect() -> dict[str, Any]:
    """Return everything the command tells, JSON-able.

    Returns
    -------
    dict
        ``package`` (version, place), ``machine``, ``compiled_module`` (usable or why not, how it was built),
        ``gpus``, ``libraries`` (versions, None if absent), ``operators`` (for each device and backend the
        reasons why it cannot run there; none means that it can).
    """
    return {
        "package": {"version": __version__, "path": str(Path(__file__).parent)},
        "machine": {
            "python": platform.python_version(),
            "system": platform.platform(),
            "processor": _processor(),
            "threads": _native.num_threads(),
        },
        "compiled_module": {
            "why_not": list(_native.why_not()),
            "cuda_why_not": list(_native.cuda_why_not()),
            "build": _native.build_info(),
        },
        "gpus": _gpus(),
        "libraries": {name: _version(name) for name in (*_REQUIRED, *_OPTIONAL)},
        "operators": {
            name: {device: _reasons(operator.why_not(Problem(device))) for device in ("cpu", "cuda")}
            for name, operator in operators().items()
        },
    }


def _processor() -> str:
    """Return the processor's name as Linux knows it, or its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def _gpus() -> list[str]:
    """Return the names of the GPUs that torch can use."""
    import torch

    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]


def _version(distribution: str) -> str | None:
    """Return the version of an installed distribution; None if it is absent."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _reasons(why_not: dict[str, tuple[str, ...]]) -> dict[str, list[str]]:
    return {backend: list(reasons) for backend, reasons in why_not.items()}


def text(info: dict[str, Any]) -> str:
    """Return what :func:`collect` found, for people."""
    package, machine, module = info["package"], info["machine"], info["compiled_module"]
    build = module["build"]
    lines = [
        f"margformer_fast {package['version']} in {package['path']}",
        "",
        f"machine          {machine['processor']}, {machine['threads']} threads",
        f"                 Python {machine['python']}, {machine['system']}",
        f"compiled module  {_yes_or_why(module['why_not'])}",
    ]
    if build:
        lines.append(f"                 built by {build['compiler']}, {_cuda_build(build)}")
    lines += [
        f"CUDA functions   {_yes_or_why(module['cuda_why_not'])}",
        f"GPUs             {', '.join(info['gpus']) or 'none that torch can use'}",
        "",
        "libraries",
    ]
    for name, version in info["libraries"].items():
        remark = f"  ({_OPTIONAL[name]})" if name in _OPTIONAL and version is None else ""
        lines.append(f"  {name:<15}{version or 'not installed'}{remark}")
    for device, title in (("cpu", "data in main memory"), ("cuda", "data on a GPU")):
        lines += ["", f"what runs on {title}"]
        if device == "cuda" and not info["gpus"]:
            lines.append("  nothing: there is no GPU that torch can use")
            continue
        for name, devices in info["operators"].items():
            lines += _operator_lines(name, devices[device])
    return "\n".join(lines)


def _yes_or_why(reasons: list[str]) -> str:
    return "not usable: " + "; ".join(reasons) if reasons else "usable"


def _cuda_build(build: dict[str, Any]) -> str:
    if not build["cuda"]:
        return f"without CUDA: {build['cuda_why_not']}"
    return f"with CUDA by {build['cuda_compiler']} for architectures {build['cuda_architectures']}"


def _operator_lines(name: str, reasons: dict[str, list[str]]) -> list[str]:
    """Return one operator: who runs it, then who could not and why."""
    able = [backend for backend, why in reasons.items() if not why]
    chosen = able[0] + (f" (or {', '.join(able[1:])})" if able[1:] else "") if able else "nothing"
    refused = [f"{'':<21}not {backend}: {'; '.join(why)}" for backend, why in reasons.items() if why]
    return [f"  {name:<18} {chosen}", *refused]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what was built, what is usable and why the rest is not.

    Parameters
    ----------
    arguments : sequence of str, optional
        Command-line arguments in place of those of the process.
    """
    parser = cli.Parser(
        prog="python -m margformer_fast.info",
        description="What was built, what is usable here, and why the rest is not. Put it into bug reports.",
        example="python -m margformer_fast.info --json",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args(arguments)
    info = collect()
    print(json.dumps(info, indent=2) if options.json else text(info))


if __name__ == "__main__":
    sys.exit(cli.run(main))
