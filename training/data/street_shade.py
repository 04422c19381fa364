"""The light of the street world, compiled with numba: sun and hard shadows, sky, haze and the camera's response.

Kernels that call into other files are compiled anew in each process (seconds): numba's cache does not see that a callee in
another file has changed, and would go on running the old one.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from training.data.street_cast import ELLIPSOID, FRUSTUM, GROUND, SKY, intersect, to_part
from training.data.street_texture import (
    BARK,
    BRICK,
    FACADE,
    FAST,
    FOLIAGE,
    GLASS,
    PAINT,
    PLAIN,
    ROOF,
    glass_albedo,
    ground_albedo,
    mottle,
    noise,
    noise3,
    paint_albedo,
    random_at,
    stripe,
    wall_albedo,
)

CELL = 2.0  # [m], side of a cell of the shadow grid
CELLS_X, CELLS_Z = 64, 72  # the grid reaches 64 m to each side, 128 m ahead and 16 m back


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


@njit(cache=True, nogil=True)
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


@njit(nogil=True, fastmath=FAST)
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


@njit(nogil=True, fastmath=FAST)
def part_surface(x, h, z, part):
    """Return the outward normal (x, h, z) at a point of the part's surface, in its axes; (0, 1, 0) is exactly the top."""
    if part.shape == ELLIPSOID:
        ry = 0.5 * part.height
        nx, nh, nz = x / part.half_x**2, (h - ry) / ry**2, z / part.half_z**2
        scale = 1.0 / math.sqrt(nx * nx + nh * nh + nz * nz)
        return nx * scale, nh * scale, nz * scale
    kx, kz = (part.half_x - part.top_x) / part.height, (part.half_z - part.top_z) / part.height
    from_x, from_z = abs(part.half_x - kx * h - abs(x)), abs(part.half_z - kz * h - abs(z))
    from_top, from_foot = abs(part.height - h), abs(h)
    if min(from_top, from_foot) < min(from_x, from_z):
        return 0.0, (1.0 if from_top < from_foot else -1.0), 0.0
    if from_x < from_z:
        scale = 1.0 / math.sqrt(1.0 + kx * kx)
        return math.copysign(scale, x), kx * scale, 0.0
    scale = 1.0 / math.sqrt(1.0 + kz * kz)
    return 0.0, kz * scale, math.copysign(scale, z)


@njit(nogil=True, fastmath=FAST)
def part_albedo(x, h, z, nx, nh, nz, part, footprint):
    """Return the colour of a part's surface at a point and normal in its axes."""
    colour = (part.r, part.g, part.b)
    along = z if abs(nx) > abs(nz) else x
    half_along = part.half_z if abs(nx) > abs(nz) else part.half_x
    material = part.material
    if material == PAINT:
        return paint_albedo(x, h, z, part.half_z, part.height, colour, footprint)
    if material == GLASS:
        return glass_albedo(h, along, half_along * (1.0 - 0.3 * h / part.height), part.height, nh > 0.9, colour, footprint)
    if material in (PLAIN, FACADE, BRICK):
        return wall_albedo(along + half_along, h, footprint, material, colour, part.seed)
    tone = 1.0
    if material == FOLIAGE:
        tone = 0.3 + 1.5 * noise3(x * 1.4, h * 1.4, z * 1.4, part.seed) ** 2
        if footprint < 0.15:
            tone *= 0.4 + 1.2 * noise3(x * 7.0, h * 7.0, z * 7.0, part.seed + 1)
    elif material == ROOF:
        tone = (1.0 + 0.4 * mottle(along, h, 2.0, part.seed, footprint)) * (
            1.0 - 0.5 * stripe(h % 0.35 - 0.17, 0.04, footprint) - 0.2 * stripe(along % 0.3 - 0.15, 0.03, footprint)
        )
    elif material == BARK:
        tone = 1.0 + 0.8 * mottle(math.atan2(x, z), h * 0.4, 0.6, part.seed, footprint)
    return colour[0] * tone, colour[1] * tone, colour[2] * tone


@njit(nogil=True, fastmath=FAST)
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
    glow = 1.5 * max(0.0, dx * light.sun_x + dh * light.sun_h + dz * light.sun_z) ** 24
    white = 0.5 * (light.horizon[0] + light.horizon[2]) * (1.0 - 0.15 * cloud)
    r = light.zenith[0] + low * (light.horizon[0] - light.zenith[0])
    g = light.zenith[1] + low * (light.horizon[1] - light.zenith[1])
    b = light.zenith[2] + low * (light.horizon[2] - light.zenith[2])
    return r + cloud * (white - r) + glow, g + cloud * (white - g) + glow, b + cloud * (white - b) + glow


