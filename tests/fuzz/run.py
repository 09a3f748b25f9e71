"""Build the fuzzers and run them.

    python tests/fuzz/run.py                                      # every target, 1,000,000 inputs each
    python tests/fuzz/run.py --target header --inputs 10_000_000  # one target, as long as that takes
    python tests/fuzz/run.py --seconds 60                         # a minute a target
    python tests/fuzz/run.py --target image --replay FILE         # one input again, with a full report

A target is a C++ file beside this one that defines LLVMFuzzerTestOneInput. It runs under AddressSanitizer
and UndefinedBehaviorSanitizer in a process of its own, with limits on memory and on the time of one input;
what it finds wrong itself ends it, too. clang brings libFuzzer, which learns what inputs reach new code.
Without it g++ and standalone.cpp change the seeds blindly. All is kept under build/fuzz: inputs that reached
new code are where the next run begins, and inputs that were findings lie in `findings`.

To add a target: write NAME.cpp, name what it is linked with in TARGETS, give it seeds in seeds.py.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from seeds import MAX_BYTES, write_seeds

HERE = Path(__file__).parent
CHECKOUT = HERE.parent.parent
# The sources of the module that each target is linked with, beside the headers.
TARGETS = {"header": (), "image": ("cpu/decode.cpp",), "views": ("cpu/views.cpp",)}

SANITIZERS = "address,undefined,float-cast-overflow"
# As the module is compiled, but for the sanitizers and what they need for a readable report.
FLAGS = (
    "-std=c++17",
    "-O2",
    "-ffp-contract=off",
    "-g",
    "-fno-omit-frame-pointer",
    "-pthread",
    "-Wall",
    "-Wno-psabi",
)
MAX_MEGABYTES = 1024
MAX_ALLOCATION_MEGABYTES = 256
MAX_SECONDS = 10  # for one input; the slowest seen took less than one, on a loaded machine


@dataclass(frozen=True)
class Engine:
    """What drives the targets: the compiler, and whether it has libFuzzer."""

    name: str
    compiler: str
    has_libfuzzer: bool


def main() -> int:
    """Run what was asked for; 1 if there was a finding."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--target", choices=TARGETS, action="append", help="may be repeated; default: all")
    parser.add_argument("--inputs", type=int, default=1_000_000, help="how many inputs a target gets")
    parser.add_argument("--seconds", type=int, help="end a target after this time, done or not")
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(3), "little") + 1)
    parser.add_argument("--engine", choices=["auto", "libfuzzer", "standalone"], default="auto")
    parser.add_argument("--folder", type=Path, default=CHECKOUT / "build/fuzz", help="where all is kept")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run one input and nothing else")
    options = parser.parse_args()
    targets = options.target or list(TARGETS)
    if options.replay and len(targets) != 1:
        parser.error("--replay needs the one --target that the input is for")
    engine = choose_engine(options.engine)
    print(f"engine: {engine.name}; seed {options.seed}", flush=True)
    failed = 0
    for target in targets:
        folder = options.folder / target
        binary = build(engine, target, folder)
        if options.replay:
            return subprocess.run([binary, options.replay], env=environment("")).returncode
        failed += not fuzz(engine, target, binary, folder, options)
    return min(failed, 1)


def choose_engine(wanted: str) -> Engine:
    """Return libFuzzer where it can be had, or else the blind engine, saying why."""
    clang = shutil.which("clang++")
    why_not = "there is no clang++" if clang is None else ""
    if clang is not None and wanted != "standalone":
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "empty.cpp"
            source.write_text('extern "C" int LLVMFuzzerTestOneInput(const char*, long) { return 0; }')
            command = [clang, f"-fsanitize=fuzzer,{SANITIZERS}", source, "-o", source.with_suffix("")]
            if subprocess.run(command, capture_output=True).returncode == 0:
                return Engine(f"libFuzzer of {version(clang)}", clang, True)
        why_not = f"{clang} has no libFuzzer (libclang-rt-dev brings it)"
    if wanted == "libfuzzer":
        sys.exit(f"no libFuzzer: {why_not}")
    compiler = shutil.which("g++")
    if compiler is None:
        sys.exit(f"no libFuzzer: {why_not}; and there is no g++")
    reason = "as asked" if wanted == "standalone" else why_not
    return Engine(f"standalone, built by {version(compiler)} ({reason})", compiler, False)


def version(compiler: str) -> str:
    """Return the first line of what a compiler says of itself."""
    told = subprocess.run([compiler, "--version"], check=True, capture_output=True, text=True).stdout
    return told.splitlines()[0]


