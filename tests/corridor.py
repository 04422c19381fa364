"""A corridor with textured walls, rendered exactly from any place: each pixel's ray is cut with each plane."""

from __future__ import annotations

import cv2
import numpy as np

from depth_ros.scale.poses import OPTICAL_T_BODY, pose_from_text
from depth_ros.types import CameraModel, DepthPrediction, Frame

CAMERA = CameraModel(320, 160, 200.0, 200.0, 159.5, 79.5)
PLANES = [  # normal . X = offset, in the first camera's optical frame, and two directions along the plane
    ([0, 1, 0], 1.5, [1, 0, 0], [0, 0, 1]),
    ([0, -1, 0], 2.5, [1, 0, 0], [0, 0, 1]),
    ([1, 0, 0], 3.0, [0, 1, 0], [0, 0, 1]),
    ([-1, 0, 0], 4.0, [0, 1, 0], [0, 0, 1]),
    ([0, 0, 1], 18.0, [1, 0, 0], [0, 1, 0]),
]


def make_texture():
    rng = np.random.default_rng(0)
    return cv2.GaussianBlur(rng.uniform(0, 255, (1024, 1024)).astype(np.float32), (0, 0), 1.5)


def render(texture, world_T_camera):
    """Image (160, 320, 3) and depth of the corridor, each pixel's ray cut with each plane; the texture has 20 px to the metre."""
    v, u = np.mgrid[:160, :320]
    ray = np.stack([(u - 159.5) / 200, (v - 79.5) / 200, np.ones_like(u, float)], axis=-1) @ world_T_camera[:3, :3].T
    origin = world_T_camera[:3, 3]
    depth, grey = np.full(u.shape, np.inf), np.zeros(u.shape, np.float32)
    for k, (normal, offset, across, along) in enumerate(PLANES):
        with np.errstate(divide="ignore"):
            z = (offset - origin @ normal) / (ray @ normal)
        hit = (z > 0) & (z < depth)
        point = origin + np.where(hit, z, 0)[..., None] * ray
        column, row = ((point @ np.asarray(axis, float) * 20 + 200 * k) % 1000 for axis in (across, along))
        seen = cv2.remap(texture, column.astype(np.float32), row.astype(np.float32), cv2.INTER_LINEAR)
        depth, grey = np.where(hit, z, depth), np.where(hit, seen, grey)
    contrast = np.clip((grey - 127.5) * 6 + 127.5, 0, 255).astype(np.uint8)
    return np.repeat(contrast[..., None], 3, axis=2), depth


def moved(forward=0.0, side=0.0, yaw=0.0):
    """world_T_camera of optical frames; the world is the first camera's optical frame."""
    return OPTICAL_T_BODY @ pose_from_text(f"{forward} {side} 0 0 0 {yaw}") @ np.linalg.inv(OPTICAL_T_BODY)


def shot(texture, pose, time_s, scale=3.0, noise=None):
    """Frame and prediction at a pose: depth is true but for the scale and its own relative noise."""
    image, depth = render(texture, pose)
    predicted = depth / scale * (1 if noise is None else np.exp(noise))
    frame = Frame(image, CAMERA, int(time_s * 1e9), "camera")
    return frame, DepthPrediction(predicted.astype(np.float32), (0.1 * predicted).astype(np.float32), CAMERA), pose
