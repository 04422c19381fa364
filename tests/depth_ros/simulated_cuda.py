"""A stand-in for CUDA, NOT CUDA: a Driver (depth_ros.engines.cuda_memory.driver) whose device memory lies in host memory.

It is there so that the order of copies, computations and waits can be tested without a GPU, and is as unkind as CUDA may be: a
stream does its work as late as possible (only when somebody waits for it) or, if it is in `eager`, as early as possible. What a
real device would do only sometimes, it refuses always: an operation that runs before an earlier one of another stream that
touches the same bytes, a pinned array that is changed while it is being sent, a call without a current context raise Misuse.
Timing, caches, real concurrency and errors of real devices are not simulated.
"""

from __future__ import annotations

import itertools
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from depth_ros.engines import EngineError

GARBAGE = 0xCD
DEVICE_BYTES = 1 << 30
ALIGNMENT = 256


class Misuse(AssertionError):  # noqa: N818 (not an error of the device but of its user)
    """What CUDA would let pass, and answer with wrong numbers at times."""


@dataclass
class Operation:
    number: int
    what: str
    run: object  # () -> None; None for a wait
    reads: tuple = ()  # (address, bytes)
    writes: tuple = ()
    awaits: tuple | None = None  # (event, ticket) of a wait

    def conflicts(self, other):
        pairs = [*itertools.product(self.writes, other.writes + other.reads), *itertools.product(self.reads, other.writes)]
        return any(a < d + m and d < a + n for (a, n), (d, m) in pairs)


@dataclass(eq=False)
class SimulatedStream:
    handle: int
    eager: bool
    queue: deque = field(default_factory=deque)


@dataclass(eq=False)
class SimulatedEvent:
    stream: SimulatedStream | None = None
    recorded: int = 0  # tickets
    happened: int = 0


@dataclass(eq=False)
class SimulatedGraph:
    operations: list


@dataclass(eq=False)
class Allocation:
    address: int
    array: np.ndarray


class HostDriver:
    name = "host"

    def __init__(self, eager=(), devices=1, capability=(8, 6), captures=True):
        self.eager, self.devices, self.capability, self.captures = eager, devices, capability, captures
        self.live = []  # handles that were not freed
        self.depth = 0  # of current()
        self.counts = {"upload": 0, "download": 0, "launch": 0, "capture": 0}
        self.streams = []
        self._numbers = itertools.count(1)
        self._capturing = None

    def device_count(self):
        return self.devices

    def open(self):
        pass

    def device_name(self):
        return "Simulated GPU"

    def compute_capability(self):
        return self.capability

    @contextmanager
    def current(self):
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1

    def allocate(self, nbytes):
        allocation = self._allocation(nbytes)
        return allocation, allocation.address

    def allocate_pinned(self, nbytes):
        allocation = self._allocation(nbytes)
        return allocation, allocation.array

    def create_stream(self):
        self.must_be_current()
        stream = SimulatedStream(len(self.streams) + 1, len(self.streams) in self.eager)
        self.streams.append(stream)
        self.live.append(stream)
        return stream, stream.handle

    def create_event(self):
        self.must_be_current()
        self.live.append(SimulatedEvent())
        return self.live[-1]

    def free(self, handle):
        self.must_be_current()
        if isinstance(handle, Allocation) and any(stream.queue for stream in self.streams):
            raise Misuse("memory is freed while work is pending")
        self.live.remove(handle)

    def upload(self, address, array, stream):
        self.counts["upload"] += 1
        target, kept = self.bytes_at(address, array.nbytes), array.tobytes()

        def run():
            if array.tobytes() != kept:
                raise Misuse("a pinned array was changed before it was sent")
            target[:] = np.frombuffer(kept, np.uint8)

        self.put(stream, "upload", run, reads=[span(array)], writes=[(address, array.nbytes)])

    def download(self, array, address, stream):
        self.counts["download"] += 1
        source, target = self.bytes_at(address, array.nbytes), array.reshape(-1).view(np.uint8)
        target[:] = GARBAGE  # what a host finds that reads too early

        def run():
            target[:] = source

        self.put(stream, "download", run, reads=[(address, array.nbytes)], writes=[span(array)])

    def record(self, event, stream):
        event.stream, event.recorded = stream, event.recorded + 1
        ticket = event.recorded

        def run():
            event.happened = ticket

        self.put(stream, "record", run)

    def wait(self, stream, event):
        if event.recorded:
            self.put(stream, "wait", None, awaits=(event, event.recorded))

    def synchronise(self, handle):
        self.must_be_current()
        if self._capturing:
            raise Misuse("waiting for a stream that is being captured")
        if isinstance(handle, SimulatedStream):
            self._advance(handle)
        elif handle.happened < handle.recorded:
            self._advance(handle.stream, handle, handle.recorded)

    def capture(self, stream, work):
        if not self.captures:
            return None
        self.counts["capture"] += 1
        self._capturing = (stream, [])
        try:
            work()
            graph = SimulatedGraph(self._capturing[1])
        finally:
            self._capturing = None
        self.live.append(graph)
        return graph

    def launch(self, graph, stream):
        if graph not in self.live:
            raise Misuse("a graph that was freed is launched")
        self.counts["launch"] += 1
        for operation in graph.operations:
            self.put(stream, operation.what, operation.run, operation.reads, operation.writes)

    # What simulated_trt needs besides.

    def must_be_current(self):
        if not self.depth:
            raise Misuse("no context is current in this thread")

    def bytes_at(self, address, nbytes):
        for allocation in self.live:
            if isinstance(allocation, Allocation):
                offset = address - allocation.address
                if offset >= 0 and offset + nbytes <= allocation.array.size:
                    return allocation.array[offset : offset + nbytes]
        raise Misuse(f"{nbytes} bytes at {address:#x} are not allocated")

    def put(self, stream, what, run, reads=(), writes=(), awaits=None):
        self.must_be_current()
        operation = Operation(next(self._numbers), what, run, tuple(reads), tuple(writes), awaits)
        if self._capturing:
            if self._capturing[0] is not stream:
                raise Misuse(f"{what} in another stream than the one that is captured")
            self._capturing[1].append(operation)
            return
        stream.queue.append(operation)
        while stream.eager and stream.queue and not self._blocked(stream.queue[0]):
            self._step(stream)  # an eager stream waits for events like any other, but for nothing else

    def _blocked(self, operation):
        return operation.awaits is not None and operation.awaits[0].happened < operation.awaits[1]

    def _advance(self, stream, event=None, ticket=0):
        while stream.queue and (event is None or event.happened < ticket):
            self._step(stream)

    def _step(self, stream):
        operation = stream.queue[0]
        if self._blocked(operation):
            event, ticket = operation.awaits
            self._advance(event.stream, event, ticket)
        stream.queue.popleft()
        for other in self.streams:
            for pending in other.queue:
                if other is not stream and pending.number < operation.number and operation.conflicts(pending):
                    raise Misuse(f"{operation.what} overtakes the {pending.what} of another stream on the same bytes")
        if operation.run:
            operation.run()

    def _allocation(self, nbytes):
        self.must_be_current()
        if nbytes > DEVICE_BYTES:
            raise EngineError("CUDA: allocation failed: cudaErrorMemoryAllocation (out of memory)")
        block = np.full(nbytes + ALIGNMENT, GARBAGE, np.uint8)
        offset = -block.ctypes.data % ALIGNMENT
        allocation = Allocation(block.ctypes.data + offset, block[offset : offset + nbytes])
        self.live.append(allocation)
        return allocation


def span(array):
    return array.ctypes.data, array.nbytes
