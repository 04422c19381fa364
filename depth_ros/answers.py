"""What a frame is answered with, computed by the host around the engine or, where the engine can, on its device."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from depth_ros.cloud import CloudBuilder, CloudOptions, pack_points, rays, voxel_grid
from depth_ros.engines import GraphRunner
from depth_ros.estimator import Estimator, focal_factor, upsample
from depth_ros.scale import ConstantScale, Scaler, apply
from depth_ros.temporal import TemporalFilter, TemporalOptions
from depth_ros.types import BoolArray, CameraModel, DepthPrediction, Float32Array, Frame, InputError, UInt8Array


@dataclass(frozen=True)
class Wish:
    """What is asked for of a frame."""

    depth: bool  # depth and sigma
    cloud: CloudOptions | None  # and a cloud
    min_depth: float = 0.0  # [m] nearer is NaN
    max_depth: float = np.inf  # [m] from there on nothing is in range
    small: bool = False  # depth and sigma at the network's resolution instead of the camera's; of hosts only


@dataclass(frozen=True)
class Answer:
    """What was asked for of a frame; valid until the next one."""

    prediction: DepthPrediction | None  # at the camera's resolution, or at the network's if the wish is small
    points: NDArray[np.void] | None  # of cloud.POINT_DTYPE, organised (rows, cols), or (N,) with a voxel size
    inference_ms: float  # of the engine, for this frame and those of its batch
    invalid_share: float  # of the pixels, those that are NaN


class Answerer(Protocol):
    """Answers the frames of one camera."""

    def answer(self, frame: Frame, wish: Wish) -> Answer:
        """Return what is wished for; the prediction also where only a cloud at its resolution is.

        Raises InputError for a frame of another camera or without a scale, and EngineError if the engine fails.
        """

    def close(self) -> None:
        """Release what it holds on the engine's device; the engine stays open."""


class Request(NamedTuple):
    """A frame for the answerer of its camera."""

    answerer: Answerer
    frame: Frame
    wish: Wish


def open_answerer(
    estimator: Estimator, camera: CameraModel, unseen: BoolArray | None, scaler: Scaler | None = None,
    smoothing: TemporalOptions | None = None, on_host: bool = False,
) -> Answerer:  # fmt: skip
    """Return what answers this camera's frames; `unseen` (H, W) is where rectification left nothing, NaN in every answer.

    `scaler` makes metres of a prediction; without one it is in metres already. With `smoothing`, predictions are fused over
    time. A scale that comes from frames or is uncertain, smoothing, and `on_host`, with which frames of several cameras are one
    batch, leave nothing but inference to the engine's device.
    Raises EngineError if the engine's device cannot be prepared for this size of image.
    """
    host = HostAnswerer(estimator, camera, unseen, scaler, TemporalFilter(smoothing) if smoothing else None)
    scale = host.scaler.constant
    if on_host or smoothing or scale is None or scale.sigma > 0:
        return host
    runner = estimator.engine.open_frame_graph(camera.width, camera.height)
    return host if runner is None else DeviceAnswerer(runner, host, scale.factor)


def answer_together(requests: Sequence[Request]) -> list[Answer | InputError]:
    """Return the answer to each request, or why there is none.

    Frames of several cameras, all answered on the host, are one batch of the engine. An answer is valid until the next one of
    its answerer. Raises EngineError if the engine fails.
    """
    if len(requests) == 1 and not isinstance(requests[0].answerer, HostAnswerer):
        return [requests[0].answerer.answer(requests[0].frame, requests[0].wish)]
    assert all(isinstance(request.answerer, HostAnswerer) for request in requests), "opened without on_host"
    return _answer_on_host(cast(Sequence[tuple[HostAnswerer, Frame, Wish]], requests))


