"""Every YAML in config/train trains, and steps that follow each other find the checkpoints where the step before wrote them."""

from __future__ import annotations

import json
import re
import shlex
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from training import evaluate, robustness
from training.checkpoint import load_method, read_checkpoint
from training.config import load_config
from training.train import main

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = sorted(f for f in (ROOT / "config" / "train").glob("*.yaml") if f.stem != "from_bag")  # test_bags.py trains that one
TRAIN = "\t$(TRAIN) "
RECIPE = [
    shlex.split(line.removeprefix(TRAIN)) for line in (ROOT / "Makefile").read_text().splitlines() if line.startswith(TRAIN)
]
PAGES = ("featdepth", "low_texture", "monodiffusion")
STANDING_FOR = {"\\\n": "", "<your data>": "data", "<folder with truth>": "truth"}


def commands(page: str) -> list[list[str]]:
    """What comes after `python -m training.` on a page of docs, word by word; not those that need another layout of data."""
    text = (ROOT / "docs" / f"{page}.md").read_text()
    for written, meant in STANDING_FOR.items():
        text = text.replace(written, meant)
    lines = re.findall(r"^python -m training\.(.*)$", text, flags=re.MULTILINE)
    return [shlex.split(line, comments=True) for line in lines if "<folder>" not in line]


TRAINED = {words[1] for page in PAGES for words in commands(page) if words[0] == "train"}
FRAMES = 1018
WIDTH, HEIGHT = 48, 16  # a quarter of the network's input


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, street_set: Path) -> Path:
    """An empty folder to train in, with data/ laid out as the recipes expect: a street of four pictures, over and over.

    And truth/, to judge by.
    """
    (tmp_path / "truth").symlink_to(street_set)
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


@pytest.mark.timeout(1200)  # up to a minute of one free core
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_follow_each_other(workplace: Path, page: str) -> None:
    """Trained from video, pairs and streets; taught, refined and judged. What is exported predicts depth with a sigma."""
    done = []
    for program, *words in commands(page):
        done.append(program)
        if program == "train":
            assert read_checkpoint(train(*words))["step"] == 2
        elif program == "robustness":
            assert robustness.main([*words, "--corruptions", "fog", "--severities", "1"]) == 0
        elif program == "evaluate":
            assert evaluate.main(words) == 0
        else:
            assert program == "export"
            method = load_method(words[0], [value for option, value in pairwise(words) if option == "--set"])
            assert method.metric
            with torch.no_grad():
                depth, sigma = method.predict(torch.rand(1, 3, 64, 192))
            assert torch.isfinite(depth).all()
            assert (sigma > 0).all()
    assert done.count("train") > 2
    assert done.count("export") > 1


@pytest.mark.parametrize(
    "file", [f for f in SHIPPED if f"config/train/{f.name}" not in TRAINED | {step[0] for step in RECIPE}], ids=lambda f: f.stem
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
