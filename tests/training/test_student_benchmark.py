"""The benchmark of a trained diffusion student as it is run, on networks of one step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from trainer_runs import train_here

from benchmarks.student import main

ONE_STEP = """
data: {source: street, street_samples: 4, street_views: [right], width: 192, height: 64, workers: 0}
method: {name: %s, supervised: 0, teachers: %s}
network: {encoder: resnet18, pretrained: none}
optim: {batch_size: 2}
run: {max_steps: 1, accelerator: cpu, dir: %s}
"""


def trained(folder: Path, method: str, teachers: str = "[]") -> Path:
    folder.mkdir()
    recipe = folder / "recipe.yaml"
    recipe.write_text(ONE_STEP % (method, teachers, folder / "run"))
    return train_here(recipe) / "last.ckpt"


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("networks") / "teacher", "monodepth2")


def test_choices_are_judged_timed_and_counted(tmp_path: Path, teacher: Path) -> None:
    student = trained(tmp_path / "student", "monodiffusion", f"[{teacher}]")
    figure, beside = tmp_path / "it.png", f"two of them={teacher}+{teacher}"
    options = ["--choices", "1 step each", "--beside", beside, "--images", "8", "--seconds", "0"]
    assert main([str(student), str(teacher), *options, "--out", str(tmp_path), "--figure", str(figure)]) == 0
    assert figure.stat().st_size > 10_000
    report = json.loads((tmp_path / "student.json").read_text())
    assert -1 <= report["error_correlation"] <= 1
    trained_row, few = report["rows"]["student"], report["rows"]["1 step each"]
    assert set(report["rows"]) == {"teacher", "student", "two of them", "1 step each"}
    assert report["rows"]["two of them"]["abs_rel"] == pytest.approx(report["rows"]["teacher"]["abs_rel"], rel=0.05)
    assert all(0 <= row["covered"]["told"] <= 1 for row in report["rows"].values())
    assert trained_row["abs_rel"] > 0
    assert few["ms"]["p50"] > 0
    # A call of a denoiser is 2592 multiply-adds per pixel: 3, 4 and 5 calls once, and one at each scale for four samples.
    calls = (3 + 4 / 4 + 5 / 16) - 4 * (1 + 1 / 4 + 1 / 16)
    assert trained_row["gmac"] - few["gmac"] == pytest.approx(2592 * 192 * 64 * calls / 1e9, abs=0.004)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--choices", "5 steps each"], "training has decided it"),
        (["--beside", "alone"], "--beside alone; expected NAME=CHECKPOINT"),
    ],
)
def test_what_cannot_be_judged_is_refused(
    tmp_path: Path, teacher: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    """A teacher has no such choices."""
    assert main([str(teacher), str(teacher), "--images", "2", "--seconds", "0", *arguments, "--out", str(tmp_path)]) == 1
    assert complaint in capsys.readouterr().err
