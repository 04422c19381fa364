"""Scale over time: a Kalman filter whose uncertainty grows with age."""

from __future__ import annotations

import math

import numpy as np

from depth_ros.scale import Measurement, Scale
from depth_ros.types import Float64Array

CORRELATED_S = 1.0  # measurements closer than that share their errors: the same scene, seen by the same network
GATE = (10.8, 13.8)  # 99.9 % of a chi-square with one and two degrees of freedom
REJECTED_S = 1.0  # measurements that disagree for longer than that are right, and the state is wrong: a cut, a new place
BACK_S = 1.0  # a stamp older than the newest by more than that is a clock that was set back (a bag that loops)


class Track:
    """Smooths measurements of (log factor, shift), which wander at random by `drift` (relative) in the root of a second.

    `systematic` is the relative standard deviation that all measurements share (of a given height, of odometry). The scale ends
    `timeout_s` after the last measurement that was believed. Measurements within a second count as one; one that
    contradicts the state is not believed until they have done so for a second. Times are stamps, in seconds.
    """

    def __init__(self, drift: float, timeout_s: float, systematic: float = 0.0) -> None:
        self._drift, self._timeout_s, self._systematic = drift, timeout_s, systematic
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._state: Float64Array = np.zeros(2)
        self._covariance: Float64Array = np.zeros((2, 2))
        self._inverse = 0.0
        self._updated_s = -math.inf  # stamp of the last measurement believed
        self._rejected_s = math.inf  # stamp of the first of those rejected since
        self._newest_s = -math.inf

    def update(self, measurement: Measurement, time_s: float) -> bool:
        """Take a measurement in; return whether it was believed."""
        self._notice(time_s)
        mean, covariance = _moments(measurement.scale)
        if not self._alive(time_s):
            self._start(mean, covariance, measurement, time_s)
            return True
        passed_s = max(time_s - self._updated_s, 0.0)
        predicted = self._covariance + self._noise(passed_s)
        size = 2 if measurement.scale.shift_sigma > 0 else 1
        part = slice(0, size)
        surprise = (mean - self._state)[part]
        if surprise @ np.linalg.solve((predicted + covariance)[part, part], surprise) > GATE[size - 1]:
            self._rejected_s = min(self._rejected_s, time_s)
            if time_s - self._rejected_s < REJECTED_S:
                return False
            self._start(mean, covariance, measurement, time_s)
            return True
        shared = covariance * max(1.0, CORRELATED_S / max(passed_s, 1e-3))
        gain = predicted[part, part] @ np.linalg.inv((predicted + shared)[part, part])
        self._state[part] += gain @ surprise
        self._covariance = np.zeros((2, 2))
        self._covariance[part, part] = (np.eye(size) - gain) @ predicted[part, part]
        self._inverse, self._updated_s, self._rejected_s = measurement.inverse, time_s, math.inf
        return True

    def hold(self, time_s: float) -> None:
        """Say that nothing has changed since the last measurement: it grows no older."""
        self._notice(time_s)
        if self._alive(time_s):
            self._updated_s = max(self._updated_s, time_s)

    def scale(self, time_s: float) -> Scale | None:
        """Return the scale at a time, None if there is none or it is too old."""
        self._notice(time_s)
        if not self._alive(time_s):
            return None
        covariance = self._covariance + self._noise(max(time_s - self._updated_s, 0.0))
        covariance[0, 0] += self._systematic**2
        sigma, shift_sigma = np.sqrt(np.diag(covariance))
        correlation = covariance[0, 1] / (sigma * shift_sigma) if shift_sigma > 0 else 0.0
        return Scale(math.exp(self._state[0]), float(sigma), float(self._state[1]), float(shift_sigma), float(correlation))

    def age_s(self, time_s: float) -> float:
        """Return the seconds since the last measurement that was believed; inf without one."""
        return time_s - self._updated_s

    def _notice(self, time_s: float) -> None:
        if time_s < self._newest_s - BACK_S:
            self.reset()
        self._newest_s = max(self._newest_s, time_s)

    def _alive(self, time_s: float) -> bool:
        return self.age_s(time_s) <= self._timeout_s

    def _start(self, mean: Float64Array, covariance: Float64Array, measurement: Measurement, time_s: float) -> None:
        self._state, self._covariance, self._inverse = mean, covariance, measurement.inverse
        self._updated_s, self._rejected_s = time_s, math.inf

    def _noise(self, seconds: float) -> Float64Array:
        """Both unknowns move what they contribute to a typical inverse depth by the same share of it."""
        return np.diag([1.0, self._inverse**2]) * self._drift**2 * seconds


def _moments(scale: Scale) -> tuple[Float64Array, Float64Array]:
    """Mean (2,) and covariance (2, 2) of (log factor, shift)."""
    off = scale.correlation * scale.sigma * scale.shift_sigma
    mean = np.array([math.log(scale.factor), scale.shift])
    return mean, np.array([[scale.sigma**2, off], [off, scale.shift_sigma**2]])
