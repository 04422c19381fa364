"""The learning benchmark as it is run, cut to one step a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import pytest

from benchmarks.learning import SUITES, overrides, run_folder
from depth_ros.types import InputError
from training.config import load_config

ROOT = Path(__file__).resolve().parents[2]


def test_every_run_of_a_suite_is_judged_beside_the_mean_map(tmp_path: Path) -> None:
    small = ("run.max_steps=1", "data.street_samples=4", "optim.batch_size=2", "network.pretrained=none", "data.workers=0")
    command = [sys.executable, "benchmarks/learning.py", "--suite", "streets", "--seeds", "3", "--out", str(tmp_path)]
    done = subprocess.run(
        [*command, "--runs", str(tmp_path / "runs"), *(word for change in small for word in ("--set", change))],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "learning_streets.json").read_text())
    runs = ("supervised", "stereo", "mono, known poses", "mono, learned poses")
    assert tuple(report["rows"]) == ("constant", "mean map", "mean map, pooled", *runs)
    assert all(len(values) == 1 for row in report["rows"].values() for values in row.values())
    assert report["rows"]["mono, learned poses"]["abs_rel"] == [None]  # true up to one factor: no raw metres
    assert all(report["rows"][run]["abs_rel"][0] > 0 for run in runs[:-1])
    assert "protocol kitti2015" in report["protocol"]
    assert all(line in done.stdout for line in ("mean map", *runs))


@pytest.mark.parametrize("name", SUITES)
def test_every_run_of_a_suite_has_a_valid_configuration_of_its_own(name: str, tmp_path: Path) -> None:
    """A key that is renamed, or two runs that are the same one, would otherwise show after hours."""
    suite = SUITES[name]
    assert len(suite.all_runs) == len(suite.first) + len(suite.runs) + len(suite.then)
    runs = {run: overrides(suite, run, 7, tmp_path) for run in suite.all_runs}
    configs = {run: load_config(ROOT / suite.config, changes) for run, changes in runs.items()}
    nowhere = [replace(config, run=replace(config.run, dir="")) for config in configs.values()]
    assert all(a != b for a, b in combinations(nowhere, 2))
    folders = {run_folder(tmp_path, run, 7) for run in runs}
    assert len(folders) == len(runs)
    done: set[Path] = set()
    for stage in (suite.first, suite.runs, suite.then):
        for run in stage:
            config = configs[run]
            started = [Path(p) for p in (config.feature.checkpoint, config.run.init, *config.method.teachers) if p]
            assert {file.parent for file in started} <= done
            assert all(file.name == suite.judged for file in started)
        done |= {run_folder(tmp_path, run, 7) for run in stage}


@pytest.mark.parametrize("name", SUITES)
def test_predictions_are_clamped_where_the_truth_is_capped(name: str) -> None:
    """One image whose aligned inverse depth reaches 0 somewhere could otherwise outweigh all others."""
    for exam in SUITES[name].exams:
        assert exam.protocol.clamp_max_m == min(exam.protocol.cap_m, 80.0)


def test_rows_are_chosen_by_name():
    suite = SUITES["monodiffusion"]
    chosen = suite.only(["teacher", "student", "few steps"])
    assert list(chosen.all_runs) == ["teacher", "student", "few steps"]
    assert chosen.all_runs == {name: suite.all_runs[name] for name in chosen.all_runs}
    assert suite.only([]) is suite
    with pytest.raises(InputError, match="no run 'studnet'; it has teacher, larger teacher, Lite-Mono teacher, teacher, longer"):
        suite.only(["studnet"])
