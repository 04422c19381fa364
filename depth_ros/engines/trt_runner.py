"""Runs a TensorRT plan by the names of its tensors: one execution context, buffers made once, a CUDA graph after warm-up."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depth_ros.engines import EngineError
from depth_ros.engines.cuda_memory import ALIGNMENT, DeviceBuffer, Event, Graph, HostBuffer, Memory

LOG = logging.getLogger(__name__)
RUNS_BEFORE_CAPTURE = 1  # TensorRT still allocates and uploads in the first run with new shapes

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Tensor:
    """An input or output of a plan."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]  # -1 where the plan takes several sizes
    largest: tuple[int, ...]  # of an input; of an output empty


@dataclass(frozen=True)
class Place:
    """Where an output lies in the block of all outputs, with the present shapes."""

    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def end(self) -> int:
        """One past the last byte."""
        return self.offset + int(np.prod(self.shape)) * self.dtype.itemsize

    def view(self, block: HostBuffer) -> NDArray[Any]:
        """The output in a host copy of the block."""
        return block.array[self.offset : self.end].view(self.dtype).reshape(self.shape)


@dataclass
class Slot:
    """Where one set of inputs waits for the device, and its results for the host."""

    pinned: dict[str, HostBuffer]
    device: dict[str, DeviceBuffer]
    uploaded: Event
    done: Event
    results: HostBuffer  # all outputs, each at its offset
    sent: Arrays = field(default_factory=dict)  # the arrays that lie on the device
    wanted: dict[str, Place] = field(default_factory=dict)  # the outputs that are fetched
    runs: int = 0  # with the present shapes
    graph: Graph | None = None


