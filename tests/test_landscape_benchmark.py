"""The landscape benchmark as it is run, on few pairs: what is known of surfaces with and without texture."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("landscape")
    figure = folder / "it.png"
    command = [sys.executable, "benchmarks/landscape.py", "--count", "3", "--out", str(folder), "--figure", str(figure)]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    assert figure.stat().st_size > 10_000
    return json.loads((folder / "landscape.json").read_text())


def test_texture_finds_the_true_depth_and_plain_surfaces_do_not(report: dict) -> None:
    clear = report["noises"]["0.0"]["photometric"]
    share = "share_of_pixels_best_within_5_percent"
    assert clear["textured"][share] > 2 * clear["plain"][share]
    assert clear["textured"]["slope"] > 2 * clear["plain"]["slope"]
    error = clear["textured"]["error"]
    assert report["factors"][error.index(min(error))] == pytest.approx(1, abs=0.05)


def test_noise_leaves_less_of_the_slope_towards_the_truth(report: dict) -> None:
    middle = len(report["factors"]) // 2
    near = [middle - 3, middle + 3]  # 10 % off
    clear, noisy = (report["noises"][noise]["photometric"]["textured"]["slope_towards_truth"] for noise in ("0.0", "5.0"))
    assert sum(clear[i] for i in near) > sum(noisy[i] for i in near)
