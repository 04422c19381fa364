"""A bundle as a teacher: its depth, at the student's size and for the student's focal length, whatever network is inside."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
import torch
from onnx import parser
from torch.nn import functional as F
from trainer_runs import ROOT, arguments, read_curve, train_here, write_recipe

from depth_ros import bundle as bundles
from training import import_onnx
from training.batch import Batch
from training.checkpoint import load_method
from training.config import ConfigError, DataConfig, MethodConfig, TrainConfig
from training.methods import SelfTeaching, build_method
from training.teacher_bundle import load_teacher_bundle
from training.train import main

Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Save a bundle of 128x64, focal length 100 px: 5 m at black, 30 m at white of the red channel, sigma 1 m."""

    def save(**changes: Any) -> Path:
        graph = parser.parse_model("""<ir_version: 9, opset_import: ["" : 18]>
        ramp (uint8[N, 64, 128, 3] image) => (float[N, 64, 128] depth, float[N, 64, 128] sigma)
        <int64 red = {0}, float slope = {0.0980392157}, float near = {5.0}, float none = {0.0}, float metre = {1.0}>
        {
          colours = Cast <to = 1> (image)
          level = Gather <axis = 3> (colours, red)
          farther = Mul (level, slope)
          depth = Add (farther, near)
          blank = Mul (level, none)
          sigma = Add (blank, metre)
        }""")
        folder = tmp_path / "any"
        folder.mkdir(exist_ok=True)
        onnx.save(graph, folder / "model.onnx")
        made = bundles.ModelBundle(
            name="any", width=128, height=64, fx=100.0, fy=100.0, kind="metric", min_depth=1.0, max_depth=50.0,
            sigma_calibration=1.0, trained_on="nothing", licence="Apache-2.0",
        )  # fmt: skip
        bundles.save(replace(made, **changes), folder)
        return folder

    return save


def ramp(width: int, height: int) -> torch.Tensor:
    """Images (1, 3, h, w) from black at the left to white at the right, the same scene at any size."""
    x = (torch.arange(width) + 0.5) / width
    return x.expand(1, 3, height, width).contiguous()


def test_a_teacher_says_what_its_bundle_says_at_the_students_size(save: Save) -> None:
    teacher = load_teacher_bundle(save(), DataConfig(width=64, height=32))
    assert teacher.metric
    assert teacher.focal.tolist() == [50.0, 50.0]  # its camera, resized to 64x32
    depth, sigma = teacher.predict(ramp(64, 32))
    assert depth.shape == sigma.shape == (1, 1, 32, 64)
    expected = (5 + 25 * ramp(64, 32))[:, :1]
    inner = slice(2, -2)
    torch.testing.assert_close(depth[..., inner], expected[..., inner], rtol=0.01, atol=0)
    torch.testing.assert_close(sigma[..., inner], torch.ones_like(sigma)[..., inner], rtol=0.02, atol=0)


@pytest.mark.parametrize("kind", ["metric", "scale_invariant"])
def test_a_teacher_and_what_it_teaches_are_of_the_bundles_kind(
    save: Save, make_config: Callable[..., TrainConfig], kind: str
) -> None:
    config = replace(make_config(), method=MethodConfig(name="self_teaching", teachers=("any",)))
    student = build_method(config)
    assert isinstance(student, SelfTeaching)
    teacher = load_teacher_bundle(save(kind=kind), config.data)
    student.set_teachers([teacher])
    assert teacher.kind == student.kind == kind
    assert teacher.metric == student.metric == (kind == "metric")


def test_beyond_its_range_a_teacher_is_far_and_nearer_than_it_silent(save: Save) -> None:
    """5 to 30 m: of a bundle from 10 to 20 m the left says nothing and the right 20 m."""
    teacher = load_teacher_bundle(save(min_depth=10.0, max_depth=20.0), DataConfig(width=128, height=64))
    depth, _ = teacher.predict(ramp(128, 64))
    raw = (5 + 25 * ramp(128, 64))[:, :1]
    assert torch.isnan(depth[raw < 9.8]).all()
    assert (depth[raw > 20.2] == 20).all()
    assert not torch.isnan(depth[raw > 10.2]).any()


