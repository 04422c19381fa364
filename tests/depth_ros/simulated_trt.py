"""A stand-in for TensorRT's runtime, NOT TensorRT: as much of its Python API as depth_ros.engines.trt uses.

Its "plan" is an ONNX graph behind a header, and ONNX Runtime computes it when the simulated stream gets there, from the bytes
that then lie at the addresses that were set. What TensorRT answers with False or None and a line in its log, so does this; what
it leaves undefined raises Misuse. It builds nothing, and says nothing about TensorRT's numbers, speed or memory.
"""

from __future__ import annotations

import enum
import json

import numpy as np
import onnx
import onnxruntime as ort
from simulated_cuda import ALIGNMENT, Misuse

MAGIC = b"simulated plan "
DTYPES = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32, "tensor(int32)": np.int32}


def make_plan(graph: bytes, batch: int = 1) -> bytes:
    """A plan for 1 to `batch` images, of which an open first dimension is the number."""
    return MAGIC + json.dumps({"batch": batch}).encode() + b"\n" + graph


class SimulatedTensorRT:
    """The module."""

    class TensorIOMode(enum.Enum):
        NONE, INPUT, OUTPUT = range(3)

    class ComputeCapability(enum.Enum):
        NONE, CURRENT, SM75, SM86 = range(4)

    class ILogger:
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

    def __init__(self, driver, name="tensorrt", version="10.3.0"):
        self.driver, self.__name__, self.__version__ = driver, name, version

    def nptype(self, dtype):
        return DTYPES[dtype]

    def Runtime(self, log):  # noqa: N802
        self.driver.must_be_current()
        return SimulatedRuntime(self, log)


class SimulatedRuntime:
    def __init__(self, trt, log):
        self.trt, self.log = trt, log

    def deserialize_cuda_engine(self, data):
        if not data.startswith(MAGIC):
            self.log.log(self.trt.ILogger.ERROR, "Serialization assertion\nmagicTag == kMAGIC_TAG failed.")
            return None
        header, graph = data[len(MAGIC) :].split(b"\n", 1)
        return SimulatedEngine(self.trt, self.log, json.loads(header)["batch"], graph)


class SimulatedEngine:
    def __init__(self, trt, log, batch, graph):
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = 1
        self.trt, self.log, self.batch = trt, log, batch
        self.session = ort.InferenceSession(graph, settings, providers=["CPUExecutionProvider"])
        onnx.checker.check_model(onnx.load_from_string(graph))
        self.inputs = {value.name: value for value in self.session.get_inputs()}
        self.outputs = {value.name: value for value in self.session.get_outputs()}
        self.tensors = {**self.inputs, **self.outputs}

    @property
    def num_io_tensors(self):
        return len(self.tensors)

    def get_tensor_name(self, index):
        return list(self.tensors)[index]

    def get_tensor_mode(self, name):
        return self.trt.TensorIOMode.INPUT if name in self.inputs else self.trt.TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name):
        return self.tensors[name].type

    def get_tensor_shape(self, name):
        return [size if isinstance(size, int) else -1 for size in self.tensors[name].shape]

    def get_tensor_profile_shape(self, name, profile):
        if profile or name not in self.inputs:
            raise Misuse(f"no profile {profile} of {name}")
        shape = self.get_tensor_shape(name)
        return [[count if size == -1 else size for size in shape] for count in (1, self.batch, self.batch)]

    def create_execution_context(self):
        self.trt.driver.must_be_current()
        return SimulatedContext(self)


class SimulatedContext:
    def __init__(self, engine):
        self.engine, self.driver = engine, engine.trt.driver
        self.shapes, self.addresses = {}, {}

    def set_input_shape(self, name, shape):
        if any(operation.what == "inference" for stream in self.driver.streams for operation in stream.queue):
            raise Misuse("shapes change while the context is at work")
        low, _, high = self.engine.get_tensor_profile_shape(name, 0)
        fits = len(shape) == len(low) and all(a <= size <= b for a, size, b in zip(low, shape, high, strict=True))
        if fits:
            self.shapes[name] = tuple(shape)
        else:
            self._fail(f"{name} {shape} is not in the profile")
        return fits

    def get_tensor_shape(self, name):
        if name in self.shapes:
            return self.shapes[name]
        counts = {shape[0] for key, shape in self.shapes.items() if self.engine.get_tensor_shape(key)[0] == -1}
        count = counts.pop() if len(counts) == 1 else -1
        return [count if size == -1 else size for size in self.engine.get_tensor_shape(name)]

    def set_tensor_address(self, name, address):
        if name not in self.engine.tensors or address % ALIGNMENT:
            self._fail(f"{name} cannot be at {address:#x}")
            return False
        self.addresses[name] = address
        return True

    def execute_async_v3(self, handle):
        if set(self.addresses) != set(self.engine.tensors) or set(self.shapes) != set(self.engine.inputs):
            self._fail("not all addresses and shapes are set")
            return False
        stream = next(stream for stream in self.driver.streams if stream.handle == handle and stream in self.driver.live)
        reads = {name: self._place(name) for name in self.engine.inputs}
        writes = {name: self._place(name) for name in self.engine.outputs}

        def run():
            feeds = {name: self._array(*place) for name, place in reads.items()}
            results = self.engine.session.run(list(writes), feeds)
            for result, (address, shape, dtype) in zip(results, writes.values(), strict=True):
                self._array(address, shape, dtype)[...] = result

        self.driver.put(stream, "inference", run, map(extent, reads.values()), map(extent, writes.values()))
        return True

    def _place(self, name):
        return self.addresses[name], tuple(self.get_tensor_shape(name)), np.dtype(DTYPES[self.engine.tensors[name].type])

    def _array(self, address, shape, dtype):
        return self.driver.bytes_at(*extent((address, shape, dtype))).view(dtype).reshape(shape)

    def _fail(self, text):
        self.engine.log.log(self.engine.trt.ILogger.ERROR, text)


def extent(place):
    address, shape, dtype = place
    return address, int(np.prod(shape)) * dtype.itemsize
