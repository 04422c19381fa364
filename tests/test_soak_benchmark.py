"""The node under load for half a minute: nothing grows. And what the benchmark makes of its samples, on made-up ones."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")
pytest.importorskip("tqdm", reason="needs the tools' requirements")

from benchmarks.soak import COUNTS, Sample, answered_per_tenth, growth
from depth_ros.tools.session import SessionError

ROOT = Path(__file__).resolve().parents[1]


def samples(memory_mb, **counts) -> list[Sample]:
    usual = {name: [9] * len(memory_mb) for name in COUNTS} | counts
    rows = zip(memory_mb, *(usual[name] for name in COUNTS), strict=True)
    return [Sample(10.0 * number, memory, *values, shared_memory_mb=70.0) for number, (memory, *values) in enumerate(rows)]


def test_growth_begins_after_the_warm_up():
    start = [50.0, 90.0, 100.0]  # of 31 samples, the first tenth is warming up
    assert growth(samples(start + [100.0] * 28, threads=[5, 8, 9] + [9] * 28)) == {"memory": 0.0} | dict.fromkeys(COUNTS, 0)
    leaking = growth(samples([100.0 + number for number in range(31)]))
    # Settled: samples 3 ... 30; the median of the first two is 103.5, of the last two 129.5.
    assert leaking["memory"] == pytest.approx(129.5 / 103.5 - 1, abs=1e-4)
    one_more = growth(samples([100.0] * 31, files=[9] * 20 + [10] + [9] * 10))
    assert one_more["files"] == 1


def test_too_few_samples_are_refused():
    with pytest.raises(SessionError, match="too few"):
        growth(samples([100.0, 100.0]))


def test_answers_that_die_away_are_seen():
    steady = [("front/depth/image_rect", 0, number) for number in range(100)] + [("points", 0, 500)]
    assert answered_per_tenth(steady) == [10] * 10
    assert answered_per_tenth([*steady[:50], steady[99]])[5:] == [0, 0, 0, 0, 1]
    assert answered_per_tenth([]) == []


def test_nothing_grows_in_half_a_minute(make_bundle, tmp_path):
    out = tmp_path / "soak.json"
    settings = {
        "--minutes": 0.4,
        "--model": make_bundle().path,
        "--size": "320x240",
        "--every": 0.5,
        "--threads": 1,
        "--out": out,
    }
    words = [str(word) for item in settings.items() for word in item]
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "soak.py"), *words], capture_output=True, text=True, timeout=200, check=False
    )
    assert out.is_file(), done.stderr
    report = json.loads(out.read_text())
    assert done.returncode == 0, (done.stdout, report["growth"], report["samples"])
    assert report["flat"]
    assert len(report["samples"]["time_s"]) > 10
    assert report["sent"] == 720
    assert 0 < sum(report["answered_per_tenth"]) <= 720
