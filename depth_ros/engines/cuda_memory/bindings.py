"""CUDA through NVIDIA's own package, cuda-bindings (cuda-python before 12.8 calls the module cuda.cudart)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depth_ros.engines import EngineError, MissingBackendError
from depth_ros.types import UInt8Array

MODULES = ("cuda.bindings.runtime", "cuda.cudart")


def open_driver() -> BindingsDriver:
    """The driver over whichever layout is installed. Raises ModuleNotFoundError."""
    for name in MODULES:
        try:
            return BindingsDriver(import_module(name))
        except ModuleNotFoundError:
            continue
    raise ModuleNotFoundError("no module named " + " or ".join(MODULES), name="cuda")


class BindingsDriver:
    """Driver (see depth_ros.engines.cuda_memory.driver). Handles are (free function, value)."""

    name = "cuda_bindings"

    def __init__(self, cuda: Any) -> None:
        self._cuda = cuda

    def device_count(self) -> int:
        """Number of GPUs; raises MissingBackendError without a driver."""
        error, count = self._cuda.cudaGetDeviceCount()
        if error == self._cuda.cudaError_t.cudaErrorNoDevice:
            return 0
        if error != self._cuda.cudaError_t.cudaSuccess:
            raise MissingBackendError(f"no CUDA driver: {self._text(error)}")
        return int(count)

    def open(self) -> None:
        """Take device 0; the runtime makes its primary context current in every thread that asks for it."""
        self._call("cudaSetDevice", 0)

    def device_name(self) -> str:
        """Name of device 0."""
        name = self._call("cudaGetDeviceProperties", 0).name
        return (name.decode() if isinstance(name, bytes) else str(name)).rstrip("\0")

    def compute_capability(self) -> tuple[int, int]:
        """Compute capability of device 0."""
        attributes = self._cuda.cudaDeviceAttr
        major = self._call("cudaDeviceGetAttribute", attributes.cudaDevAttrComputeCapabilityMajor, 0)
        return int(major), int(self._call("cudaDeviceGetAttribute", attributes.cudaDevAttrComputeCapabilityMinor, 0))

    def current(self) -> AbstractContextManager[None]:
        """Nothing to do: device 0 is the current one of every thread that does not choose another."""
        return nullcontext()

    def allocate(self, nbytes: int) -> tuple[Any, int]:
        """Device memory: handle, address."""
        address = int(self._call("cudaMalloc", nbytes))
        return ("cudaFree", address), address

    def allocate_pinned(self, nbytes: int) -> tuple[Any, UInt8Array]:
        """Page-locked host memory: handle, array (nbytes,)."""
        address = int(self._call("cudaMallocHost", nbytes))
        return ("cudaFreeHost", address), np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))

    def create_stream(self) -> tuple[Any, int]:
        """A stream that does not wait for the default one: handle, cudaStream_t as a number."""
        stream = self._call("cudaStreamCreateWithFlags", self._cuda.cudaStreamNonBlocking)
        return ("cudaStreamDestroy", stream), int(stream)

    def create_event(self) -> Any:
        """An event without timing that a host thread waits for asleep."""
        flags = self._cuda.cudaEventDisableTiming | self._cuda.cudaEventBlockingSync
        return "cudaEventDestroy", self._call("cudaEventCreateWithFlags", flags)

    def free(self, handle: Any) -> None:
        """Release whatever a handle stands for."""
        self._call(*handle)

    def upload(self, address: int, array: NDArray[Any], stream: Any) -> None:
        """Copy a contiguous pinned array to the device, in the stream's order."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, stream[1])

    def download(self, array: NDArray[Any], address: int, stream: Any) -> None:
        """Copy to a contiguous pinned array, in the stream's order."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, stream[1])

    def record(self, event: Any, stream: Any) -> None:
        """Let the event happen when all that is in the stream is done."""
        self._call("cudaEventRecord", event[1], stream[1])

    def wait(self, stream: Any, event: Any) -> None:
        """Let what comes into the stream wait for the event."""
        self._call("cudaStreamWaitEvent", stream[1], event[1], 0)

    def synchronise(self, handle: Any) -> None:
        """Wait on the host for a stream or an event."""
        self._call("cudaEventSynchronize" if handle[0] == "cudaEventDestroy" else "cudaStreamSynchronize", handle[1])

    def capture(self, stream: Any, work: Callable[[], None]) -> Any:
        """Graph of what `work` puts into the stream, which does not run."""
        self._call("cudaStreamBeginCapture", stream[1], self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)
        try:
            work()
        except BaseException:
            self._cuda.cudaStreamEndCapture(stream[1])  # its own error would only repeat what is being raised
            raise
        graph = self._call("cudaStreamEndCapture", stream[1])
        try:
            return "cudaGraphExecDestroy", self._call("cudaGraphInstantiate", graph, 0)
        finally:
            self._call("cudaGraphDestroy", graph)

    def launch(self, graph: Any, stream: Any) -> None:
        """Run a captured graph, in the stream's order."""
        self._call("cudaGraphLaunch", graph[1], stream[1])

    def _call(self, function: str, *arguments: Any) -> Any:
        """Value of a CUDA call, None where it has none. Raises EngineError."""
        error, *values = getattr(self._cuda, function)(*arguments)
        if error != self._cuda.cudaError_t.cudaSuccess:
            raise EngineError(f"CUDA: {function} failed: {self._text(error)}")
        return values[0] if values else None

    def _text(self, error: Any) -> str:
        texts = (self._cuda.cudaGetErrorName(error)[1], self._cuda.cudaGetErrorString(error)[1])
        name, text = (item.decode() if isinstance(item, bytes) else str(item) for item in texts)
        return f"{name} ({text})"
