"""One camera's image messages in, the wanted messages out: the work of the node's worker thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rclpy.publisher import Publisher
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from depth_ros.answers import Answer, Request
from depth_ros.images import colorize
from depth_ros.ros import messages
from depth_ros.ros.camera_answerer import CameraAnswerer
from depth_ros.ros.params import NodeParams
from depth_ros.types import DepthPrediction, Frame

IMAGES: dict[str, Callable[[DepthPrediction, Header, NodeParams], Image | CompressedImage]] = {  # topic -> what is sent there
    "depth/image_rect": lambda found, header, params: messages.depth_image(found.depth, header, params.depth_encoding),
    "depth/image_rect/compressedDepth": lambda found, header, params: messages.compressed_depth(
        found.depth, header, params.depth_encoding
    ),
    "depth/uncertainty": lambda found, header, params: messages.depth_image(found.sigma, header, params.depth_encoding),
    "depth/image_color": lambda found, header, params: messages.color_image(
        colorize(found.depth, params.color_min_depth, params.color_max_depth), header
    ),
    "depth/relative": lambda found, header, params: messages.depth_image(found.inverse()[0], header),
    "depth/relative_uncertainty": lambda found, header, params: messages.depth_image(found.inverse()[1], header),
}


@dataclass(frozen=True)
class Job:
    """An image that somebody wants an answer to."""

    header: Header
    wanted: frozenset[str]  # topics
    frame: Frame
    params: NodeParams
    request: Request | None  # None: only its camera_info is wanted


class Pipeline:
    """Answers one camera's images with what has subscribers; nothing else is computed. `publishers` maps topic to publisher."""

    def __init__(self, answerer: CameraAnswerer, publishers: Mapping[str, Publisher]) -> None:
        self.answerer = answerer
        self._publishers = publishers

    def accept(self, image: Image | CompressedImage, info: CameraInfo, params: NodeParams) -> Job | None:
        """Return the job that an image is, None if nobody wants an answer. Raises as CameraAnswerer.frame()."""
        wanted = frozenset(topic for topic, item in self._publishers.items() if _is_wanted(topic, item, params))
        if not wanted:
            return None
        frame = self.answerer.frame(image, info, params)
        request = None
        if wanted != {"depth/camera_info"}:
            wish = params.wish(not wanted.isdisjoint(IMAGES), "points" in wanted)
            request = self.answerer.request(frame, wish)
        return Job(image.header, wanted, frame, params, request)

    def publish(self, job: Job, answer: Answer | None) -> None:
        """Publish what is wanted of a job, given the answer to its request."""
        if "depth/camera_info" in job.wanted:
            self._publishers["depth/camera_info"].publish(
                messages.camera_info(self.answerer.depth_camera(job.frame, job.params), job.header)
            )
        if answer is None:
            return
        for topic, image in IMAGES.items():
            if topic in job.wanted:
                assert answer.prediction is not None
                self._publishers[topic].publish(image(answer.prediction, job.header, job.params))
        if answer.points is not None:
            self._publishers["points"].publish(messages.point_cloud(answer.points, job.header))


def _is_wanted(topic: str, publisher: Publisher, params: NodeParams) -> bool:
    return topic not in params.withheld and publisher.get_subscription_count() > 0
