"""The learning benchmark as it is run, cut to one step a run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

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
