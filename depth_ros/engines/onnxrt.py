"""ONNX Runtime, on the CPU (the engine that is always there) and on CUDA."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from depth_ros.bundle import ModelBundle
from depth_ros.engines import EngineError, EngineOptions, MissingBackendError, one_line
from depth_ros.engines.contract import check_image, check_tensors, choose_precision, cpu_threads
from depth_ros.types import Float32Array, UInt8Array

LOG = logging.getLogger(__name__)
PRECISIONS = {"cpu": ("fp32", "int8"), "cuda": ("fp32", "fp16")}  # fp16 is slower than fp32 on a CPU
CUDA = "CUDAExecutionProvider"
# TF32 has 10 bits of mantissa: whoever asks for fp32 gets it, and fp16 is faster.
PROVIDERS = {"cpu": ["CPUExecutionProvider"], "cuda": [(CUDA, {"device_id": 0, "use_tf32": 0})]}
TYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}  # ONNX Runtime's names -> NumPy's


def load(bundle: ModelBundle, options: EngineOptions, name: str) -> OnnxRuntimeEngine:
    """Load the bundle's graph. Raises EngineError naming the file and the reason."""
    device = "cuda" if name == "onnxruntime_cuda" else "cpu"
    precision = choose_precision(options, PRECISIONS[device])
    if device == "cuda" and CUDA not in ort.get_available_providers():
        raise MissingBackendError("this ONNX Runtime is built without CUDA (pip install onnxruntime-gpu in place of onnxruntime)")
    return OnnxRuntimeEngine(bundle, device, precision, cpu_threads(options))


def open_on_cpu(graph: bytes, source: str, precision: str = "fp32") -> SessionRunner:
    """Run any graph on the CPU, as what other engines are compared with. Raises EngineError naming `source`.

    `precision` is that of the graph, for the numeric gate.
    """
    return SessionRunner(_session(graph, source, "cpu", cpu_threads(EngineOptions())), source, precision)


class OnnxRuntimeEngine:
    """Engine (see depth_ros.engines) over one ONNX Runtime session. Raises EngineError if the graph is not the bundle's."""

    def __init__(self, bundle: ModelBundle, device: str, precision: str, threads: int) -> None:
        self._bundle, self._device, self.precision, self._threads = bundle, device, precision, threads
        self._runner = self._open(_graph(bundle, precision))
        check_tensors(bundle, self._runner.inputs, self._runner.outputs)
        self._one_by_one = self._runner.inputs["image"][1][0] == 1  # a graph exported for a single image

    def infer(self, image: UInt8Array) -> tuple[Float32Array, Float32Array]:
        """Map RGB images (N, h, w, 3) uint8 to depth [m] and sigma [m], each (N, h, w) float32. Raises EngineError."""
        check_image(self._bundle, image)
        if not self._one_by_one or len(image) == 1:
            return self._run(image)
        results = [self._run(image[i : i + 1]) for i in range(len(image))]
        return np.concatenate([depth for depth, _ in results]), np.concatenate([sigma for _, sigma in results])

    def open_frame_graph(self, width: int, height: int) -> SessionRunner | None:
        """See Engine. None on the CPU, where the host's own resizing is as near, and where the graph cannot be made."""
        if self._device == "cpu":
            return None
        from depth_ros.graphs import frame_graph  # needs onnx

        try:
            return self._open(frame_graph(self._bundle, width, height, self.precision))
        except EngineError as error:
            LOG.warning("%dx%d images are resized on the CPU: %s", width, height, error)
            return None

    def describe(self) -> str:
        """One line for logs: backend, version, device, precision, threads."""
        threads = f"{self._threads} thread{'s' if self._threads > 1 else ''}"
        return f"ONNX Runtime {ort.__version__}, {self._device.upper()}, {self.precision}, {threads}"

    def close(self) -> None:
        """Release the session."""
        self._runner.close()

    def _open(self, graph: str | bytes) -> SessionRunner:
        file = str(self._bundle.graph_path)
        session = _session(graph, file, self._device, self._threads)
        if self._device == "cpu":
            return SessionRunner(session, file, self.precision)
        if CUDA not in session.get_providers():  # it falls back to the CPU and says so in its own log only
            raise EngineError("ONNX Runtime cannot start CUDA (its own error stands above): check driver, CUDA and cuDNN")
        return BoundRunner(session, file, self.precision, self._device)

    def _run(self, image: UInt8Array) -> tuple[Float32Array, Float32Array]:
        # A view, since it is a new object: the caller may have filled the same array with another image.
        answers = self._runner.run({"image": image.view()}, ("depth", "sigma"))
        for name, array in answers.items():
            if array.shape != image.shape[:3]:
                raise EngineError(f"{self._bundle.graph_path}: output '{name}' is {array.shape}; expected {image.shape[:3]}")
        return answers["depth"], answers["sigma"]


