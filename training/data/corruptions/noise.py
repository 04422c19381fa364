"""Sensor noise and processing: gaussian, shot, impulse and iso noise, few colours, big pixels, JPEG.

Every function takes and returns an image (H, W, 3) float32 RGB in [0, 1].
Definitions: Hendrycks & Dietterich, ICLR 2019; iso noise and colour quantisation: Kar et al., CVPR 2022.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.random import Generator

from depth_ros.types import Float32Array, UInt8Array


def gaussian_noise(image: Float32Array, sigma: float, rng: Generator) -> Float32Array:
    """Add normal noise of this standard deviation."""
    return image + np.float32(sigma) * rng.standard_normal(image.shape, dtype=np.float32)


def shot_noise(image: Float32Array, photons: float, rng: Generator) -> Float32Array:
    """Count light quanta, of which white gives `photons` on average: the variance is value / photons."""
    counted = rng.poisson(image * np.float32(photons)).astype(np.float32) / np.float32(photons)
    return np.minimum(counted, np.float32(1))


def iso_noise(image: Float32Array, photons: float, sigma: float, rng: Generator) -> Float32Array:
    """Shot noise and, from amplifying it, normal noise."""
    return gaussian_noise(shot_noise(image, photons, rng), sigma, rng)


def impulse_noise(image: Float32Array, share: float, rng: Generator) -> Float32Array:
    """Set a share of all values to 0 or 1, as many to the one as to the other, each channel for itself."""
    chance = rng.random(image.shape, dtype=np.float32)
    salted = np.where(chance > 1 - share / 2, np.float32(1), image)
    return np.where(chance < share / 2, np.float32(0), salted)


def color_quant(image: Float32Array, bits: int, rng: Generator) -> Float32Array:
    """Keep the highest bits of every value."""
    return (to_bytes(image) & np.uint8(256 - 2 ** (8 - bits))).astype(np.float32) / 255


def pixelate(image: Float32Array, scale: float, rng: Generator) -> Float32Array:
    """Average down to this share of width and height, and repeat pixels up again."""
    height, width = image.shape[:2]
    small = cv2.resize(image, (int(scale * width), int(scale * height)), interpolation=cv2.INTER_AREA)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)


def jpeg_compression(image: Float32Array, quality: int, rng: Generator) -> Float32Array:
    """Encode as JPEG and decode."""
    _, data = cv2.imencode(".jpg", to_bytes(image)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1].astype(np.float32) / 255


def to_bytes(image: Float32Array) -> UInt8Array:
    """Return [0, 1] as uint8, rounded; what is outside is clipped."""
    return np.round(255 * np.clip(image, 0, 1)).astype(np.uint8)
