"""The robust fit, and scale and shift from measured depths: exact without noise, sure of themselves as far as they may be."""

from __future__ import annotations

import numpy as np
import pytest

from depth_ros.scale import NoMeasurement, apply
from depth_ros.scale.projection import Samples
from depth_ros.scale.ranging import measure_ranges
from depth_ros.scale.robust import robust_fit
from depth_ros.types import CameraModel, DepthPrediction

CAMERA = CameraModel(64, 32, 50.0, 50.0, 31.5, 15.5)


def scene(rng, relative=0.1):
    """True depth 2 to 20 m, smooth, and everywhere the same relative sigma."""
    v, u = np.mgrid[:32, :64]
    truth = 2 + 18 * (0.5 + 0.5 * np.sin(u / 9 + rng.uniform(0, 6))) * (1 - v / 40)
    return truth.astype(np.float64), relative


def predict(truth, relative):
    return DepthPrediction(truth.astype(np.float32), (relative * truth).astype(np.float32), CAMERA)


def sampled(truth, rng, count):
    chosen = rng.choice(truth.size, count, replace=False)
    u, v = chosen % 64, chosen // 64
    return Samples(u, v, truth[v, u].copy(), count)


def blotches(rng):
    """One standard normal error for each of the 32 cells of the image that errors hang together in."""
    return np.kron(rng.standard_normal((4, 8)), np.ones((8, 8)))


def test_factor_without_noise_is_exact():
    truth, relative = scene(np.random.default_rng(0))
    found = measure_ranges(predict(truth / 3, relative), sampled(truth, np.random.default_rng(1), 300), False)
    assert found.scale.factor == pytest.approx(3.0, rel=1e-6)
    assert (found.inliers, found.samples) == (300, 300)


def test_factor_and_shift_without_noise_are_exact():
    truth, relative = scene(np.random.default_rng(0))
    relative_inverse = (1 / truth - 0.02) * 5  # true inverse depth = relative / 5 + 0.02
    found = measure_ranges(predict(1 / relative_inverse, relative), sampled(truth, np.random.default_rng(1), 300), True)
    assert found.scale.factor == pytest.approx(5.0, rel=1e-6)
    assert found.scale.shift == pytest.approx(0.02, abs=1e-6)


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize(
    "lie", [lambda m, rng: 0.3 * m, lambda m, rng: 40.0 * np.ones_like(m), lambda m, rng: rng.uniform(1, 40, m.size)]
)
def test_forty_percent_outliers_change_little(affine, lie):
    rng = np.random.default_rng(3)
    truth, _ = scene(rng)
    noisy = truth * (1 + 0.05 * rng.standard_normal(truth.shape))
    samples = sampled(truth, rng, 400)
    clean = measure_ranges(predict(noisy / 3, 0.05), samples, affine)
    samples.depth[:160] = lie(samples.depth[:160], rng)
    found = measure_ranges(predict(noisy / 3, 0.05), samples, affine)
    assert 200 < found.inliers < 280
    for measurement in (clean, found):
        metres = apply(predict(noisy / 3, 0.05), measurement.scale).depth
        assert np.median(np.abs(metres / noisy - 1)) < 0.03


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("errors", ["of each pixel", "of patches"])
def test_the_stated_uncertainty_holds_over_random_trials(affine, errors):
    """Depth at 5 m: within one stated sigma in 68 % of the trials, within two in 95 %. The truth lies around the prediction."""
    rng = np.random.default_rng(5)
    inverse_5_m = 2 * (1 / 5 - (0.01 if affine else 0.0))
    exact = DepthPrediction(np.full((32, 64), 1 / inverse_5_m, np.float32), np.full((32, 64), 1e-6, np.float32), CAMERA)
    errors_m, sigmas_m = [], []
    for _ in range(150):
        smooth, _ = scene(rng)
        noise = 0.1 * (rng.standard_normal(smooth.shape) if errors == "of each pixel" else blotches(rng))
        predicted = 2 * (1 / smooth - (0.01 if affine else 0.0))
        truth = 1 / (predicted / 2 * (1 + noise) + (0.01 if affine else 0.0))
        prediction = DepthPrediction((1 / predicted).astype(np.float32), (0.1 / predicted).astype(np.float32), CAMERA)
        at_5_m = apply(exact, measure_ranges(prediction, sampled(truth, rng, 200), affine).scale)
        errors_m.append(at_5_m.depth[0, 0] - 5)
        sigmas_m.append(at_5_m.sigma[0, 0])
    ratio = np.abs(errors_m) / sigmas_m
    assert np.mean(ratio < 1) > 0.58  # 150 trials: 0.68 +- 0.04
    assert np.mean(ratio < 2) > 0.9
    assert np.median(sigmas_m) < 2 * np.sqrt(np.mean(np.square(errors_m)))  # and it is no empty statement


