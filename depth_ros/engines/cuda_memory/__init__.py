"""Pinned and device memory, streams, events and CUDA graphs behind one small interface, over either of two packages.

A Memory is all that one user (a plan's runner) holds on the device: close() frees it as a whole. Everything is on device 0;
CUDA_VISIBLE_DEVICES chooses which GPU that is. All of it may be used by one thread at a time, inside `with memory.current():`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from depth_ros.engines import AUTO, EngineError, MissingBackendError
from depth_ros.engines.cuda_memory.driver import Driver

# Name -> module with open_driver() -> Driver, in the order in which `auto` tries them.
DRIVERS = {
    "cuda_bindings": "depth_ros.engines.cuda_memory.bindings",
    "pycuda": "depth_ros.engines.cuda_memory.pycuda_driver",
}
ALIGNMENT = 256  # [bytes] of device addresses handed to TensorRT, as cudaMalloc aligns


@dataclass(frozen=True)
class HostBuffer:
    """Page-locked host memory, the only kind that is copied while the host goes on. Its array is gone after close()."""

    array: NDArray[Any]


@dataclass(frozen=True)
class DeviceBuffer:
    """Device memory."""

    address: int
    nbytes: int


@dataclass(frozen=True)
class Stream:
    """A queue of work on the device."""

    token: Any
    handle: int  # cudaStream_t as a number


@dataclass(frozen=True)
class Event:
    """A point in a stream's work."""

    token: Any


@dataclass(frozen=True)
class Graph:
    """Work that was captured, and runs again with one call."""

    token: Any


class Memory:
    """What one user holds on device 0. Every method raises EngineError if CUDA fails, and after close().

    Raises MissingBackendError without a driver or a GPU.
    """

    def __init__(self, driver: Driver) -> None:
        if not driver.device_count():
            raise MissingBackendError("no GPU: CUDA finds no device (is CUDA_VISIBLE_DEVICES empty?)")
        self.name = driver.name
        self._driver: Driver | None = driver
        self._handles: list[Any] = []
        self._streams: list[Any] = []
        driver.open()

    def device_name(self) -> str:
        """Name of the GPU, as in "NVIDIA RTX A2000"."""
        return self._opened().device_name()

    def compute_capability(self) -> tuple[int, int]:
        """Major and minor number: (8, 7) is SM 87."""
        return self._opened().compute_capability()

    def current(self) -> AbstractContextManager[None]:
        """Make the GPU current in this thread: around all that follows, and around calls of TensorRT."""
        return self._opened().current()

    def pinned(self, shape: Sequence[int], dtype: DTypeLike) -> HostBuffer:
        """Page-locked host array, not initialised."""
        nbytes = prod(shape) * np.dtype(dtype).itemsize
        handle, array = self._opened().allocate_pinned(nbytes)
        self._handles.append(handle)
        return HostBuffer(array.view(dtype).reshape(tuple(shape)))

    def device(self, nbytes: int) -> DeviceBuffer:
        """Device memory, not initialised."""
        handle, address = self._opened().allocate(nbytes)
        self._handles.append(handle)
        return DeviceBuffer(address, nbytes)

    def stream(self) -> Stream:
        """A new stream, which waits for no other one."""
        token, handle = self._opened().create_stream()
        self._handles.append(token)
        self._streams.append(token)
        return Stream(token, handle)

    def event(self) -> Event:
        """A new event; one that was never recorded counts as past."""
        token = self._opened().create_event()
        self._handles.append(token)
        return Event(token)

    def upload(self, target: DeviceBuffer, source: NDArray[Any], stream: Stream) -> None:
        """Copy (a contiguous part of) a pinned array to the beginning of `target`, asynchronously."""
        _check_copy(target, 0, source)
        self._opened().upload(target.address, source, stream.token)

    def download(self, target: NDArray[Any], source: DeviceBuffer, stream: Stream, offset: int = 0) -> None:
        """Copy from `source`, `offset` bytes after its beginning, to (a contiguous part of) a pinned array, asynchronously."""
        _check_copy(source, offset, target)
        self._opened().download(target, source.address + offset, stream.token)

    def record(self, event: Event, stream: Stream) -> None:
        """Let the event happen when all that is in the stream by now is done."""
        self._opened().record(event.token, stream.token)

    def wait(self, stream: Stream, event: Event) -> None:
        """Let what comes into the stream from now on wait for the event as recorded by now."""
        self._opened().wait(stream.token, event.token)

    def synchronise(self, what: Stream | Event) -> None:
        """Wait on the host until the stream is empty or the event has happened."""
        self._opened().synchronise(what.token)

    def capture(self, stream: Stream, work: Callable[[], None]) -> Graph | None:
        """Graph of what `work` puts into the stream (it does not run then); None where the package has no graphs."""
        token = self._opened().capture(stream.token, work)
        if token is None:
            return None
        self._handles.append(token)
        return Graph(token)

    def launch(self, graph: Graph, stream: Stream) -> None:
        """Run a graph, in the stream's order."""
        self._opened().launch(graph.token, stream.token)

    def free(self, graph: Graph) -> None:
        """Release a graph before close(), for another will take its place."""
        self._handles.remove(graph.token)
        self._opened().free(graph.token)

    def close(self) -> None:
        """Wait for what is under way and free everything; closing twice is allowed.

        All is tried even if CUDA fails, and its first failure is raised.
        """
        driver, self._driver = self._driver, None
        if driver is None:
            return
        failures: list[EngineError] = []

        def attempt(call: Callable[..., None], *arguments: Any) -> None:
            try:
                call(*arguments)
            except EngineError as error:
                failures.append(error)

        with driver.current():
            for stream in self._streams:
                attempt(driver.synchronise, stream)
            while self._handles:
                attempt(driver.free, self._handles.pop())
        if failures:
            raise failures[0]

    def _opened(self) -> Driver:
        if self._driver is None:
            raise EngineError("this CUDA memory is closed; load the engine again")
        return self._driver


def open_memory(name: str = AUTO) -> Memory:
    """Memory through the named package, or through the first of DRIVERS that is installed.

    Raises MissingBackendError where there is no driver or no GPU, EngineError where there is no package and for an unknown name.
    """
    if name not in (AUTO, *DRIVERS):
        raise EngineError(f"memory '{name}' is unknown; expected {AUTO} or one of {', '.join(DRIVERS)}")
    for candidate in DRIVERS if name == AUTO else (name,):
        module = import_module(DRIVERS[candidate])
        try:
            driver: Driver = module.open_driver()
        except ModuleNotFoundError:
            continue
        return Memory(driver)
    wanted = "cuda-bindings or pycuda" if name == AUTO else name.replace("_", "-")
    raise EngineError(f"nothing to manage CUDA memory with: pip install {wanted}")


def _check_copy(device: DeviceBuffer, offset: int, host: NDArray[Any]) -> None:
    if offset < 0 or offset + host.nbytes > device.nbytes:
        raise EngineError(f"a copy of {host.nbytes} bytes at {offset} does not fit into device memory of {device.nbytes} bytes")
    if not host.flags.c_contiguous:
        raise EngineError("an array that is not contiguous cannot be copied to or from the device")