def test_a_student_learns_a_bundles_depth_for_its_own_camera_where_there_is_any(
    save: Save, make_config: Callable[..., TrainConfig]
) -> None:
    """The student's lens is twice as long as the bundle's at its size: all is twice as far; what is NaN is not learned."""
    config = replace(make_config(), method=MethodConfig(name="self_teaching", teachers=("any",)))
    student = build_method(config).eval()
    assert isinstance(student, SelfTeaching)
    student.set_teachers([load_teacher_bundle(save(min_depth=10.0), config.data)])
    student.focal.copy_(2 * student.teachers[0].focal)
    image = ramp(192, 64)
    batch = Batch(image, image, torch.eye(3)[None])
    target = 2 * student.teachers[0].predict(image)[0]
    valid = torch.isfinite(target)
    assert 0.5 < valid.float().mean() < 0.9
    K = torch.diag(torch.tensor([*student.focal, 1.0]))[None]
    told = replace(batch, K=K, depth=torch.where(valid, target, 1.0), valid=valid)
    with torch.no_grad():
        found, expected = (student.losses(b)["likelihood"] for b in (batch, told))
    assert torch.isfinite(found)
    torch.testing.assert_close(found, expected)


def test_a_copy_of_a_student_shares_its_teacher(save: Save, make_config: Callable[..., TrainConfig]) -> None:
    teacher = load_teacher_bundle(save(), DataConfig(width=64, height=64))
    assert deepcopy([teacher])[0] is teacher
    assert not list(teacher.parameters())


def test_a_run_is_taught_by_a_bundle(save: Save, tmp_path: Path, street_video: Path) -> None:
    """Sixteen steps on a few street frames bring a student to what the bundle says of them."""
    settings = (
        f"method.teachers=[{save()}]", "method.name=self_teaching", "method.supervised=0", "method.scales=1",
        "optim.learning_rate=0.002", "run.max_steps=16", "run.validate_every=16", "data.colour_jitter=0",
    )  # fmt: skip
    run = train_here(write_recipe(tmp_path / "student", street_video), *settings)
    losses = [float(row["train/loss"]) for row in read_curve(run)]
    assert np.mean(losses[-4:]) < np.mean(losses[:4]) - 0.2
    student = load_method(run / "best.ckpt")
    assert student.metric
    assert student.config.method.teachers == (str(tmp_path / "any"),)


def test_teachers_that_are_no_teachers_are_refused(save: Save, tmp_path: Path, street_video: Path, capsys: Any) -> None:
    (folder := save()).joinpath("bundle.yaml").unlink()
    with pytest.raises(ConfigError, match=r"method.teachers: .*bundle.yaml: missing"):
        load_teacher_bundle(folder, DataConfig())
    recipe = write_recipe(tmp_path / "student", street_video)
    assert main([str(recipe), "--set", "method.name=self_teaching", "--set", "method.teachers=[models/nowhere]"]) == 1
    assert "method.teachers: models/nowhere: no such folder; expected a model bundle" in capsys.readouterr().err
    choose = ["--set", "method.name=monodiffusion", "--set", "method.scales=3", "--set", f"method.teachers=[{save()}]"]
    assert main([str(recipe), *choose]) == 1
    assert "a teacher is of method bundle; expected a checkpoint with a depth network" in capsys.readouterr().err
    for student in ("self_teaching", "monodiffusion"):
        choose = ["--set", f"method.name={student}", "--set", "method.scales=3"]
        assert main([str(recipe), *choose, "--set", f"method.teachers=[{save(kind='affine_invariant')}]"]) == 1
        said = capsys.readouterr().err
        assert "method.teachers: number 1, of method bundle, is affine_invariant" in said
        assert "training.fit_metric" in said
        assert "method.name: midas" in said


def test_methods_that_learn_from_no_teacher_refuse_them(save: Save, tmp_path: Path, street_video: Path, capsys: Any) -> None:
    recipe = write_recipe(tmp_path / "student", street_video)
    for name in ("monodepth2", "supervised", "feature_net"):
        assert main([str(recipe), "--set", f"method.name={name}", "--set", f"method.teachers=[{save()}]"]) == 1
        assert (
            f"method.teachers names 1, but method.name is '{name}', which learns from none; expected it empty, or a method that "
            "learns from teachers: self_teaching, monodiffusion, midas"
        ) in capsys.readouterr().err