def test_errors_of_patches_are_stated_larger_than_those_of_pixels():
    rng = np.random.default_rng(2)
    truth, relative = scene(rng)
    sigmas = []
    for noise in (rng.standard_normal(truth.shape), blotches(rng)):
        found = measure_ranges(predict(truth * np.exp(0.1 * noise), relative), sampled(truth, rng, 400), False)
        sigmas.append(found.scale.sigma)
    assert sigmas[1] > 1.5 * sigmas[0]


def test_one_pair_is_as_sure_as_the_prediction_there():
    truth, _ = scene(np.random.default_rng(0))
    found = measure_ranges(predict(truth, 0.2), sampled(truth * 1.3, np.random.default_rng(1), 1), False, least=1)
    assert found.scale.factor == pytest.approx(1.3, rel=1e-6)
    assert found.scale.sigma == pytest.approx(np.hypot(0.2, 0.01), rel=1e-6)  # and the sensor's 1 %


def test_too_few_pairs_say_nothing():
    truth, relative = scene(np.random.default_rng(0))
    prediction = predict(truth, relative)
    prediction.depth[:, 30:] = np.nan
    left = Samples(np.arange(25) + 10, np.full(25, 4), truth[4, 10:35], 900)
    right = Samples(np.arange(25) + 30, np.full(25, 4), truth[4, 30:55], 900)
    assert measure_ranges(prediction, left, False).samples == 20
    with pytest.raises(NoMeasurement, match=r"0 of 900 measured points .* at least 20"):
        measure_ranges(prediction, right, False)


def test_points_at_one_depth_do_not_give_a_shift():
    flat = predict(np.full((32, 64), 5.0), 0.1)
    samples = sampled(np.full((32, 64), 7.5), np.random.default_rng(0), 100)
    assert measure_ranges(flat, samples, False).scale.factor == pytest.approx(1.5)
    with pytest.raises(NoMeasurement, match="several depths"):
        measure_ranges(flat, samples, True)
    rng = np.random.default_rng(1)
    wobbling = predict(5.0 * np.exp(0.1 * rng.standard_normal((32, 64))), 0.1)
    with pytest.raises(NoMeasurement, match="several depths"):
        measure_ranges(wobbling, samples, True)


def test_a_sensor_that_sees_something_else_says_nothing():
    rng = np.random.default_rng(0)
    truth, relative = scene(rng, 0.02)
    samples = sampled(truth, rng, 400)
    samples.depth[:] = np.exp(rng.uniform(np.log(0.5), np.log(80), 400))
    with pytest.raises(NoMeasurement, match=r"scatter \d+ times as far about the prediction as its sigma says"):
        measure_ranges(predict(truth * np.exp(0.02 * rng.standard_normal(truth.shape)), relative), samples, False)


def test_the_fit_equals_weighted_least_squares_for_normal_noise():
    """Up to the biweight's 5 % of efficiency; with 12 independent cells, covariance near (X' X)^-1."""
    rng = np.random.default_rng(0)
    x = np.column_stack([rng.uniform(0, 1, 600), np.ones(600)])
    spread = rng.uniform(0.01, 0.05, 600)
    y = x @ [2.0, -1.0] + spread * rng.standard_normal(600)
    fit = robust_fit(x, y, spread, np.arange(600))
    whitened = x / spread[:, None]
    least_squares = np.linalg.solve(whitened.T @ whitened, whitened.T @ (y / spread))
    covariance = np.linalg.inv(whitened.T @ whitened)
    assert (np.abs(fit.coefficients - least_squares) < np.sqrt(np.diag(covariance))).all()
    np.testing.assert_allclose(np.diag(fit.covariance), np.diag(covariance), rtol=0.35)
    assert fit.scatter == pytest.approx(1, abs=0.1)


