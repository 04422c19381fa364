"""The pictures of feature maps: slopes and bends in closed form, and the command on a net of one step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from trainer_runs import train_here

from benchmarks.feature_maps import main, steepness

ONE_STEP = """
data: {source: street, street_samples: 4, street_views: [], width: 128, height: 64, workers: 0}
method: {name: feature_net}
network: {pretrained: none}
optim: {batch_size: 2}
run: {max_steps: 1, accelerator: cpu, dir: %s}
"""


def recipe(folder: Path, text: str = ONE_STEP) -> Path:
    file = folder / "recipe.yaml"
    file.write_text(text % (folder / "run"))
    return file


def test_a_ramp_is_steep_and_a_parabola_is_bent() -> None:
    x = torch.arange(8.0).expand(1, 2, 6, 8)
    assert steepness(3 * x, 1)[..., :-1, :-1].unique().tolist() == [3]
    assert steepness(3 * x, 2).abs().max() == 0
    assert steepness(x**2, 2)[..., :-2, :-2].unique().tolist() == [2]


def test_the_command_draws_and_states_slopes_of_plain_and_textured_surfaces(tmp_path: Path) -> None:
    checkpoint = train_here(recipe(tmp_path)) / "last.ckpt"
    figure = tmp_path / "maps.png"
    assert main([f"one step={checkpoint}", "--count", "3", "--out", str(tmp_path), "--figure", str(figure)]) == 0
    assert figure.stat().st_size > 10_000
    found = json.loads((tmp_path / "feature_maps.json").read_text())["nets"]["one step"]
    assert found["textured"]["|d phi|"] > found["plain"]["|d phi|"] > 0  # any filters see more where there is more to see
    assert found["plain"]["pixels"] > 100


def test_a_method_without_feature_net_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = ONE_STEP.replace("feature_net", "supervised")
    checkpoint = train_here(recipe(tmp_path, other)) / "last.ckpt"
    assert main([f"it={checkpoint}", "--out", str(tmp_path)]) == 1
    assert "is of method supervised, which trained no FeatureNet" in capsys.readouterr().err
    assert main([str(checkpoint), "--out", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"error: {checkpoint}; expected NAME=CHECKPOINT\n"
