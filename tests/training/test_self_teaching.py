"""A student learns its teachers' depth, and its sigma where they disagree."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from training.batch import Batch
from training.config import ConfigError, TrainConfig
from training.methods import Method, Predictor, SelfTeaching

Build = Callable[..., Method]


class Certain(Predictor):
    """A teacher that says the same whatever it sees: one depth left of the middle, another right of it [m]."""

    def __init__(self, config: TrainConfig, left: float, right: float) -> None:
        super().__init__(config)
        self.left, self.right = left, right

    def predict(self, image: Tensor) -> tuple[Tensor, Tensor]:
        depth = torch.full_like(image[:, :1], self.left)
        depth[..., image.shape[-1] // 2 :] = self.right
        return depth, 0.1 * depth


def student_of(build: Build, *sides: tuple[float, float], **sections: object) -> SelfTeaching:
    student = build("self_teaching", **sections)
    assert isinstance(student, SelfTeaching)
    teachers = [Certain(student.config, *side) for side in sides]
    for teacher in teachers:
        teacher.focal.copy_(student.focal)
    student.set_teachers(teachers)
    return student


def without_truth(batch: Batch) -> Batch:
    crop = (slice(0, 2), slice(None), slice(None), slice(0, 96))
    return Batch(batch.image[crop], batch.input[crop], batch.K[:2])


def test_a_student_learns_where_its_teachers_agree_and_how_far_they_do_not(build: Build, street_batch: Batch) -> None:
    """Both say 8 m on the left; on the right one says 8 m and the other 20 m."""
    student = student_of(build, (8.0, 8.0), (8.0, 20.0), network={"pretrained": "imagenet"}).train()
    optimizer = torch.optim.AdamW(student.parameters(), lr=2e-3)
    batch = without_truth(street_batch)
    for _ in range(60):
        optimizer.zero_grad()
        student.losses(batch)["likelihood"].backward()
        optimizer.step()
    with torch.no_grad():  # in training mode: two images do not settle BatchNorm's averages in 60 steps
        depth, sigma = student.predict(batch.image)
    inner = slice(8, 40), slice(56, 88)  # away from the step and the borders
    left, right = ((depth[..., s], sigma[..., s] / depth[..., s]) for s in inner)
    assert (torch.log(left[0]) - math.log(8.0)).abs().mean() < 0.1
    assert 7.0 < right[0].mean() < 22.0
    assert right[1].mean() > 2 * left[1].mean()
    assert 0.25 < right[1].mean() < 1.5  # two values a factor of 2.5 apart deviate by 0.46 in log depth


def test_only_the_student_learns(build: Build, street_batch: Batch) -> None:
    student = student_of(build, (8.0, 8.0))
    assert not any("teacher" in name for name in student.state_dict())
    student.losses(without_truth(street_batch))["likelihood"].backward()
    assert all(p.grad is None for p in student.teachers[0].parameters())
    assert not student.train().teachers[0].training


def test_the_teacher_sees_the_plain_picture(build: Build, street_batch: Batch) -> None:
    student = build("self_teaching").eval()
    batch = without_truth(street_batch)
    target = student.teachers[0].predict(batch.image)[0]
    spoiled = replace(batch, input=torch.rand_like(batch.input))
    with torch.no_grad():
        expected = student.losses(replace(spoiled, depth=target, valid=torch.ones_like(target, dtype=torch.bool)))
        assert student.losses(spoiled)["likelihood"].item() == pytest.approx(expected["likelihood"].item(), rel=1e-5)


def test_a_students_longer_lens_sees_the_teachers_scene_farther_away(build: Build, street_batch: Batch) -> None:
    """Through twice the teacher's focal length, the picture that the teacher calls 8 m is one of 16 m."""
    batch = without_truth(street_batch)
    student = student_of(build, (8.0, 8.0)).eval()
    student.teachers[0].focal.copy_(student.focal / 2)
    farther = student_of(build, (16.0, 16.0)).eval()
    farther.load_state_dict(student.state_dict())
    with torch.no_grad():
        assert student.losses(batch)["likelihood"].item() == pytest.approx(farther.losses(batch)["likelihood"].item(), rel=1e-5)


def test_true_depth_comes_before_the_teachers(build: Build, street_batch: Batch) -> None:
    with_truth = replace(
        without_truth(street_batch), depth=street_batch.depth[:2, ..., :96], valid=street_batch.valid[:2, ..., :96]
    )
    student = student_of(build, (99.0, 99.0)).eval()
    other = student_of(build, (1.5, 1.5)).eval()
    other.load_state_dict(student.state_dict())
    with torch.no_grad():
        assert torch.equal(student.losses(with_truth)["likelihood"], other.losses(with_truth)["likelihood"])


def test_with_no_weight_for_true_depth_the_teachers_are_learned_everywhere(build: Build, street_batch: Batch) -> None:
    """Rendered worlds know their depth; a recipe that only judges by it stays one without truth when its model teaches itself."""
    student = build("self_teaching", method={"supervised": 0.0}).eval()
    student.set_teachers([build("monodepth2", data={"known_poses": False})])  # true up to a factor: no metres to mix up
    with torch.no_grad():
        found = student.losses(street_batch)["likelihood"]
        expected = student.losses(replace(street_batch, depth=None, valid=None))["likelihood"]
    assert torch.equal(found, expected)


def test_a_student_needs_teachers(build: Build) -> None:
    with pytest.raises(ConfigError, match=r"method.teachers is empty; expected the checkpoints of trained teachers"):
        build("self_teaching", method={"teachers": []})


def test_a_student_knows_metres_if_its_teacher_does(build: Build, street_batch: Batch) -> None:
    unscaled, metric = build("monodepth2", data={"known_poses": False}), build("monodepth2")
    student = build("self_teaching")
    assert student.metric
    with pytest.raises(ConfigError, match=r"of several teachers one is not metric"):
        student.set_teachers([metric, unscaled])
    student.set_teachers([unscaled])
    assert not student.metric
    reloaded = build("self_teaching")
    reloaded.load_state_dict(student.state_dict())
    assert not reloaded.metric
    assert torch.isfinite(student.losses(without_truth(street_batch))["likelihood"])
    with pytest.raises(ConfigError, match=r"the teacher is not metric but a batch has true depth"):
        student.losses(street_batch)
