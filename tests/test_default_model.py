"""The bundle that ships: small, licensed, clearly better than the mean map on real images, with an honest sigma."""

from __future__ import annotations

from pathlib import Path

import pytest

from depth_ros import bundle
from training.data.truth import EvaluationSet, open_evaluation_set
from training.evaluate import Scores, evaluate, evaluate_baselines, open_estimator

MODEL = Path(__file__).resolve().parents[1] / "models" / "default"


@pytest.fixture(scope="module")
def kitti2015(shared_data: Path) -> EvaluationSet:
    return open_evaluation_set(shared_data / "kitti2015_stereo")


@pytest.fixture(scope="module")
def scores(kitti2015: EvaluationSet) -> Scores:
    return evaluate(open_estimator(MODEL), kitti2015)


def test_bundle_is_small_metric_and_names_its_licence():
    default = bundle.load(MODEL)
    assert default.kind == "metric"
    assert sum(file.stat().st_size for file in MODEL.iterdir()) <= 20e6
    assert "CC BY-NC-SA 3.0" in default.licence
    assert "KITTI" in default.trained_on


def test_depth_beats_the_mean_map_by_15_percent(kitti2015: EvaluationSet, scores: Scores):
    mean_map = evaluate_baselines(kitti2015)["mean map"]
    for figure in ("abs_rel", "abs_rel_median_scaled"):
        assert scores[figure] <= 0.85 * mean_map[figure]


def test_sigma_orders_the_errors(scores: Scores):
    """By a good part of what removing half of the error would gain; a constant sigma gains a hundredth."""
    assert scores["aurg_abs_rel"] > 0.15 * scores["abs_rel"]


def test_sigma_covers_what_it_says_on_images_it_was_not_fitted_to(kitti2015: EvaluationSet):
    judged = evaluate(open_estimator(MODEL), kitti2015.every_second(1))
    assert 0.60 <= judged["coverage_1sigma"] <= 0.76
