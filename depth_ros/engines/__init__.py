"""Inference engines: one backend per file, imported only when it is chosen."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from depth_ros.bundle import ModelBundle
from depth_ros.types import Float32Array, UInt8Array

# Name -> module with load(bundle, options, name) -> Engine, fastest first: the order in which `auto` tries them.
ENGINES = {
    "tensorrt": "depth_ros.engines.trt",
    "tensorrt_rtx": "depth_ros.engines.trt",
    "onnxruntime_cuda": "depth_ros.engines.onnxrt",
    "openvino": "depth_ros.engines.openvino",
    "onnxruntime": "depth_ros.engines.onnxrt",
}
AUTO = "auto"
PRECISIONS = ("fp32", "fp16", "int8", "bf16")
MEMORIES = (AUTO, "pycuda", "cuda_bindings")


class EngineError(Exception):
    """An engine that cannot be loaded or run; the text says why and what to do."""


class MissingBackendError(EngineError):
    """An engine that this machine does not have: its package, driver or device is not there."""


def one_line(error: Exception) -> str:
    """Return the text of an error without its line breaks."""
    return " ".join(str(error).split())


def default_cache() -> Path:
    """Folder of this user's built engines: $XDG_CACHE_HOME/depth_ros, or ~/.cache/depth_ros."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "depth_ros"


@dataclass(frozen=True)
class EngineOptions:
    """What a user may choose about an engine; each backend reads what concerns it. Raises EngineError on an unknown name."""

    threads: int = 0  # of a CPU backend; 0: max(1, cores - 1)
    precision: str = ""  # fp32, fp16, int8 or bf16; empty: the backend's own (TensorRT fp16, everything else fp32)
    batch: int = 1  # most images that run at once on a GPU
    build_if_missing: bool = False  # build a TensorRT engine at load, which can take minutes
    workspace_mb: int = 1024  # of the TensorRT builder
    memory: str = AUTO  # what manages CUDA memory: pycuda, cuda_bindings or auto
    cuda_graph: bool = True  # replay the inference as one CUDA graph
    cache: Path = field(default_factory=default_cache)  # of built engines
    progress: Callable[[str], None] = lambda text: None  # takes a line that says how far a build is

    def __post_init__(self) -> None:
        for name, known in (("precision", ("", *PRECISIONS)), ("memory", MEMORIES)):
            if getattr(self, name) not in known:
                expected = ", ".join(filter(None, known))
                raise EngineError(
                    f"{name} is '{getattr(self, name)}'; expected {'empty or ' if '' in known else ''}one of {expected}"
                )


class GraphRunner(Protocol):
    """Runs one graph by the names of its inputs and outputs."""

    precision: str  # as of an Engine; a frame graph's need not be its network's

    def run(self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Values of `outputs`, valid until the next call. An input that is the same array as before is not sent again."""

    def close(self) -> None:
        """Release what the runner holds."""


class Engine(Protocol):
    """Runs a bundle's graph."""

    precision: str  # one of PRECISIONS: the one that runs, which need not be the one that was asked for

    def infer(self, image: UInt8Array) -> tuple[Float32Array, Float32Array]:
        """Map RGB images (N, h, w, 3) to depth [m] and sigma [m], each (N, h, w)."""

    def open_frame_graph(self, width: int, height: int) -> GraphRunner | None:
        """The bundle's frame graph (depth_ros.graphs.frame_graph) for images of this size, on the engine's device.

        None where the host does the resizing and the rest: a CPU engine, or a device with no plan built for this size.
        """

    def describe(self) -> str:
        """One line for logs: backend, version, device, precision, threads."""

    def close(self) -> None:
        """Release what the engine holds; infer() must not be called afterwards."""


@dataclass(frozen=True)
class PassedOver:
    """An engine that was tried before another one was chosen."""

    name: str
    reason: str
    expected: bool  # the machine simply does not have it; otherwise it is here and does not run

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}"


@dataclass(frozen=True)
class Choice:
    """An engine and why it is not one of those before it in ENGINES."""

    name: str
    engine: Engine
    passed_over: tuple[PassedOver, ...] = ()  # fastest first; empty where the user named the engine


def choose_engine(bundle: ModelBundle, name: str = AUTO, options: EngineOptions | None = None) -> Choice:
    """Load `bundle` with the backend `name`, or with the first of ENGINES that works. Raises EngineError."""
    options = options or EngineOptions()
    if name not in (AUTO, *ENGINES):
        raise EngineError(f"engine '{name}' is unknown; expected {AUTO} or one of {', '.join(ENGINES)}")
    if name != AUTO:
        try:
            return Choice(name, _load(bundle, name, options))
        except EngineError as error:
            raise type(error)(f"{name}: {error}") from error
    passed_over: list[PassedOver] = []
    for candidate in ENGINES:
        try:
            return Choice(candidate, _load(bundle, candidate, options), tuple(passed_over))
        except EngineError as error:
            passed_over.append(PassedOver(candidate, str(error), isinstance(error, MissingBackendError)))
        except Exception as error:  # a backend that crashes must not keep a robot from seeing with the next one
            reason = f"crashed: {type(error).__name__}: {one_line(error)}"
            passed_over.append(PassedOver(candidate, reason, expected=False))
    raise EngineError("no engine runs this model here: " + "; ".join(map(str, passed_over)))


def load_engine(bundle: ModelBundle, name: str = "onnxruntime", options: EngineOptions | None = None) -> Engine:
    """The engine of choose_engine(); the CPU's ONNX Runtime unless another is named. Raises EngineError."""
    return choose_engine(bundle, name, options).engine


def _load(bundle: ModelBundle, name: str, options: EngineOptions) -> Engine:
    try:
        engine: Engine = import_module(ENGINES[name]).load(bundle, options, name)
    except ModuleNotFoundError as error:
        if not error.name or error.name.startswith(__name__):
            raise
        raise MissingBackendError(f"not installed (pip install {error.name.partition('.')[0]})") from error
    except ImportError as error:
        raise EngineError(f"its package is installed but cannot be imported: {one_line(error)}") from error
    return engine
