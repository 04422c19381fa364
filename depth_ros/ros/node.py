"""The node: images in; depth, its uncertainty and a point cloud out."""

from __future__ import annotations

import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import rclpy
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.exceptions import ParameterException
from rclpy.executors import SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, LifecyclePublisher, LifecycleState, TransitionCallbackReturn
from rclpy.logging import get_logger
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import CameraInfo, Image, PointCloud2

from depth_ros.bundle import BundleError
from depth_ros.engines import EngineError, one_line
from depth_ros.estimator import Estimator
from depth_ros.memory import keep_freed_memory
from depth_ros.ros import messages, params
from depth_ros.ros.diagnostics import Diagnostics
from depth_ros.ros.health import Health, Meter
from depth_ros.ros.loading import load_estimator
from depth_ros.ros.pipeline import Pipeline
from depth_ros.ros.scaling import Scaling
from depth_ros.types import InputError
from depth_ros.worker import LatestWorker

NODE_NAME = "mono_depth"
OUTPUTS = {
    "depth/image_rect": Image,
    "depth/camera_info": CameraInfo,
    "depth/uncertainty": Image,
    "depth/image_color": Image,
    "points": PointCloud2,
}
QUEUE = 5  # images and answers kept by the middleware; an image waits microseconds there, the newest one wins in the worker
SILENT_S = 5.0  # without an image, before it is reported
STOP_TIMEOUT_S = 5.0  # for the frame in work, before the thread is left behind

RCLError = rclpy_implementation.RCLError
SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


