"""CUDA through pycuda, for machines that have that already. It has no CUDA graphs."""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depth_ros.engines import EngineError, MissingBackendError, one_line
from depth_ros.types import UInt8Array

STREAM_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING, for which pycuda has no name


def open_driver() -> PycudaDriver:
    """The driver. Raises ModuleNotFoundError without pycuda, MissingBackendError without libcuda."""
    try:
        return PycudaDriver(import_module("pycuda.driver"))
    except ModuleNotFoundError:
        raise
    except ImportError as error:  # pycuda is linked against the library that comes with the driver
        raise MissingBackendError(f"no CUDA driver: pycuda cannot be loaded: {one_line(error)}") from error


@cache
def _primary_context(cuda: Any) -> Any:
    """The context that TensorRT works in, which is kept until the process ends.

    pycuda would release it only in the thread that took it, and leave it current there.
    """
    context = cuda.Device(0).retain_primary_context()
    atexit.register(context.detach)  # or else pycuda complains that it cannot clean up
    return context


class PycudaDriver:
    """Driver (see depth_ros.engines.cuda_memory.driver) in the device's primary context.

    Streams and events are in boxes (lists of one), which free() empties: pycuda destroys them where the last reference goes, and
    only there, which has to be where the context is current.
    """

    name = "pycuda"

    def __init__(self, cuda: Any) -> None:
        self._cuda = cuda
        self._context: Any = None

    def device_count(self) -> int:
        """Number of GPUs; raises MissingBackendError without a driver."""
        try:
            self._cuda.init()
            return int(self._cuda.Device.count())
        except self._cuda.Error as error:
            if "no CUDA-capable device" in str(error):
                return 0
            raise MissingBackendError(f"no CUDA driver: {one_line(error)}") from error

    def open(self) -> None:
        """Take device 0. Its context is not made current here: that is for the thread that uses it."""
        with self._errors():
            self._context = _primary_context(self._cuda)

    def device_name(self) -> str:
        """Name of device 0."""
        with self._errors():
            return str(self._cuda.Device(0).name())

    def compute_capability(self) -> tuple[int, int]:
        """Compute capability of device 0."""
        with self._errors():
            major, minor = self._cuda.Device(0).compute_capability()
        return int(major), int(minor)

    @contextmanager
    def current(self) -> Iterator[None]:
        """Push the primary context in this thread, and pop it again."""
        with self._errors():
            self._context.push()
        try:
            yield
        finally:
            self._cuda.Context.pop()

    def allocate(self, nbytes: int) -> tuple[Any, int]:
        """Device memory: handle, address."""
        with self._errors():
            allocation = self._cuda.mem_alloc(nbytes)
        return allocation, int(allocation)

    def allocate_pinned(self, nbytes: int) -> tuple[Any, UInt8Array]:
        """Page-locked host memory: handle, array (nbytes,)."""
        with self._errors():
            array: UInt8Array = self._cuda.pagelocked_empty((nbytes,), np.uint8)
        return array.base, array

    def create_stream(self) -> tuple[Any, int]:
        """A stream that does not wait for the default one: handle, cudaStream_t as a number."""
        with self._errors():
            stream = self._cuda.Stream(STREAM_NON_BLOCKING)
        return [stream], int(stream.handle)

    def create_event(self) -> Any:
        """An event without timing that a host thread waits for asleep."""
        flags = self._cuda.event_flags
        with self._errors():
            return [self._cuda.Event(flags.DISABLE_TIMING | flags.BLOCKING_SYNC)]

    def free(self, handle: Any) -> None:
        """Release whatever a handle stands for."""
        with self._errors():
            if isinstance(handle, list):
                handle.clear()
            else:
                handle.free()

    def upload(self, address: int, array: NDArray[Any], stream: Any) -> None:
        """Copy a contiguous pinned array to the device, in the stream's order."""
        with self._errors():
            self._cuda.memcpy_htod_async(address, array, stream[0])

    def download(self, array: NDArray[Any], address: int, stream: Any) -> None:
        """Copy to a contiguous pinned array, in the stream's order."""
        with self._errors():
            self._cuda.memcpy_dtoh_async(array, address, stream[0])

    def record(self, event: Any, stream: Any) -> None:
        """Let the event happen when all that is in the stream is done."""
        with self._errors():
            event[0].record(stream[0])

    def wait(self, stream: Any, event: Any) -> None:
        """Let what comes into the stream wait for the event."""
        with self._errors():
            stream[0].wait_for_event(event[0])

    def synchronise(self, handle: Any) -> None:
        """Wait on the host for a stream or an event."""
        with self._errors():
            handle[0].synchronize()

    def capture(self, stream: Any, work: Callable[[], None]) -> None:
        """None: pycuda has no CUDA graphs."""

    def launch(self, graph: Any, stream: Any) -> None:
        """There is no graph to launch."""
        raise EngineError("CUDA: pycuda has no CUDA graphs")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except self._cuda.Error as error:  # "cuMemAlloc failed: out of memory"
            raise EngineError(f"CUDA: {one_line(error)}") from error
