"""Depth that does not flicker: predictions of one camera fused over time, pixel by pixel."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields

import cv2
import numpy as np

from depth_ros.types import CameraModel, DepthPrediction, Float32Array, InputError, UInt8Array

BLUR = 5  # [px] window over which images are compared, so that sensor noise does not look like motion
IMAGE_NOISE = 2.0  # [grey levels] what is left of the noise after that


@dataclass(frozen=True)
class TemporalOptions:
    """How much is smoothed. The defaults are measured (benchmarks/flicker.py); all but `motion` must be positive.

    The error of a network is mostly the same in the next image: averaging does not reduce that part. `noise_share` is the part of
    sigma that is drawn anew in each image, and all that the filter may remove.
    """

    noise_share: float = 0.1
    process_noise: float = 0.02  # relative change of depth, one standard deviation after 1 s of a still image
    motion: float = 1.0  # relative change of depth where the image changes by its full range (255)
    gate: float = 3.0  # standard deviations by which a new depth may differ and still be fused; beyond, it takes over
    max_gap_s: float = 0.5  # between images; a longer pause starts afresh
    cut_change: float = 30.0  # [grey levels] mean change of the image that starts afresh
    cut_share: float = 0.5  # of the pixels beyond the gate that starts afresh

    def __post_init__(self) -> None:
        for name in (item.name for item in fields(self)):
            value = getattr(self, name)
            if not (0 < value < np.inf or (name == "motion" and value == 0)):
                raise InputError(f"temporal filter: {name} is {value}; expected a positive number")
        if self.noise_share > 1:
            raise InputError(f"temporal filter: noise_share is {self.noise_share}; expected at most 1, all of sigma")


@dataclass
class _State:
    camera: CameraModel
    stamp_ns: int
    grey: Float32Array  # (H, W) blurred
    log_depth: Float32Array  # (H, W), not finite where there is no depth
    variance: Float32Array  # (H, W) of the part of log_depth that is noise
    relative_sigma: Float32Array  # (H, W) sigma / depth


class TemporalFilter:
    """A Kalman filter per pixel on log depth, whose state is a random walk (Kalman 1960).

    A measurement has the variance (noise_share sigma / depth)^2. The state's grows with time, and with how much the image
    changed there, so that what moves is smoothed less. A pixel that differs by more than `gate` standard deviations of both, or
    has no depth in either image, takes the new value at once. Everything starts afresh with another camera, after a pause,
    when time stands still or jumps back, and at a cut; `resets` counts why.

    sigma keeps the part that averaging cannot reduce, and a larger one counts at once:
    sigma_out / depth_out is never below sqrt(1 - noise_share^2) (0.995) of the new sigma / depth.
    """

    def __init__(self, options: TemporalOptions | None = None) -> None:
        self.options = options or TemporalOptions()
        self.resets: Counter[str] = Counter()
        self._state: _State | None = None

    def reset(self) -> None:
        """Forget the past."""
        self._state = None

    def update(self, prediction: DepthPrediction, image: UInt8Array, stamp_ns: int) -> DepthPrediction:
        """Return the prediction fused with those before; `image` is RGB (H, W, 3) at its resolution.

        Where depth is not finite in the new prediction it stays what it is. Raises InputError if the sizes differ.
        """
        if image.shape[:2] != prediction.depth.shape:
            raise InputError(f"temporal filter: image {image.shape} and depth {prediction.depth.shape}; expected one size")
        new, old = self._measure(prediction, image, stamp_ns), self._state
        reason = None if old is None else self._discontinuity(old, new)
        if old is not None and reason is None:
            reason = self._fuse(old, new)
        if reason is not None:
            self.resets[reason] += 1
        self._state = new
        return self._answer(new, prediction)

    def _measure(self, prediction: DepthPrediction, image: UInt8Array, stamp_ns: int) -> _State:
        grey = cv2.blur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32), (BLUR, BLUR))
        with np.errstate(invalid="ignore"):
            log_depth, relative_sigma = np.log(prediction.depth), prediction.sigma / prediction.depth
        variance = np.square(np.float32(self.options.noise_share) * relative_sigma)
        return _State(prediction.camera, stamp_ns, grey.astype(np.float32), log_depth, variance, relative_sigma)

    def _discontinuity(self, old: _State, new: _State) -> str | None:
        """Why the past says nothing about the new image."""
        gap_s = (new.stamp_ns - old.stamp_ns) / 1e9
        if new.camera != old.camera:
            return "another camera"
        if gap_s <= 0:
            return "time did not go on"
        if gap_s > self.options.max_gap_s:
            return "pause"
        return "cut" if cv2.norm(new.grey, old.grey, cv2.NORM_L1) > self.options.cut_change * new.grey.size else None

    def _fuse(self, old: _State, new: _State) -> str | None:
        """Turn the new measurement into the fused state, or say why it stays as it is."""
        options = self.options
        change = np.maximum(cv2.absdiff(new.grey, old.grey) - np.float32(IMAGE_NOISE), 0)
        walk = np.float32(options.process_noise**2 * (new.stamp_ns - old.stamp_ns) / 1e9)
        with np.errstate(invalid="ignore"):  # a difference of infinities or with NaN is NaN, and compares false
            predicted = old.variance + walk + np.square(change * np.float32(options.motion / 255))
            total = predicted + new.variance
            difference = new.log_depth - old.log_depth
            fused = difference * difference <= np.float32(options.gate**2) * total
        known = np.isfinite(new.log_depth)
        if np.count_nonzero(fused) < (1 - options.cut_share) * np.count_nonzero(known):
            return "cut"
        gain = np.divide(predicted, total, out=np.ones_like(total), where=fused)
        new.log_depth = np.where(fused, old.log_depth + gain * np.where(fused, difference, 0), new.log_depth)
        new.variance = np.where(fused, gain * new.variance, new.variance)
        averaged = old.relative_sigma + gain * (new.relative_sigma - old.relative_sigma)
        new.relative_sigma = np.where(fused, np.maximum(averaged, new.relative_sigma), new.relative_sigma)
        return None

    def _answer(self, state: _State, prediction: DepthPrediction) -> DepthPrediction:
        kept = np.float32(1 - self.options.noise_share**2)
        depth = np.exp(state.log_depth)
        sigma = depth * np.sqrt(kept * np.square(state.relative_sigma) + state.variance)
        known = np.isfinite(prediction.depth)
        return DepthPrediction(
            np.where(known, depth, prediction.depth), np.where(known, sigma, np.float32(np.nan)), prediction.camera
        )
