"""What a package has to offer so that depth_ros.engines.cuda_memory can work through it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Protocol

from numpy.typing import NDArray

from depth_ros.types import UInt8Array


class Driver(Protocol):
    """The calls that a package must offer. Handles are its own; a call that fails raises EngineError with CUDA's name and text.

    allocate() and what follows it are called inside current() only.
    """

    name: str

    def device_count(self) -> int:
        """Number of GPUs; raises MissingBackendError without a driver."""

    def open(self) -> None:
        """Take device 0."""

    def device_name(self) -> str:
        """Name of device 0."""

    def compute_capability(self) -> tuple[int, int]:
        """Compute capability of device 0, (8, 7) for Orin."""

    def current(self) -> AbstractContextManager[None]:
        """Make device 0 the current one of this thread, for as long as the context lasts."""

    def allocate(self, nbytes: int) -> tuple[Any, int]:
        """Device memory: handle, address."""

    def allocate_pinned(self, nbytes: int) -> tuple[Any, UInt8Array]:
        """Page-locked host memory: handle, array (nbytes,)."""

    def create_stream(self) -> tuple[Any, int]:
        """A stream that does not wait for the default one: handle, cudaStream_t as a number."""

    def create_event(self) -> Any:
        """An event without timing that a host thread waits for asleep: the robot's other work needs the core."""

    def free(self, handle: Any) -> None:
        """Release whatever a handle stands for."""

    def upload(self, address: int, array: NDArray[Any], stream: Any) -> None:
        """Copy a contiguous pinned array to the device, in the stream's order."""

    def download(self, array: NDArray[Any], address: int, stream: Any) -> None:
        """Copy to a contiguous pinned array, in the stream's order."""

    def record(self, event: Any, stream: Any) -> None:
        """Let the event happen when all that is in the stream is done."""

    def wait(self, stream: Any, event: Any) -> None:
        """Let what comes into the stream wait for the event."""

    def synchronise(self, handle: Any) -> None:
        """Wait on the host for a stream or an event."""

    def capture(self, stream: Any, work: Callable[[], None]) -> Any | None:
        """Graph of what `work` puts into the stream, which does not run; None where the package has no graphs."""

    def launch(self, graph: Any, stream: Any) -> None:
        """Run a captured graph, in the stream's order."""
