"""The node's state on /diagnostics (REP 107): which engine runs and why no faster one, and how the frames fare."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import QoSProfile

from depth_ros.engines import Choice
from depth_ros.ros.health import Figures, Health, Meter

TOPIC = "/diagnostics"  # absolute: one topic for all robots' parts
PERIOD_S = 1.0


@dataclass(frozen=True)
class Status:
    """What one DiagnosticStatus says."""

    level: bytes
    message: str
    values: Mapping[str, object] = field(default_factory=dict)


NOT_CONFIGURED = Status(DiagnosticStatus.OK, "not configured")
NOT_ACTIVE = Status(DiagnosticStatus.OK, "not active")


class Diagnostics:
    """Publishes three statuses of `node` every second: "<node>: engine", "<node>: frames" and "<node>: scale"."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._name = node.get_fully_qualified_name().lstrip("/")
        self._model = ""
        self._engine = self._running = NOT_CONFIGURED
        self._frames: Callable[[], Status] = lambda: NOT_ACTIVE
        self._scale: Callable[[], Status] = lambda: NOT_ACTIVE
        self._publisher = node.create_publisher(DiagnosticArray, TOPIC, QoSProfile(depth=10))
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # also while simulated time stands still
        node.create_timer(PERIOD_S, self.publish, clock=steady)

    def publish(self) -> None:
        """Publish the present state."""
        self._publish(self._frames())

    def _publish(self, frames: Status) -> None:
        message = DiagnosticArray()
        message.header.stamp = self._node.get_clock().now().to_msg()
        for part, status in (("engine", self._engine), ("frames", frames), ("scale", self._scale())):
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
        last_line = reason.strip().splitlines()[-1]
        self._engine = Status(DiagnosticStatus.ERROR, last_line, {"model": self._model})
        self.publish()

    def engine_released(self) -> None:
        """Say that the node is not configured."""
        self._engine = NOT_CONFIGURED

    def watch(
        self, health: Health, dropped: Callable[[], int], missing: Callable[[], str],
        scale: Callable[[], Status] = lambda: NOT_ACTIVE,
    ) -> None:  # fmt: skip
        """Report on these frames and their scale; `missing` says what the node lacks, empty if nothing."""
        meter = Meter(health)
        self._scale = scale
        self._engine = self._running  # which a failed activation may have hidden

        def frames() -> Status:
            figures = meter.read(dropped())
            if figures and figures.answered_hz:
                self._engine = self._running  # what a new image size had to be built for is built
            return _frames(health, figures, dropped(), missing())

        self._frames = frames

    def unwatch(self) -> None:
        """Say that the node is not active."""
        self._frames = self._scale = lambda: NOT_ACTIVE


def _frames(health: Health, figures: Figures | None, dropped: int, missing: str) -> Status:
    values: dict[str, object] = {"received": health.received, "answered": health.answered, "dropped": dropped}
    values["refused"] = health.refused
    if health.refusal:
        values["last refusal"] = health.refusal
    for name in ("received", "answered"):
        values[f"{name} [Hz]"] = f"{getattr(figures, f'{name}_hz', 0.0):.1f}"
    if figures and figures.answered_hz:
        values["latency, median [ms]"] = f"{figures.latency_ms:.1f}"
        values["latency, max [ms]"] = f"{figures.latency_max_ms:.1f}"
    if figures and figures.refused:
        level = DiagnosticStatus.WARN if figures.answered_hz else DiagnosticStatus.ERROR
        return Status(level, f"{figures.refused} images refused: {health.refusal}", values)
    if missing:
        return Status(DiagnosticStatus.WARN, missing, values)
    return Status(DiagnosticStatus.OK, str(figures) if figures else "no image since the last report", values)
