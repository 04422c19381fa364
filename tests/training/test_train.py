"""Training as a user runs it: what a run writes, keeps and prints, and one clear line for what cannot be trained."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from trainer_runs import ROOT, arguments, finish, read_curve, start, train_here, write_recipe

from training.batch import Batch
from training.checkpoint import _initialise, load_method, read_checkpoint
from training.methods import Method
from training.train import main, validate

Build = Callable[..., Method]
MISSING = "runs/first/best.ckpt: no such checkpoint; another run writes it: first train the YAML whose run.dir is runs/first"


@pytest.fixture
def recipe(tmp_path: Path, street_video: Path) -> Path:
    """The YAML of a small run in tmp_path/run on the recorded street."""
    return write_recipe(tmp_path, street_video)


def test_a_run_and_the_same_command_with_more_steps(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "run"
    code, out, err = finish(start(recipe, "data.workers=1"))
    assert code == 0, err
    assert [line.split(":")[0] for line in out.splitlines() if line.startswith("step")] == ["step 3", "step 6"]
    for shown in ("loss=", "lr=", "images/s="):
        assert shown in err
    assert read_checkpoint(folder / "last.ckpt")["step"] == 6
    assert yaml.safe_load((folder / "config.yaml").read_text())["optim"]["batch_size"] == 2
    assert list((folder / "curves").glob("events.out.tfevents.*"))

    train_here(recipe, "run.max_steps=10")
    out = capsys.readouterr().out
    assert [line.split(":")[0] for line in out.splitlines() if line.startswith("step")] == ["step 9", "step 10"]
    assert read_checkpoint(folder / "last.ckpt")["step"] == 10
    assert [int(row["step"]) for row in read_curve(folder)] == list(range(1, 11))
    assert yaml.safe_load((folder / "config.yaml").read_text())["run"]["max_steps"] == 10
    with torch.no_grad():
        depth, sigma = load_method(folder / "best.ckpt").predict(torch.rand(1, 3, 64, 64))
    assert torch.isfinite(depth).all()
    assert torch.isfinite(sigma).all()


def test_the_environment_of_a_run_is_written(recipe: Path) -> None:
    folder = train_here(recipe, "run.max_steps=1", "run.seed=5")
    (entry,) = yaml.safe_load((folder / "environment.yaml").read_text())
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    assert entry["commit"].removesuffix("-dirty") == head
    assert entry["packages"]["torch"] == torch.__version__
    assert (entry["seed"], entry["from_step"], entry["processes"]) == (5, 0, 1)


def test_a_cyclic_schedule_keeps_the_newest_snapshots(recipe: Path) -> None:
    """Cycles of 6 steps in 3 end after 2, 4 and 6."""
    folder = train_here(
        recipe,
        "optim.schedule=cyclic",
        "optim.warmup_steps=0",
        "optim.ema=0",
        "run.cycles=3",
        "run.keep=2",
        "optim.clip_norm=.inf",
    )
    assert sorted(file.name for file in folder.glob("*.ckpt")) == ["best.ckpt", "last.ckpt", "snapshot_2.ckpt", "snapshot_3.ckpt"]
    assert [read_checkpoint(folder / f"snapshot_{n}.ckpt")["step"] for n in (2, 3)] == [4, 6]
    rates = [float(row["lr"]) for row in read_curve(folder)]
    assert rates[:2] == rates[2:4] == rates[4:]
    last, snapshot = (read_checkpoint(folder / name)["average"] for name in ("last.ckpt", "snapshot_3.ckpt"))
    assert all(torch.equal(last[name], snapshot[name]) for name in last)
    assert not load_method(folder / "snapshot_2.ckpt").training


def test_mixed_precision_goes_on_with_its_loss_scale(recipe: Path) -> None:
    folder = train_here(recipe, "run.precision=16-mixed", "run.max_steps=1")
    scale = read_checkpoint(folder / "last.ckpt")["scaler"]
    assert scale["scale"] == 65536  # torch's first one
    train_here(recipe, "run.precision=16-mixed", "run.max_steps=2")
    assert read_checkpoint(folder / "last.ckpt")["scaler"]["_growth_tracker"] == scale["_growth_tracker"] + 1


def test_the_rate_of_the_loader_alone(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments(recipe), "--loader-only", "3"]) == 0
    shown = re.search(r"loader: ([\d.]+) images/s, ([\d.]+) samples/s \(3 batches of 2, 0 workers\)", capsys.readouterr().out)
    assert shown
    assert float(shown[1]) == pytest.approx(3 * float(shown[2]), rel=0.01)  # a target and its two neighbours
    assert not (tmp_path / "run").exists()


def test_a_depth_at_its_limit_stops_the_run_and_keeps_the_last_good_checkpoint(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Streets are farther away than this network can say."""
    values = yaml.safe_load(recipe.read_text())
    values["data"] = {"source": "street", "street_samples": 4, "width": 64, "height": 64, "workers": 0}
    values["network"] |= {"max_depth": 1.5}
    values["method"] |= {"name": "supervised"}
    values["optim"] |= {"learning_rate": 0.03, "ema": 0.0}
    recipe.write_text(yaml.safe_dump(values))
    assert main(arguments(recipe, "run.max_steps=60", "run.validate_every=2")) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    found = re.search(
        r"error: step (\d+): collapsed for 3 validations in a row: (.*), so a falling loss means nothing; lower", error
    )
    assert found
    assert "almost the whole depth map is at network.max_depth (far " in found[2]
    rows = [row for row in read_curve(tmp_path / "run") if row["val/far"]]
    assert [float(row["val/far"]) > 0.98 for row in rows[-4:]] == [False, True, True, True]
    assert read_checkpoint(tmp_path / "run" / "best.ckpt")["step"] <= int(found[1]) - 6  # not one of the collapsed


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["run.max_step=3"], "unknown key 'max_step'; did you mean 'max_steps'?"),
        (["data.images=nowhere"], "nowhere: no such folder; expected the frames of a video"),
        (["method.name=supervised"], "method supervised needs true depth in every batch"),
        (["optim.batch_size=64"], "optim.batch_size is 64, but a source has only 8 samples"),
        (["run.init=runs/first/best.ckpt"], MISSING),
        (["method.name=self_teaching", "method.teachers=[runs/first/best.ckpt]"], MISSING),
        (
            ["run.accelerator=abacus"],
            "run.accelerator is 'abacus', run.devices 1, run.precision '32-true': You selected an invalid",
        ),
        (["run.precision='33'"], "run.precision is 33; expected 32-true, bf16-mixed or 16-mixed"),
        (["optim.learning_rate=1e30", "optim.warmup_steps=0"], "step 2: the loss is not finite in smoothness"),
        (["run.dir=/proc/run"], "/proc/run"),
    ],
)
def test_what_cannot_be_trained_is_one_line(
    recipe: Path, capsys: pytest.CaptureFixture[str], overrides: list[str], message: str
) -> None:
    assert main(arguments(recipe, *overrides)) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert message in errors[0]


def test_validation_depends_on_nothing_that_was_drawn_before(build: Build, street_batch: Batch) -> None:
    """The ties of the auto-mask are drawn, but the same every time; every sample counts alike, however it is batched."""
    method, device = build("monodepth2"), torch.device("cpu")
    torch.manual_seed(3)
    first = validate(method, [street_batch], device)
    torch.rand(4)
    assert validate(method, [street_batch], device) == first
    assert validate(method, [street_batch, street_batch], device)["val/loss"] == pytest.approx(first["val/loss"], rel=1e-4)
    assert not method.training


@pytest.mark.parametrize(("name", "other"), [("supervised", "monodepth2"), ("monodepth2", "supervised")])
def test_another_runs_depth_net_is_the_start(build: Build, name: str, other: str) -> None:
    """One head gives a disparity, the other a log sigma beside it: the depth is the same at the start."""
    method, source, image = build(name).eval(), build(other).eval(), torch.rand(1, 3, 64, 192)
    assert not torch.allclose(method.depth_net(image)[0][:, :1], source.depth_net(image)[0][:, :1], atol=1e-3)
    _initialise(method, source)
    assert torch.allclose(method.depth_net(image)[0][:, :1], source.depth_net(image)[0][:, :1], atol=1e-6)
