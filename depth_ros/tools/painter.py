"""Paints point clouds, lines and text onto images with NumPy and OpenCV alone."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from depth_ros.types import CameraModel, Float64Array, UInt8Array

Colour = tuple[int, int, int]  # BGR
NEAR_M = 0.05  # nothing nearer than this to the eye is drawn
MAX_POINT_SIZE = 5  # [px]


@dataclass(frozen=True)
class PerspectiveView:
    """A pinhole camera that stands elsewhere than the one that saw the points."""

    camera: CameraModel
    view_T_camera: Float64Array  # (4, 4)

    def project(self, points: Float64Array) -> tuple[Float64Array, Float64Array, Float64Array]:
        """Map points (N, 3) [m], optical frame, to pixels (N, 2), drawing order (N,), far is large, and scale (N,) [px/m]."""
        x, y, z = (points @ self.view_T_camera[:3, :3].T + self.view_T_camera[:3, 3]).T
        scale = self.camera.fx / np.where(z > NEAR_M, z, np.nan)
        pixels = np.stack([x * scale + self.camera.cx, y * scale + self.camera.cy], axis=1)
        return pixels, z, scale


@dataclass(frozen=True)
class TopView:
    """Orthographic view straight down: x to the right, forward (z) up, what is higher covers what is lower."""

    width: int  # [px]
    height: int  # [px]
    scale: float  # [px/m]
    margin: int  # [px] from the camera's place to the bottom edge

    def project(self, points: Float64Array) -> tuple[Float64Array, Float64Array, Float64Array]:
        """Map points (N, 3) [m], optical frame, to pixels (N, 2), drawing order (N,), low is large, and scale (N,) [px/m]."""
        u = (self.width - 1) / 2 + points[:, 0] * self.scale
        v = self.height - 1 - self.margin - points[:, 2] * self.scale
        return np.stack([u, v], axis=1), points[:, 1], np.full(len(points), self.scale)


View = PerspectiveView | TopView


def look_at(camera: CameraModel, eye: tuple[float, float, float], target: tuple[float, float, float]) -> PerspectiveView:
    """Return the view from `eye` towards `target`, both [m] in the optical frame, without roll."""
    forward = np.subtract(target, eye, dtype=float)
    forward /= np.linalg.norm(forward)
    right = np.cross((0.0, 1.0, 0.0), forward)  # optical frame: y points down
    right /= np.linalg.norm(right)
    transform = np.eye(4)
    transform[:3, :3] = [right, np.cross(forward, right), forward]
    transform[:3, 3] = -transform[:3, :3] @ np.asarray(eye)
    return PerspectiveView(camera, transform)


def draw_points(image: UInt8Array, view: View, points: Float64Array, colours: UInt8Array, footprint: Float64Array) -> None:
    """Draw points (N, 3) [m] in BGR `colours` (N, 3) as squares of `footprint` (N,) [m]; near ones cover far ones."""
    height, width = image.shape[:2]
    pixels, order, scale = view.project(points)
    visible = np.isfinite(pixels).all(axis=1)
    pixels, order, colours = pixels[visible], order[visible], colours[visible]
    sizes = np.clip(np.ceil(footprint[visible] * scale[visible]), 1, MAX_POINT_SIZE).astype(np.int64)
    member, row, column = _squares(pixels, sizes)
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    member, row, column = member[inside], row[inside], column[inside]
    far_first = np.argsort(-order[member], kind="stable")
    image[row[far_first], column[far_first]] = colours[member[far_first]]  # of repeated pixels NumPy keeps the last one


def _squares(pixels: Float64Array, sizes: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Expand points to all pixels of their squares: (index of the point, row, column), each 1-D."""
    corner = np.rint(pixels - (sizes[:, None] - 1) / 2).astype(np.int64)
    member = np.repeat(np.arange(len(sizes)), sizes**2)
    first = np.repeat(np.cumsum(sizes**2) - sizes**2, sizes**2)
    row, column = np.divmod(np.arange(len(member)) - first, sizes[member])
    return member, corner[member, 1] + row, corner[member, 0] + column


def draw_lines(image: UInt8Array, view: View, lines: Float64Array, colour: Colour) -> None:
    """Draw polylines (L, N, 3) [m]; a line with a vertex behind the eye is left out."""
    for line in lines:
        pixels, _, _ = view.project(line)
        if np.isfinite(pixels).all():
            cv2.polylines(image, [np.rint(pixels * 16).astype(np.int32)], False, colour, 1, cv2.LINE_AA, shift=4)


def frustum(camera: CameraModel, depth_m: float) -> Float64Array:
    """Return the edges of `camera`'s field of view up to `depth_m` as lines (5, 5, 3): four rays and the far rectangle."""
    u = np.array([-0.5, camera.width - 0.5, camera.width - 0.5, -0.5])
    v = np.array([-0.5, -0.5, camera.height - 0.5, camera.height - 0.5])
    corners = depth_m * np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones(4)], axis=1)
    rays = np.linspace(0.02, 1.0, 5)[:, None] * corners[:, None]
    return np.concatenate([rays, corners[None, [0, 1, 2, 3, 0]]])


def write(
    image: UInt8Array, words: str, x: float, y: float, colour: Colour = (235, 232, 228), size: float = 0.5, align: float = 0.0
) -> None:
    """Write `words` with the baseline at y [px]; `align` 0, 0.5 or 1 puts x [px] at its left end, middle or right end."""
    (width, _), _ = cv2.getTextSize(words, cv2.FONT_HERSHEY_SIMPLEX, size, 1)
    origin = (round(x - align * width), round(y))
    cv2.putText(image, words, origin, cv2.FONT_HERSHEY_SIMPLEX, size, colour, 1, cv2.LINE_AA)