def test_whatever_comes_in_gives_finite_figures_or_none():
    rng = np.random.default_rng(0)
    measured = 0
    for _ in range(150):
        depth = 10 ** rng.uniform(*rng.choice([(-2, 3), (0, 1), (0.7, 0.70001), (-6, 6)]), (32, 64))
        depth[rng.random((32, 64)) < rng.choice([0, 0.3, 0.99])] = rng.choice([np.nan, np.inf])
        sigma = np.where(np.isfinite(depth), depth * 10 ** rng.uniform(-4, 1), np.nan)
        prediction = DepthPrediction(depth.astype(np.float32), sigma.astype(np.float32), CAMERA)
        samples = sampled(10 ** rng.uniform(-2, 3, (32, 64)), rng, int(rng.integers(1, 400)))
        if rng.random() < 0.5:
            samples.depth[:] = 3 * np.nan_to_num(depth, nan=5.0, posinf=7.0)[samples.v, samples.u]
        for affine in (False, True):
            try:
                scale = measure_ranges(prediction, samples, affine, int(rng.choice([1, 20]))).scale
            except NoMeasurement:
                continue
            measured += 1
            assert np.isfinite([scale.factor, scale.sigma, scale.shift, scale.shift_sigma]).all()
            assert scale.factor > 0
            assert abs(scale.correlation) <= 1 + 1e-9
            metres = apply(prediction, scale)
            assert not np.isnan(metres.depth[~np.isnan(prediction.depth)]).any()
            np.testing.assert_array_equal(np.isnan(metres.sigma), ~np.isfinite(metres.depth))
    assert measured > 50


def about_the_truth(rng, nearest, farthest, relative, errors):
    """Prediction of a relative network whose errors scatter about the truth (H, W) [m], 1 / truth = 2 predicted + 0.05."""
    truth = 1 / np.interp(np.sin(np.arange(64) / 7 + rng.uniform(0, 6)), [-1, 1], [1 / farthest, 1 / nearest])
    truth = np.broadcast_to(truth, (32, 64))
    noise = rng.standard_normal((32, 64)) if errors == "of each pixel" else blotches(rng)
    predicted = np.maximum((1 / truth - 0.05) / 2 * (1 + relative * noise), 1e-3)
    return truth, DepthPrediction((1 / predicted).astype(np.float32), (relative / predicted).astype(np.float32), CAMERA)


@pytest.mark.parametrize("errors", ["of each pixel", "of patches"])
def test_a_wall_on_which_the_prediction_wobbles_never_gives_a_shift(errors):
    """Chance makes some line of a constant; one taken for true would put all that is nearer onto the wall."""
    rng = np.random.default_rng(2)
    for _ in range(150):
        truth, prediction = about_the_truth(rng, 5.0, 5.01, 0.1, errors)
        samples = sampled(truth * (1 + 0.01 * rng.standard_normal(truth.shape)), rng, 60)
        with pytest.raises(NoMeasurement, match="several depths"):
            measure_ranges(prediction, samples, True)


@pytest.mark.parametrize(("nearest", "farthest", "relative"), [(4.0, 8.0, 0.15), (5.0, 6.0, 0.05), (2.0, 12.0, 0.15)])
def test_the_stated_uncertainty_covers_a_slope_that_errors_of_the_prediction_flatten(nearest, farthest, relative):
    """The worst case of dilution is sqrt(3) sigma: beyond the measured depths, with noise, the truth is within three."""
    rng = np.random.default_rng(8)
    exact = {metres: 2 / (1 / metres - 0.05) for metres in (2.0, 15.0)}
    inside = []
    for _ in range(100):
        truth, prediction = about_the_truth(rng, nearest, farthest, relative, "of each pixel")
        samples = sampled(truth * (1 + 0.01 * rng.standard_normal(truth.shape)), rng, 200)
        try:
            scale = measure_ranges(prediction, samples, True).scale
        except NoMeasurement:
            continue
        for metres, unit in exact.items():
            known = DepthPrediction(np.full((32, 64), unit, np.float32), np.full((32, 64), 1e-6, np.float32), CAMERA)
            found = apply(known, scale)
            inverse_sigma = found.sigma[0, 0] / found.depth[0, 0] ** 2
            inside.append(abs(1 / found.depth[0, 0] - 1 / metres) < 3 * inverse_sigma)
    assert len(inside) > 100
    assert np.mean(inside) > 0.95
