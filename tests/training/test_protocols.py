"""Protocols as published, and alignments against what they must undo."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from depth_ros.bundle import KINDS
from depth_ros.types import InputError
from training.judging.protocols import ALLOWED, PROTOCOLS, SCALINGS, Prediction, align, median_ratio, resized, scale_and_shift


@pytest.fixture
def truth() -> np.ndarray:
    return np.random.default_rng(0).uniform(2, 60, (12, 20)).astype(np.float32)


def everywhere(truth: np.ndarray) -> np.ndarray:
    return np.ones(truth.shape, bool)


def test_the_presets_are_what_was_published() -> None:
    assert set(PROTOCOLS) == {"eigen", "eigen_benchmark", "kitti2015", "make3d", "diml", "nyu", "midas"}
    rows = {name: (p.crop, p.cap_m, p.clamp_max_m, p.scaling) for name, p in PROTOCOLS.items()}
    assert rows["eigen"] == ("garg", 80, 80, "median")
    assert rows["eigen_benchmark"] == ("none", np.inf, 80, "median")
    assert rows["make3d"] == ("none", 70, 70, "median")
    assert rows["nyu"] == ("nyu", 10, 10, "median")
    assert rows["midas"] == ("none", 80, 80, "scale_shift")
    assert rows["kitti2015"][3] == "none"
    assert all(name == p.name and p.source for name, p in PROTOCOLS.items())
    assert not any(p.flip for p in PROTOCOLS.values())


def test_which_truth_counts() -> None:
    truth = np.full((375, 1242), 10.0, np.float32)
    truth[200, 300:305] = 0, 1e-3, 79.9, 80, 200
    eigen, benchmark = PROTOCOLS["eigen"].mask(truth), PROTOCOLS["eigen_benchmark"].mask(truth)
    assert eigen[200, 300:305].tolist() == [False, False, True, False, False]
    assert benchmark[200, 300:305].tolist() == [False, True, True, True, True]
    assert (np.flatnonzero(eigen[:, 600])[[0, -1]].tolist(), eigen.sum()) == ([153, 370], 218 * 1153 - 4)
    assert benchmark.sum() == truth.size - 1


def test_the_crop_of_nyu() -> None:
    expected = np.zeros((480, 640), bool)
    expected[45:471, 41:601] = True
    np.testing.assert_array_equal(PROTOCOLS["nyu"].mask(np.full((480, 640), 3.0, np.float32)), expected)
    half = PROTOCOLS["nyu"].mask(np.full((240, 320), 3.0, np.float32))
    assert half.mean() == pytest.approx(expected.mean(), rel=0.01)


def test_a_description_says_everything_that_decides_a_number() -> None:
    plain = PROTOCOLS["eigen"]
    for change in ({"crop": "none"}, {"min_m": 1.0}, {"cap_m": 50.0}, {"clamp_max_m": 50.0}, {"clamp_min_m": 1.0}, {"flip": True},
                   {"disparity_first": False}):  # fmt: skip
        assert replace(plain, **change).describe() != plain.describe()
    assert "of any size" in PROTOCOLS["eigen_benchmark"].describe()


def test_a_kind_is_aligned_no_more_than_it_needs() -> None:
    assert set(ALLOWED) == set(KINDS)
    assert [kind for kind in KINDS if "none" in ALLOWED[kind]] == ["metric"]
    assert all(set(allowed) <= set(SCALINGS) for allowed in ALLOWED.values())
    raw, median = PROTOCOLS["kitti2015"], PROTOCOLS["eigen"]
    assert [raw.scaling_for(kind) for kind in KINDS] == ["none", "median", "scale_shift"]
    assert [median.scaling_for(kind) for kind in KINDS] == ["median", "median", "scale_shift"]
    assert PROTOCOLS["midas"].scaling_for("metric") == "scale_shift"


def test_no_scaling_changes_nothing(truth: np.ndarray) -> None:
    prediction = Prediction(truth / 2, truth / 10)
    assert align(prediction, truth, everywhere(truth), "none") is prediction


def test_median_scaling_undoes_a_factor_on_depth_and_sigma(truth: np.ndarray) -> None:
    found = align(Prediction(truth / 4, truth / 40), truth, everywhere(truth), "median")
    np.testing.assert_allclose(found.depth, truth, rtol=1e-6)
    np.testing.assert_allclose(found.sigma, truth / 10, rtol=1e-6)


def test_a_sequence_has_one_factor(truth: np.ndarray) -> None:
    found = align(Prediction(truth / 4), truth, everywhere(truth), "sequence", factor=3.0)
    np.testing.assert_allclose(found.depth, 0.75 * truth, rtol=1e-6)
    assert found.sigma is None


def test_only_valid_pixels_decide_the_alignment(truth: np.ndarray) -> None:
    valid = np.random.default_rng(1).random(truth.shape) < 0.5
    wrong = np.where(valid, truth / 4, 1e3).astype(np.float32)
    assert median_ratio(wrong, truth, valid) == pytest.approx(4)
    assert scale_and_shift(wrong, truth, valid) == pytest.approx((0.25, 0), abs=1e-6)


def test_scale_and_shift_undo_an_affine_map_of_inverse_depth(truth: np.ndarray) -> None:
    """Relative inverse depth 5 / z + 0.3: no factor on depth can undo it."""
    relative = 1 / (5 / truth + 0.3)
    assert scale_and_shift(relative, truth, everywhere(truth)) == pytest.approx((1 / 5, -0.06), rel=1e-4)
    found = align(Prediction(relative), truth, everywhere(truth), "scale_shift")
    np.testing.assert_allclose(found.depth, truth, rtol=1e-4)
    scaled = align(Prediction(relative), truth, everywhere(truth), "median").depth
    assert np.abs(scaled / truth - 1).mean() > 0.05


def test_scale_and_shift_are_the_least_squares_solution(truth: np.ndarray) -> None:
    rng = np.random.default_rng(2)
    depth = (truth * rng.lognormal(0, 0.3, truth.shape)).astype(np.float32)
    valid = rng.random(truth.shape) < 0.7
    A = np.stack([1 / depth[valid].astype(float), np.ones(valid.sum())], axis=1)
    expected = np.linalg.lstsq(A, 1 / truth[valid].astype(float), rcond=None)[0]
    assert scale_and_shift(depth, truth, valid) == pytest.approx(tuple(expected), rel=1e-6)


def test_constant_inverse_depth_becomes_the_mean(truth: np.ndarray) -> None:
    found = align(Prediction(np.full_like(truth, 7)), truth, everywhere(truth), "scale_shift")
    np.testing.assert_allclose(found.depth, 1 / (1 / truth).mean(), rtol=1e-5)


def test_what_is_aligned_behind_the_camera_is_infinitely_far() -> None:
    """1/z = x / 10 - 0.05 through the valid pixels: at x = 0.2 that is negative."""
    inverse_depth = np.array([[1.0, 2.0, 0.2, 0.0, np.nan]])
    depth = np.divide(1, inverse_depth, where=inverse_depth != 0, out=np.full((1, 5), np.inf)).astype(np.float32)
    truth, valid = np.array([[20, 1 / 0.15, 1, 1, 1]], np.float32), np.array([[True, True, False, False, False]])
    found = align(Prediction(depth), truth, valid, "scale_shift").depth
    np.testing.assert_allclose(found, [[20, 1 / 0.15, np.inf, np.inf, np.nan]], rtol=1e-5)


def test_sigma_follows_the_slope_of_the_alignment(truth: np.ndarray) -> None:
    depth, step = (1 / (5 / truth + 0.3)).astype(np.float64), 1e-4
    prediction = Prediction(depth.astype(np.float32), np.full(truth.shape, step, np.float32))
    sigma = align(prediction, truth, everywhere(truth), "scale_shift").sigma
    slope = (1 / (0.2 / (depth + step) - 0.06) - 1 / (0.2 / (depth - step) - 0.06)) / 2
    np.testing.assert_allclose(sigma, slope, rtol=0.02)


def test_infinite_depth_is_no_ground_for_a_factor() -> None:
    truth, depth = np.full((1, 5), 30, np.float32), np.array([[5, np.inf, np.inf, np.inf, 5]], np.float32)
    assert median_ratio(depth, truth, everywhere(truth)) == 1.0


def test_unusable_alignments_are_refused(truth: np.ndarray) -> None:
    with pytest.raises(InputError, match="median depth is -"):
        align(Prediction(-truth), truth, everywhere(truth), "median")
    with pytest.raises(InputError, match="scaling is 'mean'; expected one of none, sequence, median, scale_shift"):
        align(Prediction(truth), truth, everywhere(truth), "mean")


def test_a_plane_is_resized_exactly_as_inverse_depth_and_a_ramp_as_depth() -> None:
    """Inverse depth is linear in the image on a plane; away from the border, where the outermost half pixel is repeated."""
    small, large = (np.arange(8) + 0.5) / 8, (np.arange(32) + 0.5) / 32
    inner = slice(2, -2)
    plane, ramp = (np.tile(values, (8, 1)).astype(np.float32) for values in (1 / (0.1 + small), 1 + small))
    as_disparity = resized(Prediction(plane), (32, 32), disparity_first=True).depth
    np.testing.assert_allclose(as_disparity[:, inner], np.tile(1 / (0.1 + large), (32, 1))[:, inner], rtol=1e-5)
    as_depth = resized(Prediction(ramp, ramp / 10), (32, 32), disparity_first=False)
    np.testing.assert_allclose(as_depth.depth[:, inner], np.tile(1 + large, (32, 1))[:, inner], rtol=1e-5)
    np.testing.assert_allclose(as_depth.sigma[:, inner], as_depth.depth[:, inner] / 10, rtol=1e-5)
    assert np.abs(resized(Prediction(plane), (32, 32), disparity_first=False).depth - as_disparity).max() > 0.01


@pytest.mark.parametrize("disparity_first", [True, False])
def test_missing_and_infinite_depth_stay_where_they_are(disparity_first: bool) -> None:
    depth = np.array([[np.nan, 4, 4, np.inf]], np.float32).repeat(4, axis=0)
    found = resized(Prediction(depth), (8, 8), disparity_first).depth
    np.testing.assert_allclose(found, np.tile([np.nan, np.nan, 4, 4, 4, 4, np.inf, np.inf], (8, 1)))
