"""What the scale is measured from: each source's own topics, and a measurement for a frame from what they heard.

In the node callbacks run in the executor's thread, `measure` in the worker's.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Any, Protocol

import numpy as np
from nav_msgs.msg import Odometry
from sensor_msgs.msg import Image, LaserScan, Range

from depth_ros.ros import messages, range_messages
from depth_ros.ros.endpoints import Undo
from depth_ros.ros.extrinsics import Extrinsics
from depth_ros.ros.params import ScaleParams
from depth_ros.ros.sensor_topics import ODOMETRY, SensorTopics
from depth_ros.scale import Measurement, NoMeasurement
from depth_ros.scale.ground import measure_height
from depth_ros.scale.odometry import OdometryMeter
from depth_ros.scale.poses import OPTICAL_T_BODY, PoseHistory
from depth_ros.scale.projection import Samples, cone_sample, image_samples, project
from depth_ros.scale.ranging import LEAST_SAMPLES, measure_ranges
from depth_ros.types import DepthPrediction, Float64Array, Frame, InputError

QUEUE = 10
ODOMETRY_QUEUE = 100  # half a second at 200 Hz: a gap in the poses is worse than their age
KEPT = 20  # messages of range sensors among which the one nearest to an image is chosen


class ScaleInput(Protocol):
    """One source of scale."""

    def measure(self, frame: Frame, prediction: DepthPrediction) -> Measurement:
        """Return what the newest data say on this prediction's scale. Raises NoMeasurement, or InputError on a bad message."""

    def close(self) -> None:
        """Unsubscribe."""


class HeightInput:
    """The ground in the image."""

    def __init__(self, params: ScaleParams) -> None:
        self._params = params

    def measure(self, frame: Frame, prediction: DepthPrediction) -> Measurement:
        """See ScaleInput."""
        return measure_height(prediction, self._params.camera_height, self._params.camera_pitch)

    def close(self) -> None:
        """Nothing to release."""


class RangeInput:
    """Any range sensor: of the four topics whichever is published. A Range says nothing on scale and shift, and is left out."""

    def __init__(self, topics: SensorTopics, params: ScaleParams, affine: bool, prefix: str) -> None:
        self._affine, self._tolerance_ns = affine, params.tolerance_s * 1e9
        self._lock = threading.Lock()
        self._heard: deque[tuple[int, Any]] = deque(maxlen=KEPT)
        self._too_few = False  # whether a Range was left out
        self._extrinsics = Extrinsics(topics, params.sensor_pose)
        self._topics = topics
        self._kinds = kinds = {f"{prefix}{topic}": kind for topic, kind in range_messages.KINDS.items()}
        self._undo: list[Undo] = []
        try:
            for topic, kind in kinds.items():
                self._undo.append(topics.listen(kind, topic, self._on_message, QUEUE))
        except InputError:
            self.close()
            raise

    def close(self) -> None:
        """See ScaleInput."""
        for undo in self._undo:
            undo()
        self._extrinsics.close()

    def _on_message(self, message: Any) -> None:
        if self._affine and isinstance(message, Range):
            self._too_few = True
            return
        with self._lock:
            self._heard.append((messages.stamp_ns(message.header), message))

    def measure(self, frame: Frame, prediction: DepthPrediction) -> Measurement:
        """See ScaleInput."""
        message = self._nearest(frame.stamp_ns)
        least = 1 if isinstance(message, Range) else LEAST_SAMPLES
        return measure_ranges(prediction, self._samples(message, frame.frame_id, prediction), self._affine, least)

    def _nearest(self, stamp_ns: int) -> Any:
        with self._lock:
            heard = list(self._heard)
        if self._too_few and not heard:
            raise NoMeasurement(
                "a Range (sonar, infrared) is one distance; scale and shift of an affine_invariant bundle need many: "
                f"publish a scan, cloud or depth image on one of {self._names(Range)}"
            )
        if not heard:
            names = self._names()
            wrong = "".join(self._topics.mistyped(topic, kind) for topic, kind in self._kinds.items())
            raise NoMeasurement(f"nothing heard on {names}: {wrong}remap the one of them that your sensor publishes")
        off_ns, message = min(((abs(stamp - stamp_ns), message) for stamp, message in heard), key=lambda item: item[0])
        if off_ns > self._tolerance_ns:
            raise NoMeasurement(
                f"no range within {self._tolerance_ns / 1e9:g} s of the image (the nearest is {off_ns / 1e9:.1f} s off): "
                "is the sensor running, and are the clocks in step? Else raise scale.tolerance_s"
            )
        return message

    def _names(self, left_out: type | None = None) -> str:
        """Full names of the topics, without that of a message class."""
        return ", ".join(self._topics.name(topic) for topic, kind in self._kinds.items() if kind is not left_out)

    def _samples(self, message: Any, camera_frame: str, prediction: DepthPrediction) -> Samples:
        camera = prediction.camera
        if isinstance(message, Image):
            return image_samples(range_messages.metres_of_image(message), camera)
        sensor = message.header.frame_id
        optical_T_sensor = self._extrinsics.optical_T(camera_frame, sensor)
        if optical_T_sensor is None:
            raise NoMeasurement(
                f"where '{sensor}' sits beside '{camera_frame}' is unknown: publish it on /tf_static, or set scale.sensor_pose"
            )
        if isinstance(message, Range):
            distance_m = range_messages.distance_of_range(message)
            if distance_m is None:
                raise NoMeasurement("the range sensor sees nothing in its range")
            return cone_sample(distance_m, message.field_of_view, optical_T_sensor, prediction)
        read = range_messages.points_of_scan if isinstance(message, LaserScan) else range_messages.points_of_cloud
        return project(read(message), optical_T_sensor, camera)


