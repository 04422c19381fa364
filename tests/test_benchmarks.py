"""The benchmarks run and say what benchmarks/README.md promises; how fast anything is, no test asserts."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run_node_latency(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return run("node_latency.py", *arguments)


def run(program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / program), *map(str, arguments)]
    environment = {**os.environ, "AMENT_PREFIX_PATH": os.environ.get("AMENT_PREFIX_PATH", sys.prefix)}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=200, check=False)


@pytest.fixture(autouse=True)
def _needs_ros() -> None:
    if importlib.util.find_spec("rclpy") is None:
        pytest.skip("rclpy is not installed: make setup, or source a ROS 2 environment")


def test_node_latency_measures_every_stage(make_bundle, tmp_path):
    model = make_bundle(416, 128, fx=241.0, fy=246.0)
    out = tmp_path / "results" / "latency.json"
    done = run_node_latency("--model", model.path, "--frames", 6, "--rate", 5, "--out", out)
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert (report["model"]["sha256"], report["input"]["width"], report["input"]["height"]) == (model.sha256, 1242, 375)
    assert report["cores"] == len(os.sched_getaffinity(0))
    measured = report["measured"]
    assert 1 <= measured["answered"] <= measured["images"] == 6
    rows = {**measured["latency_ms"], **measured["node_ms"], **measured["alone_ms"]}
    assert all(0 <= row["p50"] <= row["p95"] <= row["p99"] <= row["max"] for row in rows.values()), rows
    # Every stage that these images pass through was seen; a `rest` below 0 would mean that one was counted twice.
    untouched = {"rectify"}
    assert {name for name, row in measured["node_ms"].items() if row["max"] == 0} == untouched
    assert "own share" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--images", "assets/street/image"], "--images and --camera-info belong together"),
        (["--rate", "0"], "--rate 0; expected both positive"),
        (["--model", "no/such/bundle"], "no such folder; expected a model bundle"),
    ],
)
def test_node_latency_refuses_in_one_line(arguments, complaint, tmp_path):
    done = run_node_latency(*arguments, "--out", tmp_path / "latency.json")
    assert done.returncode == 1
    assert complaint in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "latency.json").exists()


def test_node_counts_every_image_of_every_camera(make_bundle, tmp_path):
    model, out = make_bundle(), tmp_path / "node.json"
    load = ("--sizes", "128x64", "--rates", "5", "--cameras", "1", "2", "--seconds", "2")
    done = run("node.py", "--model", model.path, *load, "--out", out)
    assert done.returncode == 0, done.stderr
    report = json.loads(out.read_text())
    assert report["model"]["sha256"] == model.sha256
    one, two = report["rows"]
    for row, cameras in ((one, 1), (two, 2)):
        assert (row["width"], row["height"], row["cameras"], row["sent"]) == (128, 64, cameras, 10 * cameras)
        assert len(row["answered_per_camera"]) == cameras
        assert all(0 < answered <= 10 for answered in row["answered_per_camera"])
        assert row["answered"] == sum(row["answered_per_camera"]) == row["sent"] - row["dropped"]
        assert 0 < row["latency_ms"]["p50"] <= row["latency_ms"]["p95"]
        assert row["memory_mb"] > 1
