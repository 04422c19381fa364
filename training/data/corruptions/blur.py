"""Optics and motion: defocus, frosted glass, motion, zoom and elastic distortion (Hendrycks & Dietterich, ICLR 2019).

Every function takes and returns an image (H, W, 3) float32 RGB in [0, 1].
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.random import Generator

from depth_ros.types import Float32Array


def defocus_blur(image: Float32Array, radius: int, softness: float, rng: Generator) -> Float32Array:
    """Spread every point over a disc of this radius [px] whose rim is softened by a Gaussian [px]."""
    return cv2.filter2D(image, -1, disc_kernel(radius, softness), borderType=cv2.BORDER_REFLECT_101)


def disc_kernel(radius: int, softness: float) -> Float32Array:
    """Return the disc as a kernel of sum 1. The Gaussian is cut off at 3x3, at 5x5 for radii above 8."""
    side = 3 if radius <= 8 else 5
    reach = np.arange(-radius - side // 2, radius + side // 2 + 1)
    disc = (reach[:, None] ** 2 + reach**2 <= radius**2).astype(np.float32)
    return cv2.GaussianBlur(disc / disc.sum(), (side, side), softness, borderType=cv2.BORDER_CONSTANT)


def motion_blur(image: Float32Array, radius: int, sigma: float, rng: Generator) -> Float32Array:
    """Move the camera along a random direction within 45 degrees of the horizontal."""
    kernel = motion_kernel(radius, sigma, rng.uniform(-45, 45))
    return cv2.filter2D(image, -1, kernel, borderType=cv2.BORDER_REPLICATE)


def motion_kernel(radius: float, sigma: float, angle_deg: float) -> Float32Array:
    """Return a line of sum 1 that starts at the centre: half a Gaussian of 2 radius + 1 pixels, as in ImageMagick."""
    reach = 2 * int(np.ceil(radius))
    steps = np.arange(reach + 1)
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1), np.float32)
    rows = reach + np.round(steps * np.sin(np.deg2rad(angle_deg))).astype(int)
    columns = reach + np.round(steps * np.cos(np.deg2rad(angle_deg))).astype(int)
    np.add.at(kernel, (rows, columns), np.exp(-(steps**2) / (2 * sigma**2)))
    return kernel / kernel.sum()


def zoom_blur(image: Float32Array, largest: float, step: float, rng: Generator) -> Float32Array:
    """Average the image with itself enlarged about its centre by 1, 1 + step, ... below `largest`."""
    height, width = image.shape[:2]
    total = image.copy()
    count = int(np.ceil((largest - 1) / step - 1e-6))  # without it, rounding would add a last one
    for zoom in 1 + step * np.arange(count):
        shift = (1 - zoom) * np.array([width - 1, height - 1]) / 2
        matrix = np.array([[zoom, 0, shift[0]], [0, zoom, shift[1]]])
        total += cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return total / np.float32(count + 1)


def glass_blur(image: Float32Array, sigma: float, reach: int, rounds: int, rng: Generator) -> Float32Array:
    """Blur, let every pixel change places with a random neighbour within `reach` [px], `rounds` times, and blur again."""
    blurred = _gaussian(image, sigma)
    order = shuffle_locally(*image.shape[:2], reach, rounds, rng)
    return _gaussian(np.ascontiguousarray(blurred.reshape(-1, 3)[order]), sigma)


def shuffle_locally(height: int, width: int, reach: int, rounds: int, rng: Generator) -> np.ndarray:
    """Return a permutation (height, width) of flat pixel indices.

    The swaps of ImageNet-C, offsets from -reach to reach - 1, but on lattices of pixels whose windows do not overlap, so that
    a whole lattice swaps at once.
    """
    order, period = np.arange(height * width), 2 * reach
    for _ in range(rounds):
        offset = rng.integers(-reach, reach, (2, height, width))
        offset = (offset[0] * width + offset[1]).ravel()
        for first in np.ndindex(period, period):
            rows = np.arange(reach + first[0], height - reach + 1, period)
            columns = np.arange(reach + first[1], width - reach + 1, period)
            here = (rows[:, None] * width + columns).ravel()
            here = here[here < order.size]
            there = here + offset[here]
            order[here], order[there] = order[there], order[here]
    return order.reshape(height, width)


def elastic_transform(image: Float32Array, strength: float, rng: Generator) -> Float32Array:
    """Warp by a random smooth field (Simard et al., ICDAR 2003): `strength` times noise of 0.5 % of the height.

    The noise is smoothed over 1 % of width and height, as Michaelis et al. (2019) do for images of any size.
    """
    height, width = image.shape[:2]
    field = np.float32(0.005 * height * strength) * (2 * rng.random((height, width, 2), dtype=np.float32) - 1)
    field = cv2.GaussianBlur(field, (0, 0), 0.01 * width, sigmaY=0.01 * height, borderType=cv2.BORDER_REFLECT)
    x = np.arange(width, dtype=np.float32) + field[..., 0]
    y = np.arange(height, dtype=np.float32)[:, None] + field[..., 1]
    return cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)


def _gaussian(values: Float32Array, sigma: float) -> Float32Array:
    return cv2.GaussianBlur(values, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE)
