"""Light and weather: brightness, darkness, contrast, fog, frost and snow (Hendrycks & Dietterich, ICLR 2019).

Every function takes and returns an image (H, W, 3) float32 RGB in [0, 1]; the caller clips what comes back.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from depth_ros.types import Float32Array
from training.data.corruptions.blur import motion_kernel
from training.data.corruptions.noise import gaussian_noise, shot_noise

CRYSTAL_ANGLE = np.deg2rad(60)  # ice is hexagonal
NEEDLE_LAYERS = 6  # drawn apart and added up, so that needles overlap
ICE = np.array([0.84, 0.93, 1.0], np.float32)  # RGB


def brightness(image: Float32Array, added: float, rng: Generator) -> Float32Array:
    """Add to the value of HSV."""
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    hsv[..., 2] = np.minimum(hsv[..., 2] + np.float32(added), 1)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def dark(image: Float32Array, factor: float, photons: float, sigma: float, rng: Generator) -> Float32Array:
    """Stretch to the full range, darken to factor x^2, then the noise of so little light (Kar et al., CVPR 2022)."""
    low, high = float(image.min()), float(image.max())
    stretched = (image - low) / (high - low) if high > low else image
    dimmed = np.float32(factor) * stretched**2
    return gaussian_noise(shot_noise(dimmed, photons, rng), sigma, rng)


def contrast(image: Float32Array, factor: float, rng: Generator) -> Float32Array:
    """Draw every channel towards its mean."""
    mean = image.mean(axis=(0, 1), keepdims=True)
    return mean + np.float32(factor) * (image - mean)


def fog(image: Float32Array, thickness: float, decay: float, rng: Generator) -> Float32Array:
    """Add a fractal haze and scale back to the image's own maximum."""
    height, width = image.shape[:2]
    size = 1 << (max(height, width) - 1).bit_length()
    haze = plasma(size, decay, rng)[:height, :width, None]
    brightest = float(image.max())
    return (image + np.float32(thickness) * haze) * np.float32(brightest / (brightest + thickness))


def frost(image: Float32Array, kept: float, ice: float, rng: Generator) -> Float32Array:
    """Lay ice over the dimmed image. The original uses photographs of frost; this ice is synthesised."""
    return np.float32(kept) * image + np.float32(ice) * frost_texture(*image.shape[:2], rng)


def snow(
    image: Float32Array,
    mean: float,
    deviation: float,
    flake_size: float,
    threshold: float,
    radius: float,
    sigma: float,
    kept: float,
    rng: Generator,
) -> Float32Array:
    """Whiten the image and add flakes: thresholded noise, enlarged, blurred along its fall; and the same upside down."""
    height, width = image.shape[:2]
    coarse = (int(np.ceil(height / flake_size)), int(np.ceil(width / flake_size)))
    noise = np.float32(mean) + np.float32(deviation) * rng.standard_normal(coarse, dtype=np.float32)
    flakes = cv2.resize(noise, (width, height), interpolation=cv2.INTER_LINEAR)
    flakes = np.clip(np.where(flakes < threshold, 0, flakes), 0, 1)
    kernel = motion_kernel(radius, sigma, rng.uniform(-135, -45))
    flakes = cv2.filter2D(flakes, -1, kernel, borderType=cv2.BORDER_REPLICATE)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]
    whitened = np.maximum(image, 1.5 * grey + 0.5)
    return np.float32(kept) * image + np.float32(1 - kept) * whitened + (flakes + flakes[::-1, ::-1])[..., None]


def plasma(size: int, decay: float, rng: Generator) -> Float32Array:
    """Return a periodic fractal (size, size) in [0, 1] by the diamond-square algorithm; size is a power of two.

    The displacement shrinks by decay^2 per octave, as in ImageNet-C's code, which applies its decay twice.
    """
    field = np.zeros((size, size), np.float32)
    step, amplitude = size, 1.0
    while step > 1:
        half = step // 2
        corners = field[::step, ::step]

        def displaced(mean: Float32Array, amplitude: float = amplitude) -> Float32Array:
            return mean + np.float32(amplitude) * (2 * rng.random(mean.shape, dtype=np.float32) - 1)

        across, down = corners + np.roll(corners, -1, 1), corners + np.roll(corners, -1, 0)
        centres = displaced((across + np.roll(across, -1, 0)) / 4)
        field[half::step, half::step] = centres
        field[::step, half::step] = displaced((across + centres + np.roll(centres, 1, 0)) / 4)
        field[half::step, ::step] = displaced((down + centres + np.roll(centres, 1, 1)) / 4)
        step, amplitude = half, amplitude / decay**2
    field -= field.min()
    return field / field.max()


def frost_texture(height: int, width: int, rng: Generator) -> Float32Array:
    """Return ice on a window pane (height, width, 3) in [0, 1], 0 where the glass is clear.

    Domains of needles that meet at 60 degrees, grown from the borders and from a few clouds inside.
    """
    longest = max(height, width)
    clouds = plasma(256, 1.35, rng)[: -(-256 * height // longest), : -(-256 * width // longest)]
    clouds = cv2.resize(clouds, (width, height), interpolation=cv2.INTER_LINEAR)
    rows, columns = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)[None]
    border = (np.maximum(np.abs(rows), np.abs(columns)) ** 4).astype(np.float32)
    growth = np.clip(4 * (clouds - np.median(clouds) + 0.3 * border), 0, 1)
    needles = np.zeros((height, width), np.float32)
    for layer in np.array_split(_needles(height, width, rng), NEEDLE_LAYERS):
        canvas = np.zeros((height, width), np.uint8)
        cv2.polylines(canvas, list(layer), isClosed=False, color=255, lineType=cv2.LINE_AA, shift=4)
        needles += canvas.astype(np.float32) / (255 * 0.6 * NEEDLE_LAYERS)
    glow = cv2.GaussianBlur(needles, (0, 0), height / 60)
    ice = growth * (0.35 + 0.5 * glow + 0.4 * needles) + 0.4 * np.sqrt(growth) * needles
    return np.clip(ice, 0, 1)[..., None] * ICE


def _needles(height: int, width: int, rng: Generator) -> NDArray[np.int32]:
    """Return line segments (N, 2, 2) [px / 16] all over the image, the longest last; their directions form domains."""
    centres = rng.uniform(0, 1, (max(4, 24 * width // height), 2)) * (width, height)
    count = 2500 * width // height
    middle = rng.uniform(0, 1, (count, 2)) * (width, height)
    domain = np.argmin(((middle[:, None] - centres) ** 2).sum(axis=-1), axis=1)
    fan = CRYSTAL_ANGLE * rng.integers(0, 3, count) + rng.normal(0, 0.08, count)
    angle = rng.uniform(0, np.pi, len(centres))[domain] + fan
    half = (
        0.012 * height * np.sort(rng.pareto(2.5, count) + 0.6).clip(max=6)[:, None] * np.stack([np.cos(angle), np.sin(angle)], -1)
    )
    return np.round(16 * np.stack([middle - half, middle + half], axis=1)).astype(np.int32)
