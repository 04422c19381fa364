"""Truth on disk, and one prediction judged against it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from depth_ros.truth import TruthFolder, judge
from depth_ros.types import CameraModel, DepthPrediction, InputError

CAMERA = CameraModel(40, 20, 30.0, 30.0, 19.5, 9.5)
FIGURES = {
    "abs_rel", "sq_rel", "rmse", "rmse_log", "delta1", "delta2", "delta3", "abs_rel_median_scaled",
    "coverage_1sigma", "coverage_2sigma", "ause_abs_rel", "aurg_abs_rel",
}  # fmt: skip


def write(folder: Path, name: str, values: np.ndarray) -> None:
    folder.mkdir(exist_ok=True)
    cv2.imwrite(str(folder / name), values)


def predict(depth: np.ndarray, sigma: float = 1.0) -> DepthPrediction:
    depth = depth.astype(np.float32)
    return DepthPrediction(depth, np.where(np.isfinite(depth), np.float32(sigma), np.float32(np.nan)), CAMERA)


def test_depth_is_the_value_over_the_scale(tmp_path: Path) -> None:
    write(tmp_path, "000003.png", np.array([[0, 256, 2560]], np.uint16))
    truth = TruthFolder(tmp_path, 256)
    assert truth.depth("000003.jpg").tolist() == [[0.0, 1.0, 10.0]]
    assert truth.depth("000004.jpg") is None


def test_disparity_becomes_depth(tmp_path: Path) -> None:
    write(tmp_path, "a.png", np.array([[0, 256, 2560]], np.uint16))
    assert TruthFolder(tmp_path, 256, focal_baseline=50.0).depth("a.png").tolist() == [[0.0, 50.0, 5.0]]


def test_folders_and_files_that_hold_no_truth(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no PNG files; expected a folder of 16-bit depth PNGs"):
        TruthFolder(tmp_path, 256)
    write(tmp_path, "a.png", np.zeros((4, 6), np.uint8))
    with pytest.raises(InputError, match=r"a.png: \(4, 6\) uint8; expected a single-channel 16-bit PNG"):
        TruthFolder(tmp_path, 256).depth("a.jpg")
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"a.png: no image; expected a single-channel 16-bit PNG"):
        TruthFolder(tmp_path, 256).depth("a.jpg")
    with pytest.raises(InputError, match="truth scale is 0; expected a positive number"):
        TruthFolder(tmp_path, 0)


def test_the_size_is_the_cameras(tmp_path: Path) -> None:
    write(tmp_path, "a.png", np.zeros((4, 6), np.uint16))
    TruthFolder(tmp_path, 256).check_size(6, 4)
    with pytest.raises(InputError, match=r"a.png is 6x4; expected 12x8, the camera's resolution"):
        TruthFolder(tmp_path, 256).check_size(12, 8)


def test_a_prediction_that_is_all_one_factor_off() -> None:
    """Depth 1.2 times the truth: AbsRel .2, nothing after median scaling, within sigma where 0.2 x truth < sigma."""
    truth = np.linspace(2, 20, 40, dtype=np.float32)[None].repeat(20, axis=0)
    scores = judge(predict(1.2 * truth, sigma=2.0), truth)
    assert set(scores) == FIGURES
    assert scores["abs_rel"] == pytest.approx(0.2, rel=1e-5)
    assert scores["abs_rel_median_scaled"] == pytest.approx(0.0, abs=1e-6)
    assert scores["delta1"] == 1.0
    columns = truth[0, 1:38]  # of the Garg crop: 0.0359 x 40 to 0.9641 x 40
    assert scores["coverage_1sigma"] == pytest.approx(np.mean(columns * 0.2 <= 2.0), abs=0.03)
    assert scores["coverage_2sigma"] == 1.0


def test_only_measured_pixels_within_the_crop_that_were_answered_count() -> None:
    truth = np.full((20, 40), 10.0, np.float32)
    depth = np.full((20, 40), 10.0)
    depth[:8], truth[8:10], depth[10:12] = 99.0, 0.0, np.nan  # above the crop; not measured; not answered
    truth[12, :] = 85.0  # beyond the cap
    scores = judge(predict(depth), truth)
    assert scores["abs_rel"] == 0.0
    assert scores["coverage_1sigma"] == 1.0


def test_nothing_in_range_is_a_prediction_of_the_cap() -> None:
    truth = np.full((20, 40), 40.0, np.float32)
    assert judge(predict(np.full((20, 40), np.inf)), truth)["abs_rel"] == pytest.approx(1.0)


def test_no_score_where_nothing_can_be_compared() -> None:
    assert judge(predict(np.full((20, 40), 5.0)), np.zeros((20, 40), np.float32)) == {}
    assert judge(predict(np.full((20, 40), np.nan)), np.full((20, 40), 5.0, np.float32)) == {}


def test_truth_of_another_size_is_refused() -> None:
    with pytest.raises(InputError, match="truth is 20x10, the depth 40x20; expected truth at the camera's resolution"):
        judge(predict(np.full((20, 40), 5.0)), np.full((10, 20), 5.0, np.float32))