class HostAnswerer:
    """Resizes, masks, upsamples and builds clouds with NumPy and OpenCV."""

    def __init__(
        self, estimator: Estimator, camera: CameraModel, unseen: BoolArray | None, scaler: Scaler | None = None,
        smoothing: TemporalFilter | None = None,
    ) -> None:  # fmt: skip
        self.estimator, self.camera, self.unseen = estimator, camera, unseen
        self.scaler, self.smoothing = scaler or ConstantScale(), smoothing
        self._unseen_small: BoolArray | None = None
        if unseen is not None:
            size = estimator.bundle.width, estimator.bundle.height
            self._unseen_small = cv2.resize(unseen.view(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT).view(bool)
        self._builder: tuple[tuple[CameraModel, int], CloudBuilder] | None = None

    def answer(self, frame: Frame, wish: Wish) -> Answer:
        """See Answerer."""
        (answer,) = _answer_on_host([(self, frame, wish)])
        if isinstance(answer, InputError):
            raise answer
        return answer

    def resize(self, frame: Frame) -> Frame:
        """Return the frame at the network's resolution. Raises InputError for a frame of another camera."""
        check_camera(frame, self.camera)
        return self.estimator.resize(frame)

    def finish(self, frame: Frame, small: Frame, prediction: DepthPrediction, wish: Wish, inference_ms: float) -> Answer:
        """Return what is wished for of a frame, given the same at the network's resolution and the prediction there."""
        prediction = apply(
            prediction, self.scaler.constant or self.scaler.scale_for(small, prediction.without(self._unseen_small))
        )
        if self.smoothing is not None:
            prediction = self.smoothing.update(prediction, small.image, frame.stamp_ns)
        prediction, cloud = prediction.within(wish.min_depth, wish.max_depth), wish.cloud
        large = None
        if (wish.depth and not wish.small) or (cloud and cloud.full_resolution):
            large = upsample(prediction, frame.camera).without(self.unseen)
        prediction = prediction.without(self._unseen_small)
        points = None
        if cloud and cloud.full_resolution and large:
            points = self.points(large, frame.image, cloud)
        elif cloud:
            points = self.points(prediction, small.image, cloud)
        return Answer(prediction if wish.small else large, points, inference_ms, _invalid_share(prediction.depth))

    def close(self) -> None:
        """Nothing to release."""

    def points(self, prediction: DepthPrediction, image: UInt8Array, cloud: CloudOptions) -> NDArray[np.void]:
        """Return the cloud of a prediction with the RGB image (H, W, 3) at its resolution."""
        key = (prediction.camera, cloud.stride)
        if self._builder is None or self._builder[0] != key:
            # An edge of the network is one of its pixels wide, so as many pixels of an up-sampled prediction.
            span = max(1, round(prediction.camera.width / self.estimator.bundle.width))
            self._builder = (key, CloudBuilder(prediction.camera, cloud.stride, span))
        return thinned(self._builder[1].build(prediction, image, cloud.max_relative_sigma, cloud.max_edge_step), cloud)


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

    def answer(self, frame: Frame, wish: Wish) -> Answer:
        """See Answerer."""
        check_camera(frame, self._host.camera)
        cloud, full = wish.cloud, wish.depth or (wish.cloud is not None and wish.cloud.full_resolution)
        on_host = cloud is not None and cloud.full_resolution
        outputs = [*(("depth", "sigma") if full else ()), *(("points", "colors") if cloud and not on_host else ())]
        limits = self._limits_of(cloud or CloudOptions())
        start = time.perf_counter()
        values = self._runner.run({"image": frame.image[None], "limits": limits, **self._constant}, outputs)
        inference_ms = 1e3 * (time.perf_counter() - start)
        prediction = points = None
        if full:
            prediction = DepthPrediction(values["depth"][0], values["sigma"][0], frame.camera)
            prediction = prediction.within(wish.min_depth, wish.max_depth)
        if cloud and on_host and prediction:
            points = self._host.points(prediction, frame.image, cloud)
        elif cloud:
            seen = _within(values["points"][0], wish)
            points = thinned(pack_points(seen, values["colors"][0], cloud.stride), cloud)
        depth = prediction.depth if prediction else values["points"][0][..., 2]
        return Answer(prediction, points, inference_ms, _invalid_share(depth))

    def close(self) -> None:
        """See Answerer."""
        self._runner.close()

    def _limits_of(self, cloud: CloudOptions) -> NDArray[np.float32]:
        key = (cloud.max_relative_sigma, cloud.max_edge_step)
        if key not in self._limits:
            self._limits = {key: np.array(key, np.float32)}  # the same array as long as they stay: it is sent once
        return self._limits[key]


def thinned(points: NDArray[np.void], cloud: CloudOptions) -> NDArray[np.void]:
    """Return one point per voxel if the cloud has a voxel size, else the points as they are."""
    return voxel_grid(points, cloud.voxel_size) if cloud.voxel_size > 0 else points


def check_camera(frame: Frame, camera: CameraModel) -> None:
    """Raise InputError for a frame of another camera."""
    if frame.camera != camera:
        raise InputError(f"frame of {frame.camera}; expected one of {camera}, which the answers were prepared for")


def _answer_on_host(requests: Sequence[tuple[HostAnswerer, Frame, Wish]]) -> list[Answer | InputError]:
    if not requests:
        return []
    smalls = [host.resize(frame) for host, frame, _ in requests]  # once, for the network and for the colours of clouds
    start = time.perf_counter()
    predictions = requests[0][0].estimator.predict(smalls)
    inference_ms = 1e3 * (time.perf_counter() - start)
    answers: list[Answer | InputError] = []
    for (host, frame, wish), small, prediction in zip(requests, smalls, predictions, strict=True):
        try:
            answers.append(host.finish(frame, small, prediction, wish, inference_ms))
        except InputError as error:  # of one camera: the others have their answers
            answers.append(error)
    return answers


def _within(points: Float32Array, wish: Wish) -> Float32Array:
    """Return x, y, z, sigma (h, w, 4) with NaN for points whose z [m] is not asked for."""
    if wish.min_depth <= 0 and wish.max_depth == np.inf:
        return points
    seen = (points[..., 2] >= wish.min_depth) & (points[..., 2] < wish.max_depth)
    return np.where(seen[..., None], points, np.float32(np.nan))


def _invalid_share(depth: Float32Array) -> float:
    """Share of NaN, of every 4th row and column: a figure for diagnostics."""
    return float(np.isnan(depth[::4, ::4]).mean())
