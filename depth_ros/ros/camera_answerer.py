"""A camera's messages in, its rectified frames and the answers to them out: the same for the node and for recordings."""

from __future__ import annotations

from collections.abc import Callable

from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from depth_ros.answers import Answer, Answerer, Request, Wish, open_answerer
from depth_ros.estimator import Estimator
from depth_ros.images import Rectifier
from depth_ros.ros import messages
from depth_ros.ros.params import NodeParams
from depth_ros.scale import Scaler
from depth_ros.temporal import TemporalOptions
from depth_ros.types import CameraModel, Frame


class CameraAnswerer:
    """Prepares what one camera needs (rectification maps, buffers, a graph on a device) once, and again when the camera changes.

    `warn` takes one line about a camera that the model was not trained for; `scaler` makes metres where the bundle gives none.
    With `on_host`, the requests of several cameras can be answered together.
    """

    def __init__(
        self, estimator: Estimator, warn: Callable[[str], None], scaler: Scaler | None = None, on_host: bool = False
    ) -> None:
        self._estimator, self._scaler = estimator, scaler
        self._warn = warn
        self._on_host = on_host
        self._prepared_for: tuple[CameraModel, TemporalOptions | None] | None = None
        self._rectifier: Rectifier | None = None  # both made for that
        self._answerer: Answerer | None = None

    def frame(self, image: Image | CompressedImage, info: CameraInfo, params: NodeParams) -> Frame:
        """Return the rectified frame with the image's own stamp and frame_id.

        Raises InputError on a bad image or camera, and EngineError if the engine cannot be prepared for this size of image.
        """
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

    def request(self, frame: Frame, wish: Wish) -> Request:
        """Return what answers a wish about the last frame that frame() made."""
        assert self._answerer is not None
        return Request(self._answerer, frame, wish)

    def answer(self, frame: Frame, wish: Wish) -> Answer:
        """Return what is wished for of the last frame that frame() made. Raises as depth_ros.answers.Answerer.answer()."""
        return self.request(frame, wish).answerer.answer(frame, wish)

    def replace(self, estimator: Estimator, scaler: Scaler) -> None:
        """Answer with another model, and a scale of its own, from the next frame on."""
        self.close()
        self._estimator, self._scaler = estimator, scaler

    def close(self) -> None:
        """Release what was prepared for the camera; closing twice is allowed."""
        answerer, self._answerer, self._prepared_for = self._answerer, None, None
        if answerer is not None:
            answerer.close()

    def _prepare(self, camera: CameraModel, smoothing: TemporalOptions | None) -> None:
        self.close()
        rectifier = Rectifier(camera) if camera.distortion else None
        unseen = rectifier.unseen if rectifier else None
        self._answerer = open_answerer(self._estimator, camera.rectified(), unseen, self._scaler, smoothing, self._on_host)
        self._prepared_for, self._rectifier = (camera, smoothing), rectifier
