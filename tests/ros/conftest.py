"""Real processes over real DDS, on this machine only: own domain, shared memory, node processes and a client."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from harness import Client, RosProcess, States

ROOT = Path(__file__).resolve().parents[2]

# Before the first rclpy.init() of this process, and inherited by its children.
os.environ["ROS_DOMAIN_ID"] = str(1 + os.getpid() % 100)
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
os.environ.setdefault("AMENT_PREFIX_PATH", sys.prefix)  # where the ROS 2 wheels keep their index
os.environ["FASTRTPS_DEFAULT_PROFILES_FILE"] = str(ROOT / "config" / "fastdds_shm.xml")


@pytest.fixture(autouse=True)
def _needs_ros() -> None:
    if importlib.util.find_spec("rclpy") is None:
        pytest.skip("rclpy is not installed: make setup, or source a ROS 2 environment")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., RosProcess]]:
    """Start `start(module, *ros_args, env=None, **parameters)` as a process; whatever still runs at the end is stopped."""
    from harness import RosProcess

    running: list[RosProcess] = []

    def starter(module: str, *ros_args: str, env: dict[str, str] | None = None, **parameters: object) -> RosProcess:
        log = tmp_path / f"{module}_{len(running)}.log"
        running.append(RosProcess([sys.executable, "-m", module], log, ros_args, parameters, env))
        return running[-1]

    yield starter
    for process in running:
        process.stop()


@pytest.fixture
def client() -> Iterator[Client]:
    """A node in the test's own process that plays the camera and listens."""
    from harness import Client

    instance = Client()
    yield instance
    instance.close()


@pytest.fixture
def states(client: Client) -> States:
    """What nodes say of themselves on /diagnostics."""
    from harness import States

    return States(client)
