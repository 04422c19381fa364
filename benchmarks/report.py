"""What every benchmark's JSON holds besides its figures."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("numpy", "opencv-python-headless", "onnxruntime", "torch")
OTHERS = ("onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx", "cuda-bindings", "pycuda")  # stated where they are installed
ROS_PACKAGES = ("ros-jazzy-rclpy", "ros-jazzy-rmw-fastrtps-cpp")


def describe_run(program: str, arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """What every JSON begins with: the command (`arguments` of benchmarks/`program`; None: this process's) and machine()."""
    given = sys.argv[1:] if arguments is None else arguments
    return {"command": shlex.join(["python", f"benchmarks/{program}", *given]), **machine()}


def write_report(report: Mapping[str, Any], file: Path) -> None:
    """Write the JSON, and make its folder. Raises OSError, and ValueError for a figure that is not finite."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def machine() -> dict[str, Any]:
    """Return what the figures depend on, besides model and input."""
    info = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    models = [line.partition(":")[2].strip() for line in info.splitlines() if line.startswith("model name")]
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average_at_start": round(os.getloadavg()[0], 2),
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    of_ros = f"of ROS {os.environ.get('ROS_DISTRO', '?')}"
    found = {name: _version(name) for name in PACKAGES + OTHERS}
    return {
        "python": platform.python_version(),
        **{name: text or "not installed" for name, text in found.items() if text or name in PACKAGES},
        **{name: _version(name) or of_ros for name in ROS_PACKAGES},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