class MonoDepthNode(LifecycleNode):  # type: ignore[misc]  # rclpy has no types
    """Lifecycle: configure loads the model, activate warms it up and subscribes; each undoes itself."""

    def __init__(self, stop: threading.Event) -> None:
        """Declare the parameters; `stop` ends the build of an engine. Raises InputError, or rclpy's ParameterException."""
        super().__init__(NODE_NAME)
        self._stop_build = stop
        self.params = params.declare(self)
        self.add_on_set_parameters_callback(self._check_parameters)
        self._engine_is_busy = False  # with an image that did not end in time
        self._estimator: Estimator | None = None
        self._publishers_by_topic: dict[str, LifecyclePublisher] = {}
        self._undo_activate: list[Callable[[], object]] = []
        self._info: CameraInfo | None = None
        self._diagnostics = Diagnostics(self)

        # rclpy lets an impossible transition end the process, its client without an answer
        self._service_change_state.callback = partial(self._change_state, self._service_change_state.callback)

    def close(self) -> None:
        """Stop the work and give everything back, in any state."""
        self._stop()
        self._release()

    # ---- lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model and advertise the outputs; FAILURE, with the reason in the log, if it cannot be used."""
        try:
            self._estimator = load_estimator(self.params, self.get_logger(), self._diagnostics, self._stop_build)
            self._advertise()
        except (BundleError, EngineError, InputError) as error:
            reason = str(error)
        except Exception:  # rclpy would swallow it and say nothing
            reason = traceback.format_exc()
        else:
            return SUCCESS
        self._release()
        return self._fail(f"cannot configure: {reason}")

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Warm the model up, then subscribe."""
        assert self._estimator is not None
        if self._engine_is_busy:
            return self._fail("cannot activate: the engine still works on an image of before; clean up and configure again")
        size = (1, self._estimator.bundle.height, self._estimator.bundle.width, 3)
        try:
            self._estimator.engine.infer(np.zeros(size, np.uint8))
        except Exception as error:  # whatever the backend raises, its model does not run here
            return self._fail(f"cannot activate: the model does not run: {error}")
        try:
            self._start()
        except InputError as error:
            self._stop()
            return self._fail(f"cannot activate: {error}")
        return super().on_activate(state)  # the publishers

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe and let the frame in work end."""
        self._stop()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Give the model and the outputs back."""
        self._release()
        return SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """As deactivate and cleanup, from any state."""
        self.close()
        return SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """After an unexpected error in a transition: back to unconfigured."""
        self.close()
        return SUCCESS

    def _change_state(self, change: Callable[[Any, Any], Any], request: Any, response: Any) -> Any:
        try:
            return change(request, response)
        except RCLError as error:
            self.get_logger().error(f"transition refused: {one_line(error)}")
            response.success = False
            return response

    def _fail(self, reason: str) -> TransitionCallbackReturn:
        self.get_logger().error(reason)
        self._diagnostics.engine_failed(reason)
        return FAILURE

    def _advertise(self) -> None:
        for topic, kind in OUTPUTS.items():
            with params.qos_of(self, topic) as overridable:
                self._publishers_by_topic[topic] = self.create_lifecycle_publisher(
                    kind, topic, QoSProfile(depth=QUEUE), qos_overriding_options=overridable
                )

    def _start(self) -> None:
        assert self._estimator is not None
        self._info = None
        self._health = Health()
        scaling = Scaling(self, self.params.scale, self._estimator.bundle.kind)
        self._pipeline = Pipeline(self._estimator, self._publishers_by_topic, self.get_logger().warning, scaling)
        self._worker: LatestWorker[tuple[Image, CameraInfo]] = LatestWorker(self._work, self._refuse)
        self._diagnostics.watch(self._health, lambda: self._worker.dropped, self._missing, scaling.status)
        self._undo_activate = [self._end_work, self._diagnostics.unwatch, scaling.close]
        best_effort = {"reliability": ReliabilityPolicy.BEST_EFFORT}  # matches every camera driver, reliable or not
        for kind, topic, callback in ((CameraInfo, "camera_info", self._on_camera_info), (Image, "image", self._on_image)):
            with params.qos_of(self, topic) as overridable:
                subscription = self.create_subscription(
                    kind, topic, callback, QoSProfile(depth=QUEUE, **best_effort), qos_overriding_options=overridable
                )
            self._undo_activate.insert(0, partial(self.destroy_subscription, subscription))
        if self.params.report_period_s > 0:
            steady = Clock(clock_type=ClockType.STEADY_TIME)  # also while simulated time stands still
            report = partial(self._report, Meter(self._health))
            timer = self.create_timer(self.params.report_period_s, report, clock=steady)
            self._undo_activate.insert(0, partial(self.destroy_timer, timer))
        topics = ", ".join(self.resolve_topic_name(name) for name in ("image", "camera_info"))
        self.get_logger().info(f"waiting for images on {topics}")

    def _stop(self) -> None:
        for undo in self._undo_activate:
            undo()
        self._undo_activate = []

    def _end_work(self) -> None:
        if not self._worker.close(STOP_TIMEOUT_S):
            self.get_logger().warning(f"the image in work takes more than {STOP_TIMEOUT_S:g} s; its engine is left open")
            self._engine_is_busy = True
            return
        self._pipeline.close()

    def _release(self) -> None:
        for publisher in self._publishers_by_topic.values():
            self.destroy_lifecycle_publisher(publisher)
        self._publishers_by_topic = {}
        if self._estimator is not None and not self._engine_is_busy:  # closed under running work it could crash the process
            try:
                self._estimator.engine.close()
            except EngineError as error:  # a device that failed; what is left goes with the process
                self.get_logger().warning(f"the engine cannot be closed: {error}")
        self._estimator = None
        self._diagnostics.engine_released()
        self._engine_is_busy = False

    # ---- frames

    def _on_camera_info(self, info: CameraInfo) -> None:
        self._info = info

    def _on_image(self, image: Image) -> None:
        self._health.image_received()
        if self._info is None:
            self.get_logger().warning(self._missing(), throttle_duration_sec=1.0)
            return
        self._worker.put((image, self._info))

    def _work(self, item: tuple[Image, CameraInfo]) -> None:
        image, info = item
        if self._pipeline.answer(image, info, params.read(self)):
            self._health.frame_answered(self.get_clock().now().nanoseconds - messages.stamp_ns(image.header))

    def _refuse(self, item: tuple[Image, CameraInfo], error: Exception) -> None:
        known = isinstance(error, InputError | EngineError)
        reason = str(error) if known else "".join(traceback.format_exception(error))
        self._health.frame_refused(reason)
        self.get_logger().error(f"image refused ({self._health.refused} so far): {reason}", throttle_duration_sec=1.0)

    def _missing(self) -> str:
        """Say which input does not arrive; empty if both do."""
        if self._health.silent_s() > SILENT_S:
            what = "no image" if self._health.received else "no image yet"
            topic = self.resolve_topic_name("image")
            return f"{what} on {topic} for {self._health.silent_s():.0f} s: is the camera running, and image remapped?"
        if self._info is None:
            topic = self.resolve_topic_name("camera_info")
            return f"no camera_info on {topic} yet, so no depth: publish one, or remap camera_info"
        return ""

    def _report(self, meter: Meter) -> None:
        if not self._health.received:
            topic = self.resolve_topic_name("image")
            self.get_logger().warning(f"no image on {topic} yet: is the camera running, and image remapped?", once=True)
        figures = meter.read(self._worker.dropped)
        if figures:
            self.get_logger().info(str(figures))

    def _check_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        known = {item.name: item.value for item in changes if item.name in params.NAMES}
        try:
            params.with_values(params.read(self), known)
        except InputError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; return the process's exit code."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):  # own handlers: a flag stops at one known place, an exception anywhere
        signal.signal(number, lambda *_: stop.set())
    keep_freed_memory()
    try:
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
        return _run(stop)
    except (InputError, ParameterException, RCLError) as error:
        get_logger(NODE_NAME).fatal(one_line(error))
        return 1
    finally:
        rclpy.try_shutdown()


def _run(stop: threading.Event) -> int:
    node = MonoDepthNode(stop)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    try:
        for transition in (node.trigger_configure, node.trigger_activate) if node.params.autostart else ():
            if not stop.is_set() and transition() != SUCCESS:
                return 1
        while not stop.is_set():  # spin() can hang at shutdown
            executor.spin_once(timeout_sec=0.2)
        return 0
    finally:
        node.close()
        executor.shutdown()
        node.destroy_node()


if __name__ == "__main__":
    sys.exit(main())
