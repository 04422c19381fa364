"""Finds TensorRT or TensorRT-RTX, and a GPU for it, and says plainly what is missing."""

from __future__ import annotations

from importlib import import_module, metadata
from typing import Any

from depth_ros.engines import EngineError, EngineOptions, MissingBackendError, one_line
from depth_ros.engines.cuda_memory import open_memory
from depth_ros.engines.plan_keys import Device

PACKAGES = {
    "tensorrt": "apt install python3-libnvinfer from NVIDIA's repository (part of JetPack), or pip install tensorrt",
    "tensorrt_rtx": "pip install tensorrt-rtx",
}


def import_tensorrt(name: str) -> Any:
    """The module `name`. Raises MissingBackendError where it is not installed, EngineError where it is and does not work."""
    try:
        module = import_module(name)
    except (ImportError, OSError) as error:
        if isinstance(error, ModuleNotFoundError) and not _installed(name):
            raise MissingBackendError(f"not installed: {PACKAGES[name]}") from error
        raise _unusable(name, one_line(error)) from error
    if not hasattr(module, "Runtime"):
        raise _unusable(name, "it has no Runtime")
    return module


def find_device(trt: Any, options: EngineOptions) -> Device:
    """The GPU, and the TensorRT for it. To be asked before TensorRT's Runtime, which can crash without a driver.

    Raises MissingBackendError where there is none, or none that this TensorRT has code for.
    """
    memory = open_memory(options.memory)
    try:
        gpu, (major, minor) = memory.device_name(), memory.compute_capability()
    finally:
        memory.close()
    if trt.__name__ == "tensorrt_rtx":
        known = [target for target in trt.ComputeCapability.__members__ if target.startswith("SM")]
        if f"SM{major}{minor}" not in known:
            raise MissingBackendError(
                f"{gpu} is SM{major}{minor}; TensorRT-RTX {trt.__version__} runs on {', '.join(known)} only"
            )
    return Device(trt.__name__, trt.__version__, gpu, f"{major}.{minor}")


def _installed(name: str) -> str:
    """Name and version of the distribution that should hold the module; empty where there is none."""
    for distribution in (name, name.replace("_", "-")):
        try:
            return f"{name} {metadata.version(distribution)}"
        except metadata.PackageNotFoundError:
            continue
    return ""


def _unusable(name: str, reason: str) -> EngineError:
    hint = "; the package on PyPI is only a stub, which gets them from NVIDIA while it is installed" if name == "tensorrt" else ""
    installed = _installed(name) or name
    return EngineError(
        f"{installed} is installed but cannot be used ({reason}): its libraries are missing{hint}; {PACKAGES[name]}"
    )
