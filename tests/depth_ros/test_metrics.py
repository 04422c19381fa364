"""Metrics against hand-computed cases and the definitions written out as plain loops."""

import math

import numpy as np
import pytest

from depth_ros.metrics import (
    RELIABILITY_LEVELS,
    areas,
    coverage,
    depth_errors,
    garg_crop,
    gaussian_nll,
    median_scale,
    reliability,
    sparsification,
    sparsification_curves,
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


@pytest.mark.parametrize("seed", range(5))
def test_depth_errors_are_the_plain_formulas(seed):
    """Pixel by pixel in plain Python, on a random image of which some pixels do not count."""
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0.5, 79, (9, 11))
    depth = (truth * rng.lognormal(0, 0.4, truth.shape)).astype(np.float32)
    valid = rng.random(truth.shape) < 0.6
    pairs = [(min(float(p), 80.0), float(g)) for p, g, v in zip(depth.flat, truth.flat, valid.flat, strict=True) if v]
    n = len(pairs)
    expected = {
        "abs_rel": sum(abs(g - p) / g for p, g in pairs) / n,
        "sq_rel": sum((g - p) ** 2 / g for p, g in pairs) / n,
        "rmse": math.sqrt(sum((g - p) ** 2 for p, g in pairs) / n),
        "rmse_log": math.sqrt(sum((math.log(g) - math.log(p)) ** 2 for p, g in pairs) / n),
        "log10": sum(abs(math.log10(g) - math.log10(p)) for p, g in pairs) / n,
        "rms_log10": math.sqrt(sum((math.log10(g) - math.log10(p)) ** 2 for p, g in pairs) / n),
        **{f"delta{k}": sum(max(g / p, p / g) < 1.25**k for p, g in pairs) / n for k in (1, 2, 3)},
    }
    assert depth_errors(depth, truth, valid) == pytest.approx(expected, abs=1e-6)


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


def test_reliability_is_the_coverage_at_every_level():
    rng = np.random.default_rng(6)
    truth = np.full((300, 400), 40.0)
    sigma = rng.uniform(0.5, 2, truth.shape)
    depth, valid = truth + rng.normal(size=truth.shape) * sigma, np.ones(truth.shape, bool)
    assert reliability(depth, sigma, truth, valid) == pytest.approx(RELIABILITY_LEVELS, abs=0.01)
    # A Laplace or any other error: level .95 is k = 1.96, level .5 the probable error, k = .6745.
    wrong = truth + rng.laplace(size=truth.shape) * sigma
    observed = reliability(wrong, sigma, truth, valid)
    assert observed[-1] == pytest.approx(coverage(wrong, sigma, truth, valid, 1.959964), abs=1e-5)
    assert observed[9] == pytest.approx(coverage(wrong, sigma, truth, valid, 0.67449), abs=1e-5)


def test_infinity_is_a_miss_at_every_level():
    observed = reliability(row(10, np.inf, 10, 10), row(1, np.nan, 1, 1), row(10, 20, 10, 10), ALL)
    assert observed.tolist() == [0.75] * len(RELIABILITY_LEVELS)


def test_nll_is_the_log_of_the_normal_density():
    depth, sigma, truth = row(10, 12, 30, np.inf), row(0.5, 2, 4, np.nan), row(10.5, 10, 20, 70)
    densities = [
        math.exp(-((p - g) ** 2) / (2 * s * s)) / (s * math.sqrt(2 * math.pi))
        for p, g, s in ((10, 10.5, 0.5), (12, 10, 2), (30, 20, 4))
    ]
    assert gaussian_nll(depth, sigma, truth, ALL) == pytest.approx(-sum(map(math.log, densities)) / 3)


def test_nll_is_least_at_the_true_deviation():
    rng = np.random.default_rng(7)
    truth = np.full((100, 100), 20.0)
    depth, valid = truth + rng.normal(0, 1.5, truth.shape), np.ones(truth.shape, bool)
    found = {s: gaussian_nll(depth, np.full(truth.shape, s), truth, valid) for s in (1.2, 1.5, 1.8)}
    assert min(found, key=found.get) == 1.5
    assert found[1.5] == pytest.approx(math.log(1.5 * math.sqrt(2 * math.pi * math.e)), abs=0.03)  # the entropy


