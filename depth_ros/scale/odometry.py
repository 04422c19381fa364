"""Scale from a driven distance: tracked features are triangulated over it, and compared with their predicted depth."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from depth_ros.scale import Measurement, NoMeasurement, Unchanged
from depth_ros.scale.projection import Samples
from depth_ros.scale.ranging import LEAST_SAMPLES, measure_ranges
from depth_ros.types import DepthPrediction, Float64Array, Frame, UInt8Array

LEAST_DISTANCE_M = 0.05  # driven, before a pair of frames is worth a look
LONGEST_S = 2.0  # after which the first frame of a pair is replaced
LEAST_PARALLAX_PX = 1.5
MOST_EPIPOLAR_PX = 1.0
TRACKING_SIGMA_PX = 0.3
FEATURES = 250
WINDOW = (9, 9)  # [px] that is followed; a larger one sees the nearer side of a surface move and errs by 2 %
ROUND_TRIP_PX = 0.5  # tracked there and back
MOST_TURN = 0.1  # [rad] between the frames; beyond it the lever arm's error counts for more than the distance


@dataclass(frozen=True)
class _Key:
    """The first frame of a pair."""

    grey: UInt8Array
    prediction: DepthPrediction
    world_T_camera: Float64Array
    stamp_ns: int


class OdometryMeter:
    """Compares the motion of the camera that odometry states with the one that its images show."""

    def __init__(self) -> None:
        self._key: _Key | None = None

    def reset(self) -> None:
        """Forget the frame before."""
        self._key = None

    def measure(self, frame: Frame, prediction: DepthPrediction, world_T_camera: Float64Array) -> Measurement:
        """Return what the way since an earlier frame says on that frame's scale.

        `frame` at the prediction's resolution; `world_T_camera` (4, 4) [m] of the optical frame at its stamp. Rotation and
        direction of the motion come from the images (PnP with the predicted depth inside RANSAC), its length from odometry.
        Raises Unchanged while the robot stands, NoMeasurement while it turns or there is too little to follow.
        """
        now = _Key(cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY), prediction, world_T_camera, frame.stamp_ns)
        key = self._key
        if key is None or now.stamp_ns <= key.stamp_ns or now.prediction.camera != key.prediction.camera:
            self._key = now
            raise NoMeasurement("no two frames to compare yet: it begins when the robot drives")
        now_T_key = np.linalg.inv(now.world_T_camera) @ key.world_T_camera
        distance_m = float(np.linalg.norm(now_T_key[:3, 3]))
        old = now.stamp_ns - key.stamp_ns > LONGEST_S * 1e9
        if old:
            self._key = now
        if distance_m < LEAST_DISTANCE_M:
            raise Unchanged(f"the robot moved {distance_m:.2f} m; expected at least {LEAST_DISTANCE_M} m: it must drive")
        if old:
            raise NoMeasurement(f"the last two frames are more than {LONGEST_S:g} s apart")
        if np.arccos(np.clip((np.trace(now_T_key[:3, :3]) - 1) / 2, -1, 1)) > MOST_TURN:
            self._key = now
            raise NoMeasurement("the robot turns; the scale is measured when it drives straight on")
        measurement = _compare(key, now, distance_m)
        self._key = now
        return measurement


def _compare(key: _Key, now: _Key, distance_m: float) -> Measurement:
    before, after = _tracked(key.grey, now.grey)
    camera = key.prediction.camera
    u, v = (np.floor(before + 0.5).astype(np.intp)).T
    depth = key.prediction.depth[v, u].astype(np.float64)
    known = np.isfinite(depth)
    before, after, u, v, depth = before[known], after[known], u[known], v[known], depth[known]
    first, second = (_rays(points, camera.K) for points in (before, after))
    rotation, direction = _motion(first * depth[:, None], after, camera.K)
    metres, parallax_px, epipolar_px = _triangulate(first @ rotation.T, second, distance_m * direction, float(camera.fx))
    good = (metres > 0) & (parallax_px > LEAST_PARALLAX_PX) & (epipolar_px < MOST_EPIPOLAR_PX)
    if good.sum() < LEAST_SAMPLES:
        raise NoMeasurement(
            f"{int(good.sum())} features moved by more than {LEAST_PARALLAX_PX} px; expected at least {LEAST_SAMPLES}: "
            "drive faster, or let the camera see textured things nearby"
        )
    samples = Samples(u[good], v[good], metres[good], len(before))
    return measure_ranges(key.prediction, samples, False, spread=TRACKING_SIGMA_PX / parallax_px[good])


def _tracked(before: UInt8Array, after: UInt8Array) -> tuple[Float64Array, Float64Array]:
    """Positions (n, 2) [px] of corners in two images (Shi & Tomasi; Lucas & Kanade in a pyramid), checked there and back."""
    corners = cv2.goodFeaturesToTrack(before, FEATURES, 0.005, 4)
    if corners is None:
        raise NoMeasurement("the image has no texture to follow: the motion cannot be seen")
    moved, there, _ = cv2.calcOpticalFlowPyrLK(before, after, corners, None, winSize=WINDOW, maxLevel=3)
    back, again, _ = cv2.calcOpticalFlowPyrLK(after, before, moved, None, winSize=WINDOW, maxLevel=3)
    good = (there[:, 0] > 0) & (again[:, 0] > 0) & (np.linalg.norm((back - corners)[:, 0], axis=1) < ROUND_TRIP_PX)
    return corners[good, 0].astype(np.float64), moved[good, 0].astype(np.float64)


def _rays(points: Float64Array, K: Float64Array) -> Float64Array:
    homogeneous = np.column_stack([points, np.ones(len(points))])
    rays: Float64Array = homogeneous @ np.linalg.inv(K).T
    return rays


def _motion(points: Float64Array, pixels: Float64Array, K: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Rotation (3, 3) and unit translation (3,) that take points (n, 3) of the first camera to the second's."""
    found = len(points) >= LEAST_SAMPLES
    if found:
        found, turn, way, inliers = cv2.solvePnPRansac(
            points, pixels, K, None, iterationsCount=200, reprojectionError=1.5, confidence=0.999, flags=cv2.SOLVEPNP_EPNP
        )
    if not found or inliers is None or len(inliers) < LEAST_SAMPLES or np.linalg.norm(way) <= 0:
        raise NoMeasurement("too few features agree on one motion: let the camera see more texture, and fewer things that move")
    chosen = inliers[:, 0]
    turn, way = cv2.solvePnPRefineLM(points[chosen], pixels[chosen], K, None, turn, way)
    return cv2.Rodrigues(turn)[0], way[:, 0] / np.linalg.norm(way)


def _triangulate(
    turned: Float64Array, second: Float64Array, translation: Float64Array, focal_px: float
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Depth [m] along the first camera's rays, turned into the second's frame; parallax and distance from the epipolar line [px].

    z turned + translation = z' second, so z (second x turned) = -(second x translation), solved in the least-squares sense.
    """
    a, b = np.cross(second, turned), -np.cross(second, translation)
    square = np.maximum(np.sum(a**2, axis=1), 1e-18)
    depth = np.sum(a * b, axis=1) / square
    line = np.cross(translation, turned)
    off = np.abs(np.sum(line * second, axis=1)) / np.maximum(np.linalg.norm(line[:, :2], axis=1), 1e-12)
    return depth, np.sqrt(square) * focal_px, off * focal_px
