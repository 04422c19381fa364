"""Scale over time: smoothing, growing uncertainty, the end, and clocks."""

from __future__ import annotations

import numpy as np
import pytest

from depth_ros.scale import Measurement, Scale
from depth_ros.scale.track import Track


def seen(factor, sigma=0.1):
    return Measurement(Scale(factor, sigma), 50, 60)


def test_nothing_before_the_first_measurement():
    track = Track(0.1, 5)
    assert track.scale(3.0) is None
    assert track.update(seen(2.0), 3.0)
    assert track.scale(3.0) == Scale(pytest.approx(2.0), pytest.approx(0.1))


def test_uncertainty_grows_with_age_until_the_end():
    """sigma^2 = 0.1^2 + 0.05^2 age."""
    track = Track(0.05, 4.0)
    track.update(seen(2.0), 10.0)
    for age in (0.0, 1.0, 4.0):
        assert track.scale(10 + age).sigma == pytest.approx(np.sqrt(0.01 + 0.0025 * age))
        assert track.scale(10 + age).factor == pytest.approx(2.0)
    assert track.scale(14.1) is None
    assert track.age_s(14.1) == pytest.approx(4.1)


def test_what_has_not_changed_grows_no_older():
    track = Track(0.1, 5.0)
    track.hold(0.0)
    assert track.scale(0.0) is None
    track.update(seen(2.0), 0.0)
    for time_s in range(1, 60, 3):
        track.hold(float(time_s))
    assert track.scale(58.0).sigma == pytest.approx(0.1)
    assert track.scale(59.0).sigma == pytest.approx(np.hypot(0.1, 0.1))
    track.hold(70.0)
    assert track.scale(70.0) is None  # it had ended


def test_two_measurements_far_apart_are_averaged_by_their_variances():
    """Two equal ones 2 s apart without drift: the mean of the logarithms, and sigma over the root of 2."""
    track = Track(0.0, 100)
    track.update(seen(2.0), 0.0)
    track.update(seen(2.2), 2.0)
    assert track.scale(2.0).factor == pytest.approx(np.sqrt(2.0 * 2.2))
    assert track.scale(2.0).sigma == pytest.approx(0.1 / np.sqrt(2))


def test_measurements_of_one_second_count_as_one():
    track = Track(0.0, 100)
    track.update(seen(2.0), 0.0)
    for k in range(1, 11):
        track.update(seen(2.0), k / 10)
    assert track.scale(1.0).sigma == pytest.approx(0.1 / np.sqrt(2), rel=0.05)


def test_what_all_measurements_share_is_not_averaged_away():
    track = Track(0.0, 1e4, systematic=0.03)
    for k in range(0, 1000, 2):
        track.update(seen(2.0), float(k))
    assert track.scale(998.0).sigma == pytest.approx(np.hypot(0.03, 0.1 / np.sqrt(500)), rel=0.01)


def test_one_wild_measurement_is_not_believed_and_a_second_of_them_is():
    track = Track(0.02, 10)
    track.update(seen(2.0, 0.02), 0.0)
    assert not track.update(seen(5.0, 0.02), 1.0)
    assert track.update(seen(2.01, 0.02), 1.2)
    assert track.scale(1.2).factor == pytest.approx(2.0, rel=0.01)
    for time_s in (2.0, 2.3, 2.6, 2.9):
        assert not track.update(seen(5.0, 0.02), time_s)
    assert track.update(seen(5.0, 0.02), 3.0)  # a cut: begin anew
    assert track.scale(3.0) == Scale(pytest.approx(5.0), pytest.approx(0.02))


def test_it_follows_a_scale_that_wanders_and_states_how_well():
    rng = np.random.default_rng(0)
    track, log_factor, ratios = Track(0.1, 10), 0.0, []
    for k in range(2000):
        log_factor += 0.1 * np.sqrt(2) * rng.standard_normal()
        track.update(seen(np.exp(log_factor + 0.1 * rng.standard_normal()), 0.1), 2.0 * k)
        scale = track.scale(2.0 * k)
        ratios.append((np.log(scale.factor) - log_factor) / scale.sigma)
    assert np.std(ratios[10:]) == pytest.approx(1, abs=0.1)


def test_a_clock_set_back_begins_anew():
    track = Track(0.1, 5)
    track.update(seen(2.0), 1000.0)
    assert track.scale(999.8).factor == pytest.approx(2.0)  # overtaken on its way
    assert track.scale(10.0) is None
    track.update(seen(3.0), 10.1)
    assert track.scale(10.1).factor == pytest.approx(3.0)


def test_factor_and_shift_are_tracked_together():
    """Two measurements, each knowing one direction well, know both together (information adds up)."""
    one, two = Scale(2.0, 0.2, 0.05, 0.02, 0.99), Scale(2.1, 0.2, 0.045, 0.02, -0.99)
    track = Track(0.0, 100)
    for time_s, scale in ((0.0, one), (2.0, two)):
        assert track.update(Measurement(scale, 50, 60, 0.2), time_s)

    def moments(scale):
        off = scale.correlation * scale.sigma * scale.shift_sigma
        return np.array([np.log(scale.factor), scale.shift]), np.array([[scale.sigma**2, off], [off, scale.shift_sigma**2]])

    (mean_1, cov_1), (mean_2, cov_2) = moments(one), moments(two)
    covariance = np.linalg.inv(np.linalg.inv(cov_1) + np.linalg.inv(cov_2))
    mean = covariance @ (np.linalg.solve(cov_1, mean_1) + np.linalg.solve(cov_2, mean_2))
    found = track.scale(2.0)
    np.testing.assert_allclose(moments(found)[0], mean, rtol=1e-6)
    np.testing.assert_allclose(moments(found)[1], covariance, rtol=1e-6, atol=1e-12)
