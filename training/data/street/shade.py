"""The light of the street world, compiled with numba: sun and hard shadows, lamps, sky, haze and the camera's response.

Kernels that call into other files are compiled anew in each process (seconds): numba's cache does not see that a callee in
another file has changed, and would go on running the old one.
"""

from __future__ import annotations

import math

import numpy as np

from training.data.street.cast import ELLIPSOID, GROUND, SKY, to_part
from training.data.street.interior import floor_albedo, interior_albedo
from training.data.street.kernels import kernel
from training.data.street.light import CELL, CELLS_X, lamp_light, lit_share, shadow_grid, sky_radiance
from training.data.street.texture import (
    BARK,
    BRICK,
    FACADE,
    FOLIAGE,
    GLASS,
    PAINT,
    PLAIN,
    ROAD,
    ROOF,
    STRIPED,
    WINDOW,
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

LAMP_COLOUR = (1.0, 0.93, 0.8)
SNOW_ALBEDO = 0.8


@kernel
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


@kernel
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
    if material >= STRIPED and abs(nh) > 0.9:
        return interior_albedo(
            x + part.half_x, z + part.half_z, footprint, material, colour, part.seed, 2.0 * part.half_x, 2.0 * part.half_z
        )
    if material >= STRIPED:
        return interior_albedo(along + half_along, h, footprint, material, colour, part.seed, 2.0 * half_along, part.height)
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


@kernel
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


@kernel
def surface_radiance(x, h, z, dx, dh, dz, pixel, own, parts, light, road, first, members, corner_x, corner_z):
    """Return the light that a surface point sends along a ray: albedo times sun, shadow and sky."""
    nx, nh, nz = 0.0, 1.0, 0.0
    if own == GROUND and road.kind == ROAD:
        albedo = ground_albedo(x, z, pixel / max(0.05, -dh), road)
    elif own == GROUND:
        albedo = floor_albedo(x, z, pixel / max(0.05, -dh), road)
    else:
        part = parts[own]
        px, pz = to_part(x - part.x, z - part.z, part)
        nx, nh, nz = part_surface(px, h - part.base, pz, part)
        vx, vz = to_part(dx, dz, part)
        facing = max(0.05, -(nx * vx + nh * dh + nz * vz))
        albedo = part_albedo(px, h - part.base, pz, nx, nh, nz, part, pixel / facing)
        if part.material >= WINDOW:
            return albedo[0] * light.horizon[0], albedo[1] * light.horizon[1], albedo[2] * light.horizon[2]
        nx, nz = nx * part.cos + nz * part.sin, -nx * part.sin + nz * part.cos
    if nh > 0.5 and (light.snow > 0.0 or light.wet > 0.0):
        albedo = weathered_albedo(x, z, albedo, light)
    towards = nx * light.sun_x + nh * light.sun_h + nz * light.sun_z
    sun, sky = 0.0, 1.0
    if own == GROUND or towards > 0.0:
        sun, sky = lit_share(x + 0.01 * nx, h + 0.01 * nh, z + 0.01 * nz, own, parts, light, first, members, corner_x, corner_z)
    sun *= max(0.0, towards)
    sky *= 0.65 + 0.35 * nh
    lamps = lamp_light(x, h, z, nx, nh, nz, light.lamps)
    return (
        albedo[0] * (sun * light.sun[0] + sky * light.ambient[0] + lamps * LAMP_COLOUR[0]),
        albedo[1] * (sun * light.sun[1] + sky * light.ambient[1] + lamps * LAMP_COLOUR[1]),
        albedo[2] * (sun * light.sun[2] + sky * light.ambient[2] + lamps * LAMP_COLOUR[2]),
    )


@kernel
def weathered_albedo(x, z, albedo, light):
    """Return the colour of a surface that faces up: darker when wet, under patches of snow."""
    dark = 1.0 - 0.45 * light.wet
    cover = min(1.0, max(0.0, 3.0 * (light.snow - noise(x / 1.7, z / 1.7, light.seed))))
    r, g, b = albedo[0] * dark, albedo[1] * dark, albedo[2] * dark
    return r + cover * (SNOW_ALBEDO - r), g + cover * (SNOW_ALBEDO - g), b + cover * (SNOW_ALBEDO - b)


@kernel
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
