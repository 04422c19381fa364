"""Short trainings on streets end well below what the layout of a street alone would tell: proof that the parts learn."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from trainer_runs import read_curve

from depth_ros.types import CameraModel
from training.batch import collate
from training.checkpoint import load_method
from training.config import TrainConfig
from training.data.street import Street, StreetConfig, kitti_camera
from training.data.street.samples import StreetSamples
from training.data.truth import EvaluationSet, open_evaluation_set
from training.evaluate import Scores, evaluate, evaluate_baselines, open_estimator
from training.methods import Method, build_method
from training.train import train

MakeConfig = Callable[..., TrainConfig]
UNSEEN = 24  # images of streets that training does not show


@pytest.fixture(scope="module")
def unseen(tmp_path_factory: pytest.TempPathFactory, camera: CameraModel, write_set: Callable[..., Path]) -> EvaluationSet:
    samples = StreetSamples(camera, UNSEEN, seed=700)
    items = [samples[i] for i in range(UNSEEN)]
    folder = tmp_path_factory.mktemp("unseen") / "streets"
    return open_evaluation_set(write_set(folder, camera, [s.image for s in items], [s.depth for s in items]))


def learn(
    make_config: MakeConfig, folder: Path, method: dict[str, object], views: list[str], steps: int, **sections: dict[str, object]
) -> Path:
    config = make_config(
        data={"source": "street", "street_samples": 120, "street_views": views, **sections.pop("data", {})},
        method={"scales": 1, **method},
        network={"pretrained": "imagenet", **sections.pop("network", {})},
        optim={"batch_size": 8, "learning_rate": 4e-3, "warmup_steps": 10, "ema": 0.9, **sections.pop("optim", {})},
        **sections,
        run={"dir": str(folder), "max_steps": steps, "validate_every": steps, "accelerator": "cpu"},
    )
    return train(config)


def judge(checkpoint: Path, unseen: EvaluationSet) -> tuple[Scores, Scores]:
    return evaluate(open_estimator(checkpoint), unseen), evaluate_baselines(unseen)["mean map"]


def test_true_depth_teaches_depth_and_sigma(tmp_path: Path, make_config: MakeConfig, unseen: EvaluationSet) -> None:
    checkpoint = learn(make_config, tmp_path / "run", {"name": "supervised"}, [], steps=60)
    scores, mean_map = judge(checkpoint, unseen)
    assert scores["abs_rel"] < 0.8 * mean_map["abs_rel"]
    assert scores["aurg_abs_rel"] > 0
    assert 0.4 < scores["coverage_1sigma"] < 0.95


@pytest.mark.timeout(1200)  # two minutes of one free core
def test_two_views_teach_metric_depth_without_any_truth(tmp_path: Path, make_config: MakeConfig, unseen: EvaluationSet) -> None:
    checkpoint = learn(make_config, tmp_path / "run", {"name": "monodepth2", "supervised": 0.0}, ["right"], steps=300)
    scores, mean_map = judge(checkpoint, unseen)
    assert scores["abs_rel"] < 0.19
    assert scores["abs_rel"] < mean_map["abs_rel"] - 0.03


SYSTEMS = {
    "featdepth": {"feature": {"weight": 0.1}},
    "low_texture": {"feature": {"weight": 1.0, "levels": [0, 1, 2], "detach": True}, "network": {"decoder": "nested_light"}},
}


@pytest.mark.timeout(1200)  # two minutes of one free core
@pytest.mark.parametrize("name", SYSTEMS)
def test_features_teach_depth_better_than_the_mean_map(
    name: str, tmp_path: Path, make_config: MakeConfig, unseen: EvaluationSet
) -> None:
    method = {"name": name, "supervised": 0.0, "smoothness_order": "both", "auto_mask_stereo": False}
    checkpoint = learn(make_config, tmp_path / "run", method, ["right"], steps=100, **SYSTEMS[name])
    scores, mean_map = judge(checkpoint, unseen)
    assert scores["abs_rel"] < mean_map["abs_rel"]


def depth_of(method: Method, images: Tensor) -> Tensor:
    """Log depth (N, 1, H, W)."""
    with torch.no_grad():
        return method.eval().predict(images)[0].log()


@pytest.mark.timeout(1200)  # a minute of one free core
def test_a_student_denoises_its_way_to_what_its_teacher_sees(tmp_path: Path, make_config: MakeConfig) -> None:
    """Teacher, then student, as docs/monodiffusion.md trains them: small images, and all of the paper's steps and terms.

    That it comes near its teacher could be the layout that all streets share. So what is peculiar to an image, once the mean
    over images is taken off, has to be the teacher's too: without learning the two have little to do with each other.
    """
    small, camera = {"width": 96, "height": 32}, kitti_camera(96, 32)
    teacher = learn(make_config, tmp_path / "teacher", {"name": "supervised", "scales": 3}, [], steps=80, data=small)
    taught = {"name": "monodiffusion", "teachers": [str(teacher)], "supervised": 0.0, "scales": 3, "auto_mask_stereo": False}
    student = learn(make_config, tmp_path / "student", taught, ["right"], steps=60, data=small, optim={"batch_size": 4})

    rows = read_curve(student.parent)
    for term in ("photometric", "smoothness", "distillation", "denoising", "masked"):
        assert np.isfinite([float(row[f"train/{term}"]) for row in rows]).all()
    samples = StreetSamples(camera, UNSEEN, seed=700)
    images = torch.from_numpy(np.stack([samples[i].image for i in range(UNSEEN)])).permute(0, 3, 1, 2).float() / 255
    method = load_method(student)
    untrained, found, told = (depth_of(m, images) for m in (build_method(method.config), method, load_method(teacher)))
    assert (found - told).abs().mean() < (untrained - told).abs().mean() / 4
    own = torch.stack([(depth - depth.mean(dim=0)).flatten() for depth in (found, told, untrained)])
    with_teacher = torch.corrcoef(own)[1]
    assert with_teacher[0] > 0.5
    assert with_teacher[2].abs() < 0.35


def drive(build: Callable[..., Method], samples: StreetSamples, auto_masking: bool, steps: int) -> Method:
    """Monodepth2 after some steps on video with known poses."""
    config = {"auto_masking": auto_masking, "scales": 1, "sigma": "flip"}
    method = build("monodepth2", method=config, network={"pretrained": "imagenet"}).train()
    optimizer = torch.optim.AdamW(method.parameters(), lr=1e-3)
    torch.manual_seed(0)
    for _ in range(steps):
        batch = replace(collate([samples[int(i)] for i in torch.randint(len(samples), (4,))]), depth=None, valid=None)
        loss = sum(method.losses(batch).values())
        assert torch.isfinite(loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return method.eval()


@pytest.mark.timeout(1200)  # two minutes of one free core
def test_auto_masking_keeps_cars_at_our_own_speed_from_being_far_away(build: Callable[..., Method], camera: CameraModel) -> None:
    """Such a car does not move in the picture, as if it were infinitely far."""
    traffic = StreetConfig(ego_speed_cars=0.8, movers=0.0)
    samples = StreetSamples(camera, 80, views=("before", "after"), seed=2000, config=traffic)
    streets = [Street(seed, StreetConfig(ego_speed_cars=1.0, movers=0.0)) for seed in range(3000, 3008)]
    views = [street.render(camera, street.pose(5.0), 5.0) for street in streets]
    cars = [view for view in views if view.moving.sum() > 20]
    assert len(cars) >= 4
    images = torch.from_numpy(np.stack([view.image for view in cars])).permute(0, 3, 1, 2).float() / 255
    errors = []
    for auto_masking in (True, False):
        method = drive(build, samples, auto_masking, steps=200)
        with torch.no_grad():
            depth = method.predict(images)[0][:, 0].numpy()
        errors.append(np.mean([np.abs(d[v.moving] / v.depth[v.moving] - 1).mean() for d, v in zip(depth, cars, strict=True)]))
    assert errors[1] > 1.5 * errors[0]