@pytest.fixture
def relative(tmp_path: Path) -> Path:
    """The bundle of a published network of relative inverse depth: 7 times the brightness of 8x8 px, less 2, cut off at 0."""
    network = parser.parse_model("""<ir_version: 9, opset_import: ["" : 18]>
    bright (float[N, 3, 64, 128] image) => (float[N, 8, 16] answer)
    <int64[1] colours = {1}, float steep = {7.0}, float less = {2.0}>
    {
      pooled = AveragePool <kernel_shape = [8, 8], strides = [8, 8]> (image)
      mean = ReduceMean <keepdims = 0> (pooled, colours)
      scaled = Mul (mean, steep)
      shifted = Sub (scaled, less)
      answer = Relu (shifted)
    }""")
    onnx.save(network, tmp_path / "bright.onnx")
    plain = ["--mean", "0", "--std", "1"]
    assert import_onnx.main([str(tmp_path / "bright.onnx"), str(tmp_path / "bright"), "--like", "midas", *plain]) == 0
    return tmp_path / "bright"


def test_midas_learns_what_a_relative_bundle_says_of_images_without_truth(
    relative: Path, tmp_path: Path, street_video: Path
) -> None:
    """By the command of the docs it comes to agree with the network's own answers, whatever the scale and shift of either."""
    settings = (
        f"method.teachers=[{relative}]", "data.source=video", f"data.root={street_video}", "data.images=image",
        "data.calibration=camera.yaml", "data.offsets=[[]]", "data.train_frames=[0,10]", "data.val_frames=[10,14]",
        "data.width=128", "data.height=64", "data.workers=0", "data.colour_jitter=0", "optim.warmup_steps=2",
        "optim.batch_size=4", "optim.learning_rate=2e-3", "run.max_steps=16", "run.validate_every=16",
        f"run.dir={tmp_path / 'run'}", "run.log_every=1", "run.accelerator=cpu",
    )  # fmt: skip
    assert main(arguments(ROOT / "config" / "train" / "midas.yaml", *settings)) == 0
    rows = read_curve(tmp_path / "run")
    losses = [float(row["train/relative"]) for row in rows]
    assert np.mean(losses[-4:]) < 0.7 * np.mean(losses[:4])
    student = load_method(tmp_path / "run" / "best.ckpt")
    assert student.kind == "affine_invariant"
    image = torch.from_numpy(cv2.imread(str(street_video / "image" / "000012.png"))[..., ::-1].copy())
    seen = F.interpolate(image.permute(2, 0, 1)[None] / 255, size=(64, 128), mode="area")
    answer = (7 * F.avg_pool2d(seen, 8).mean(dim=1, keepdim=True) - 2).clamp(min=0)
    answer = F.interpolate(answer, size=(64, 128), mode="bilinear")
    with torch.no_grad():
        found = 1 / student.predict(seen)[0]
    assert np.corrcoef(found.flatten(), answer.flatten())[0, 1] > 0.8


def test_midas_takes_a_teacher_of_any_kind_before_the_truth(save: Save, make_config: Callable[..., TrainConfig]) -> None:
    """Its inverse depth where it says any, for whatever lens; every batch's teacher is one of them."""
    student = build_method(replace(make_config(), method=MethodConfig(name="midas", teachers=("any",)))).eval()
    image = ramp(192, 64)
    for kind in bundles.KINDS:
        teacher = load_teacher_bundle(save(kind=kind, min_depth=10.0), student.config.data)
        student.set_teachers([teacher])
        depth = teacher.predict(image)[0]
        valid = torch.isfinite(depth)
        assert 0.5 < valid.float().mean() < 0.9
        batch = Batch(image, image, torch.eye(3)[None], depth=ramp(192, 64)[:, :1] + 1, valid=valid | True)
        told = replace(batch, depth=None, inverse=torch.where(valid, 3 / depth + 5, 0.0), valid=valid, dataset=torch.zeros(1))
        with torch.no_grad():
            found = student.losses(batch)
            student.set_teachers([])
            expected = student.losses(told)
        assert list(found) == ["relative"]
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-6)
    student.set_teachers([load_teacher_bundle(save(kind="affine_invariant"), student.config.data) for _ in range(2)])
    assert {id(student.train().teacher()) for _ in range(20)} == {id(teacher) for teacher in student.teachers}
