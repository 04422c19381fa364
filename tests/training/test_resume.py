"""A run that was stopped and goes on ends where an uninterrupted one does, to the last bit."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
import yaml
from trainer_runs import arguments, assert_same_run, finish, read_curve, start, train_here, wait_for_rows, write_recipe

from training.checkpoint import read_checkpoint
from training.train import main

# Every random draw of a step: flips, zooms, colours, ties of the auto-mask, dropout, and batches of two sources.
RANDOM = {
    "data": {"max_zoom": 1.3, "offsets": [[-1, 1], [-2, 2]], "street_share": 0.4, "street_samples": 4},
    "method": {"sigma": "dropout"},
    "run": {"max_steps": 10, "validate_every": 4},
}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory, street_video: Path) -> Path:
    return train_here(write_recipe(tmp_path_factory.mktemp("whole"), street_video, **RANDOM))


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["Ctrl-C", "SIGTERM"])
def test_a_signal_to_all_saves_and_the_same_command_ends_alike(
    uninterrupted: Path, tmp_path: Path, street_video: Path, number: signal.Signals, expected: int
) -> None:
    recipe, folder = write_recipe(tmp_path, street_video, **RANDOM), tmp_path / "run"
    process = start(recipe, "data.workers=1")
    wait_for_rows(folder, 2, process)
    os.killpg(process.pid, number)  # to the loader's process too, as a terminal and a job scheduler do
    code, _, err = finish(process)
    assert code == expected, err
    step = read_checkpoint(folder / "last.ckpt")["step"]
    assert 2 <= step < 10
    assert err.rstrip().splitlines()[-1] == (
        f"stopped at step {step}, saved in {folder / 'last.ckpt'}; run the same command again to go on"
    )
    assert "Traceback" not in err
    train_here(recipe)
    assert_same_run(folder, uninterrupted)
    sessions = yaml.safe_load((folder / "environment.yaml").read_text())
    assert [entry["from_step"] for entry in sessions] == [0, step]


def test_sigterm_and_a_curve_that_ran_ahead_of_the_checkpoint_end_alike(
    uninterrupted: Path, tmp_path: Path, street_video: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, folder = write_recipe(tmp_path, street_video, **RANDOM), tmp_path / "run"

    def interrupt() -> None:
        wait_for_rows(folder, 6)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=interrupt, daemon=True).start()
    assert main(arguments(recipe)) == 143
    step = read_checkpoint(folder / "last.ckpt")["step"]
    assert 6 <= step < 10
    assert f"stopped at step {step}" in capsys.readouterr().err
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL  # the handlers of before are back
    with (folder / "curve.csv").open("a") as file:  # as a process leaves it that is killed while it writes
        file.write(f"{step + 1},0.5,0.5\n{step + 2},0.0")
    train_here(recipe)
    assert_same_run(folder, uninterrupted)


def test_the_curve_has_each_step_once_with_all_that_was_measured(uninterrupted: Path) -> None:
    rows = read_curve(uninterrupted)
    assert [int(row["step"]) for row in rows] == list(range(1, 11))
    assert [int(row["step"]) for row in rows if row["val/loss"]] == [4, 8, 10]
    assert rows[0].keys() >= {"lr", "train/loss", "train/photometric", "train/supervised", "val/far"}
    assert {bool(row["train/supervised"]) for row in rows} == {True, False}  # batches with truth, and without
    for row in rows:
        terms = [float(v) for k, v in row.items() if k.startswith("train/") and k != "train/loss" and v]
        assert float(row["train/loss"]) == pytest.approx(sum(terms), rel=1e-6)
