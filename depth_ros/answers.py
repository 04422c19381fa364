"""What a frame is answered with, computed by the host around the engine or, where the engine can, on its device."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from depth_ros.cloud import CloudBuilder, CloudOptions, pack_points, rays
from depth_ros.engines import GraphRunner
from depth_ros.estimator import Estimator, focal_factor, upsample
from depth_ros.scale import ConstantScale, Scaler, apply
from depth_ros.types import BoolArray, CameraModel, DepthPrediction, Frame, InputError, UInt8Array


@dataclass(frozen=True)
class Answer:
    """What was asked for of a frame; valid until the next one."""

    prediction: DepthPrediction | None  # at the camera's resolution
    points: NDArray[np.void] | None  # organised, of cloud.POINT_DTYPE


class Answerer(Protocol):
    """Answers the frames of one camera."""

    def answer(self, frame: Frame, full: bool, cloud: CloudOptions | None) -> Answer:
        """Return the prediction if `full` and the cloud if there are options for one.

        Raises InputError for a frame of another camera or without a scale, and EngineError if the engine fails.
        """

    def close(self) -> None:
        """Release what it holds on the engine's device; the engine stays open."""


def open_answerer(estimator: Estimator, camera: CameraModel, unseen: BoolArray | None, scaler: Scaler | None = None) -> Answerer:
    """Return what answers this camera's frames; `unseen` (H, W) is where rectification left nothing, NaN in every answer.

    `scaler` makes metres of a prediction; without one it is in metres already. The device can only multiply, so a scale that
    comes from frames, or is uncertain, leaves the work to the host. Raises EngineError if the engine's device cannot
    be prepared for this size of image.
    """
    host = HostAnswerer(estimator, camera, unseen, scaler)
    factor = host.scaler.constant
    if factor is None or factor.sigma > 0:
        return host
    runner = estimator.engine.open_frame_graph(camera.width, camera.height)
    return host if runner is None else DeviceAnswerer(runner, host, factor.factor)


class HostAnswerer:
    """Resizes, masks, upsamples and builds clouds with NumPy and OpenCV."""

    def __init__(self, estimator: Estimator, camera: CameraModel, unseen: BoolArray | None, scaler: Scaler | None = None) -> None:
        self.estimator, self.camera, self.unseen = estimator, camera, unseen
        self.scaler = scaler or ConstantScale()
        self._unseen_small: BoolArray | None = None
        if unseen is not None:
            size = estimator.bundle.width, estimator.bundle.height
            self._unseen_small = cv2.resize(unseen.view(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT).view(bool)
        self._builder: tuple[tuple[CameraModel, int], CloudBuilder] | None = None

    def answer(self, frame: Frame, full: bool, cloud: CloudOptions | None) -> Answer:
        """See Answerer."""
        check_camera(frame, self.camera)
        small = self.estimator.resize(frame)  # once, for the network and for the cloud's colours
        prediction = self.estimator.predict([small])[0]
        scale = self.scaler.constant or self.scaler.scale_for(small, prediction.without(self._unseen_small))
        prediction = apply(prediction, scale)
        large = None
        if full or (cloud and cloud.full_resolution):
            large = upsample(prediction, frame.camera).without(self.unseen)
        points = None
        if cloud and cloud.full_resolution and large:
            points = self.points(large, frame.image, cloud)
        elif cloud:
            points = self.points(prediction.without(self._unseen_small), small.image, cloud)
        return Answer(large, points)

    def close(self) -> None:
        """Nothing to release."""

    def points(self, prediction: DepthPrediction, image: UInt8Array, cloud: CloudOptions) -> NDArray[np.void]:
        """Return the cloud (rows, cols) of a prediction with the RGB image (H, W, 3) at its resolution."""
        key = (prediction.camera, cloud.stride)
        if self._builder is None or self._builder[0] != key:
            # An edge of the network is one of its pixels wide, so as many pixels of an up-sampled prediction.
            span = max(1, round(prediction.camera.width / self.estimator.bundle.width))
            self._builder = (key, CloudBuilder(prediction.camera, cloud.stride, span))
        return self._builder[1].build(prediction, image, cloud.max_relative_sigma, cloud.max_edge_step)


class DeviceAnswerer:
    """Sends a frame to the engine's device once and gets the wanted answers back (depth_ros.frame_graph).

    A cloud at the camera's resolution is built by the host, from the depth that came back: sending it would cost more.
    """

    def __init__(self, runner: GraphRunner, host: HostAnswerer, factor: float = 1.0) -> None:
        camera, bundle = host.camera, host.estimator.bundle
        small = camera.resized(bundle.width, bundle.height)
        ray_x, ray_y = rays(small)
        unseen = np.zeros((camera.height, camera.width), np.bool_) if host.unseen is None else host.unseen
        self._runner, self._host, self._small = runner, host, small
        self._constant: dict[str, NDArray[np.generic]] = {
            "focal": np.array([focal_factor(small, bundle) * factor], np.float32),
            "ray_x": ray_x[None],
            "ray_y": ray_y[None],
            "unseen": unseen.view(np.uint8)[None],
        }
        self._limits: dict[tuple[float, float], NDArray[np.float32]] = {}

    def answer(self, frame: Frame, full: bool, cloud: CloudOptions | None) -> Answer:
        """See Answerer."""
        check_camera(frame, self._host.camera)
        on_host = cloud is not None and cloud.full_resolution
        outputs = [*(("depth", "sigma") if full or on_host else ()), *(("points", "colors") if cloud and not on_host else ())]
        limits = self._limits_of(cloud or CloudOptions())
        values = self._runner.run({"image": frame.image[None], "limits": limits, **self._constant}, outputs)
        prediction = DepthPrediction(values["depth"][0], values["sigma"][0], frame.camera) if full or on_host else None
        points = None
        if cloud and on_host and prediction:
            points = self._host.points(prediction, frame.image, cloud)
        elif cloud:
            points = pack_points(values["points"][0], values["colors"][0], cloud.stride)
        return Answer(prediction, points)

    def close(self) -> None:
        """See Answerer."""
        self._runner.close()

    def _limits_of(self, cloud: CloudOptions) -> NDArray[np.float32]:
        key = (cloud.max_relative_sigma, cloud.max_edge_step)
        if key not in self._limits:
            self._limits = {key: np.array(key, np.float32)}  # the same array as long as they stay: it is sent once
        return self._limits[key]


def check_camera(frame: Frame, camera: CameraModel) -> None:
    """Raise InputError for a frame of another camera."""
    if frame.camera != camera:
        raise InputError(f"frame of {frame.camera}; expected one of {camera}, which the answers were prepared for")
