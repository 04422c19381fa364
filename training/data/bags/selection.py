"""Which images of a recording are worth training on: those between which the picture moved, and where it breaks off."""

from __future__ import annotations

from enum import Enum

import cv2
import numpy as np
from numpy.typing import NDArray

from depth_ros.types import Float32Array, UInt8Array

WIDTH = 416  # [px] at which motion is measured
CORNERS, LEAST_CORNERS = 100, 15
WINDOW = (15, 15)  # [px] of the tracker
ROUND_TRIP_PX = 1.0  # a point that is tracked there and back returns to within this
LOST = 0.15  # share of points still found below which two images do not show the same place: a cut


class Choice(Enum):
    """What becomes of an image."""

    KEEP = "kept"
    STILL = "still"
    BLANK = "without texture"


class MotionFilter:
    """Keeps an image when the picture has moved by `least` of its width (median of tracked corners) since the last kept one.

    `piece` counts the unbroken stretches: a new one begins after `max_gap_s` without an image, after a cut, or when told to.
    Median and forward-backward check (Kalal et al., ICPR 2010) keep passing traffic from looking like motion.
    """

    def __init__(self, least: float, max_gap_s: float) -> None:
        self.least, self.max_gap_s, self.piece = least, max_gap_s, 0
        self._kept: tuple[UInt8Array, Float32Array] | None = None  # picture and its corners
        self._last_s, self._broken = 0.0, False

    def __call__(self, image: UInt8Array, time_s: float, broken: bool = False) -> Choice:
        """Judge the next RGB image; `broken` says that it does not continue the one before."""
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        grey = cv2.resize(grey, (WIDTH, round(grey.shape[0] * WIDTH / grey.shape[1])), interpolation=cv2.INTER_AREA)
        self._broken = self._broken or broken or time_s - self._last_s > self.max_gap_s
        self._last_s = time_s
        corners = cv2.goodFeaturesToTrack(grey, CORNERS, 0.01, 7)
        if corners is None or len(corners) < LEAST_CORNERS:
            return Choice.BLANK
        if self._kept is not None and not self._broken:
            found, displacement = track(*self._kept, grey)
            self._broken = found < LOST
            if not self._broken and displacement < self.least * WIDTH:
                return Choice.STILL
        self.piece += bool(self._broken and self._kept is not None)
        self._kept, self._broken = (grey, corners), False
        return Choice.KEEP


def track(before: UInt8Array, corners: Float32Array, after: UInt8Array) -> tuple[float, float]:
    """Share of the corners (N, 1, 2) of one grey image that another shows too, and their median displacement [px]."""
    there, found, _ = cv2.calcOpticalFlowPyrLK(before, after, corners, None, winSize=WINDOW)
    back, found_back, _ = cv2.calcOpticalFlowPyrLK(after, before, there, None, winSize=WINDOW)
    good: NDArray[np.bool_] = (found[:, 0] > 0) & (found_back[:, 0] > 0)
    good &= np.linalg.norm((back - corners)[:, 0], axis=1) < ROUND_TRIP_PX
    if not good.any():
        return 0.0, 0.0
    return float(good.mean()), float(np.median(np.linalg.norm((there - corners)[good, 0], axis=1)))
