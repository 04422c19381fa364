"""The node's state on /diagnostics (REP 107): its process, its engine, why no faster one, how each camera's frames fare."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile

from depth_ros.engines import Choice
from depth_ros.ros.camera import Camera
from depth_ros.ros.declaration import qos_of
from depth_ros.ros.health import Figures, Meter

TOPIC = "/diagnostics"  # absolute: one topic for all robots' parts
PERIOD_S = 1.0


@dataclass(frozen=True)
class Status:
    """What one DiagnosticStatus says."""

    level: bytes
    message: str
    values: Mapping[str, object] = field(default_factory=dict)


NOT_CONFIGURED = Status(DiagnosticStatus.OK, "not configured")
NOT_ACTIVE = {part: Status(DiagnosticStatus.OK, "not active") for part in ("frames", "scale")}


class Diagnostics:
    """Publishes the statuses of `node` every second: "<node>: node", "<node>: engine", "<node>: frames" and "<node>: scale".

    Of several cameras each has the last two, as "<node>: <camera> frames". A second node of the same name is logged, too.
    """

    def __init__(self, node: Node) -> None:
        self._node = node
        self._name = node.get_fully_qualified_name().lstrip("/")
        self._model = ""
        self._namesake = ""  # what was last said of one
        self._engine = self._running = NOT_CONFIGURED
        self._frames: Callable[[], Mapping[str, Status]] = lambda: NOT_ACTIVE
        with qos_of(node, TOPIC) as overridable:
            self._publisher = node.create_publisher(
                DiagnosticArray, TOPIC, QoSProfile(depth=10), qos_overriding_options=overridable
            )
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # also while simulated time stands still
        node.create_timer(PERIOD_S, self._on_timer, clock=steady)

    def publish(self) -> None:
        """Publish the present state."""
        self._publish(self._frames())

    def _on_timer(self) -> None:
        namesake = _namesake(self._node)
        if namesake and not self._namesake:
            self._node.get_logger().warning(namesake)
        self._namesake = namesake
        self.publish()

    def _publish(self, frames: Mapping[str, Status]) -> None:
        message = DiagnosticArray()
        message.header.stamp = self._node.get_clock().now().to_msg()
        level = DiagnosticStatus.WARN if self._namesake else DiagnosticStatus.OK
        node = Status(level, self._namesake or "the only one of its name", {"memory [MB]": f"{memory_mb():.0f}"})
        for part, status in {"node": node, "engine": self._engine, **frames}.items():
            values = [KeyValue(key=key, value=str(value)) for key, value in status.values.items()]
            message.status.append(
                DiagnosticStatus(
                    level=status.level, name=f"{self._name}: {part}", message=status.message, hardware_id=self._model,
                    values=values,
                )
            )  # fmt: skip
        self._publisher.publish(message)

    def engine_loading(self, model: str, progress: str = "") -> None:
        """Say at once, since loading blocks the timer, that the model's engine is loaded or how far its build is."""
        self._model = model
        frames = self._frames()  # first, for answers until now are no sign that this is over
        self._engine = Status(DiagnosticStatus.WARN, progress or "loading", {"model": model})
        self._publish(frames)

    def engine_runs(self, choice: Choice) -> None:
        """Say which engine runs; a warning where a faster one is here but does not."""
        broken = [item.name for item in choice.passed_over if not item.expected]
        description = choice.engine.describe()
        values = {"engine": choice.name, "description": description, "model": self._model}
        values |= {f"not {item.name}": item.reason for item in choice.passed_over}
        if broken:
            self._running = Status(DiagnosticStatus.WARN, f"{description}; not {', '.join(broken)}, see values", values)
        else:
            self._running = Status(DiagnosticStatus.OK, description, values)
        self._engine = self._running
        self.publish()

    def engine_failed(self, reason: str) -> None:
        """Say why no engine runs; of a traceback, what it ends with."""
        self._engine = Status(DiagnosticStatus.ERROR, _last_line(reason), {"model": self._model})
        self.publish()

    def reload_failed(self, reason: str) -> None:
        """Say why the model could not be loaded again, until it is."""
        text = f"the model was not loaded again, the old one goes on: {_last_line(reason)}"
        self._engine = self._running = replace(self._running, level=DiagnosticStatus.WARN, message=text)
        self._model = str(self._running.values.get("model", self._model))
        self.publish()

    def engine_released(self) -> None:
        """Say that the node is not configured."""
        self._engine = NOT_CONFIGURED

    def watch(
        self, cameras: Iterable[Camera], dropped: Callable[[Camera], int], scale: Callable[[Camera], Status],
        paused: Callable[[], bool],
    ) -> None:  # fmt: skip
        """Report on these cameras' frames and their scale; `paused` says whether the node was told to answer none."""
        meters = {camera: Meter(camera.health) for camera in cameras}
        self._engine = self._running  # which a failed activation may have hidden

        def frames() -> Mapping[str, Status]:
            found = {}
            for camera, meter in meters.items():
                figures = meter.read(dropped(camera))
                if figures and figures.answered_hz:
                    self._engine = self._running  # what a new image size had to be built for is built
                values = _values(camera, figures, dropped(camera))
                name = f"{camera.name} " if camera.name else ""
                found[f"{name}frames"] = Status(*_judge(camera, figures, paused()), values)
                found[f"{name}scale"] = scale(camera)
            return found

        self._frames = frames

    def unwatch(self) -> None:
        """Say that the node is not active."""
        self._frames = lambda: NOT_ACTIVE


