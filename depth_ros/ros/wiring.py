"""Which topics of the graph meet this node's, and what is wrong with that."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations
from typing import NamedTuple

from rclpy.node import Node

from depth_ros.types import InputError

MOST_NAMED = 5  # topics in a sentence


class Topic(NamedTuple):
    """A topic of this node."""

    own: str  # its name before remapping
    name: str  # the full one
    kind: type
    is_input: bool


def refuse_clashes(topics: Iterable[Topic]) -> None:
    """Raise InputError where one name is of two types, which DDS refuses in other words, or the node would hear itself."""
    for one, other in combinations(topics, 2):
        if one.name == other.name and (one.kind, one.is_input) != (other.kind, other.is_input):
            uses = [f"{topic.own} ({ros_type(topic.kind)}, {'in' if topic.is_input else 'out'})" for topic in (one, other)]
            raise InputError(f"{one.name} is both {' and '.join(uses)}: remap one of them to another name")


def mistyped(node: Node, topic: str, kind: type) -> str:
    """Say, as what a topic does, which other types are published on it than `kind`; empty if none is."""
    senders = node.get_publishers_info_by_topic(topic)
    others = sorted({sender.topic_type for sender in senders} - {ros_type(kind)})
    return f"has {', '.join(others)}, not {ros_type(kind)}" if others else ""


def why_silent(node: Node, topic: str, kinds: tuple[type, ...], remedy: str) -> str:
    """Why nothing comes on a topic of the first of `kinds`; those of the others are what the user may have meant.

    `remedy` is what to do about another type or another topic.
    """
    wrong = mistyped(node, topic, kinds[0])
    if wrong:
        return f"it {wrong}: {remedy}"
    if node.get_publishers_info_by_topic(topic):
        return "it has a publisher that sends nothing: is the camera streaming?"
    found = _published(node, {ros_type(kind) for kind in kinds})
    if found:
        return f"nobody publishes there, but on {', '.join(found[:MOST_NAMED])}: {remedy}"
    return "nobody publishes there: is the camera running, and are image and camera_info remapped?"


def ros_type(kind: type) -> str:
    """A message class's name in ROS, as in sensor_msgs/msg/Image."""
    return f"{kind.__module__.partition('.')[0]}/msg/{kind.__name__}"


def _published(node: Node, types: set[str]) -> list[str]:
    """Topics of these types that other nodes publish, each with its type."""
    own = node.get_name(), node.get_namespace()
    return [
        f"{topic} ({found})"
        for topic, kinds in sorted(node.get_topic_names_and_types())
        if (found := ", ".join(sorted(types.intersection(kinds))))
        and any((sender.node_name, sender.node_namespace) != own for sender in node.get_publishers_info_by_topic(topic))
    ]
