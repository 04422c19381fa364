"""A short training on streets ends well below what the layout of a street alone would tell: proof that the parts learn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from depth_ros.types import CameraModel
from training.config import TrainConfig
from training.data.street_samples import StreetSamples
from training.data.truth import EvaluationSet, open_evaluation_set
from training.evaluate import Scores, evaluate, evaluate_baselines, open_estimator
from training.train import train

MakeConfig = Callable[..., TrainConfig]
UNSEEN = 24  # images of streets that training does not show
STEPS = 60


@pytest.fixture(scope="module")
def unseen(tmp_path_factory: pytest.TempPathFactory, camera: CameraModel, write_set: Callable[..., Path]) -> EvaluationSet:
    samples = StreetSamples(camera, UNSEEN, seed=700)
    items = [samples[i] for i in range(UNSEEN)]
    folder = tmp_path_factory.mktemp("unseen") / "streets"
    return open_evaluation_set(write_set(folder, camera, [s.image for s in items], [s.depth for s in items]))


def learn(make_config: MakeConfig, folder: Path, method: dict[str, object], views: list[str]) -> Path:
    config = make_config(
        data={"source": "street", "street_samples": 120, "street_views": views},
        method={"scales": 1, **method},
        network={"pretrained": "imagenet"},
        optim={"batch_size": 8, "learning_rate": 4e-3, "warmup_steps": 10, "ema": 0.9},
        run={"dir": str(folder), "max_steps": STEPS, "validate_every": STEPS, "accelerator": "cpu"},
    )
    return train(config)


def judge(checkpoint: Path, unseen: EvaluationSet) -> tuple[Scores, Scores]:
    return evaluate(open_estimator(checkpoint), unseen), evaluate_baselines(unseen)["mean map"]


def test_true_depth_teaches_depth_and_sigma(tmp_path: Path, make_config: MakeConfig, unseen: EvaluationSet) -> None:
    checkpoint = learn(make_config, tmp_path / "run", {"name": "supervised"}, [])
    scores, mean_map = judge(checkpoint, unseen)
    assert scores["abs_rel"] < 0.8 * mean_map["abs_rel"]
    assert scores["aurg_abs_rel"] > 0
    assert 0.4 < scores["coverage_1sigma"] < 0.95


def test_two_views_teach_metric_depth_without_any_truth(tmp_path: Path, make_config: MakeConfig, unseen: EvaluationSet) -> None:
    checkpoint = learn(make_config, tmp_path / "run", {"name": "monodepth2", "supervised": 0.0}, ["right"])
    scores, mean_map = judge(checkpoint, unseen)
    assert scores["abs_rel"] < 0.9 * mean_map["abs_rel"]
