"""One camera's image messages in, the wanted messages out: the work of the node's worker thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rclpy.publisher import Publisher
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from depth_ros.answers import Answer, Answerer, Request, open_answerer
from depth_ros.estimator import Estimator
from depth_ros.images import Rectifier, colorize
from depth_ros.ros import messages
from depth_ros.ros.params import NodeParams
from depth_ros.scale import Scaler
from depth_ros.temporal import TemporalOptions
from depth_ros.types import CameraModel, DepthPrediction, Frame

FULL_RESOLUTION = ("depth/image_rect", "depth/image_rect/compressedDepth", "depth/uncertainty", "depth/image_color")


@dataclass(frozen=True)
class Job:
    """An image that somebody wants an answer to."""

    header: Header
    wanted: frozenset[str]  # topics
    frame: Frame
    params: NodeParams
    request: Request | None  # None: only its camera_info is wanted


class Pipeline:
    """Answers one camera's images with what has subscribers; nothing else is computed.

    `publishers` maps topic to publisher; `warn` takes one line; `scaler` makes metres where the bundle gives none. With
    `on_host`, the jobs of several cameras can be inferred together.
    """

    def __init__(
        self, estimator: Estimator, publishers: Mapping[str, Publisher], warn: Callable[[str], None],
        scaler: Scaler | None = None, on_host: bool = False,
    ) -> None:  # fmt: skip
        self._estimator, self._scaler = estimator, scaler
        self._publishers = publishers
        self._warn = warn
        self._on_host = on_host
        self._prepared_for: tuple[CameraModel, TemporalOptions | None] | None = None
        self._rectifier: Rectifier | None = None  # both made for that
        self._answerer: Answerer | None = None

    def accept(self, image: Image | CompressedImage, info: CameraInfo, params: NodeParams) -> Job | None:
        """Return the job that an image is, None if nobody wants an answer.

        Raises InputError on a bad image or camera, and EngineError if the engine's device cannot be prepared for it.
        """
        wanted = frozenset(topic for topic, item in self._publishers.items() if _is_wanted(topic, item, params))
        if not wanted:
            return None
        frame = self._frame(image, info, params)
        request = None
        if wanted != {"depth/camera_info"}:
            assert self._answerer is not None
            request = Request(self._answerer, frame, params.wish(not wanted.isdisjoint(FULL_RESOLUTION), "points" in wanted))
        return Job(image.header, wanted, frame, params, request)

    def publish(self, job: Job, answer: Answer | None) -> None:
        """Publish what is wanted of a job, given the answer to its request."""
        if "depth/camera_info" in job.wanted:
            self._publishers["depth/camera_info"].publish(messages.camera_info(job.frame.camera, job.header))
        if answer is None:
            return
        for topic in FULL_RESOLUTION:
            if topic in job.wanted:
                assert answer.prediction is not None
                self._publishers[topic].publish(_image(topic, answer.prediction, job.header, job.params))
        if answer.points is not None:
            self._publishers["points"].publish(messages.point_cloud(answer.points, job.header))

    def replace(self, estimator: Estimator, scaler: Scaler) -> None:
        """Answer with another model, and a scale of its own, from the next image on."""
        self.close()
        self._estimator, self._scaler = estimator, scaler

    def close(self) -> None:
        """Release what was prepared for the camera; closing twice is allowed."""
        answerer, self._answerer, self._prepared_for = self._answerer, None, None
        if answerer is not None:
            answerer.close()

    def _frame(self, image: Image | CompressedImage, info: CameraInfo, params: NodeParams) -> Frame:
        camera = messages.camera_model(info, params.image_is_rectified)
        if isinstance(image, CompressedImage):
            pixels = messages.compressed_image_array(image, camera)
        else:
            pixels = messages.image_array(image)
        raw = Frame(pixels, camera, messages.stamp_ns(image.header), image.header.frame_id)
        if (camera, params.smoothing) != self._prepared_for:
            self._prepare(camera, params.smoothing)
            warning = self._estimator.aspect_warning(camera.rectified())
            if warning:
                self._warn(warning)
        if self._rectifier is None:
            return raw
        return Frame(self._rectifier(raw.image), self._rectifier.camera, raw.stamp_ns, raw.frame_id)

    def _prepare(self, camera: CameraModel, smoothing: TemporalOptions | None) -> None:
        self.close()
        rectifier = Rectifier(camera) if camera.distortion else None
        unseen = rectifier.unseen if rectifier else None
        self._answerer = open_answerer(self._estimator, camera.rectified(), unseen, self._scaler, smoothing, self._on_host)
        self._prepared_for, self._rectifier = (camera, smoothing), rectifier


def _is_wanted(topic: str, publisher: Publisher, params: NodeParams) -> bool:
    return topic not in params.withheld and publisher.get_subscription_count() > 0


def _image(topic: str, prediction: DepthPrediction, header: Header, params: NodeParams) -> Image | CompressedImage:
    if topic == "depth/image_rect":
        return messages.depth_image(prediction.depth, header, params.depth_encoding)
    if topic == "depth/image_rect/compressedDepth":
        return messages.compressed_depth(prediction.depth, header, params.depth_encoding)
    if topic == "depth/uncertainty":
        return messages.depth_image(prediction.sigma, header, params.depth_encoding)
    return messages.color_image(colorize(prediction.depth, params.color_min_depth, params.color_max_depth), header)
