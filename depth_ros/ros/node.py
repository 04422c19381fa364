"""The node: images in; depth, its uncertainty and a point cloud out."""

from __future__ import annotations

import faulthandler
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import rclpy
from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.exceptions import ParameterException
from rclpy.executors import SingleThreadedExecutor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.logging import get_logger
from rclpy.parameter import Parameter
from rclpy.signals import SignalHandlerOptions
from std_srvs.srv import SetBool, Trigger

from depth_ros.bundle import BundleError
from depth_ros.engines import Choice, EngineError, one_line
from depth_ros.estimator import Estimator
from depth_ros.memory import keep_freed_memory
from depth_ros.ros.answering import STOP_TIMEOUT_S, Answering
from depth_ros.ros.camera import Camera
from depth_ros.ros.declaration import NAMES, declare, ros_arguments, warn_of_idle_qos, with_values
from depth_ros.ros.diagnostics import Diagnostics
from depth_ros.ros.loading import Reload, load_estimator, warm_up
from depth_ros.ros.parameter_files import warn_of_unread
from depth_ros.ros.wiring import refuse_clashes
from depth_ros.types import InputError

NODE_NAME = "mono_depth"

RCLError = rclpy_implementation.RCLError
SUCCESS, FAILURE = TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE


class MonoDepthNode(LifecycleNode):  # type: ignore[misc]  # rclpy has no types
    """Lifecycle: configure loads the model, activate warms it up and subscribes; each undoes itself."""

    def __init__(self, stop: threading.Event) -> None:
        """Declare the parameters; `stop` ends the build of an engine. Raises InputError, or rclpy's ParameterException."""
        super().__init__(NODE_NAME)
        self._stop_build = stop
        self.params = declare(self)  # replaced as a whole, so that the worker sees all of a change or nothing
        self.add_on_set_parameters_callback(self._check_parameters)
        self._engine_is_busy = False  # with an image that did not end in time
        self._estimator: Estimator | None = None
        self._cameras: list[Camera] = []
        self._answering: Answering | None = None  # while active
        self._diagnostics = Diagnostics(self)
        self.create_service(SetBool, "~/pause", self._pause)
        # In a group of its own, since a group waits for its callback to end, and images must not.
        self.create_service(Trigger, "~/reload", self._reload, callback_group=MutuallyExclusiveCallbackGroup())

        # rclpy lets an impossible transition end the process, its client without an answer
        self._service_change_state.callback = partial(self._change_state, self._service_change_state.callback)

    def close(self) -> None:
        """Stop the work and give everything back, in any state."""
        self._stop()
        self._release()

    def destroy_node(self) -> None:
        """Leave the graph. rclpy's alone lets the lifecycle hold on to DDS, whose threads then meet the end of the process."""
        super().destroy_node()
        self._state_machine.destroy_when_not_in_use()

    # ---- lifecycle

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load the model and advertise the outputs; FAILURE, with the reason in the log, if it cannot be used."""
        try:
            self._estimator, choice = load_estimator(self.params, self.get_logger(), self._diagnostics, self._stop_build)
            self._diagnostics.engine_runs(choice)
            for name in self.params.camera_names or ("",):
                self._cameras.append(Camera(self, name, lambda: self.params))
            refuse_clashes(topic for camera in self._cameras for topic in camera.topics())
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
        try:
            warm_up(self._estimator, len(self._cameras))
            self._answering = Answering(self, self._cameras, self._estimator, self._diagnostics, lambda: self.params)
        except (EngineError, InputError) as error:
            return self._fail(f"cannot activate: {error}")
        except Exception:  # rclpy would swallow this one too
            return self._fail(f"cannot activate: {traceback.format_exc()}")
        warn_of_idle_qos(self)
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

    def _stop(self) -> None:
        if self._answering is not None and not self._answering.close():
            self._engine_is_busy = True
        self._answering = None

    def _release(self) -> None:
        for camera in self._cameras:
            camera.close()
        self._cameras = []
        if self._estimator is not None and not self._engine_is_busy:  # closed under running work it could crash the process
            self._close_engine(self._estimator)
        self._estimator = None
        self._diagnostics.engine_released()
        self._engine_is_busy = False

    def _close_engine(self, estimator: Estimator) -> None:
        try:
            estimator.engine.close()
        except EngineError as error:  # a device that failed; what is left goes with the process
            self.get_logger().warning(f"the engine cannot be closed: {error}")

    # ---- services and parameters

    def _pause(self, request: SetBool.Request, response: SetBool.Response) -> SetBool.Response:
        """Answer no image, or answer them again; subscriptions and model stay."""
        if self._answering is None:
            response.success, response.message = False, "the node is not active: activate it first"
            return response
        self._answering.paused = bool(request.data)
        response.success, response.message = True, "paused" if request.data else "running"
        self.get_logger().info(f"{response.message}, says the service pause")
        return response

    async def _reload(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Load the model again, or the one that `model` names now; until it runs, the old one answers."""
        if self._estimator is None:
            response.success, response.message = False, "the node is not configured"
            return response
        reload = Reload(self.params, self.get_logger(), self._diagnostics, self._stop_build, len(self._cameras))
        await reload
        reason = self._replace(*reload.loaded) if reload.loaded else reload.reason
        if reason:
            self.get_logger().error(f"cannot reload: {reason}")
            self._diagnostics.reload_failed(reason)
        response.success, response.message = not reason, reason or f"model '{self._estimator.bundle.name}' runs"
        return response

    def _replace(self, estimator: Estimator, choice: Choice) -> str:
        """Answer with another model from the next image on; or say why not, and close it."""
        if self._estimator is None:
            reason = "the node was cleaned up meanwhile"
        elif self._answering is not None and not self._answering.replace(estimator):
            reason = f"the image in work takes more than {STOP_TIMEOUT_S:g} s"
        else:
            estimator, self._estimator, reason = self._estimator, estimator, ""
            self._diagnostics.engine_runs(choice)
        self._close_engine(estimator)
        return reason

    def _check_parameters(self, changes: list[Parameter]) -> SetParametersResult:
        """Take a change over as a whole or refuse it; rclpy has checked types, ranges and what is read only."""
        known = {item.name: item.value for item in changes if item.name in NAMES}
        try:
            self.params = with_values(self.params, known)
        except InputError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)


def main(args: Sequence[str] | None = None) -> int:
    """Run the node until SIGINT or SIGTERM; return the process's exit code."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):  # own handlers: a flag stops at one known place, an exception anywhere
        signal.signal(number, lambda *_: stop.set())
    keep_freed_memory()
    faulthandler.enable()  # a crash of native code says where
    try:
        with ros_arguments():
            rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
        return _run(stop, sys.argv if args is None else args)
    except (InputError, ParameterException, RCLError) as error:
        get_logger(NODE_NAME).fatal(one_line(error))
        return 1
    finally:
        rclpy.try_shutdown()


def _run(stop: threading.Event, arguments: Sequence[str]) -> int:
    node = MonoDepthNode(stop)
    warn_of_unread(node, arguments)
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
