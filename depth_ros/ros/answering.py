"""What an active node does: images from its cameras to the worker, through the engine, and back as answers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode
from sensor_msgs.msg import CameraInfo

from depth_ros.answers import answer_together
from depth_ros.engines import EngineError
from depth_ros.estimator import Estimator
from depth_ros.ros.camera import Camera, ImageMessage
from depth_ros.ros.camera_answerer import CameraAnswerer
from depth_ros.ros.diagnostics import Diagnostics
from depth_ros.ros.health import Meter
from depth_ros.ros.params import NodeParams
from depth_ros.ros.pipeline import Job, Pipeline
from depth_ros.ros.scaling import Scaling
from depth_ros.ros.sensor_topics import NodeTopics
from depth_ros.types import InputError
from depth_ros.worker import LatestWorker

STOP_TIMEOUT_S = 5.0  # for the frame in work, before the thread is left behind
Item = tuple[ImageMessage, CameraInfo]


class Answering:
    """Subscribes to the cameras and answers their images until closed. Raises InputError on a QoS override.

    Images of several cameras that come within batch_window_ms are inferred together. `values` gives the present parameters.
    """

    def __init__(
        self, node: LifecycleNode, cameras: Sequence[Camera], estimator: Estimator, diagnostics: Diagnostics,
        values: Callable[[], NodeParams],
    ) -> None:  # fmt: skip
        self.paused = False
        self._node, self._values = node, values
        self._silent: set[Camera] = set()  # as far as it is logged
        self._engine_in_use = threading.Lock()  # by the worker, or by whoever replaces it
        self._scalings: dict[Camera, Scaling] = {}
        self._pipelines: dict[Camera, Pipeline] = {}
        several, warn = len(cameras) > 1, node.get_logger().warning
        window_s = values().batch_window_ms / 1e3 if several else 0.0
        self._worker: LatestWorker[Camera, Item] = LatestWorker(self._work, self._refuse, window_s)
        self._undo: list[Callable[[], object]] = [diagnostics.unwatch]
        try:
            self._open_scalings(cameras, estimator)
            for camera in cameras:
                answerer = CameraAnswerer(estimator, warn, self._scalings[camera], on_host=several)
                self._pipelines[camera] = Pipeline(answerer, camera.publishers)
                self._undo.insert(0, camera.unsubscribe)
                camera.subscribe(self._hand_over)
        except Exception:  # whatever it is: no thread and no subscription is left behind
            self.close()
            raise
        diagnostics.watch(cameras, self._worker.dropped, lambda camera: self._scalings[camera].status(), lambda: self.paused)
        self._start_reports()
        topics = ", ".join(name for camera in cameras for name in camera.input_topics)
        node.get_logger().info(f"waiting for images on {topics}")

    def replace(self, estimator: Estimator) -> bool:
        """Answer with another model from the next image on; False, and no change, while an image takes too long."""
        if not self._engine_in_use.acquire(timeout=STOP_TIMEOUT_S):
            return False
        try:
            self._close_scalings()
            self._open_scalings(self._pipelines, estimator)  # what was measured was the old model's scale
            for camera, pipeline in self._pipelines.items():
                pipeline.answerer.replace(estimator, self._scalings[camera])
        finally:
            self._engine_in_use.release()
        return True

    def close(self) -> bool:
        """Unsubscribe and let the image in work end; False if it does not in time, and may still use the engine."""
        for undo in self._undo:
            undo()
        self._close_scalings()
        if not self._worker.close(STOP_TIMEOUT_S):
            self._node.get_logger().warning(f"the image in work takes more than {STOP_TIMEOUT_S:g} s; its engine is left open")
            return False
        for pipeline in self._pipelines.values():
            pipeline.answerer.close()
        return True

    def _open_scalings(self, cameras: Iterable[Camera], estimator: Estimator) -> None:
        for camera in cameras:
            self._scalings[camera] = Scaling(NodeTopics(self._node), self._values().scale, estimator.bundle.kind, camera.prefix)

    def _close_scalings(self) -> None:
        for scaling in self._scalings.values():
            scaling.close()

    def _start_reports(self) -> None:
        period_s = self._values().report_period_s
        if period_s > 0:
            steady = Clock(clock_type=ClockType.STEADY_TIME)  # also while simulated time stands still
            meters = {camera: Meter(camera.health) for camera in self._pipelines}
            timer = self._node.create_timer(period_s, partial(self._report, meters), clock=steady)
            self._undo.insert(0, partial(self._node.destroy_timer, timer))

    def _hand_over(self, camera: Camera, item: Item) -> None:
        if not self.paused:
            self._worker.put(camera, item)

    def _work(self, items: Mapping[Camera, Item]) -> None:
        with self._engine_in_use:
            jobs = {camera: job for camera, item in items.items() if (job := self._accept(camera, item))}
            requests = {camera: job.request for camera, job in jobs.items() if job.request}
            try:
                answers = dict(zip(requests, answer_together(list(requests.values())), strict=True))
            except EngineError as error:
                return self._refuse(requests, error)
            for camera, job in jobs.items():
                answer = answers.get(camera)
                if isinstance(answer, InputError):
                    camera.refuse(answer)
                else:
                    self._pipelines[camera].publish(job, answer)
                    camera.health.frame_answered(self._node.get_clock().now().nanoseconds - job.frame.stamp_ns, answer)

    def _accept(self, camera: Camera, item: Item) -> Job | None:
        """The job that an image is; None, and a count, for one that cannot be used: those of other cameras can."""
        try:
            return self._pipelines[camera].accept(*item, self._values())
        except Exception as error:  # also a fault of ours must not cost the other cameras their answers; it is logged in full
            camera.refuse(error)
            return None

    def _refuse(self, items: Iterable[Camera], error: Exception) -> None:
        for camera in items:
            camera.refuse(error)

    def _report(self, meters: Mapping[Camera, Meter]) -> None:
        for camera, meter in meters.items():
            said = f"{camera.name}: " if camera.name else ""
            if not camera.is_silent():
                self._silent.discard(camera)
            elif camera not in self._silent:
                self._silent.add(camera)
                self._node.get_logger().warning(f"{said}{camera.silence()}")
            figures = meter.read(self._worker.dropped(camera))
            if figures:
                self._node.get_logger().info(f"{said}{figures}")
                if wrong := camera.health.wrong_time():
                    self._node.get_logger().warning(f"{said}{wrong}")
