"""Parameter files that say nothing to a node: ROS passes over them without a word."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from rclpy.node import Node

OWN = "ros__parameters"
WILDCARDS = {"*": "/[^/]+", "**": "(/[^/]+)*"}  # of a node's name, as rcl reads them


def unread(node: Node, arguments: Sequence[str]) -> list[str]:
    """Say of each --params-file among `arguments`, which rcl has parsed, that it is for other nodes, and for which."""
    name = node.get_fully_qualified_name()
    said = []
    for option, file in pairwise(arguments):
        if option == "--params-file":
            keys = list(_keys(yaml.safe_load(Path(file).read_text(encoding="utf-8")) or {}))
            if not any(_matches(key, name) for key in keys):
                said.append(f"{file}: is not for {name} but for {', '.join(keys) or 'no node'}; expected the key {name} or /**")
    return said


def warn_of_unread(node: Node, arguments: Sequence[str]) -> None:
    """Log what unread() says."""
    for text in unread(node, arguments):
        node.get_logger().warning(text)


def _keys(values: Mapping[str, Any], namespace: str = "") -> Iterator[str]:
    """Full names of the nodes in a file, whose namespaces may be keys of their own."""
    for key, below in values.items():
        name = f"{namespace}/{key.strip('/')}"
        if isinstance(below, Mapping):
            if OWN in below:
                yield name
            yield from _keys({inner: value for inner, value in below.items() if inner != OWN}, name)


def _matches(key: str, name: str) -> bool:
    pattern = "".join(WILDCARDS.get(token, f"/{re.escape(token)}") for token in key.strip("/").split("/"))
    return re.fullmatch(pattern, name) is not None
