"""One image message in, the wanted messages out: the work of the node's worker thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rclpy.publisher import Publisher
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from depth_ros.answers import Answerer, open_answerer
from depth_ros.estimator import Estimator
from depth_ros.images import Rectifier, colorize
from depth_ros.ros import messages
from depth_ros.ros.params import NodeParams
from depth_ros.scale import Scaler
from depth_ros.types import CameraModel, DepthPrediction, Frame

FULL_RESOLUTION = ("depth/image_rect", "depth/uncertainty", "depth/image_color")


class Pipeline:
    """Answers images with what has subscribers; nothing else is computed.

    `publishers` maps topic to publisher; `warn` takes one line; `scaler` makes metres where the bundle gives none.
    """

    def __init__(
        self, estimator: Estimator, publishers: Mapping[str, Publisher], warn: Callable[[str], None],
        scaler: Scaler | None = None,
    ) -> None:  # fmt: skip
        self._estimator, self._scaler = estimator, scaler
        self._publishers = publishers
        self._warn = warn
        self._camera: CameraModel | None = None  # the camera that _rectifier was made for
        self._rectifier: Rectifier | None = None
        self._answerer: Answerer | None = None  # the same camera's

    def answer(self, image: Image, info: CameraInfo, params: NodeParams) -> bool:
        """Publish the answers to `image`; return whether anybody wanted one.

        Raises InputError on a bad image or camera, or without a scale, and EngineError if the engine fails.
        """
        wanted = {topic for topic, publisher in self._publishers.items() if publisher.get_subscription_count() > 0}
        if not wanted:
            return False
        frame = self._frame(image, info, params)
        if "depth/camera_info" in wanted:
            self._publishers["depth/camera_info"].publish(messages.camera_info(frame.camera, image.header))
        if wanted != {"depth/camera_info"}:
            self._publish_depth(frame, image.header, wanted, params)
        return True

    def close(self) -> None:
        """Release what was prepared for the camera; closing twice is allowed."""
        answerer, self._answerer, self._camera = self._answerer, None, None
        if answerer is not None:
            answerer.close()

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
        self.close()
        rectifier = Rectifier(camera) if camera.distortion else None
        unseen = rectifier.unseen if rectifier else None
        self._answerer = open_answerer(self._estimator, camera.rectified(), unseen, self._scaler)
        self._camera, self._rectifier = camera, rectifier

    def _publish_depth(self, frame: Frame, header: Header, wanted: set[str], params: NodeParams) -> None:
        assert self._answerer is not None
        images = [topic for topic in FULL_RESOLUTION if topic in wanted]
        answer = self._answerer.answer(frame, bool(images), params.cloud if "points" in wanted else None)
        for topic in images:
            assert answer.prediction is not None
            self._publishers[topic].publish(_image(topic, answer.prediction, header, params))
        if answer.points is not None:
            self._publishers["points"].publish(messages.point_cloud(answer.points, header))


def _image(topic: str, prediction: DepthPrediction, header: Header, params: NodeParams) -> Image:
    if topic == "depth/image_rect":
        return messages.depth_image(prediction.depth, header)
    if topic == "depth/uncertainty":
        return messages.depth_image(prediction.sigma, header)
    return messages.color_image(colorize(prediction.depth, params.color_min_depth, params.color_max_depth), header)
