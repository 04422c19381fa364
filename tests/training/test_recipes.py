"""Every YAML in config/train trains, and steps that follow each other find the checkpoints where the step before wrote them."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from training.checkpoint import load_method, read_checkpoint
from training.config import load_config
from training.train import main

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted(f for f in (ROOT / "config" / "train").glob("*.yaml") if f.stem != "from_bag")  # test_bags.py trains that one
TRAIN = "\t$(TRAIN) "
RECIPE = [
    shlex.split(line.removeprefix(TRAIN)) for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith(TRAIN)
]
PAGE = (ROOT / "docs" / "monodiffusion.md").read_text().replace("\\\n", "").replace("<your data>", "data")
COMMANDS = [shlex.split(line) for line in re.findall(r"^python -m training\.(.*)$", PAGE, flags=re.MULTILINE)]
STUDENTS = [options for program, *options in COMMANDS if program == "train"]
EXPORTS = [options for program, *options in COMMANDS if program == "export"]
FRAMES = 1018
WIDTH, HEIGHT = 48, 16  # a quarter of the network's input


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to train in, with data/ laid out as the recipes expect: a street of four pictures, over and over."""
    video = tmp_path / "data" / "kitti_odom00_416x128"
    (video / "image").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(4):
        cv2.imwrite(str(tmp_path / f"{index}.png"), rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))
    for index in range(FRAMES):
        (video / "image" / f"{index:06d}.png").symlink_to(tmp_path / f"{index % 4}.png")
    K = [[30.0, 0.0, 23.5], [0.0, 30.0, 7.5], [0.0, 0.0, 1.0]]
    (video / "meta.json").write_text(json.dumps({"K": K, "width": WIDTH, "height": HEIGHT}))
    np.savetxt(video / "poses.txt", [np.eye(4)[:3].ravel() + index * np.eye(12)[11] for index in range(FRAMES)])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def train(file: str, *options: str) -> Path:
    """Two steps of a recipe on two small images; returns the best checkpoint."""
    arguments = [str(ROOT / file), *options]
    for override in (
        "data.root=data",
        "run.max_steps=2",
        "optim.batch_size=2",
        "data.width=192",
        "data.height=64",
        "data.workers=0",
        "data.val_frames=[998,1018]",
        "data.street_samples=8",
    ):
        arguments += ["--set", override]
    assert main(arguments) == 0
    overrides = [option for option in options if option != "--set"]
    return Path(load_config(ROOT / file, overrides).run.dir) / "best.ckpt"


def test_the_steps_of_make_model_follow_each_other(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    last = [train(*step) for step in RECIPE][-1]
    assert last == Path("runs/default/best.ckpt")
    assert read_checkpoint(last)["step"] == 2
    method = load_method(last)
    with torch.no_grad():
        depth, sigma = method.predict(torch.rand(1, 3, method.config.data.height, method.config.data.width))
    assert torch.isfinite(depth).all()
    assert (sigma > 0).all()


def test_a_student_follows_its_teacher_and_is_exported_as_its_page_says(workplace: Path) -> None:
    """MonoDiffusion, from video and from streets."""
    for command in STUDENTS:
        assert read_checkpoint(train(*command))["step"] == 2
    for checkpoint, _, *options in EXPORTS:
        method = load_method(checkpoint, [option for option in options if option != "--set"])
        assert method.metric
        with torch.no_grad():
            depth, sigma = method.predict(torch.rand(1, 3, 64, 192))
        assert torch.isfinite(depth).all()
        assert (sigma > 0).all()
    assert len(EXPORTS) > 1


@pytest.mark.parametrize(
    "file", [f for f in SHIPPED if f"config/train/{f.name}" not in {s[0] for s in (*RECIPE, *STUDENTS)}], ids=lambda f: f.stem
)
def test_the_other_recipes_train_on_their_own(workplace: Path, file: Path) -> None:
    assert read_checkpoint(train(str(file)))["step"] == 2


@pytest.mark.parametrize("step", RECIPE[1:], ids=" ".join)
def test_a_step_out_of_turn_names_the_run_that_is_missing(
    workplace: Path, capsys: pytest.CaptureFixture[str], step: list[str]
) -> None:
    assert main([str(ROOT / step[0]), *step[1:], "--set", "data.root=data"]) == 1
    missing = load_config(ROOT / step[0]).run.init
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == f"error: {missing}: no such checkpoint; another run writes it: " \
        f"first train the YAML whose run.dir is {Path(missing).parent}"  # fmt: skip
