"""One candidate on sets whose peculiarities are known: other truth sizes, movers, images that cannot be judged."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from depth_ros.types import CameraModel, InputError
from training.data.recording import Recording, Target
from training.data.truth import EvaluationItem, EvaluationSet
from training.judging.judge import SkipError, judge_baselines, judge_set, mean_scores
from training.judging.protocols import PROTOCOLS, Prediction, Protocol, resized

RAW = PROTOCOLS["kitti2015"]
CAMERA = CameraModel(60, 40, 50.0, 50.0, 29.5, 19.5)


class Scenes(Recording):
    """Truths of any size, with the masks of what moves."""

    name = "scenes"

    def __init__(self, truths: list[np.ndarray | None], moving: np.ndarray | None = None) -> None:
        self._truths, self._moving = truths, moving

    def __len__(self) -> int:
        return len(self._truths)

    def image_name(self, index: int, right: bool = False) -> str:
        return f"{index}.png"

    def camera(self, index: int) -> CameraModel:
        return CAMERA

    def image(self, index: int, right: bool = False, least: tuple[int, int] = (0, 0)) -> tuple[np.ndarray, CameraModel]:
        return np.zeros((40, 60, 3), np.uint8), CAMERA

    def depth(self, index: int, right: bool = False) -> np.ndarray | None:
        return self._truths[index]

    def moving(self, index: int) -> np.ndarray | None:
        return self._moving


def scenes(*truths: np.ndarray | None, moving: np.ndarray | None = None) -> EvaluationSet:
    recording = Scenes(list(truths), moving)
    return EvaluationSet("scenes", tuple(Target(recording, i) for i in range(len(truths))))


@dataclass(frozen=True)
class Factor:
    """States `factor` times the truth, of which it is `spread` sure; NaN in the columns below `blind`."""

    factor: float
    spread: float | None = None
    blind: int = 0
    kind: str = "metric"

    def predict(self, item: EvaluationItem, protocol: Protocol) -> Prediction:
        depth = np.where(np.arange(item.truth.shape[1]) < self.blind, np.nan, self.factor * item.truth).astype(np.float32)
        return Prediction(depth, None if self.spread is None else np.float32(self.spread) * depth)


def slope(height: int = 40, width: int = 60) -> np.ndarray:
    return np.tile(np.linspace(3, 30, width, dtype=np.float32), (height, 1))


def test_errors_that_grow_with_depth_are_ranked_by_depth() -> None:
    """Errors of a fifth of the depth: u = depth is RMSE's oracle, u = disparity the worst there is."""
    found = judge_set(Factor(1.2, 0.1), scenes(slope(), slope()), RAW)
    assert found.scores["abs_rel"] == pytest.approx(0.2, rel=1e-5)
    assert set(found.orderings) == {"sigma", "depth", "disparity", "gradient"}
    assert found.orderings["depth"]["ause_rmse"] == pytest.approx(0, abs=1e-9)
    assert found.orderings["disparity"]["ause_rmse"] > 1
    assert found.orderings["disparity"]["aurg_rmse"] < -0.5
    assert found.orderings["sigma"] == found.orderings["depth"]  # here a sigma that orders by depth, and is no better
    assert found.scores["ause_rmse"] == found.orderings["sigma"]["ause_rmse"]
    # Black images: no gradient to rank by, and a flat curve that drops to 0 over the last 2 %.
    assert found.orderings["gradient"]["aurg_rmse"] == pytest.approx(0.01 * found.scores["rmse"], rel=1e-4)
    assert {name: curve.shape for name, curve in found.curves["rmse"].items()} == dict.fromkeys(
        ("oracle", "sigma", "depth", "disparity", "gradient"), (51,)
    )


def test_without_sigma_only_the_trivial_orderings_are_judged() -> None:
    found = judge_set(Factor(1.2), scenes(slope()), RAW)
    assert set(found.orderings) == {"depth", "disparity", "gradient"}
    assert found.reliability is None
    assert not {"nll", "coverage_1sigma", "ause_abs_rel"} & set(found.scores)


def test_bad_truth_is_counted_and_said() -> None:
    empty, beyond = np.zeros((40, 60), np.float32), np.full((40, 60), 200, np.float32)
    found = judge_set(Factor(1.0), scenes(slope(), empty, None, beyond, None), RAW)
    assert found.scores["images"] == 1
    assert found.notes == (
        "2 of 5 images not judged: no truth within the protocol's range and crop",
        "2 of 5 images not judged: no truth file",
    )
    with pytest.raises(InputError, match=r"scenes: no image has truth to compare with \(1 images: no truth within"):
        judge_set(Factor(1.0), scenes(empty, None), RAW)


