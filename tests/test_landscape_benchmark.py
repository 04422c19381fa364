"""The landscape benchmark as it is run, on few pairs: what is known of surfaces with and without texture."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import landscape
from training.config import load_config
from training.train import train

ROOT = Path(__file__).resolve().parents[1]


def checkpoint(folder: Path, method: str) -> Path:
    """Of a run of one step: almost random weights."""
    small = ("data.street_samples=4", "data.street_views=[]", "data.workers=0", "optim.batch_size=2", "network.pretrained=none")
    run = (f"method.name={method}", f"run.dir={folder / method}", "run.max_steps=1", "run.accelerator=cpu")
    return train(load_config(ROOT / "benchmarks" / "learning_featdepth.yaml", (*small, *run)))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("landscape")
    figure = folder / "it.png"
    net = f"untrained={checkpoint(folder, 'feature_net')}"
    command = [sys.executable, "benchmarks/landscape.py", net, "--count", "3", "--out", str(folder), "--figure", str(figure)]
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


def test_features_of_any_weights_agree_best_at_the_true_depth_of_texture(report: dict) -> None:
    error = report["noises"]["0.0"]["untrained"]["textured"]["error"]
    assert report["factors"][error.index(min(error))] == pytest.approx(1, abs=0.05)


def test_what_is_no_feature_net_is_refused_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    depth = checkpoint(tmp_path, "supervised")
    complaints = {
        "alone": "alone; expected NAME=CHECKPOINT",
        f"gone={tmp_path / 'gone.ckpt'}": "gone.ckpt: no such checkpoint",
        f"depth={depth}": f"{depth} is of method supervised, which trained no FeatureNet; expected one that did: feature_net",
    }
    for net, complaint in complaints.items():
        capsys.readouterr()
        assert landscape.main([net, "--out", str(tmp_path), "--figure", str(tmp_path / "it.png")]) == 1
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert complaint in line
    assert not (tmp_path / "landscape.json").exists()
