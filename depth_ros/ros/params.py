"""The node's parameters: names, defaults, ranges and descriptions exist once, here."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

from ament_index_python.packages import PackageNotFoundError, get_package_share_directory
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos_overriding_options import QoSOverridingOptions

from depth_ros.cloud import CloudOptions
from depth_ros.engines import AUTO, ENGINES, MEMORIES, PRECISIONS, EngineOptions, default_cache
from depth_ros.scale import SOURCES
from depth_ros.scale.poses import pose_from_text
from depth_ros.types import InputError

FIXED = "read only: set it at start, in the parameter file or with -p"


def _param(
    default: Any, description: str, low: float | None = None, high: float | None = None, fixed: bool = False
) -> Any:  # Any: a dataclass field stands where its value's type is declared
    return field(default=default, metadata={"description": description, "low": low, "high": high, "fixed": fixed})


@dataclass(frozen=True)
class ScaleParams:
    """Where metres come from: the parameters `scale.*` (docs/scale.md)."""

    source: str = _param("bundle", f"Where metres come from: {', '.join(SOURCES)}", fixed=True)
    factor: float = _param(1.0, "Metres per unit of the model's depth, for the source fixed", 1e-6, 1e6, fixed=True)
    factor_sigma: float = _param(0.0, "Relative standard deviation of factor", 0.0, 1.0, fixed=True)
    camera_height: float = _param(0.0, "Height [m] of the camera above the ground, for that source", 0.0, 1e3, fixed=True)
    camera_height_sigma: float = _param(0.02, "Standard deviation [m] of camera_height", 0.0, 1e3, fixed=True)
    camera_pitch: float = _param(0.0, "How far [rad] the camera looks down", -1.5, 1.5, fixed=True)
    sensor_pose: str = _param(
        "", "x y z roll pitch yaw [m, rad] of range sensor or robot from the camera (x forward, y left, z up); empty: /tf_static",
        fixed=True,
    )  # fmt: skip
    drift: float = _param(0.05, "How far the scale wanders in a second, relative", 0.0, 10.0, fixed=True)
    timeout_s: float = _param(10.0, "Seconds without a measurement after which images are refused", 0.1, 3600.0, fixed=True)
    tolerance_s: float = _param(0.2, "Seconds by which a range may be older or newer than its image", 0.0, 60.0, fixed=True)

    def __post_init__(self) -> None:
        if self.source not in SOURCES:
            raise InputError(f"scale.source is '{self.source}'; expected one of {', '.join(SOURCES)}")
        if self.source == "camera_height" and not self.camera_height > 0:
            raise InputError("scale.camera_height is 0; expected the height of the camera above the ground [m]")
        if self.sensor_pose:
            pose_from_text(self.sensor_pose)


@dataclass(frozen=True)
class NodeParams:
    """Parameters of mono_depth_node. A `fixed` one is read when the node starts and rejected afterwards."""

    model: str = _param("", "Folder of the model bundle; empty: the bundle that comes with the package", fixed=True)
    engine: str = _param(AUTO, f"Inference backend: {', '.join(ENGINES)}; {AUTO}: the first of them that works", fixed=True)
    threads: int = _param(0, "Threads of a CPU backend; 0: one less than there are cores", 0, 256, fixed=True)
    precision: str = _param(
        "", f"Of the backend: {', '.join(PRECISIONS)}; empty: fp16 with TensorRT, fp32 with the others", fixed=True
    )
    build_if_missing: bool = _param(False, "Build a TensorRT engine that is missing while configuring: minutes", fixed=True)
    engine_cache: str = _param("", "Folder of built engines; empty: ~/.cache/depth_ros", fixed=True)
    memory: str = _param(AUTO, f"What manages CUDA memory: {', '.join(MEMORIES)}", fixed=True)
    cuda_graph: bool = _param(True, "Replay a TensorRT inference as one CUDA graph", fixed=True)
    autostart: bool = _param(True, "Configure and activate at start; false: wait for lifecycle transitions", fixed=True)
    image_is_rectified: bool = _param(
        False, "The image is rectified already although its camera_info has distortion: use P, ignore D and R", fixed=True
    )
    max_relative_sigma: float = _param(0.35, "Cloud points with sigma / depth above this are NaN; 0: keep them", 0.0, 1e6)
    max_edge_step: float = _param(0.1, "Cloud points on a relative depth step above this are NaN; 0: keep them", 0.0, 1e6)
    cloud_full_resolution: bool = _param(False, "Cloud at the camera's resolution instead of the network's")
    cloud_stride: int = _param(1, "Every n-th row and column of the cloud", 1, 64)
    color_min_depth: float = _param(1.0, "Depth [m] of the warmest colour of depth/image_color", 0.01, 1e4)
    color_max_depth: float = _param(80.0, "Depth [m] of the coldest colour of depth/image_color", 0.01, 1e4)
    report_period_s: float = _param(5.0, "Seconds between lines on rate, latency and drops; 0: none", 0.0, 3600.0, fixed=True)
    scale: ScaleParams = field(default_factory=ScaleParams)

    def __post_init__(self) -> None:
        if not self.color_min_depth < self.color_max_depth:
            raise InputError(
                f"color_max_depth is {self.color_max_depth}; expected more than color_min_depth ({self.color_min_depth})"
            )

    def engine_options(self, progress: Callable[[str], None]) -> EngineOptions:
        """What of this concerns the engine; `progress` takes a line that says how far a build is. Raises EngineError."""
        return EngineOptions(
            threads=self.threads, precision=self.precision, build_if_missing=self.build_if_missing, memory=self.memory,
            cuda_graph=self.cuda_graph, progress=progress,
            cache=Path(self.engine_cache).expanduser() if self.engine_cache else default_cache(),
        )  # fmt: skip

    @property
    def cloud(self) -> CloudOptions:
        """What of this concerns the cloud."""
        return CloudOptions(self.cloud_full_resolution, self.cloud_stride, self.max_relative_sigma, self.max_edge_step)


def flattened(values: object, prefix: str = "") -> dict[str, Any]:
    """Return a parameter dataclass as ROS names: a nested one's fields have its name and a dot before theirs."""
    found: dict[str, Any] = {}
    for item in fields(values):  # type: ignore[arg-type]  # a dataclass
        value = getattr(values, item.name)
        found |= flattened(value, f"{prefix}{item.name}.") if is_dataclass(value) else {f"{prefix}{item.name}": value}
    return found


