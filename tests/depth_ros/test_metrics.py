"""Metrics against hand-computed cases and the definitions written out as plain loops."""

import math

import numpy as np
import pytest

from depth_ros.metrics import (
    coverage,
    depth_errors,
    garg_crop,
    median_scale,
    sparsification,
    valid_truth,
)
from depth_ros.types import InputError

ALL = np.ones((1, 4), bool)


def row(*values):
    return np.array([values], np.float32)


def test_depth_errors_by_hand():
    errors = depth_errors(row(10, 12, 40, 90), row(10, 10, 20, 60), ALL)
    # 90 m is clamped to 80 m: errors 0, 2, 20, 20; ratios 1, 1.2, 2, 4/3
    assert errors["abs_rel"] == pytest.approx((0 + 0.2 + 1 + 1 / 3) / 4)
    assert errors["sq_rel"] == pytest.approx((0 + 4 / 10 + 400 / 20 + 400 / 60) / 4)
    assert errors["rmse"] == pytest.approx(math.sqrt((0 + 4 + 400 + 400) / 4))
    logs = [0, math.log(1.2), math.log(2), math.log(4 / 3)]
    assert errors["rmse_log"] == pytest.approx(math.sqrt(sum(log * log for log in logs) / 4))
    assert errors["rms_log10"] == pytest.approx(math.sqrt(sum((log / math.log(10)) ** 2 for log in logs) / 4))
    assert errors["log10"] == pytest.approx(sum(abs(log) / math.log(10) for log in logs) / 4)
    assert (errors["delta1"], errors["delta2"], errors["delta3"]) == (0.5, 0.75, 0.75)  # 1.25, 1.5625, 1.953
    assert all(type(value) is float for value in errors.values())


def test_ratio_of_exactly_the_threshold_is_outside():
    assert depth_errors(row(5, 4), row(4, 5), np.ones((1, 2), bool))["delta1"] == 0.0


def test_perfect_depth_has_no_error():
    truth = np.random.default_rng(0).uniform(1, 79, (20, 30))
    errors = depth_errors(truth, truth, np.ones((20, 30), bool))
    zero = dict.fromkeys(("abs_rel", "sq_rel", "rmse", "rmse_log", "log10", "rms_log10"), 0.0)
    assert errors == zero | {"delta1": 1, "delta2": 1, "delta3": 1}


def test_only_valid_pixels_count_and_infinity_is_the_cap():
    errors = depth_errors(row(10, np.nan, np.inf, 0), row(10, 10, 40, 10), np.array([[True, False, True, False]]))
    assert errors["abs_rel"] == pytest.approx((0 + 1) / 2)
    assert depth_errors(row(np.inf), row(40), np.ones((1, 1), bool), cap_m=50.0)["abs_rel"] == pytest.approx(0.25)


def test_prediction_is_clamped_from_below():
    assert depth_errors(row(-5), row(10), np.ones((1, 1), bool))["abs_rel"] == pytest.approx(1 - 1e-4)


@pytest.mark.parametrize("metric", [depth_errors, median_scale])
def test_missing_predictions_are_refused(metric):
    with pytest.raises(InputError, match="NaN at 1 of 4 valid pixels"):
        metric(row(1, np.nan, 3, 4), row(1, 2, 3, 4), ALL)


def test_no_valid_pixel_is_refused():
    with pytest.raises(InputError, match="no pixel is valid"):
        depth_errors(row(1, 2, 3, 4), row(1, 2, 3, 4), ~ALL)


def test_sizes_must_agree():
    with pytest.raises(InputError, match=r"depth is \(1, 4\), truth \(1, 3\)"):
        depth_errors(row(1, 2, 3, 4), row(1, 2, 3), ALL)


def test_median_scale_undoes_a_factor():
    truth = np.random.default_rng(1).uniform(1, 79, (20, 30))
    assert median_scale(truth / 3.7, truth, np.ones((20, 30), bool)) == pytest.approx(3.7)
    # It is the ratio of medians, not the median of ratios.
    assert median_scale(row(1, 2, 9), row(2, 6, 9), np.ones((1, 3), bool)) == 3.0


def test_valid_truth_is_open_at_both_ends():
    truth = np.array([[0, 1e-3, 0.002, 79.9, 80, np.nan, np.inf, -1]])
    assert valid_truth(truth).tolist() == [[False, False, True, True, False, False, False, False]]
    assert valid_truth(row(5, 12), cap_m=10.0).tolist() == [[True, False]]
    assert valid_truth(row(5, 12), min_m=6.0).tolist() == [[False, True]]