class SessionRunner:
    """GraphRunner (see depth_ros.engines) on the CPU, where ONNX Runtime reads the inputs where they lie."""

    def __init__(self, session: Any, file: str, precision: str) -> None:
        self._session = session
        self.precision = precision
        self._file = file
        self.inputs, self.outputs = (
            {node.name: (TYPES.get(node.type, node.type), node.shape) for node in nodes}
            for nodes in (session.get_inputs(), session.get_outputs())
        )

    def run(self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        """See GraphRunner. Raises EngineError."""
        if self._session is None:
            raise EngineError(f"{self._file}: the engine is closed; load it again")
        try:
            return self._compute(inputs, outputs)
        except Exception as error:  # as in _session()
            raise EngineError(f"{self._file}: ONNX Runtime failed: {one_line(error)}") from error

    def close(self) -> None:
        """Release the session."""
        self._session = None

    def _compute(self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        return dict(zip(outputs, self._session.run(list(outputs), dict(inputs)), strict=True))


class BoundRunner(SessionRunner):
    """GraphRunner over a session whose inputs and outputs stay on its device, in memory that is kept between calls."""

    def __init__(self, session: Any, file: str, precision: str, device: str) -> None:
        super().__init__(session, file, precision)
        self._device = device
        self._binding: Any = None
        self._count = 0  # images that the memory below is for
        self._values: dict[str, Any] = {}  # name -> OrtValue on the device
        self._sent: dict[str, NDArray[Any]] = {}  # what an input's memory holds

    def close(self) -> None:
        """Release the session and its memory."""
        super().close()
        self._binding, self._values, self._sent = None, {}, {}

    def _compute(self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> dict[str, NDArray[Any]]:
        if self._count != len(inputs["image"]):
            self._allocate(inputs)
        for name, array in inputs.items():
            if self._sent.get(name) is not array:
                # It copies bytes in the order in which they lie.
                self._values[name].update_inplace(np.ascontiguousarray(array))
                self._sent[name] = array
        self._session.run_with_iobinding(self._binding)
        return {name: self._values[name].numpy() for name in outputs}

    def _allocate(self, inputs: Mapping[str, NDArray[Any]]) -> None:
        count = len(inputs["image"])
        self._binding, self._sent, self._values = self._session.io_binding(), {}, {}
        for name, array in inputs.items():
            self._values[name] = self._allocated(array.shape, array.dtype)
            self._binding.bind_ortvalue_input(name, self._values[name])
        for name, (dtype, shape) in self.outputs.items():
            self._values[name] = self._allocated((count, *shape[1:]), np.dtype(dtype))
            self._binding.bind_ortvalue_output(name, self._values[name])
        self._count = count

    def _allocated(self, shape: Sequence[int], dtype: np.dtype[Any]) -> Any:
        return ort.OrtValue.ortvalue_from_shape_and_type(shape, dtype, self._device, 0)


def _graph(bundle: ModelBundle, precision: str) -> str | bytes:
    """The graph's file, or the converted graph itself."""
    if precision == "fp32":
        return str(bundle.graph_path)
    from depth_ros.graphs import prepare  # needs onnx

    return prepare(bundle, precision)


def _session(graph: str | bytes, source: str, device: str, threads: int) -> Any:
    """ONNX Runtime's session of a graph, or of the file that holds it. Raises EngineError naming `source`."""
    settings = ort.SessionOptions()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3  # errors only: they are raised as well, warnings are about the exporter's graph
    # Idle ONNX Runtime threads otherwise burn a core each, and the CPU is shared with the robot's other work.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        if device == "cuda" and hasattr(ort, "preload_dlls"):  # since 1.21; wheels for Jetson can be older
            ort.preload_dlls()  # CUDA and cuDNN where they were installed as wheels
        return ort.InferenceSession(graph, settings, providers=PROVIDERS[device])
    except Exception as error:  # onnxruntime raises a class of its own per status code, all derived from Exception only
        raise EngineError(f"{source}: ONNX Runtime cannot load the graph: {one_line(error)}") from error
