"""Inference engines: one backend per file, imported only when it is chosen."""

from __future__ import annotations

from importlib import import_module
from typing import Protocol

from depth_ros.bundle import ModelBundle
from depth_ros.types import Float32Array, UInt8Array

ENGINES = {"onnxruntime": "depth_ros.engines.onnxrt"}  # name -> module with load(bundle, threads) -> Engine


class EngineError(Exception):
    """An engine that cannot be loaded or run; the text says why and what to do."""


class Engine(Protocol):
    """Runs a bundle's graph."""

    def infer(self, image: UInt8Array) -> tuple[Float32Array, Float32Array]:
        """Map RGB images (N, h, w, 3) to depth [m] and sigma [m], each (N, h, w)."""

    def describe(self) -> str:
        """One line for logs: backend, version, device, threads."""

    def close(self) -> None:
        """Release what the engine holds; infer() must not be called afterwards."""


def load_engine(bundle: ModelBundle, name: str = "onnxruntime", threads: int = 0) -> Engine:
    """Load `bundle` with the backend `name`; `threads` 0 means max(1, cores - 1). Raises EngineError."""
    if name not in ENGINES:
        raise EngineError(f"engine '{name}' is unknown; expected one of {', '.join(ENGINES)}")
    engine: Engine = import_module(ENGINES[name]).load(bundle, threads)
    return engine
