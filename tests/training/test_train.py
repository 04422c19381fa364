"""Training as a user runs it: a process, a video on disk, Ctrl-C, and the same command again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from training.batch import Batch
from training.checkpoint import load_method, read_checkpoint
from training.methods import Method
from training.train import _initialise, _moving_average, main, validate

ROOT = Path(__file__).resolve().parents[2]
Build = Callable[..., Method]
MISSING = "runs/first/best.ckpt: no such checkpoint; another run writes it: first train the YAML whose run.dir is runs/first"


@pytest.fixture
def recipe(tmp_path: Path, street_video: Path) -> Path:
    """The YAML of a small run in tmp_path/run on the recorded street."""
    values = {
        "data": {
            "root": str(street_video), "images": "image", "calibration": "camera.yaml", "poses": "poses.txt",
            "train_frames": [0, 10], "val_frames": [10, 14], "width": 192, "height": 64,
        },
        "network": {"pretrained": "none"},
        "optim": {"batch_size": 2, "warmup_steps": 2},
        "run": {"dir": str(tmp_path / "run"), "max_steps": 6, "validate_every": 3, "log_every": 1, "accelerator": "cpu"},
    }  # fmt: skip
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(values))
    return file


def start(recipe: Path, *overrides: str) -> subprocess.Popen[str]:
    """Start the command in a process group of its own, as a terminal does."""
    command = [sys.executable, "-m", "training.train", str(recipe)]
    for override in overrides:
        command += ["--set", override]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def test_a_run_and_the_same_command_with_more_steps(recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    code, out, err = finish(start(recipe))
    assert code == 0, err
    assert [line.split(":")[0] for line in out.splitlines() if line.startswith("step")] == ["step 3", "step 6"]
    assert read_checkpoint(folder / "last.ckpt")["step"] == 6
    assert yaml.safe_load((folder / "config.yaml").read_text())["optim"]["batch_size"] == 2
    assert list((folder / "curves").glob("events.out.tfevents.*"))

    code, out, err = finish(start(recipe, "run.max_steps=10"))
    assert code == 0, err
    assert [line.split(":")[0] for line in out.splitlines() if line.startswith("step")] == ["step 9", "step 10"]
    stored = read_checkpoint(folder / "last.ckpt")
    assert stored["step"] == 10
    assert len(stored["optimizer"]["state"]) > 0
    with torch.no_grad():
        depth, sigma = load_method(folder / "best.ckpt").predict(torch.rand(1, 3, 64, 192))
    assert torch.isfinite(depth).all()
    assert torch.isfinite(sigma).all()


def test_ctrl_c_says_how_to_go_on(recipe: Path, tmp_path: Path) -> None:
    checkpoint = tmp_path / "run" / "last.ckpt"
    process = start(recipe, "run.max_steps=100000", "run.validate_every=2")
    deadline = time.monotonic() + 90
    while not checkpoint.is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    code, _, err = finish(process)
    assert code == 130, err
    assert err.rstrip().splitlines()[-1] == "stopped; run the same command again to go on from the last checkpoint"
    assert "Traceback" not in err
    step = read_checkpoint(checkpoint)["step"]
    assert step >= 2
    assert main([str(recipe), "--set", f"run.max_steps={step + 1}", "--set", "data.workers=0"]) == 1  # another data section
    assert main([str(recipe), "--set", f"run.max_steps={step + 1}"]) == 0
    assert read_checkpoint(checkpoint)["step"] == step + 1


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["run.max_step=3"], "unknown key 'max_step'; did you mean 'max_steps'?"),
        (["data.images=nowhere"], "nowhere: no such folder; expected the frames of a video"),
        (["method.name=supervised"], "method supervised needs true depth in every batch"),
        (["optim.batch_size=64"], "optim.batch_size is 64, but a source has only 8 samples"),
        (["run.init=runs/first/best.ckpt"], MISSING),
        (["method.name=self_teaching", "method.teachers=[runs/first/best.ckpt]"], MISSING),
        (["run.accelerator=abacus"], "run.accelerator is 'abacus', run.precision '32-true': You selected an invalid accelerator"),
        (["run.precision='33'"], "run.precision '33': Precision '33' is invalid"),
        (["optim.learning_rate=1e30", "optim.warmup_steps=0"], "the loss is not finite"),
        (["run.dir=/proc/run"], "/proc/run"),
    ],
)
def test_what_cannot_be_trained_is_one_line(
    recipe: Path, capsys: pytest.CaptureFixture[str], overrides: list[str], message: str
) -> None:
    arguments = [str(recipe), "--set", "data.workers=0"]
    for override in overrides:
        arguments += ["--set", override]
    assert main(arguments) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]


def test_validation_leaves_the_random_numbers_of_training_alone(build: Build, street_batch: Batch) -> None:
    method, device = build("monodepth2"), torch.device("cpu")
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    losses = [validate(method, [street_batch], device) for _ in range(2)]
    assert torch.equal(torch.rand(4), expected)
    assert losses[0] == losses[1]


def test_the_average_follows_a_step_and_ends_at_its_decay() -> None:
    """After n updates the weight of the newest is 1 - min(decay, (1 + n) / (10 + n))."""
    for count, weight in ((1, 9 / 11), (10, 9 / 20), (10_000, 0.01)):
        average, counter = torch.zeros(3), torch.tensor(0)
        _moving_average(0.99)([average, counter], [torch.ones(3), torch.tensor(5)], count)
        assert average.tolist() == pytest.approx([weight] * 3)
        assert counter == 5


@pytest.mark.parametrize(("name", "other"), [("supervised", "monodepth2"), ("monodepth2", "supervised")])
def test_another_runs_depth_net_is_the_start(build: Build, name: str, other: str) -> None:
    """One head gives a disparity, the other a log sigma beside it: the depth is the same at the start."""
    method, source, image = build(name).eval(), build(other).eval(), torch.rand(1, 3, 64, 192)
    assert not torch.allclose(method.depth_net(image)[0][:, :1], source.depth_net(image)[0][:, :1], atol=1e-3)
    _initialise(method, source)
    assert torch.allclose(method.depth_net(image)[0][:, :1], source.depth_net(image)[0][:, :1], atol=1e-6)