def test_garg_crop_of_a_kitti_image():
    # 0.40810811 * 375 = 153.04, 0.99189189 * 375 = 371.96, 0.03594771 * 1242 = 44.6, 0.96405229 * 1242 = 1197.4
    expected = np.zeros((375, 1242), bool)
    expected[153:371, 44:1197] = True
    np.testing.assert_array_equal(garg_crop(375, 1242), expected)


def test_coverage_by_hand():
    depth, sigma, truth = row(10, 10, 10, np.inf), row(1, 1, 1, np.nan), row(10.5, 11.5, 12.5, 70)
    assert coverage(depth, sigma, truth, ALL, 1) == 0.25
    assert coverage(depth, sigma, truth, ALL, 2) == 0.5
    assert coverage(depth, sigma, truth, ALL, 3) == 0.75


def test_coverage_of_gaussian_errors_is_the_normal_distributions():
    rng = np.random.default_rng(2)
    sigma = rng.uniform(0.1, 3, (400, 500))
    truth = np.full((400, 500), 40.0)
    depth = truth + rng.normal(size=truth.shape) * sigma
    valid = np.ones(truth.shape, bool)
    for k in (0.5, 1, 2):
        assert coverage(depth, sigma, truth, valid, k) == pytest.approx(math.erf(k / math.sqrt(2)), abs=0.005)


def curve_area(error, uncertainty):
    """Protocol of Poggi et al. (CVPR 2020), literally: thresholds at percentiles of -u, masks, means, 0 at the end, trapezoid."""
    values = []
    for percentile in range(0, 100, 2):
        threshold = np.percentile(-uncertainty, percentile)
        values.append(error[-uncertainty >= threshold].mean())
    values.append(0.0)
    return sum((values[i] + values[i + 1]) / 2 * (1 / 50) for i in range(50))


def abs_rel(depth, truth):
    return (np.abs(depth - truth) / truth).astype(np.float64).ravel()


@pytest.mark.parametrize("levels", [None, 7])  # with 7 levels of sigma most pixels are ties
@pytest.mark.parametrize("size", [(1, 1), (3, 5), (40, 50)])
def test_sparsification_is_the_protocol_written_out(size, levels):
    rng = np.random.default_rng(3)
    truth = rng.uniform(2, 70, size)
    depth = truth * rng.uniform(0.8, 1.1, size)
    sigma = rng.uniform(0.1, 3, size)
    if levels:
        sigma = np.ceil(sigma / 3 * levels)
    valid = np.ones(size, bool)
    error = abs_rel(depth, truth)
    area, oracle = curve_area(error, sigma.ravel()), curve_area(error, error)
    result = sparsification(depth, sigma, truth, valid)
    assert result["ause_abs_rel"] == pytest.approx(area - oracle, abs=1e-12)
    assert result["aurg_abs_rel"] == pytest.approx(error.mean() - area, abs=1e-12)


@pytest.fixture
def scene():
    rng = np.random.default_rng(4)
    truth = rng.uniform(5, 60, (50, 60))
    return truth * (1 + rng.exponential(0.1, truth.shape)), truth, np.ones(truth.shape, bool)


def test_perfect_ordering_has_no_ause(scene):
    depth, truth, valid = scene
    depth = np.minimum(depth, 79.0)
    result = sparsification(depth, 5 * np.abs(depth - truth) / truth, truth, valid)
    assert result["ause_abs_rel"] == pytest.approx(0, abs=1e-12)
    assert result["aurg_abs_rel"] > 0.02


def test_constant_sigma_gains_only_the_final_drop_to_zero(scene):
    # Every threshold keeps every pixel: the curve is flat at the mean error until 98 %, then falls to 0 over 2 %.
    depth, truth, valid = scene
    mean = abs_rel(np.minimum(depth, 80), truth).mean()
    result = sparsification(depth, np.full(truth.shape, 0.7), truth, valid)
    assert result["aurg_abs_rel"] == pytest.approx(mean * 0.01, rel=1e-6)


def test_reversed_ordering_is_worse_than_random(scene):
    depth, truth, valid = scene
    error = np.abs(np.minimum(depth, 80) - truth) / truth
    result = sparsification(depth, 1 / (0.01 + error), truth, valid)
    assert result["aurg_abs_rel"] < -0.02
    assert result["ause_abs_rel"] > 0.1


def test_sparsification_removes_nothing_in_range_first():
    rng = np.random.default_rng(5)
    truth = rng.uniform(10, 40, (50, 50))
    depth, sigma = truth.copy(), rng.uniform(0.5, 1, truth.shape)
    depth[0], sigma[0] = np.inf, np.nan  # the only errors, 2 % of the pixels
    result = sparsification(depth, sigma, truth, np.ones(truth.shape, bool))
    assert result["ause_abs_rel"] == pytest.approx(0, abs=1e-12)
    assert result["aurg_abs_rel"] > 0
