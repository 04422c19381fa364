"""A camera's messages in, its rectified frames and the answers to them out: the same for the node and for recordings."""

from __future__ import annotations

from collections.abc import Callable

from sensor_msgs.msg import CameraInfo, Image

from depth_ros.answers import Answer, Answerer, open_answerer
from depth_ros.cloud import CloudOptions
from depth_ros.estimator import Estimator
from depth_ros.images import Rectifier
from depth_ros.ros import messages
from depth_ros.types import CameraModel, Frame


class CameraAnswerer:
    """Prepares what one camera needs (rectification maps, buffers, a graph on a device) once, and again when the camera changes.

    `warn` takes one line about a camera that the model was not trained for.
    """

    def __init__(self, estimator: Estimator, warn: Callable[[str], None]) -> None:
        self._estimator = estimator
        self._warn = warn
        self._camera: CameraModel | None = None  # the camera that _rectifier was made for
        self._rectifier: Rectifier | None = None
        self._answerer: Answerer | None = None  # the same camera's

    def frame(self, image: Image, info: CameraInfo, image_is_rectified: bool) -> Frame:
        """Return the rectified frame with the image's own stamp and frame_id.

        Raises InputError on a bad image or camera, and EngineError if the engine cannot be prepared for this size of image.
        """
        camera = messages.camera_model(info, image_is_rectified)
        raw = Frame(messages.image_array(image), camera, messages.stamp_ns(image.header), image.header.frame_id)
        if camera != self._camera:
            self._prepare(camera)
            warning = self._estimator.aspect_warning(camera.rectified())
            if warning:
                self._warn(warning)
        if self._rectifier is None:
            return raw
        return Frame(self._rectifier(raw.image), self._rectifier.camera, raw.stamp_ns, raw.frame_id)

    def answer(self, frame: Frame, full: bool, cloud: CloudOptions | None) -> Answer:
        """Return the prediction if `full` and the cloud if there are options for one, of the last frame that frame() made.

        Raises EngineError if the engine fails.
        """
        assert self._answerer is not None
        return self._answerer.answer(frame, full, cloud)

    def close(self) -> None:
        """Release what was prepared for the camera; closing twice is allowed."""
        answerer, self._answerer, self._camera = self._answerer, None, None
        if answerer is not None:
            answerer.close()

    def _prepare(self, camera: CameraModel) -> None:
        self.close()
        rectifier = Rectifier(camera) if camera.distortion else None
        unseen = rectifier.unseen if rectifier else None
        self._answerer = open_answerer(self._estimator, camera.rectified(), unseen)
        self._camera, self._rectifier = camera, rectifier
