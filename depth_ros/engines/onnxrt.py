"""ONNX Runtime on the CPU, the default engine."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import onnxruntime as ort

from depth_ros.bundle import ModelBundle
from depth_ros.engines import EngineError, EngineOptions
from depth_ros.types import Float32Array, UInt8Array


def load(bundle: ModelBundle, options: EngineOptions, name: str) -> OnnxRuntimeEngine:
    """Load the bundle's graph. Raises EngineError naming the file and the reason."""
    if name == "onnxruntime_cuda":
        raise EngineError("not supported yet")
    threads = options.threads or max(1, len(os.sched_getaffinity(0)) - 1)
    settings = ort.SessionOptions()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3  # errors only: they are raised as well, warnings are about the exporter's graph
    # Idle ONNX Runtime threads otherwise burn a core each, and the CPU is shared with the robot's other work.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = ort.InferenceSession(str(bundle.graph_path), settings, providers=["CPUExecutionProvider"])
    except Exception as error:
        # onnxruntime raises a class of its own per status code, all of them derived from Exception only.
        raise EngineError(f"{bundle.graph_path}: ONNX Runtime cannot load the graph: {_one_line(error)}") from error
    return OnnxRuntimeEngine(bundle, session, threads)


class OnnxRuntimeEngine:
    """Engine (see depth_ros.engines) over one ONNX Runtime session. Raises EngineError if the graph is not the bundle's."""

    def __init__(self, bundle: ModelBundle, session: Any, threads: int) -> None:
        _check_graph(bundle, session)
        self._shape = (bundle.height, bundle.width, 3)
        self._one_by_one = session.get_inputs()[0].shape[0] == 1  # a graph exported for a single image
        self._session = session
        self._graph_path = bundle.graph_path
        self._threads = threads

    def infer(self, image: UInt8Array) -> tuple[Float32Array, Float32Array]:
        """Map RGB images (N, h, w, 3) uint8 to depth [m] and sigma [m], each (N, h, w) float32. Raises EngineError."""
        if image.shape[1:] != self._shape or image.dtype != np.uint8:
            raise EngineError(f"image is {image.shape} {image.dtype}; expected (N, {', '.join(map(str, self._shape))}) uint8")
        if not self._one_by_one or len(image) == 1:
            return self._run(image)
        results = [self._run(image[i : i + 1]) for i in range(len(image))]
        return np.concatenate([depth for depth, _ in results]), np.concatenate([sigma for _, sigma in results])

    def open_frame_graph(self, width: int, height: int) -> None:
        """None: on the CPU the host's own resizing is as near."""

    def describe(self) -> str:
        """One line for logs: backend, version, device, threads."""
        return f"ONNX Runtime {ort.__version__}, CPU, {self._threads} thread{'s' if self._threads > 1 else ''}"

    def close(self) -> None:
        """Release the session."""
        self._session = None

    def _run(self, image: UInt8Array) -> tuple[Float32Array, Float32Array]:
        if self._session is None:
            raise EngineError(f"{self._graph_path}: the engine is closed; load it again")
        try:
            depth, sigma = self._session.run(["depth", "sigma"], {"image": image})
        except Exception as error:
            raise EngineError(f"{self._graph_path}: ONNX Runtime failed: {_one_line(error)}") from error
        for name, array in (("depth", depth), ("sigma", sigma)):
            if array.shape != image.shape[:3]:
                raise EngineError(f"{self._graph_path}: output '{name}' is {array.shape}; expected {image.shape[:3]}")
        return depth, sigma


def _check_graph(bundle: ModelBundle, session: Any) -> None:
    """Compare the graph's inputs and outputs with the bundle contract."""
    size = (bundle.height, bundle.width)
    expected_inputs = {"image": ("tensor(uint8)", (*size, 3))}
    expected_outputs = {"depth": ("tensor(float)", size), "sigma": ("tensor(float)", size)}
    for side, nodes, expected in (
        ("inputs", session.get_inputs(), expected_inputs),
        ("outputs", session.get_outputs(), expected_outputs),
    ):
        found = {node.name: node for node in nodes}
        if set(found) != set(expected):
            raise EngineError(f"{bundle.graph_path}: {side} are {', '.join(found)}; expected {', '.join(expected)}")
        for name, (dtype, shape) in expected.items():
            node = found[name]
            if node.type != dtype or not _fits(node.shape, shape):
                raise EngineError(
                    f"{bundle.graph_path}: '{name}' is {node.type} {node.shape}, "
                    f"but bundle.yaml says {dtype} ['N', {', '.join(map(str, shape))}]: export the bundle again"
                )


def _fits(found: list[int | str | None], expected: tuple[int, ...]) -> bool:
    """Return whether the graph takes a batch of one at this size; a dimension that it leaves open fits any number."""
    if len(found) != len(expected) + 1:
        return False
    pairs = zip(found, (1, *expected), strict=True)
    return all(size == wanted or not isinstance(size, int) for size, wanted in pairs)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
