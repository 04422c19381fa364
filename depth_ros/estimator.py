"""Frames to depth predictions: resize, infer, scale by the focal length, mask. Pure: no state, no ROS."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from depth_ros.bundle import BundleError, ModelBundle
from depth_ros.engines import Engine
from depth_ros.images import nearest, resize_image
from depth_ros.scale import check_source
from depth_ros.types import CameraModel, DepthPrediction, Float32Array, Frame

ASPECT_TOLERANCE = 1.15  # ratio of fx/fy to training's beyond which the image is squashed unlike anything the model has seen
BAND = 64  # [px] rows that upsample works on at a time: a full-size pass over memory takes longer than its arithmetic


class Estimator:
    """Runs a bundle's engine on frames. What it predicts is up to the bundle's kind: the scale makes metres of it (answers).

    Raises BundleError if `scale_source` (one of scale.SOURCES) cannot do that for the bundle's kind.
    """

    def __init__(self, bundle: ModelBundle, engine: Engine, scale_source: str = "bundle") -> None:
        refusal = check_source(scale_source, bundle.kind)
        if refusal:
            raise BundleError(f"{bundle.path / 'bundle.yaml'}: {refusal}")
        self.bundle = bundle
        self.engine = engine

    def predict(self, frames: Sequence[Frame]) -> list[DepthPrediction]:
        """Return one prediction per frame, at the network's resolution. Raises InputError for a distorted frame."""
        if not frames:
            return []
        inputs = [self.resize(frame) for frame in frames]
        depths, sigmas = self.engine.infer(np.stack([frame.image for frame in inputs]))
        cameras = [frame.camera for frame in inputs]
        return [self._finish(*item) for item in zip(depths, sigmas, cameras, strict=True)]

    def resize(self, frame: Frame) -> Frame:
        """Return the frame at the network's resolution, its image uncopied where it has that. Raises InputError if distorted."""
        width, height = self.bundle.width, self.bundle.height
        camera = frame.camera.resized(width, height)
        return Frame(resize_image(frame.image, width, height), camera, frame.stamp_ns, frame.frame_id)

    def aspect_warning(self, camera: CameraModel) -> str | None:
        """Return a warning if resizing squashes this camera's image by over 15 % differently than in training."""
        resized = camera.resized(self.bundle.width, self.bundle.height)
        found, trained = resized.fx / resized.fy, self.bundle.fx / self.bundle.fy
        if max(found / trained, trained / found) <= ASPECT_TOLERANCE:
            return None
        return (
            f"a {camera.width}x{camera.height} image resized to {resized.width}x{resized.height} has fx/fy {found:.2f}, "
            f"but model '{self.bundle.name}' was trained at {trained:.2f}: depth will be less exact; crop it to a similar aspect"
        )

    def _finish(self, depth: Float32Array, sigma: Float32Array, camera: CameraModel) -> DepthPrediction:
        """Mask, then scale. The bundle's depth range holds for the training camera, so it is compared before scaling."""
        bundle = self.bundle
        valid = np.isfinite(depth) & (depth >= bundle.min_depth) & np.isfinite(sigma) & (sigma > 0)
        in_range = valid & (depth < bundle.max_depth)
        factor = np.float32(focal_factor(camera, bundle))
        beyond = np.where(valid, np.float32(np.inf), np.float32(np.nan))
        return DepthPrediction(np.where(in_range, depth * factor, beyond), np.where(in_range, sigma * factor, np.nan), camera)


def focal_factor(camera: CameraModel, bundle: ModelBundle) -> float:
    """Factor on depth and sigma for a camera of the network's size other than the training camera.

    An object looks the same size at twice the distance through twice the focal length, so a network that learned sizes at
    focal length f_train sees z f_train / f: the factor is f / f_train (geometric mean of x and y).
    """
    return float(np.sqrt((camera.fx * camera.fy) / (bundle.fx * bundle.fy)))


def upsample(prediction: DepthPrediction, camera: CameraModel) -> DepthPrediction:
    """Return the prediction at the camera's resolution (the same view, so prediction.camera = camera.resized(...)).

    Bilinear in INVERSE depth, which is linear in the image on every plane, hence exact on planes (up to the outermost half
    pixel, where the border is repeated); sigma is bilinear. Where the nearest pixel is NaN or +inf, so is the result, and
    elsewhere neither spreads.
    """
    size = camera.width, camera.height
    if size == (prediction.camera.width, prediction.camera.height):
        return DepthPrediction(prediction.depth, prediction.sigma, camera)
    finite = np.isfinite(prediction.depth)
    depth = _bilinear(_filled(np.reciprocal(prediction.depth), finite), size)
    sigma = _bilinear(_filled(prediction.sigma, finite), size)
    # What is divided by inverse depth: 1, or what the nearest pixel lacks. Its columns are enlarged at once, its rows as needed.
    numerator = np.where(finite, np.float32(1), prediction.depth)
    numerator = cv2.resize(numerator, (camera.width, finite.shape[0]), interpolation=cv2.INTER_NEAREST_EXACT)
    has_gaps, row_of = np.asarray(~finite.all(axis=1)), nearest(finite.shape[0], camera.height)
    with np.errstate(divide="ignore", invalid="ignore"):  # x / 0 far inside of gaps, and inf x 0, which is NaN
        for top in range(0, camera.height, BAND):
            band = slice(top, top + BAND)
            above = numerator[row_of[band]]
            np.divide(above, depth[band], out=depth[band])
            if has_gaps[row_of[band]].any():
                sigma[band] += np.multiply(above, 0, out=above)
    return DepthPrediction(depth, sigma, camera)


def _filled(values: Float32Array, finite: NDArray[np.bool_]) -> Float32Array:
    """Return values with each missing one replaced by the mean of its present 3x3 neighbours (0 without any)."""
    if finite.all():
        return values
    present: Float32Array = cv2.copyTo(values, finite.view(np.uint8))  # 0 elsewhere
    count = cv2.boxFilter(finite.view(np.uint8), cv2.CV_32F, (3, 3), normalize=False)
    gaps = np.flatnonzero(~finite & (count > 0))
    total = cv2.boxFilter(present, -1, (3, 3), normalize=False)
    present.ravel()[gaps] = total.ravel()[gaps] / count.ravel()[gaps]
    return present


def _bilinear(array: Float32Array, size: tuple[int, int]) -> Float32Array:
    resized: Float32Array = cv2.resize(array, size, interpolation=cv2.INTER_LINEAR)
    return resized
