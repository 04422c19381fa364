"""The node's parameters as ROS has them: declared, read and changed by name, with ranges and descriptions."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, Field, fields, replace
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos_overriding_options import QoSOverridingOptions

from depth_ros.ros.params import NodeParams
from depth_ros.types import InputError

QOS = "qos_overrides."
FIXED = "read only: set it at start, in the parameter file or with -p"


def _declared(kind: object, prefix: str = "") -> dict[str, Field[Any]]:
    found: dict[str, Field[Any]] = {}
    for item in fields(kind):  # type: ignore[arg-type]  # a dataclass
        nested = isinstance(item.default_factory, type)
        name = f"{prefix}{item.name}"
        found |= _declared(item.default_factory, f"{name}.") if nested else {name: item}
    return found


def _as_ros(value: Any) -> Any:
    """A default as ROS has it, where an empty list has no type."""
    return (list(value) or [""]) if isinstance(value, tuple) else value


FIELDS = _declared(NodeParams)  # by ROS name
NAMES = tuple(FIELDS)
DEFAULTS = {name: _as_ros(item.default) for name, item in FIELDS.items()}


def declare(node: Node) -> NodeParams:
    """Declare every parameter on `node` and return the values given at start.

    Raises InputError on a name that does not exist, and rclpy's ParameterException on a wrong type or range.
    """
    accept_everyday(node, DEFAULTS)
    for name, item in FIELDS.items():
        node.declare_parameter(name, DEFAULTS[name], _descriptor(item))
    refuse_unknown(node, NAMES)
    return read(node)


def accept_everyday(node: Node, defaults: Mapping[str, object]) -> None:
    """Take what everybody types at start, and ROS refuses, for what is meant: `rate:=10` for 10.0, `[]` for a list's default."""
    overrides = node._parameter_overrides
    for name, default in defaults.items():
        given = overrides.get(name)
        if isinstance(default, float) and given is not None and given.type_ == Parameter.Type.INTEGER:
            overrides[name] = Parameter(name, Parameter.Type.DOUBLE, float(given.value))
        if isinstance(default, list) and given is not None and given.type_ == Parameter.Type.NOT_SET:
            del overrides[name]


def read(node: Node) -> NodeParams:
    """Return the current values."""
    return with_values(NodeParams(), {name: node.get_parameter(name).value for name in NAMES})


def with_values(params: NodeParams, values: Mapping[str, Any]) -> NodeParams:
    """Return the parameters with these values, by ROS name. Raises InputError where they contradict each other."""
    values = {name: tuple(filter(None, value)) if isinstance(value, list) else value for name, value in values.items()}
    plain = {name: value for name, value in values.items() if "." not in name}
    scale = {name.removeprefix("scale."): value for name, value in values.items() if name.startswith("scale.")}
    return replace(params, scale=replace(params.scale, **scale), **plain)


@contextmanager
def ros_arguments() -> Iterator[None]:
    """Around what reads a command line: InputError, and no bare list, on what stands behind --ros-args and is none of ROS's."""
    try:
        yield
    except rclpy_implementation.UnknownROSArgsError as error:
        raise InputError(
            f"{error} behind --ros-args: expected -r name:=name, -p name:=value or --params-file FILE there; does a value with "
            "a space lack its quotes?"
        ) from error


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


def warn_of_idle_qos(node: Node) -> None:
    """Log each of the qos_overrides given at start that none of the node's topics, which are there by now, has taken."""
    taken = [f"{QOS}{name}" for name in node.get_parameters_by_prefix(QOS.rstrip("."))]
    for name in node._parameter_overrides:
        if name.startswith(QOS) and not node.has_parameter(name):
            node.get_logger().warning(
                f"parameter '{name}' has no effect{_hint(name, taken)}; expected {QOS}<full name, as remapped>.<publisher or "
                "subscription>.<history, depth or reliability> of a topic that this node has now"
            )


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


def refuse_unknown(node: Node, names: Sequence[str]) -> None:
    """A mistyped threshold must not silently be the default: rclpy itself ignores names that are not declared.

    Raises InputError with that of the known `names` that comes nearest.
    """
    for name in node._parameter_overrides:  # the only place that keeps them; the same in every distro since Foxy
        if not node.has_parameter(name) and not name.startswith(QOS):
            raise InputError(f"parameter '{name}' is unknown{_hint(name, names)} (known: {', '.join(names)})")


def _hint(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean '{close[0]}'?" if close else ""