def _declared(kind: object, prefix: str = "") -> dict[str, Field[Any]]:
    found: dict[str, Field[Any]] = {}
    for item in fields(kind):  # type: ignore[arg-type]  # a dataclass
        nested = isinstance(item.default_factory, type)
        name = f"{prefix}{item.name}"
        found |= _declared(item.default_factory, f"{name}.") if nested else {name: item}
    return found


FIELDS = _declared(NodeParams)  # by ROS name
NAMES = tuple(FIELDS)


def declare(node: Node) -> NodeParams:
    """Declare every parameter on `node` and return the values given at start.

    Raises InputError on a name that does not exist, and rclpy's ParameterException on a wrong type or range.
    """
    accept_integers(node, {name: item.default for name, item in FIELDS.items()})
    for name, item in FIELDS.items():
        node.declare_parameter(name, item.default, _descriptor(item))
    _refuse_unknown(node)
    return read(node)


def accept_integers(node: Node, defaults: Mapping[str, object]) -> None:
    """Let a whole number given at start stand for a float: `rate:=10` is an error in ROS, and everybody types it."""
    overrides = node._parameter_overrides
    for name, default in defaults.items():
        given = overrides.get(name)
        if isinstance(default, float) and given is not None and given.type_ == Parameter.Type.INTEGER:
            overrides[name] = Parameter(name, Parameter.Type.DOUBLE, float(given.value))


def read(node: Node) -> NodeParams:
    """Return the current values."""
    return with_values(NodeParams(), {name: node.get_parameter(name).value for name in NAMES})


def with_values(params: NodeParams, values: Mapping[str, Any]) -> NodeParams:
    """Return the parameters with these values, by ROS name. Raises InputError where they contradict each other."""
    plain = {name: value for name, value in values.items() if "." not in name}
    scale = {name.removeprefix("scale."): value for name, value in values.items() if name.startswith("scale.")}
    return replace(params, scale=replace(params.scale, **scale), **plain)


@contextmanager
def qos_of(node: Node, topic: str) -> Iterator[QoSOverridingOptions]:
    """Give what makes a topic's QoS overridable; InputError naming the topic if it cannot be created with its overrides."""
    try:
        yield QoSOverridingOptions.with_default_policies()
    except Exception as error:  # rclpy has a class for every kind of mistake, and names no topic
        raise InputError(
            f"{node.resolve_topic_name(topic)} cannot be created: {error}; expected in its qos_overrides "
            "reliability: reliable or best_effort, history: keep_last or keep_all, depth: a whole number"
        ) from error


def default_model() -> Path:
    """Return the folder of the bundle that comes with the package: of this checkout, or else of the installed share."""
    checkout = Path(__file__).resolve().parents[2] / "models" / "default"
    if checkout.is_dir():
        return checkout
    try:
        return Path(get_package_share_directory("depth_ros")) / "models" / "default"
    except PackageNotFoundError:
        return checkout


def _descriptor(item: Field[Any]) -> ParameterDescriptor:
    assert item.default is not MISSING
    low, high, fixed = (item.metadata[key] for key in ("low", "high", "fixed"))
    descriptor = ParameterDescriptor(description=item.metadata["description"], read_only=fixed)
    if fixed:
        descriptor.additional_constraints = FIXED
    if low is not None:
        if isinstance(item.default, int):
            descriptor.integer_range = [IntegerRange(from_value=low, to_value=high, step=1)]
        else:
            descriptor.floating_point_range = [FloatingPointRange(from_value=low, to_value=high, step=0.0)]
    return descriptor


def _refuse_unknown(node: Node) -> None:
    """A mistyped threshold must not silently be the default: rclpy itself ignores names that are not declared."""
    for name in node._parameter_overrides:  # the only place that keeps them; the same in every distro since Foxy
        if not node.has_parameter(name) and not name.startswith("qos_overrides."):
            close = difflib.get_close_matches(name, NAMES, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            raise InputError(f"parameter '{name}' is unknown{hint} (known: {', '.join(NAMES)})")
