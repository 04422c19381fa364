"""The 18 corruptions x 5 severities of KITTI-C (RoboDepth, Kong et al., NeurIPS 2023), seeded and without asset files.

KITTI-C-like, not KITTI-C: frost is synthesised instead of photographed, and noise is drawn by another generator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator

from depth_ros.types import Float32Array, InputError, UInt8Array
from training.data.corruptions import blur, noise, weather

SEVERITIES = (1, 2, 3, 4, 5)
MIN_SIDE = 32  # [px]
LABEL_HEIGHT = 18  # [px] of the contact sheet's captions


@dataclass(frozen=True)
class Corruption:
    """A corruption and its parameters at severities 1 to 5."""

    apply: Callable[..., Float32Array]  # (image (H, W, 3) in [0, 1], *parameters, rng) -> image, not clipped yet
    levels: tuple[tuple[float, ...], ...]

    def __call__(self, image: Float32Array, severity: int, rng: Generator) -> Float32Array:
        """Return the image (H, W, 3) in [0, 1] at this severity, not clipped yet."""
        return self.apply(image, *self.levels[severity - 1], rng)


def _levels(*values: float) -> tuple[tuple[float, ...], ...]:
    return tuple((value,) for value in values)


NOISE = (0.08, 0.12, 0.18, 0.26, 0.38)
PHOTONS = (60, 25, 12, 5, 3)

CORRUPTIONS: dict[str, Corruption] = {
    # Weather and light
    "brightness": Corruption(weather.brightness, _levels(0.1, 0.2, 0.3, 0.4, 0.5)),
    "dark": Corruption(
        weather.dark,
        tuple(
            (factor, 10 * photons, 0.1 * sigma)
            for factor, photons, sigma in zip((0.6, 0.5, 0.4, 0.3, 0.2), PHOTONS, NOISE, strict=True)
        ),
    ),
    "fog": Corruption(weather.fog, ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))),
    "frost": Corruption(weather.frost, ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75))),
    "snow": Corruption(
        weather.snow,
        (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
    ),
    "contrast": Corruption(weather.contrast, _levels(0.4, 0.3, 0.2, 0.1, 0.05)),
    # Sensor and movement
    "defocus_blur": Corruption(blur.defocus_blur, ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))),
    "glass_blur": Corruption(blur.glass_blur, ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))),
    "motion_blur": Corruption(blur.motion_blur, ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))),
    "zoom_blur": Corruption(blur.zoom_blur, ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))),
    "elastic_transform": Corruption(blur.elastic_transform, _levels(12.5, 16.25, 21.25, 25, 30)),  # 250 x .05 to .12
    "color_quant": Corruption(noise.color_quant, _levels(5, 4, 3, 2, 1)),
    # Data and processing
    "gaussian_noise": Corruption(noise.gaussian_noise, _levels(*NOISE)),
    "impulse_noise": Corruption(noise.impulse_noise, _levels(0.03, 0.06, 0.09, 0.17, 0.27)),
    "shot_noise": Corruption(noise.shot_noise, _levels(*PHOTONS)),
    "iso_noise": Corruption(noise.iso_noise, tuple((25, 0.7 * sigma) for sigma in NOISE)),
    "pixelate": Corruption(noise.pixelate, _levels(0.6, 0.5, 0.4, 0.3, 0.25)),
    "jpeg_compression": Corruption(noise.jpeg_compression, _levels(25, 18, 15, 10, 7)),
}


def corrupt(image: UInt8Array, name: str, severity: int, seed: int) -> UInt8Array:
    """Return the image (H, W, 3) uint8 RGB, corrupted. The same arguments give the same pixels.

    One seed draws the same random numbers at every severity, so that severities differ in strength only. Raises InputError.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or min(image.shape[:2]) < MIN_SIDE:
        raise InputError(f"image is {image.shape} {image.dtype}; expected (H, W, 3) uint8 RGB of at least {MIN_SIDE} px a side")
    if name not in CORRUPTIONS:
        raise InputError(f"corruption '{name}' is unknown; expected one of {', '.join(CORRUPTIONS)}")
    if severity not in SEVERITIES:
        raise InputError(f"severity is {severity}; expected 1 to 5")
    clean = image.astype(np.float32) / np.float32(255)
    return noise.to_bytes(CORRUPTIONS[name](clean, severity, np.random.default_rng(seed)))


def contact_sheet(image: UInt8Array, seed: int = 0) -> UInt8Array:
    """Return all corruptions of an image, one per row, severities 1 to 5 from left to right, with captions."""
    rows = []
    for name in CORRUPTIONS:
        row = np.hstack([corrupt(image, name, severity, seed) for severity in SEVERITIES])
        caption = np.full((LABEL_HEIGHT, row.shape[1], 3), 255, np.uint8)
        cv2.putText(caption, f"{name}, severity 1 to 5", (4, LABEL_HEIGHT - 5), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1)
        rows += [caption, row]
    return np.vstack(rows)
