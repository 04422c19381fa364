"""Two processes that share each batch train as one process with the whole batch does."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from trainer_runs import finish, read_curve, start, train_here, wait_for_rows, write_recipe

from training.checkpoint import read_checkpoint

# What the processes do not share is off: each has BatchNorm statistics, ties of the auto-mask and colours of its own.
# A mean over the valid pixels of half a batch is no half of the mean over all, so there is no truth either.
SHARED = {
    "data": {"max_zoom": 1.3},
    "method": {"auto_masking": False},
    "network": {"frozen_batchnorm": True},
    "optim": {"batch_size": 4},
    "run": {"max_steps": 4, "validate_every": 2},
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, street_video: Path) -> Path:
    return train_here(write_recipe(tmp_path_factory.mktemp("alone"), street_video, **SHARED))


def assert_same_losses(folder: Path, alone: Path) -> None:
    rows, expected = read_curve(folder), read_curve(alone)
    assert [row["step"] for row in rows] == [row["step"] for row in expected]
    assert rows[0].keys() == expected[0].keys()
    for row, other in zip(rows, expected, strict=True):
        for name in row:
            assert (row[name] == "") == (other[name] == "")
            if row[name]:
                assert float(row[name]) == pytest.approx(float(other[name]), rel=1e-4, abs=1e-5), name


def test_two_processes_under_torchrun_have_the_losses_of_one(alone: Path, tmp_path: Path, street_video: Path) -> None:
    recipe = write_recipe(tmp_path, street_video, **SHARED)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    code, out, err = finish(start(recipe, launcher=launcher))
    assert code == 0, err
    assert out.count("validation loss") == 2  # one process writes
    assert_same_losses(tmp_path / "run", alone)


def test_a_signal_to_one_process_stops_both_and_one_alone_goes_on(alone: Path, tmp_path: Path, street_video: Path) -> None:
    recipe, folder = write_recipe(tmp_path, street_video, **SHARED), tmp_path / "run"
    process = start(recipe, "run.devices=2")
    wait_for_rows(folder, 1, process)
    os.kill(process.pid, signal.SIGTERM)
    code, _, err = finish(process)
    assert code == 143, err
    step = read_checkpoint(folder / "last.ckpt")["step"]
    assert err.count("stopped at step") == 1
    assert "Traceback" not in err
    assert 1 <= step < 4
    train_here(recipe)
    assert_same_losses(folder, alone)