def _judge(camera: Camera, figures: Figures | None, paused: bool) -> tuple[bytes, str]:
    """Level of a camera, and the sentence that says what to do."""
    health, missing = camera.health, camera.missing()
    if paused:
        return DiagnosticStatus.OK, "paused: call the service ~/pause with false to go on"
    if figures and figures.refused:
        level = DiagnosticStatus.WARN if figures.answered_hz else DiagnosticStatus.ERROR
        return level, f"{figures.refused} images refused: {health.refusal}"
    if missing:
        stopped = health.received and camera.has_info  # so that it is the images that are missing
        return DiagnosticStatus.STALE if stopped else DiagnosticStatus.WARN, missing
    for problem in (*(f"{topic}: {text}" for topic, text in camera.incompatible.items()), health.wrong_time()):
        if problem:
            return DiagnosticStatus.WARN, problem
    if not any(camera.subscribers().values()):
        return DiagnosticStatus.OK, "nobody subscribes to an output, so nothing is computed"
    return DiagnosticStatus.OK, str(figures) if figures else "no image since the last report"


def _values(camera: Camera, figures: Figures | None, dropped: int) -> dict[str, object]:
    health = camera.health
    values: dict[str, object] = {"received": health.received, "answered": health.answered, "dropped": dropped}
    values["refused"] = health.refused
    if health.refusal:
        values["last refusal"] = health.refusal
    values["camera_info"] = "received" if camera.has_info else "none"
    values["last image [s ago]"] = f"{health.silent_s():.1f}" if health.received else "never"
    values["times that time jumped back"] = health.jumps
    for name in ("received", "answered"):
        values[f"{name} [Hz]"] = f"{getattr(figures, f'{name}_hz', 0.0):.1f}"
    if figures and figures.answered_hz:
        values["latency, median [ms]"] = f"{figures.latency_ms:.1f}"
        values["latency, p95 [ms]"] = f"{figures.latency_p95_ms:.1f}"
        values["latency, max [ms]"] = f"{figures.latency_max_ms:.1f}"
        values["inference, median [ms]"] = f"{figures.inference_ms:.1f}"
        values["pixels without depth [%]"] = f"{100 * health.invalid_share:.1f}"
    values |= {f"subscribers of {topic}": count for topic, count in camera.subscribers().items()}
    return values | {f"incompatible QoS on {topic}": text for topic, text in camera.incompatible.items()}


def _namesake(node: Node) -> str:
    """Say that another node has this one's name, and what to do; empty if none has."""
    name, namespace = node.get_name(), node.get_namespace()
    if node.get_node_names_and_namespaces().count((name, namespace)) < 2:
        return ""
    return (
        f"another node is named {node.get_fully_qualified_name()}, so both take its parameters, services, topics: stop one, or "
        "start it with another name or namespace (-r __node:=..., -r __ns:=/...); one that was killed is seen for another 20 s"
    )


def memory_mb() -> float:
    """Memory of this process that is in use now [MB]."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * resource.getpagesize() / 1e6


def _last_line(reason: str) -> str:
    return reason.strip().splitlines()[-1]