def build(engine: Engine, target: str, folder: Path) -> Path:
    """Compile a target; return the path of the program."""
    folder.mkdir(parents=True, exist_ok=True)
    mutator, program = folder / "mutator.o", folder / "fuzzer"
    compiler = [engine.compiler, *FLAGS, f"-I{CHECKOUT / 'csrc'}"]
    # The mutator is no subject: watched, it would cost as much time as what it feeds.
    run_compiler([*compiler, "-c", HERE / "mutator.cpp", "-o", mutator])
    # The assertions see a step past the end of a string_view that ends within a string.
    watched = [f"-fsanitize={SANITIZERS}", "-fno-sanitize-recover=all", "-D_GLIBCXX_ASSERTIONS"]
    sources = [HERE / f"{target}.cpp", *(CHECKOUT / "csrc" / source for source in TARGETS[target])]
    if engine.has_libfuzzer:
        # Operands of comparisons are not traced: the mutator knows what values matter, and tracing takes
        # a third of the time.
        watched += ["-fsanitize=fuzzer", "-fno-sanitize-coverage=trace-cmp,trace-div,trace-gep"]
    else:
        sources.append(HERE / "standalone.cpp")
    run_compiler([*compiler, *watched, *sources, mutator, "-o", program])
    return program


def run_compiler(command: list[str | Path]) -> None:
    """Run a compiler, and end everything if it fails: it has said why."""
    if subprocess.run(command).returncode != 0:
        sys.exit("a fuzzer does not compile")


def environment(asan: str) -> dict[str, str]:
    """Return the environment of a fuzzer with these settings of AddressSanitizer."""
    return {**os.environ, "ASAN_OPTIONS": asan, "UBSAN_OPTIONS": "print_stacktrace=1"}


def fuzz(engine: Engine, target: str, program: Path, folder: Path, options: argparse.Namespace) -> bool:
    """Run one target and say what ran; return whether there was no finding."""
    corpus, seeds, findings = folder / "corpus", folder / "seeds", folder / "findings"
    shutil.rmtree(seeds, ignore_errors=True)
    seed_count = write_seeds(target, seeds)
    for kept in (corpus, findings):
        kept.mkdir(exist_ok=True)
    known = set(findings.iterdir())
    command = [
        str(program),
        f"-runs={options.inputs}",
        f"-max_total_time={options.seconds or 0}",
        f"-seed={options.seed}",
        f"-max_len={MAX_BYTES}",
        f"-timeout={MAX_SECONDS}",
        f"-artifact_prefix={findings}/",
    ]
    # Stacks of allocations and a long quarantine take time and memory; a replay has both.
    asan = "malloc_context_size=1:quarantine_size_mb=16:"
    if engine.has_libfuzzer:
        command += [f"-rss_limit_mb={MAX_MEGABYTES}", f"-malloc_limit_mb={MAX_ALLOCATION_MEGABYTES}"]
        # From whole files on, and without the account of rare features, which costs a fifth of the rate here.
        command += ["-len_control=0", "-entropic=0", "-print_final_stats=1"]
    else:
        asan += f"hard_rss_limit_mb={MAX_MEGABYTES}:max_allocation_size_mb={MAX_ALLOCATION_MEGABYTES}:"
    log = folder / "log.txt"
    start = time.monotonic()
    with log.open("w", encoding="utf-8") as stream:
        command += [str(corpus), str(seeds)]
        code = subprocess.run(command, stderr=stream, stdout=stream, env=environment(asan)).returncode
    seconds = time.monotonic() - start
    told = log.read_text(encoding="utf-8", errors="replace")

    executed = re.search(r"number_of_executed_units: *(\d+)", told)
    inputs = int(executed[1]) if executed else 0
    ran = f"{inputs:,} inputs in {seconds:,.0f} s ({inputs / seconds:,.0f} a second)"
    if reached := re.findall(r"cov: (\d+)", told):
        grown = sum(1 for _ in corpus.iterdir())
        ran += f", {int(reached[-1]):,} edges reached, {grown:,} inputs in the corpus"
    if code == 0 and inputs >= seed_count:
        print(f"{target}: {ran}: no finding", flush=True)
        return True
    print("\n".join(told.splitlines()[-60:]))
    print(f"{target}: {ran}: a FINDING, exit code {code}; all that was said is in {log}")
    for finding in sorted(set(findings.iterdir()) - known):
        replay = [sys.executable, __file__, "--target", target, "--replay", str(finding)]
        print(f"again with:  {shlex.join(replay)}")
    return False


if __name__ == "__main__":
    sys.exit(main())
