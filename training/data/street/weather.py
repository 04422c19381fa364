"""Rain, snow, dusk and night: what they do to the light of a world, and the drops and flakes in front of the camera."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from depth_ros.types import Float64Array
from training.data.street.config import StreetConfig
from training.data.street.kernels import kernel
from training.data.street.light import NO_LAMPS, Light
from training.data.street.texture import Colour, random_at

NIGHT = 0.02  # share of the daylight that is left at light = 0
LAMPS_ON = 0.4  # at this light and below
LAMPS_SEEN = 90.0  # [m]
HEADLIGHT = 7.0  # power of the camera's own lamp
LAYERS = 3  # of drops and flakes, from far (small) to near (large)


def weathered(light: Light, weather: StreetConfig) -> Light:
    """Return the light under this weather: a grey sky, haze, wet ground or snow on it, less light and more gain in the dark."""
    gloom = float(max(weather.rain, 0.7 * weather.snow))
    grey = 1.5 - 0.6 * weather.rain

    def mix(colour: Colour, other: Colour) -> Colour:
        r, g, b = (a + gloom * (c - a) for a, c in zip(colour, other, strict=True))
        return r, g, b

    grim = light._replace(
        sun=mix(light.sun, (0.0, 0.0, 0.0)),
        ambient=mix(light.ambient, (1.0, 1.03, 1.08)),
        zenith=mix(light.zenith, (grey, grey, grey)),
        horizon=mix(light.horizon, (grey, grey, grey)),
        clouds=max(light.clouds, gloom),
        glow=(1.0 - gloom) * light.glow,
        haze=light.haze + 0.008 * weather.rain + 0.015 * weather.snow,
        wet=float(weather.rain),
        snow=float(weather.snow),
    )
    return dimmed(grim, weather)


def daylight(weather: StreetConfig) -> float:
    """Return the share of full daylight that there is."""
    return NIGHT + (1.0 - NIGHT) * weather.light


def dimmed(light: Light, weather: StreetConfig) -> Light:
    """Return the light with sun, sky and ambient dimmed; the camera's gain follows the dark, but not all the way."""
    share = daylight(weather)

    def dim(colour: Colour) -> Colour:
        return share * colour[0], share * colour[1], share * colour[2]

    return light._replace(
        sun=dim(light.sun), ambient=dim(light.ambient), zenith=dim(light.zenith), horizon=dim(light.horizon),
        glow=share * light.glow,         exposure=light.exposure * weather.exposure * share**-0.6,
    )  # fmt: skip


def lamps_at(lamps: NDArray[np.float64], weather: StreetConfig, camera: Float64Array) -> NDArray[np.float64]:
    """Return a street's lamps (L, 4) near the camera at [x, y, z] with its own headlight: none in daylight."""
    if weather.light > LAMPS_ON:
        return NO_LAMPS
    own = [[camera[0], -0.4 * camera[1], camera[2], HEADLIGHT]]
    near = lamps[np.hypot(lamps[:, 0] - camera[0], lamps[:, 2] - camera[2]) < LAMPS_SEEN]
    return np.concatenate([near, own])


def noise_gain(weather: StreetConfig) -> float:
    """Return how much stronger the sensor's noise is at this light: the square root of the gain."""
    return daylight(weather) ** -0.3


@kernel
def add_drops(radiance, light, frame):
    """Draw rain and snow over the radiance (H, W, 3), in place: streaks and flakes, drawn anew for every frame."""
    height, width = radiance.shape[0], radiance.shape[1]
    bright = 0.8 * light.horizon[1]
    for v in range(height):
        for u in range(width):
            share = 0.0
            for layer in range(LAYERS):
                drop = streak(u / height, v / height, layer, light.wet, frame)
                share = max(share, drop, flake(u / height, v / height, layer, light.snow, frame))
            for k in range(3):
                radiance[v, u, k] += share * (bright - radiance[v, u, k])


@kernel
def streak(x, y, layer, rain, frame):
    """Return how much of a pixel a streak of rain hides; x and y in image heights. At most one streak in a cell of a lattice."""
    width, length = 0.016 * (layer + 1), 0.16 * (layer + 1)
    x += 0.12 * y  # the wind
    i = math.floor(x / width)
    up = y / length + random_at(i, layer, frame)
    j = math.floor(up)
    if random_at(i, j, frame + 7 * layer + 1) > 0.3 * rain:
        return 0.0
    centre = 0.3 + 0.4 * random_at(i, j, frame + 7 * layer + 2)
    across, along = abs(x / width - i - centre), abs(up - j - 0.5)
    return 0.4 * max(0.0, 1.0 - across / 0.16) * max(0.0, 1.0 - 2.0 * along)


@kernel
def flake(x, y, layer, snow, frame):
    """Return how much of a pixel a snow flake hides; x and y in image heights."""
    size = 0.03 * (layer + 1)
    i, j = math.floor(x / size), math.floor(y / size)
    if random_at(i, j, frame + 7 * layer + 3) > 0.3 * snow:
        return 0.0
    dx = x / size - i - 0.25 - 0.5 * random_at(i, j, frame + 7 * layer + 4)
    dy = y / size - j - 0.25 - 0.5 * random_at(i, j, frame + 7 * layer + 5)
    return 0.8 * min(1.0, max(0.0, 2.0 - math.hypot(dx, dy) / 0.1))
