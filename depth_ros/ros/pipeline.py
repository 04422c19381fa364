"""One image message in, the wanted messages out: the work of the node's worker thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import cv2
import numpy as np
from rclpy.publisher import Publisher
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Header

from depth_ros.cloud import CloudBuilder
from depth_ros.estimator import Estimator, upsample
from depth_ros.images import Rectifier, colorize
from depth_ros.ros import messages
from depth_ros.ros.params import NodeParams
from depth_ros.types import BoolArray, CameraModel, DepthPrediction, Frame, UInt8Array

FULL_RESOLUTION = {"depth/image_rect", "depth/uncertainty", "depth/image_color"}


class Pipeline:
    """Answers images with what has subscribers; nothing else is computed.

    `publishers` maps topic to publisher; `warn` takes one line.
    """

    def __init__(self, estimator: Estimator, publishers: Mapping[str, Publisher], warn: Callable[[str], None]) -> None:
        self._estimator = estimator
        self._publishers = publishers
        self._warn = warn
        self._camera: CameraModel | None = None  # the camera that _rectifier was made for
        self._rectifier: Rectifier | None = None
        self._unseen: BoolArray | None = None  # what the rectifier leaves black
        self._unseen_small: BoolArray | None = None  # the same at the network's resolution
        self._cloud: tuple[tuple[CameraModel, int], CloudBuilder] | None = None

    def answer(self, image: Image, info: CameraInfo, params: NodeParams) -> bool:
        """Publish the answers to `image`; return whether anybody wanted one. Raises InputError on a bad image or camera."""
        wanted = {topic for topic, publisher in self._publishers.items() if publisher.get_subscription_count() > 0}
        if not wanted:
            return False
        frame = self._frame(image, info, params)
        if "depth/camera_info" in wanted:
            self._publishers["depth/camera_info"].publish(messages.camera_info(frame.camera, image.header))
        if wanted != {"depth/camera_info"}:
            self._publish_depth(frame, image.header, wanted, params)
        return True

    def _frame(self, image: Image, info: CameraInfo, params: NodeParams) -> Frame:
        camera = messages.camera_model(info, params.image_is_rectified)
        raw = Frame(messages.image_array(image), camera, messages.stamp_ns(image.header), image.header.frame_id)
        if camera != self._camera:
            self._prepare(camera)
            warning = self._estimator.aspect_warning(camera.rectified())
            if warning:
                self._warn(warning)
        if self._rectifier is None:
            return raw
        return Frame(self._rectifier(raw.image), self._rectifier.camera, raw.stamp_ns, raw.frame_id)

    def _prepare(self, camera: CameraModel) -> None:
        self._camera, self._rectifier = camera, Rectifier(camera) if camera.distortion else None
        self._unseen = self._unseen_small = self._rectifier.unseen if self._rectifier else None
        if self._unseen is not None:
            size = self._estimator.bundle.width, self._estimator.bundle.height
            self._unseen_small = cv2.resize(self._unseen.view(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT).view(bool)

    def _publish_depth(self, frame: Frame, header: Header, wanted: set[str], params: NodeParams) -> None:
        small = self._estimator.resize(frame)  # once, for the network and for the cloud's colours
        prediction = self._estimator.predict([small])[0]
        full = prediction
        if wanted & FULL_RESOLUTION or params.cloud_full_resolution:
            full = upsample(prediction, frame.camera).without(self._unseen)
        prediction = prediction.without(self._unseen_small)
        answers: dict[str, Callable[[], Image | PointCloud2]] = {
            "depth/image_rect": lambda: messages.depth_image(full.depth, header),
            "depth/uncertainty": lambda: messages.depth_image(full.sigma, header),
            "depth/image_color": lambda: messages.color_image(
                colorize(full.depth, params.color_min_depth, params.color_max_depth), header
            ),
            "points": lambda: (
                self._points(full, frame.image, header, params)
                if params.cloud_full_resolution
                else self._points(prediction, small.image, header, params)
            ),
        }
        for topic, message in answers.items():
            if topic in wanted:
                self._publishers[topic].publish(message())

    def _points(self, prediction: DepthPrediction, image: UInt8Array, header: Header, params: NodeParams) -> PointCloud2:
        camera, stride = prediction.camera, params.cloud_stride
        if self._cloud is None or self._cloud[0] != (camera, stride):
            # An edge of the network is one of its pixels wide, so as many pixels of an up-sampled prediction.
            span = max(1, round(camera.width / self._estimator.bundle.width))
            self._cloud = ((camera, stride), CloudBuilder(camera, stride, span))
        points = self._cloud[1].build(prediction, image, params.max_relative_sigma, params.max_edge_step)
        return messages.point_cloud(points, header)