def test_an_unanswered_image_is_counted_and_an_unanswered_part_is_a_share() -> None:
    found = judge_set(Factor(1.0, blind=30), scenes(slope()), RAW)
    # The crop keeps the columns 2 to 56, of which 30 to 56 are answered.
    assert (found.scores["abs_rel"], found.scores["answered"]) == (0, pytest.approx(27 / 55))
    found = judge_set(Factor(1.0, blind=60), scenes(slope(8, 80), slope()), RAW)
    assert found.notes == ("1 of 2 images not judged: no prediction where the truth is",)


def test_what_a_candidate_skips_is_counted() -> None:
    class Choosy(Factor):
        def predict(self, item: EvaluationItem, protocol: Protocol) -> Prediction:
            if item.name != "1.png":
                raise SkipError("not mine")
            return super().predict(item, protocol)

    assert judge_set(Choosy(1.0), scenes(slope(), slope(), slope()), RAW).notes == ("2 of 3 images not judged: not mine",)


def test_truth_of_another_size_decides_the_size() -> None:
    """Make3D's grid of 21 x 305 shows the image's view: a plane comes out on it as what it is."""

    class Plane:
        kind = "scale_invariant"

        def predict(self, item: EvaluationItem, protocol: Protocol) -> Prediction:
            inverse_depth = np.tile(0.1 + np.linspace(0.5 / 60, 1 - 0.5 / 60, 60) / 2, (40, 1))
            return resized(Prediction((1 / inverse_depth).astype(np.float32)), item.truth.shape, protocol.disparity_first)

    x = (np.arange(305) + 0.5) / 305
    truth = np.tile(7 / (0.1 + x / 2), (21, 1)).astype(np.float32)
    truth[:, :5], truth[:, -5:] = 0, 0  # the outermost half pixel is repeated
    found = judge_set(Plane(), scenes(truth), PROTOCOLS["make3d"])
    assert found.scores["scale"] == pytest.approx(7, rel=1e-4)
    assert found.scores["rms_log10"] == pytest.approx(0, abs=1e-4)
    assert judge_baselines(scenes(truth, slope(21, 305)), PROTOCOLS["make3d"])["mean map"].scores["images"] == 2


def test_moving_objects_are_told_apart_where_they_are_known() -> None:
    moving = np.zeros((40, 60), bool)
    moving[20:30, 10:20] = True
    found = judge_set(Factor(1.1), scenes(slope(), moving=moving), RAW)
    assert found.groups["moving objects"]["pixels"] == 100
    assert found.groups["moving objects"]["abs_rel"] == pytest.approx(0.1, rel=1e-5)
    assert "moving objects" not in judge_set(Factor(1.1), scenes(slope()), RAW).groups


def test_baselines_are_scaled_like_the_protocol_says() -> None:
    rows = judge_baselines(scenes(slope(), 2 * slope()), PROTOCOLS["eigen"])
    assert rows["mean map"].scaling == "median"
    assert rows["mean map"].scores["abs_rel"] == pytest.approx(0, abs=1e-6)
    assert rows["mean map"].scores["scale_spread"] > 0.3
    assert list(judge_baselines(scenes(slope()), RAW)) == ["constant"]  # no other image to learn a map from


def test_a_figure_that_some_images_lack_is_the_mean_of_the_others() -> None:
    assert mean_scores([{"a": 1.0, "b": float("nan")}, {"a": 3.0, "b": 5.0}, {"a": 2.0}]) == {"a": 2.0, "b": 5.0}


def test_a_baseline_that_an_alignment_leaves_nothing_of_states_no_sigma() -> None:
    """The mean map of two truths of other sizes is flat for each: scale 0, the shift alone, and no error bar to rank by."""
    truths = slope(), np.full((20, 30), 5.0, np.float32)
    rows = judge_baselines(scenes(*truths), PROTOCOLS["midas"])
    constant = rows["constant"]
    assert "sigma" not in constant.orderings
    assert "depth" in constant.orderings
    # Least squares with a constant is the mean inverse depth of each image.
    flat = 1 / (1 / slope().astype(np.float64)).mean()
    assert constant.scores["abs_rel"] == pytest.approx((np.abs(flat - slope()) / slope()).mean() / 2, rel=1e-4)