def test_nll_of_nothing_and_of_no_deviation():
    assert math.isnan(gaussian_nll(row(np.inf), row(np.nan), row(5), np.ones((1, 1), bool)))
    with pytest.raises(InputError, match="sigma is not positive at 1 of 4 pixels"):
        gaussian_nll(row(1, 2, 3, 4), row(1, 0, 1, 1), row(1, 2, 3, 4), ALL)


def curve_area(error, uncertainty, mean=np.mean):
    """Protocol of Poggi et al. (CVPR 2020), literally: thresholds at percentiles of -u, masks, means, 0 at the end, trapezoid."""
    values = []
    for percentile in range(0, 100, 2):
        threshold = np.percentile(-uncertainty, percentile)
        values.append(mean(error[-uncertainty >= threshold]))
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
    relative = abs_rel(depth, truth)
    squared = ((depth - truth) ** 2).ravel()
    ratio = np.maximum(depth / truth, truth / depth).ravel()
    result = sparsification(depth, sigma, truth, valid)
    for metric, error, oracle, mean in (
        ("abs_rel", relative, relative, np.mean),
        ("rmse", squared, squared, lambda values: math.sqrt(values.mean())),
        ("delta1", ratio >= 1.25, ratio, np.mean),
    ):
        area = curve_area(error, sigma.ravel(), mean)
        assert result[f"ause_{metric}"] == pytest.approx(area - curve_area(error, oracle, mean), abs=1e-12)
        assert result[f"aurg_{metric}"] == pytest.approx(mean(error) - area, abs=1e-12)


def test_sparsification_by_hand():
    """Four pixels at 10 m, 1, 4, 2 and 3 m too far, in the order of their sigma.

    Of -sigma's percentiles, 0 keeps all four, 2 to 32 (16 of them) three, 34 to 66 (17) two and 68 to 98 (16) one; the
    oracle keeps as many. So the area is (v4 / 2 + 16 v3 + 17 v2 + 16 v1) / 50.
    """
    result = sparsification(row(11, 14, 12, 13), row(0.1, 0.2, 0.3, 0.4), row(10, 10, 10, 10), ALL)

    def area(v4, v3, v2, v1):
        return (v4 / 2 + 16 * v3 + 17 * v2 + 16 * v1) / 50

    method, oracle = area(0.25, 0.7 / 3, 0.25, 0.1), area(0.25, 0.2, 0.15, 0.1)
    assert (method, oracle) == pytest.approx((0.1941667, 0.1495), abs=1e-7)
    assert result["ause_abs_rel"] == pytest.approx(method - oracle, rel=1e-5)
    assert result["aurg_abs_rel"] == pytest.approx(0.25 - method, rel=1e-5)
    method = area(math.sqrt(30 / 4), math.sqrt(21 / 3), math.sqrt(17 / 2), 1)
    assert result["ause_rmse"] == pytest.approx(
        method - area(math.sqrt(30 / 4), math.sqrt(14 / 3), math.sqrt(5 / 2), 1), rel=1e-5
    )
    assert result["aurg_rmse"] == pytest.approx(math.sqrt(30 / 4) - method, rel=1e-5)
    method = area(2 / 4, 1 / 3, 1 / 2, 0)  # ratios 1.1, 1.4, 1.2, 1.3: two of them at or above 1.25
    assert result["ause_delta1"] == pytest.approx(method - area(2 / 4, 1 / 3, 0, 0), rel=1e-5)
    assert result["aurg_delta1"] == pytest.approx(0.5 - method, rel=1e-5)


def test_curves_start_at_the_metric_itself_and_end_at_nothing(scene):
    depth, truth, valid = scene
    curves = sparsification_curves(depth, truth, valid, {"far": truth, "near": -truth})
    errors = depth_errors(depth, truth, valid)
    for metric, whole in (("abs_rel", errors["abs_rel"]), ("rmse", errors["rmse"]), ("delta1", 1 - errors["delta1"])):
        assert set(curves[metric]) == {"oracle", "far", "near"}
        assert all(curve.shape == (51,) and curve[-1] == 0 for curve in curves[metric].values())
        assert [curve[0] for curve in curves[metric].values()] == pytest.approx([whole] * 3)
    assert areas(curves, "oracle")["ause_rmse"] == 0
    assert areas(curves, "far")["ause_rmse"] < areas(curves, "near")["ause_rmse"]  # errors grow with distance


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
    assert (result["ause_abs_rel"], result["ause_rmse"]) == pytest.approx((0, 0), abs=1e-12)
    assert result["aurg_abs_rel"] > 0
