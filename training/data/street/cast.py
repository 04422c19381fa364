"""The ray-caster of the street world, compiled with numba: what every pixel's ray meets, and its exact depth.

World axes: x right, y down, z forward, the ground is y = 0. A part is solid and stands on its own axes (x across, h up
from its foot, z along). A pixel's ray has unit z in the camera, so the ray parameter IS the depth along +z.
"""

from __future__ import annotations

import math

import numpy as np

from training.data.street.kernels import kernel

FRUSTUM, ELLIPSOID = range(2)
PART = np.dtype(
    [
        ("x", "f8"), ("z", "f8"), ("base", "f8"),  # the foot's centre and height [m]
        ("cos", "f8"), ("sin", "f8"),  # of the heading
        ("half_x", "f8"), ("half_z", "f8"), ("top_x", "f8"), ("top_z", "f8"), ("height", "f8"),  # [m], at the foot and the top
        ("r", "f8"), ("g", "f8"), ("b", "f8"),  # albedo
        ("shape", "i8"), ("material", "i8"), ("seed", "i8"), ("mover", "i8"),  # mover: index of the vehicle, -1 if static
        ("along", "f8"),  # a vehicle part's place along its vehicle [m]
    ]
)  # fmt: skip
GROUND, SKY = -1, -2  # what a ray met, if not the index of a part
NEAR = 0.05  # [m]


@kernel
def to_part(dx, dz, part):
    """Turn a horizontal world vector into the part's own x and z."""
    return dx * part.cos - dz * part.sin, dx * part.sin + dz * part.cos


@kernel
def cut(c, d, near, far):
    """Clip the interval of a ray inside a half-space: c is the distance to its plane, d the speed towards it."""
    if d > 1e-12:
        return near, min(far, c / d)
    if d < -1e-12:
        return max(near, c / d), far
    return (near, far) if c >= 0.0 else (near, -1.0)


@kernel
def intersect(ox, oh, oz, dx, dh, dz, part):
    """Return the ray parameter where it enters the part, in the part's axes, or inf (also from inside)."""
    if part.shape == ELLIPSOID:
        ry = 0.5 * part.height
        ox, oh, oz = ox / part.half_x, (oh - ry) / ry, oz / part.half_z
        dx, dh, dz = dx / part.half_x, dh / ry, dz / part.half_z
        a, b, c = dx * dx + dh * dh + dz * dz, ox * dx + oh * dh + oz * dz, ox * ox + oh * oh + oz * oz - 1.0
        disc = b * b - a * c
        if disc < 0.0:
            return np.inf
        t = (-b - math.sqrt(disc)) / a
        return t if t > 0.0 else np.inf
    kx, kz = (part.half_x - part.top_x) / part.height, (part.half_z - part.top_z) / part.height
    near, far = cut(oh, -dh, 0.0, np.inf)
    near, far = cut(part.height - oh, dh, near, far)
    wall = part.half_x - kx * oh
    near, far = cut(wall - ox, dx + kx * dh, near, far)
    near, far = cut(wall + ox, kx * dh - dx, near, far)
    wall = part.half_z - kz * oh
    near, far = cut(wall - oz, dz + kz * dh, near, far)
    near, far = cut(wall + oz, kz * dh - dz, near, far)
    return near if 0.0 < near < far else np.inf


@kernel
def image_box(part, pose, width, height, fx, fy, cx, cy):
    """Return first and one-past-last column and row that the part's bounding box can touch."""
    bx, bz = max(part.half_x, part.top_x), max(part.half_z, part.top_z)
    c, s = part.cos, part.sin
    corner = np.empty((8, 3))
    for i in range(8):
        x, z = (bx if i & 1 else -bx), (bz if i & 2 else -bz)
        wx, wz = part.x + x * c + z * s - pose[0, 3], part.z - x * s + z * c - pose[2, 3]
        wy = -part.base - (part.height if i & 4 else 0.0) - pose[1, 3]
        for k in range(3):
            corner[i, k] = pose[0, k] * wx + pose[1, k] * wy + pose[2, k] * wz
    left, right, top, bottom = np.inf, -np.inf, np.inf, -np.inf
    for i in range(8):
        for bit in (1, 2, 4):
            j = i ^ bit
            a, b = corner[i], corner[j]
            if a[2] <= NEAR:
                continue
            share = 1.0 if b[2] > NEAR else (a[2] - NEAR) / (a[2] - b[2])  # cut the edge at the near plane
            for end in (0.0, share):
                z = a[2] + end * (b[2] - a[2])
                u, v = cx + fx * (a[0] + end * (b[0] - a[0])) / z, cy + fy * (a[1] + end * (b[1] - a[1])) / z
                left, right, top, bottom = min(left, u), max(right, u), min(top, v), max(bottom, v)
    if left > right:
        return 0, 0, 0, 0
    u0, u1 = int(max(0.0, math.ceil(left - 1e-6))), int(min(width, math.floor(max(right, -1.0) + 1e-6) + 1))
    v0, v1 = int(max(0.0, math.ceil(top - 1e-6))), int(min(height, math.floor(max(bottom, -1.0) + 1e-6) + 1))
    return u0, u1, v0, v1


@kernel
def cast(width, height, fx, fy, cx, cy, pose, parts):
    """Return depth (H, W) [m] along +z, inf for the sky, and what was hit (H, W): a part's index, GROUND or SKY."""
    depth = np.full((height, width), np.inf)
    hit = np.full((height, width), SKY, np.int32)
    for v in range(height):
        for u in range(width):
            down = pose[1, 0] * (u - cx) / fx + pose[1, 1] * (v - cy) / fy + pose[1, 2]
            if down > 1e-6:
                depth[v, u], hit[v, u] = -pose[1, 3] / down, GROUND
    for i in range(len(parts)):
        part = parts[i]
        u0, u1, v0, v1 = image_box(part, pose, width, height, fx, fy, cx, cy)
        ox, oz = to_part(pose[0, 3] - part.x, pose[2, 3] - part.z, part)
        oh = -pose[1, 3] - part.base
        for v in range(v0, v1):
            b = (v - cy) / fy
            for u in range(u0, u1):
                a = (u - cx) / fx
                dx, dz = to_part(pose[0, 0] * a + pose[0, 1] * b + pose[0, 2], pose[2, 0] * a + pose[2, 1] * b + pose[2, 2], part)
                dh = -(pose[1, 0] * a + pose[1, 1] * b + pose[1, 2])
                t = intersect(ox, oh, oz, dx, dh, dz, part)
                if NEAR < t < depth[v, u]:
                    depth[v, u], hit[v, u] = t, i
    return depth, hit
