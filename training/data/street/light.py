"""Where the light of the street world comes from, compiled with numba: the sun and its hard shadows, the sky, lamps.

Kernels that call into other files are compiled anew in each process (seconds): numba's cache does not see that a callee in
another file has changed, and would go on running the old one.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.data.street.cast import FRUSTUM, GROUND, intersect, to_part
from training.data.street.kernels import exact_kernel, kernel
from training.data.street.texture import FOLIAGE, noise, noise3

CELL = 2.0  # [m], side of a cell of the shadow grid
CELLS_X, CELLS_Z = 64, 72  # the grid reaches 64 m to each side, 128 m ahead and 16 m back
LAMP_REACH = 30.0  # [m]
NO_LAMPS: NDArray[np.float64] = np.zeros((0, 4))


class Light(NamedTuple):
    """Sun, sky, air and camera response. Directions point to the sun: x right, h up, z forward, unit length."""

    sun_x: float
    sun_h: float
    sun_z: float
    sun: tuple[float, float, float]  # irradiance on a surface that faces it
    ambient: tuple[float, float, float]
    zenith: tuple[float, float, float]  # radiance of the sky
    horizon: tuple[float, float, float]  # radiance of the sky low down, and of the haze
    clouds: float  # 0 none .. 1 overcast
    haze: float  # extinction [1/m]
    exposure: float
    seed: int
    glow: float = 1.5  # radiance around the sun, added to the sky's
    lamps: NDArray[np.float64] = NO_LAMPS  # (L, 4) x, h, z [m] and power; they throw no shadows
    wet: float = 0.0  # how dark rain makes the ground, 0 to 1
    snow: float = 0.0  # how much lies on what faces up, 0 to 1


@exact_kernel
def shadow_grid(parts, light, corner_x, corner_z):
    """Return (first, members): per ground cell, the parts that can darken it, as one list with offsets.

    A part's shadow lies within a capsule on the ground: its foot's circle swept away from the sun by its height.
    """
    reach = 1.0 / light.sun_h if max(light.sun) > 0.0 else 0.0
    first = np.zeros(CELLS_X * CELLS_Z + 1, np.int64)
    members = np.empty(0, np.int64)
    for filling in (False, True):
        cursor = first[:-1].copy()
        for i in range(len(parts)):
            p = parts[i]
            radius = math.hypot(max(p.half_x, p.top_x), max(p.half_z, p.top_z)) + 0.71 * CELL + 0.5
            ax, az = p.x - corner_x - light.sun_x * reach * p.base, p.z - corner_z - light.sun_z * reach * p.base
            sx, sz = -light.sun_x * reach * p.height, -light.sun_z * reach * p.height
            length2 = max(sx * sx + sz * sz, 1e-9)
            i0, i1 = max(0, int((min(ax, ax + sx) - radius) // CELL)), min(CELLS_X - 1, int((max(ax, ax + sx) + radius) // CELL))
            j0, j1 = max(0, int((min(az, az + sz) - radius) // CELL)), min(CELLS_Z - 1, int((max(az, az + sz) + radius) // CELL))
            for j in range(j0, j1 + 1):
                for k in range(i0, i1 + 1):
                    x, z = (k + 0.5) * CELL - ax, (j + 0.5) * CELL - az
                    share = min(1.0, max(0.0, (x * sx + z * sz) / length2))
                    if (x - share * sx) ** 2 + (z - share * sz) ** 2 > radius * radius:
                        continue
                    cell = j * CELLS_X + k
                    if filling:
                        members[cursor[cell]] = i
                        cursor[cell] += 1
                    else:
                        first[cell + 1] += 1
        if not filling:
            first = np.cumsum(first)
            members = np.empty(first[-1], np.int64)
    return first, members


@kernel
def lit_share(x, h, z, own, parts, light, first, members, corner_x, corner_z):
    """Return the share of the sun and of the sky's light that reach a surface point, both 0 to 1."""
    reach = h / light.sun_h if max(light.sun) > 0.0 else 0.0
    i, j = int((x - light.sun_x * reach - corner_x) // CELL), int((z - light.sun_z * reach - corner_z) // CELL)
    sun, sky = 1.0, 1.0
    if i < 0 or j < 0 or i >= CELLS_X or j >= CELLS_Z:
        return sun, sky
    for n in range(first[j * CELLS_X + i], first[j * CELLS_X + i + 1]):
        if members[n] == own:
            continue
        p = parts[members[n]]
        ox, oz = to_part(x - p.x, z - p.z, p)
        if own == GROUND and p.base < 0.4 and p.shape == FRUSTUM and p.half_x > 0.3:  # little sky at the foot of things
            outside = math.hypot(max(0.0, abs(ox) - p.half_x), max(0.0, abs(oz) - p.half_z))
            sky = min(sky, 0.25 + 1.5 * outside)
        if sun == 0.0 or max(light.sun) == 0.0:
            continue
        dx, dz = to_part(light.sun_x, light.sun_z, p)
        t = intersect(ox, h - p.base, oz, dx, light.sun_h, dz, p)
        if t < np.inf:
            gap = 0.0
            if p.material == FOLIAGE:  # leaves let flecks of sun through
                fleck = noise3((ox + t * dx) * 2.5, (h + t * light.sun_h) * 2.5, (oz + t * dz) * 2.5, p.seed)
                gap = min(1.0, max(0.0, 8.0 * (fleck - 0.66)))
            sun = min(sun, gap)
    return sun, sky


@kernel
def lamp_light(x, h, z, nx, nh, nz, lamps):
    """Return the irradiance of all lamps on a surface point; each falls off with the square of its distance."""
    total = 0.0
    for i in range(len(lamps)):
        dx, dh, dz = lamps[i, 0] - x, lamps[i, 1] - h, lamps[i, 2] - z
        square = dx * dx + dh * dh + dz * dz
        if square < LAMP_REACH * LAMP_REACH:
            total += lamps[i, 3] * max(0.0, nx * dx + nh * dh + nz * dz) / (math.sqrt(square) * (square + 0.3))
    return total


@kernel
def sky_radiance(dx, dh, dz, light):
    """Return the colour of the sky in a direction of unit length."""
    up = max(0.0, dh)
    low = math.exp(-5.0 * up)
    cloud = 0.0
    if light.clouds > 0.0 and up > 0.01:
        u, v = dx / (up + 0.15) * 1.5, dz / (up + 0.15) * 1.5
        billow = (
            0.55 * noise(u, v, light.seed)
            + 0.3 * noise(u * 2.7, v * 2.7, light.seed + 1)
            + 0.15 * noise(u * 7, v * 7, light.seed)
        )
        cloud = min(1.0, max(0.0, 4.0 * (billow - 1.0 + light.clouds))) * min(1.0, 8.0 * up)
    glow = light.glow * max(0.0, dx * light.sun_x + dh * light.sun_h + dz * light.sun_z) ** 24
    white = 0.5 * (light.horizon[0] + light.horizon[2]) * (1.0 - 0.15 * cloud)
    r = light.zenith[0] + low * (light.horizon[0] - light.zenith[0])
    g = light.zenith[1] + low * (light.horizon[1] - light.zenith[1])
    b = light.zenith[2] + low * (light.horizon[2] - light.zenith[2])
    return r + cloud * (white - r) + glow, g + cloud * (white - g) + glow, b + cloud * (white - b) + glow
