"""OpenVINO on the CPU."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from depth_ros.bundle import ModelBundle
from depth_ros.engines import EngineError, EngineOptions, MissingBackendError, one_line
from depth_ros.engines.contract import check_image, check_tensors, choose_precision, cpu_threads
from depth_ros.types import Float32Array, UInt8Array


def _import_openvino() -> Any:
    """OpenVINO without its telemetry: importing it sends usage data to Google Analytics and leaves an identifier in ~/intel."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # None: cannot be imported
    import openvino

    return openvino


ov = _import_openvino()
HINTS = {"fp32": "f32", "bf16": "bf16"}  # our names of the precisions -> OpenVINO's


def load(bundle: ModelBundle, options: EngineOptions, name: str) -> OpenVinoEngine:
    """Compile the bundle's graph for the CPU. Raises EngineError naming the file and the reason."""
    precision, threads = choose_precision(options, tuple(HINTS)), cpu_threads(options)
    core = ov.Core()
    if precision == "bf16" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):  # it would run f32
        cpu = core.get_property("CPU", "FULL_DEVICE_NAME")
        raise MissingBackendError(f"this CPU ({cpu}) has no bf16 arithmetic; choose precision fp32")
    settings = {
        "INFERENCE_PRECISION_HINT": HINTS[precision],  # OpenVINO's own choice would be bf16 wherever the CPU has it
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # the CPU is shared with the robot's other work, which may sit on those very cores
    }
    try:
        model = core.read_model(bundle.graph_path)
        check_tensors(bundle, _tensors(model.inputs), _tensors(model.outputs))
        # Batches gain nothing on a CPU (measured: 23.4 ms an image alone, 23.1 ms in fours), so the shape is static.
        model.reshape({"image": [1, bundle.height, bundle.width, 3]})
        compiled = core.compile_model(model, "CPU", settings)
    except EngineError:
        raise
    except Exception as error:  # OpenVINO raises RuntimeError, or whatever its Python side stumbles over
        raise EngineError(f"{bundle.graph_path}: OpenVINO cannot load the graph: {one_line(error)}") from error
    return OpenVinoEngine(bundle, compiled)


def _tensors(ports: Any) -> dict[str, tuple[str, list[int | None]]]:
    return {
        port.any_name: (
            str(port.element_type.to_dtype()),
            [size.get_length() if size.is_static else None for size in port.partial_shape],
        )
        for port in ports
    }


class OpenVinoEngine:
    """Engine (see depth_ros.engines) over one compiled model and one infer request."""

    def __init__(self, bundle: ModelBundle, compiled: Any) -> None:
        self._bundle = bundle
        self._request = compiled.create_infer_request()
        precision = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        threads = compiled.get_property("INFERENCE_NUM_THREADS")
        self.precision = {hint: name for name, hint in HINTS.items()}.get(precision, precision)
        self._description = (
            f"OpenVINO {ov.__version__.split('-')[0]}, CPU, {self.precision}, {threads} thread{'s' if threads > 1 else ''}"
        )

    def infer(self, image: UInt8Array) -> tuple[Float32Array, Float32Array]:
        """Map RGB images (N, h, w, 3) uint8 to depth [m] and sigma [m], each (N, h, w) float32. Raises EngineError."""
        check_image(self._bundle, image)
        if self._request is None:
            raise EngineError(f"{self._bundle.graph_path}: the engine is closed; load it again")
        image = np.ascontiguousarray(image)
        depth, sigma = (np.empty(image.shape[:3], np.float32) for _ in range(2))
        try:
            for i in range(len(image)):  # read and written where the arrays lie, without a copy
                one = slice(i, i + 1)
                # OpenVINO shares only what it could write to; an image that is read-only is copied.
                self._request.set_tensor("image", ov.Tensor(image[one], shared_memory=image.flags.writeable))
                self._request.set_tensor("depth", ov.Tensor(depth[one], shared_memory=True))
                self._request.set_tensor("sigma", ov.Tensor(sigma[one], shared_memory=True))
                self._request.infer()
        except Exception as error:  # as in load()
            raise EngineError(f"{self._bundle.graph_path}: OpenVINO failed: {one_line(error)}") from error
        return depth, sigma

    def open_frame_graph(self, width: int, height: int) -> None:
        """None: on the CPU the host's own resizing is as near."""

    def describe(self) -> str:
        """One line for logs: backend, version, device, the precision and the threads that really run."""
        return self._description

    def close(self) -> None:
        """Release the request and with it the model."""
        self._request = None