class PlanRunner:
    """GraphRunner (see depth_ros.engines) over one execution context.

    Uploads have a stream of their own: the inputs of one slot travel while the device computes the other's. What start() hands
    over, finish() fetches, both inside current(). All calls come from one thread. The memory is the runner's own, and close()
    closes it. Raises EngineError if the plan cannot be set up.
    """

    def __init__(self, trt: Any, engine: Any, log: Any, memory: Memory, precision: str, cuda_graph: bool, slots: int = 1) -> None:
        self._memory, self._log, self._engine = memory, log, engine
        self.precision = precision
        self.captures = cuda_graph  # until it turns out that it cannot be done
        self.inputs, self.outputs = _tensors(trt, engine)
        self._context = engine.create_execution_context()
        if self._context is None:
            raise EngineError(f"TensorRT cannot make an execution context: {log.last_error}")
        self._compute, self._copy = memory.stream(), memory.stream()
        self._places: dict[str, Place] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._slots: list[Slot] = []
        self._set_shapes({name: tensor.largest for name, tensor in self.inputs.items()})
        nbytes = self._extent()
        self._block = memory.device(nbytes)
        self._slots = [self._make_slot(nbytes) for _ in range(slots)]

    @property
    def memory_name(self) -> str:
        """The package that manages the memory."""
        return self._memory.name

    def current(self) -> AbstractContextManager[None]:
        """Make the GPU current in this thread."""
        if self._context is None:
            raise EngineError("the engine is closed; load it again")
        return self._memory.current()

    def run(self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> Arrays:
        """Values of `outputs`, valid until the next call. An input that is the same array as before is not sent again."""
        with self.current():
            self.start(inputs, outputs)
            return self.finish()

    def start(self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str], slot: int = 0) -> None:
        """Put upload, inference and download into the streams and return. Raises EngineError for what the plan does not take."""
        self._check(inputs, outputs)
        place = self._slots[slot]
        self._memory.synchronise(place.uploaded)  # long past, unless nobody fetched the results or a call failed
        self._memory.synchronise(place.done)
        shapes = {name: array.shape for name, array in inputs.items()}
        if shapes != self._shapes:
            self._set_shapes(shapes)
        for name, array in inputs.items():
            self._send(place, name, array)
        self._memory.record(place.uploaded, self._copy)
        self._memory.wait(self._compute, place.uploaded)
        self._execute(place)
        self._download(place, tuple(outputs))
        self._memory.record(place.done, self._compute)

    def finish(self, slot: int = 0) -> Arrays:
        """Wait for what start() put into the slot; the results are valid until the slot is used again."""
        place = self._slots[slot]
        self._memory.synchronise(place.done)
        return {name: output.view(place.results) for name, output in place.wanted.items()}

    def close(self) -> None:
        """Wait for what is under way and free context and memory. Results are gone with it. Closing twice is allowed."""
        try:
            if self._context is not None:
                with self._memory.current():
                    self._memory.synchronise(self._compute)
                    self._forget_graphs()
        finally:
            self._context = self._engine = None  # after the graphs that run its kernels, before the memory that it works in
            self._slots.clear()
            self._memory.close()

    def _check(self, inputs: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> None:
        if set(inputs) != set(self.inputs):
            raise EngineError(f"inputs are {', '.join(inputs)}; expected {', '.join(self.inputs)}")
        if not outputs or not set(outputs) <= set(self.outputs):
            raise EngineError(f"outputs are '{', '.join(outputs)}'; expected some of {', '.join(self.outputs)}")
        for name, array in inputs.items():
            tensor = self.inputs[name]
            if array.dtype != tensor.dtype or not _fits(array.shape, tensor):
                raise EngineError(f"{name} is {array.shape} {array.dtype}; expected {_range(tensor)} {tensor.dtype}")

    def _set_shapes(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Tell the context the inputs' shapes and lay out the outputs. Graphs captured with other shapes are of no use then."""
        self._memory.synchronise(self._compute)
        self._shapes = {}
        self._forget_graphs()
        for name, shape in shapes.items():
            self._must(self._context.set_input_shape(name, shape), f"does not take {name} as {shape}")
        offset = 0
        for name, tensor in self.outputs.items():
            shape = tuple(self._context.get_tensor_shape(name))
            if -1 in shape:
                raise EngineError(f"output '{name}' is {shape}; expected a size known beforehand: build the plan again")
            place = self._places[name] = Place(offset, shape, tensor.dtype)
            offset = -(-place.end // ALIGNMENT) * ALIGNMENT
        self._shapes = dict(shapes)

    def _forget_graphs(self) -> None:
        for slot in self._slots:
            slot.runs = 0
            if slot.graph:
                self._memory.free(slot.graph)
                slot.graph = None

    def _extent(self) -> int:
        return max(place.end for place in self._places.values())

    def _make_slot(self, nbytes: int) -> Slot:
        memory, inputs = self._memory, self.inputs.items()
        pinned = {name: memory.pinned(tensor.largest, tensor.dtype) for name, tensor in inputs}
        device = {name: memory.device(buffer.array.nbytes) for name, buffer in pinned.items()}
        return Slot(pinned, device, memory.event(), memory.event(), memory.pinned((nbytes,), np.uint8))

    def _send(self, place: Slot, name: str, array: NDArray[Any]) -> None:
        if place.sent.get(name) is array:
            return
        place.sent.pop(name, None)  # until the copy is under way
        staged = place.pinned[name].array.reshape(-1)[: array.size]
        np.copyto(staged.reshape(array.shape), array)
        self._memory.upload(place.device[name], staged, self._copy)
        place.sent[name] = array

    def _execute(self, place: Slot) -> None:
        if place.graph is None:
            self._set_addresses(place)
            if self.captures and place.runs >= RUNS_BEFORE_CAPTURE:
                place.graph = self._capture()
        if place.graph is None:
            self._enqueue()
        else:
            self._memory.launch(place.graph, self._compute)
        place.runs += 1

    def _set_addresses(self, place: Slot) -> None:
        addresses = {name: buffer.address for name, buffer in place.device.items()}
        addresses |= {name: self._block.address + output.offset for name, output in self._places.items()}
        for name, address in addresses.items():
            self._must(self._context.set_tensor_address(name, address), f"does not take the address of {name}")

    def _capture(self) -> Graph | None:
        try:
            graph = self._memory.capture(self._compute, self._enqueue)
        except EngineError as error:
            LOG.warning("inference runs without a CUDA graph: %s", error)
            graph = None
        self.captures = graph is not None
        return graph

    def _enqueue(self) -> None:
        self._must(self._context.execute_async_v3(self._compute.handle), "cannot run the plan")

    def _download(self, place: Slot, outputs: tuple[str, ...]) -> None:
        """Fetch the outputs; all of them in one copy."""
        place.wanted = {name: self._places[name] for name in outputs}
        spans = [(output.offset, output.end) for output in place.wanted.values()]
        if set(outputs) == set(self.outputs):
            spans = [(0, self._extent())]
        for begin, end in spans:
            self._memory.download(place.results.array[begin:end], self._block, self._compute, begin)

    def _must(self, success: bool, failure: str) -> None:
        if not success:
            raise EngineError(f"TensorRT {failure}: {self._log.last_error}")


def _tensors(trt: Any, engine: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Inputs and outputs of a plan, in its order."""
    inputs: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        shape = tuple(engine.get_tensor_shape(name))
        dtype = np.dtype(trt.nptype(engine.get_tensor_dtype(name)))
        if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT:
            largest = tuple(engine.get_tensor_profile_shape(name, 0)[2]) if -1 in shape else shape
            inputs[name] = Tensor(dtype, shape, largest)
        else:
            outputs[name] = Tensor(dtype, shape, ())
    return inputs, outputs


def _fits(shape: tuple[int, ...], tensor: Tensor) -> bool:
    if len(shape) != len(tensor.shape):
        return False
    sizes = zip(shape, tensor.shape, tensor.largest, strict=True)
    return all(size == wanted or (wanted == -1 and 0 < size <= most) for size, wanted, most in sizes)


def _range(tensor: Tensor) -> str:
    sizes = zip(tensor.shape, tensor.largest, strict=True)
    return f"({', '.join(f'1..{most}' if size == -1 else str(size) for size, most in sizes)})"