class OdometryInput:
    """The robot's odometry. Its frame's place beside the camera matters in turns only; unknown, it is the camera's body frame."""

    def __init__(self, topics: SensorTopics, params: ScaleParams, prefix: str) -> None:
        self._meter = OdometryMeter()
        self._lock, self._history, self._child = threading.Lock(), PoseHistory(), ""
        self._refused = ""
        self._extrinsics = Extrinsics(topics, params.sensor_pose)
        self._topics, self._own = topics, f"{prefix}{ODOMETRY}"
        self._topic = topics.name(self._own)
        self._undo = topics.listen(Odometry, self._own, self._on_odometry, ODOMETRY_QUEUE)

    def close(self) -> None:
        """See ScaleInput."""
        self._undo()
        self._extrinsics.close()

    def _on_odometry(self, message: Odometry) -> None:
        position, turn = message.pose.pose.position, message.pose.pose.orientation
        with self._lock:
            self._child = message.child_frame_id
            try:
                self._history.add(
                    messages.stamp_ns(message.header), [position.x, position.y, position.z], [turn.x, turn.y, turn.z, turn.w]
                )
                self._refused = ""
            except InputError as error:
                self._refused = str(error)

    def measure(self, frame: Frame, prediction: DepthPrediction) -> Measurement:
        """See ScaleInput."""
        with self._lock:
            world_T_base, child = self._history.at(frame.stamp_ns), self._child
            newest_ns, refused = self._history.newest_ns(), self._refused
        if refused:
            raise InputError(f"{self._topic}: {refused}")
        if world_T_base is None:
            if newest_ns is None:
                wrong = self._topics.mistyped(self._own, Odometry)
                raise NoMeasurement(f"nothing heard on {self._topic}: {wrong}remap odom to your robot's odometry")
            off = (frame.stamp_ns - newest_ns) / 1e9
            raise NoMeasurement(
                f"{self._topic} does not cover the image's stamp (its newest pose is {off:+.2f} s off): "
                "is it published at 10 Hz or more, and are the clocks in step?"
            )
        return self._meter.measure(frame, prediction, world_T_base @ np.linalg.inv(self._pose_of_base(frame.frame_id, child)))

    def _pose_of_base(self, camera: str, child: str) -> Float64Array:
        known = self._extrinsics.optical_T(camera, child)
        return OPTICAL_T_BODY if known is None else known


def open_input(topics: SensorTopics | None, params: ScaleParams, kind: str, prefix: str) -> ScaleInput:
    """Return the input of a source that measures; `kind` is the bundle's. Raises as SensorTopics.listen()."""
    if params.source == "camera_height":
        return HeightInput(params)
    assert topics is not None, f"scale.source {params.source} listens to a sensor"
    if params.source == "odometry":
        return OdometryInput(topics, params, prefix)
    return RangeInput(topics, params, kind == "affine_invariant", prefix)
