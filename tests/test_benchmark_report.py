"""The benchmark page: its numbers, what it leaves out, and files it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import report

from margformer_fast.errors import DataError

INFO = {
    "package": {"version": "1.2.3", "path": "/a/private/place"},
    "machine": {"processor": "Some <CPU>", "threads": 2, "python": "3.11", "system": "Linux"},
    "gpus": [],
    "libraries": {"torch": "2.13.0", "triton": None},
    "operators": {"nt_xent": {"cpu": {"triton": ["no"], "tiled": [], "reference": []}, "cuda": {}}},
}


def benchmark(name: str, group: str, median: float, params: dict[str, Any], **extra: Any) -> dict[str, Any]:
    stats = {"median": median, "q1": 0.9 * median, "q3": 1.2 * median, "min": 0.8 * median, "rounds": 7}
    return {"name": name, "group": group, "params": params, "stats": stats, "extra_info": extra}


def written(folder: Path, benchmarks: list[dict[str, Any]], load: float = 0.1) -> Path:
    path = folder / "some.json"
    machine = {
        "margformer_fast": INFO,
        "load_average": {"start": [load, 0, 0], "end": [1.9, 0, 0]},
        "num_cpus": 2,
    }
    told = {"machine_info": machine, "datetime": "2026-01-02T03:04:05", "benchmarks": benchmarks}
    path.write_text(json.dumps(told))
    return path


BENCHMARKS = [
    benchmark("bench_a[x-fp32]", "a <thing>", 0.2, {"way": "x", "n": 3}, gflop=4, precision="fp32"),
    benchmark(
        "bench_a[y-fp32]",
        "a <thing>",
        0.6,
        {"way": "y & z", "n": 3},
        gflop=4,
        pairs=60,
        precision="fp32",
        baseline=True,
        kept_megabytes=12.5,
    ),
    benchmark("bench_roof[fp32]", "roof", 0.1, {"precision": "fp32"}, gflop=4, roof="gflop_fp32"),
]


def rows(page: str) -> dict[str, list[str]]:
    """The cells of each row of the page, without markup, by the first."""
    found = re.findall(r"<tr[^>]*>(.*?)</tr>", page)
    cells = [
        [re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)] for row in found
    ]
    return {row[0]: row[1:] for row in cells if row}


def test_numbers_of_a_group(tmp_path: Path) -> None:
    page = report.build([report.read(written(tmp_path, BENCHMARKS))])
    found = rows(page)
    # 4 GFLOP in 0.2 s, of a roof of 4 GFLOP in its best round of 0.08 s.
    assert found["x"] == ["200 ms", "60 ms", "7", "3", "", "20", "40&nbsp;%", ""]
    assert found["y &amp; z (baseline)"] == ["600 ms", "180 ms", "7", "1", "100", "6.67", "13&nbsp;%", "12.5"]
    assert "<b>3 times</b> as fast as &ldquo;y &amp; z&rdquo;" in page
    assert found["nt_xent"] == ["tiled"]
    assert found["margformer_fast"] == ["1.2.3"]


def test_the_page_needs_nothing_else_and_escapes(tmp_path: Path) -> None:
    page = report.build([report.read(written(tmp_path, BENCHMARKS))])
    assert page.count('src="data:image/png;base64,') == len(re.findall("src=", page)) == 1
    assert "href=" not in page
    assert "<thing>" not in page
    assert "<CPU>" not in page
    assert "/a/private/place" not in page


@pytest.mark.parametrize(("load", "words"), [(0.1, "was quiet"), (1.5, "had other work")])
def test_it_says_whether_the_machine_was_quiet(tmp_path: Path, load: float, words: str) -> None:
    page = report.build([report.read(written(tmp_path, BENCHMARKS, load))])
    assert f"The machine {words} (load average {load} at the start, 1.9 at the end, 2 processors)" in page


def test_without_a_flag_the_slowest_is_the_baseline_and_nothing_is_made_up(tmp_path: Path) -> None:
    two = [benchmark(f"bench_b[{way}]", "b", t, {"way": way}) for way, t in (("p", 3e-5), ("q", 1.5e-5))]
    page = report.build([report.read(written(tmp_path, two))])
    found = rows(page)
    assert found["q"] == ["15 &micro;s", "4.5 &micro;s", "7", "2"]
    assert found["p (baseline)"][-1] == "1"
    assert "<li>" not in page, "a ratio to the slowest is no headline"
    assert "<th>share of roof" not in page


def test_results_of_the_gpu_suite(tmp_path: Path) -> None:
    listed = [
        {"name": f"bench_c[{way}-64]", "group": "c", "median_s": t, "iqr_s": 0.1 * t, "rounds": 5, "gflop": 8}
        for way, t in (("triton", 0.01), ("materialised", 0.08))
    ]
    info = {**INFO, "gpus": ["A GPU"]}
    info["operators"] = {"nt_xent": {"cpu": {}, "cuda": {"triton": [], "reference": []}}}
    path = tmp_path / "gpu.json"
    path.write_text(json.dumps({"date": "2026-01-02", "info": info, "benchmarks": listed}))
    page = report.build([report.read(path)])
    assert rows(page)["triton-64"] == ["10 ms", "1 ms", "5", "8", "800"]
    assert rows(page)["nt_xent"] == ["triton"]
    assert "A GPU, 2026-01-02" in page
    assert "was not recorded" in page


@pytest.mark.parametrize("content", ["[]", "{}", '{"benchmarks": []}'])
def test_other_files_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"other.json: holds no benchmarks; expected a file of"):
        report.read(path)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report.main([str(written(tmp_path, BENCHMARKS)), "--out", str(tmp_path / "page")])
    assert (tmp_path / "page" / "benchmarks.html").read_text().startswith("<!DOCTYPE html>")
    assert "written to" in capsys.readouterr().out
