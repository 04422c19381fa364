"""The bar that any model has to clear: what one knows of a set without looking at the image."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import cv2
import numpy as np

from depth_ros.types import BoolArray, Float32Array, Float64Array, InputError

POOLING = 0.025  # of the width: smooths the mean map of a small set, a stricter baseline
Masker = Callable[[Float32Array], BoolArray]


@dataclass
class TruthStatistics:
    """Sums of the logarithm of all truth that counts, per pixel at the first truth's size."""

    mask: Masker  # which truth (H, W) [m] counts
    images: int = 0  # that have any
    total: Float64Array = field(default_factory=lambda: np.zeros((0, 0)))
    count: Float64Array = field(default_factory=lambda: np.zeros((0, 0)))

    def add(self, truth: Float32Array) -> None:
        """Include one image's truth (H, W) [m]."""
        if not self.total.size:
            self.total, self.count = np.zeros(truth.shape), np.zeros(truth.shape)
        total, count = self._sums(truth)
        self.images += bool(count.any())
        self.total += total
        self.count += count

    def constant(self) -> float:
        """The geometric mean of all truth [m]. Raises InputError if there is none."""
        if not self.count.any():
            raise InputError("no truth counts by this protocol; expected measurements within its range and crop")
        return float(np.exp(self.total.sum() / self.count.sum()))

    def mean_map(self, without: Float32Array, pooling: float = 0.0) -> Float32Array:
        """What has learned only the set's layout: the mean log depth (H, W) [m] of all images but the one with this truth.

        A pixel that none of them measured takes its row's mean, a row without any the mean of all. `pooling` is the side of a
        square, as a share of the width, whose measurements a pixel shares: a few dozen sparse images are noisy per pixel, so a
        pooled map is a higher bar. Raises InputError if no other image has truth.
        """
        own_total, own_count = self._sums(without)
        count = self.count - own_count
        total = np.where(count > 0, self.total - own_total, 0.0)
        if not count.any():
            raise InputError("no other image has truth that counts by this protocol; expected two images with truth or more")
        side = max(1, int(pooling * total.shape[1]))
        if side > 1:
            total, count = _box_sum(total, side), _box_sum(count, side)
        everywhere = np.full(len(total), total.sum() / count.sum())
        rows = np.divide(total.sum(axis=1), count.sum(axis=1), where=count.any(axis=1), out=everywhere)
        mean = np.divide(total, count, where=count > 0, out=np.repeat(rows[:, None], total.shape[1], axis=1))
        return _resized(np.exp(mean), without.shape, cv2.INTER_LINEAR).astype(np.float32)

    def _sums(self, truth: Float32Array) -> tuple[Float64Array, Float64Array]:
        valid = self.mask(truth)
        logs = np.where(valid, np.log(truth, where=valid, out=np.zeros(truth.shape)), 0.0)
        shape = self.total.shape
        return _resized(logs, shape, cv2.INTER_NEAREST), _resized(valid.astype(np.float64), shape, cv2.INTER_NEAREST)


def gather(truths: Iterable[Float32Array], mask: Masker) -> TruthStatistics:
    """The statistics of all truths of a set."""
    statistics = TruthStatistics(mask)
    for truth in truths:
        statistics.add(truth)
    return statistics


def _resized(values: Float64Array, shape: tuple[int, ...], interpolation: int) -> Float64Array:
    if values.shape == shape:
        return values
    resized: Float64Array = cv2.resize(values, (shape[1], shape[0]), interpolation=interpolation)
    return resized


def _box_sum(values: Float64Array, side: int) -> Float64Array:
    """The sum over a square window around each pixel, cut off at the borders."""
    sums: Float64Array = cv2.boxFilter(values, cv2.CV_64F, (side, side), normalize=False, borderType=cv2.BORDER_CONSTANT)
    return sums
