"""Small runs of the trainer for the tests: a recipe, a process as a terminal starts it, and what a run leaves behind."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from training.checkpoint import read_checkpoint
from training.train import main

ROOT = Path(__file__).resolve().parents[2]


def write_recipe(folder: Path, video: Path, **sections: dict[str, Any]) -> Path:
    """The YAML of a small run in folder/run on a recorded street, with differences."""
    values: dict[str, dict[str, Any]] = {
        "data": {
            "root": str(video), "images": "image", "calibration": "camera.yaml", "poses": "poses.txt",
            "train_frames": [0, 10], "val_frames": [10, 14], "width": 64, "height": 64, "workers": 0,
        },
        "method": {"scales": 1},
        "network": {"pretrained": "none"},
        "optim": {"batch_size": 2, "warmup_steps": 2},
        "run": {"dir": str(folder / "run"), "max_steps": 6, "validate_every": 3, "log_every": 1, "accelerator": "cpu"},
    }  # fmt: skip
    for name, section in sections.items():
        values[name] |= section
    folder.mkdir(exist_ok=True)
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


def train_here(recipe: Path, *overrides: str) -> Path:
    """Run the command in this process; returns the run's folder."""
    assert main(arguments(recipe, *overrides)) == 0
    return recipe.parent / "run"


def arguments(recipe: Path, *overrides: str) -> list[str]:
    return [str(recipe), *(word for override in overrides for word in ("--set", override))]


def start(recipe: Path, *overrides: str, launcher: Sequence[str] = ()) -> subprocess.Popen[str]:
    """Start the command in a process group of its own, as a terminal does."""
    command = [sys.executable, *launcher, "-m", "training.train", *arguments(recipe, *overrides)]
    pipe = subprocess.PIPE
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Wait for the process; returns its exit code and output. None of its group outlives the test."""
    try:
        out, err = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    return process.returncode, out, err


def wait_for_rows(folder: Path, count: int, process: subprocess.Popen[str] | None = None) -> None:
    """Wait until the run has logged `count` steps (or its process has ended)."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and len(read_curve(folder)) < count and (process is None or process.poll() is None):
        time.sleep(0.02)


def read_curve(folder: Path) -> list[dict[str, str]]:
    file = folder / "curve.csv"
    if not file.is_file():
        return []
    with file.open(newline="") as lines:
        return list(csv.DictReader(lines))


def assert_same_run(one: Path, other: Path) -> None:
    """Curves and final states agree to the last bit."""
    assert (one / "curve.csv").read_bytes() == (other / "curve.csv").read_bytes()
    for name in ("last.ckpt", "best.ckpt"):
        a, b = read_checkpoint(one / name), read_checkpoint(other / name)
        assert (a["step"], a["best"]) == (b["step"], b["best"])
        assert_equal({k: v for k, v in a.items() if k != "config"}, {k: v for k, v in b.items() if k != "config"}, name)


def assert_equal(a: Any, b: Any, where: str) -> None:
    assert type(a) is type(b), where
    if isinstance(a, torch.Tensor):
        assert torch.equal(a, b), where
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), where
        for key in a:
            assert_equal(a[key], b[key], f"{where}: {key}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for index, pair in enumerate(zip(a, b, strict=True)):
            assert_equal(*pair, f"{where}: {index}")
    else:
        assert a == b, where