@njit(nogil=True, fastmath=FAST)
def shade(width, height, fx, fy, cx, cy, pose, parts, depth, hit, light, road):
    """Return the scene's radiance (H, W, 3), linear, for what `cast` hit."""
    corner_x = math.floor(pose[0, 3] / CELL) * CELL - 0.5 * CELL * CELLS_X
    corner_z = math.floor(pose[2, 3] / CELL) * CELL - 16.0
    first, members = shadow_grid(parts, light, corner_x, corner_z)
    radiance = np.empty((height, width, 3), np.float32)
    for v in range(height):
        for u in range(width):
            a, b = (u - cx) / fx, (v - cy) / fy
            dx = pose[0, 0] * a + pose[0, 1] * b + pose[0, 2]
            dh = -(pose[1, 0] * a + pose[1, 1] * b + pose[1, 2])
            dz = pose[2, 0] * a + pose[2, 1] * b + pose[2, 2]
            norm = math.sqrt(dx * dx + dh * dh + dz * dz)
            if hit[v, u] == SKY:
                colour = sky_radiance(dx / norm, dh / norm, dz / norm, light)
            else:
                t = depth[v, u]
                x, h, z = pose[0, 3] + t * dx, -pose[1, 3] + t * dh, pose[2, 3] + t * dz
                colour = surface_radiance(x, h, z, dx / norm, dh / norm, dz / norm, t * norm / fx, hit[v, u], parts, light, road,
                                          first, members, corner_x, corner_z)  # fmt: skip
                clear = math.exp(-light.haze * t * norm)
                colour = (
                    light.horizon[0] + clear * (colour[0] - light.horizon[0]),
                    light.horizon[1] + clear * (colour[1] - light.horizon[1]),
                    light.horizon[2] + clear * (colour[2] - light.horizon[2]),
                )
            radiance[v, u, 0], radiance[v, u, 1], radiance[v, u, 2] = colour
    return radiance


@njit(nogil=True, fastmath=FAST)
def surface_radiance(x, h, z, dx, dh, dz, pixel, own, parts, light, road, first, members, corner_x, corner_z):
    """Return the light that a surface point sends along a ray: albedo times sun, shadow and sky."""
    nx, nh, nz = 0.0, 1.0, 0.0
    if own == GROUND:
        albedo = ground_albedo(x, z, pixel / max(0.05, -dh), road)
    else:
        part = parts[own]
        px, pz = to_part(x - part.x, z - part.z, part)
        nx, nh, nz = part_surface(px, h - part.base, pz, part)
        vx, vz = to_part(dx, dz, part)
        facing = max(0.05, -(nx * vx + nh * dh + nz * vz))
        albedo = part_albedo(px, h - part.base, pz, nx, nh, nz, part, pixel / facing)
        nx, nz = nx * part.cos + nz * part.sin, -nx * part.sin + nz * part.cos
    towards = nx * light.sun_x + nh * light.sun_h + nz * light.sun_z
    sun, sky = 0.0, 1.0
    if own == GROUND or towards > 0.0:
        sun, sky = lit_share(x + 0.01 * nx, h + 0.01 * nh, z + 0.01 * nz, own, parts, light, first, members, corner_x, corner_z)
    sun *= max(0.0, towards)
    sky *= 0.65 + 0.35 * nh
    return (
        albedo[0] * (sun * light.sun[0] + sky * light.ambient[0]),
        albedo[1] * (sun * light.sun[1] + sky * light.ambient[1]),
        albedo[2] * (sun * light.sun[2] + sky * light.ambient[2]),
    )


@njit(nogil=True, fastmath=FAST)
def expose(radiance, light, noise_levels, frame):
    """Return the camera's image (H / 2, W / 2, 3) uint8: mean of 2x2 rays, film curve, gamma, sensor noise."""
    height, width = radiance.shape[0] // 2, radiance.shape[1] // 2
    image = np.empty((height, width, 3), np.uint8)
    for v in range(height):
        for u in range(width):
            for k in range(3):
                mean = 0.25 * (
                    radiance[2 * v, 2 * u, k] + radiance[2 * v, 2 * u + 1, k]
                    + radiance[2 * v + 1, 2 * u, k] + radiance[2 * v + 1, 2 * u + 1, k]
                )  # fmt: skip
                level = min(1.0, 1.05 * (1.0 - math.exp(-light.exposure * mean))) ** 0.75
                # Irwin-Hall of 3: nearly normal, variance 1/4
                grain = noise_levels * 2.0 * (
                    random_at(v * width + u, 3 * k, frame) + random_at(v * width + u, 3 * k + 1, frame)
                    + random_at(v * width + u, 3 * k + 2, frame) - 1.5
                )  # fmt: skip
                image[v, u, k] = int(min(255.0, max(0.0, 255.0 * level + grain + 0.5)))
    return image
