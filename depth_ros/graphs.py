"""A bundle's ONNX graph as a builder needs it: in a precision, alone or with the rest of a frame's work around it.

onnx is imported when a graph is made: engines are built with it and run without it.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from depth_ros.bundle import ModelBundle
from depth_ros.engines import EngineError, one_line

if TYPE_CHECKING:
    import onnx

GRAPH_PRECISIONS = ("fp32", "fp16", "int8")
LAYERS = {"Conv", "ConvTranspose", "MatMul", "Gemm"}  # what a network spends its time in; the rest scales, clamps and moves
# Sums of many values or squares, which leave fp16's range (65504) though their terms do not: they stay float32.
SUMS = {
    "ReduceL1", "ReduceL2", "ReduceSum", "ReduceSumSquare", "ReduceMean", "ReduceLogSumExp", "Pow", "Exp", "Softmax",
    "LayerNormalization", "InstanceNormalization", "GroupNormalization", "CumSum",
}  # fmt: skip
HALF_MAX = float(np.finfo(np.float16).max)


def prepare(bundle: ModelBundle, precision: str) -> bytes:
    """Return the bundle's graph in a precision, serialized: types agree throughout, inputs and outputs are the bundle's.

    fp16 keeps float32 before the first network layer, from the last one on (see outer_nodes) and in SUMS; int8 is the graph
    that training.export --int8 wrote. Raises EngineError for a precision that there is not, or a graph that cannot be converted.
    """
    return _serialized(bundle, _prepared(bundle, precision))


def frame_graph(bundle: ModelBundle, width: int, height: int, precision: str) -> bytes:
    """Return the graph of a whole frame of a camera of this size [px]; see depth_ros.frame_graph. Raises EngineError."""
    from depth_ros.frame_graph import around

    return _serialized(bundle, around(_prepared(bundle, precision), bundle, width, height))


def _prepared(bundle: ModelBundle, precision: str) -> onnx.ModelProto:
    if precision not in GRAPH_PRECISIONS:
        raise EngineError(f"precision '{precision}' is unknown for a graph; expected one of {', '.join(GRAPH_PRECISIONS)}")
    model = _read_int8(bundle) if precision == "int8" else _parsed(bundle, bundle.graph_path.read_bytes())
    cast_before_transpose(model)
    return to_half(model, str(bundle.graph_path)) if precision == "fp16" else model


def _parsed(bundle: ModelBundle, content: bytes) -> onnx.ModelProto:
    try:
        import onnx
    except ImportError as error:
        raise EngineError(f"building an engine needs the package onnx ({error}): pip install onnx") from error
    try:
        onnx.checker.check_model(content)
    except onnx.checker.ValidationError as error:
        raise EngineError(f"{bundle.path}: not a valid ONNX graph: {one_line(error)}") from error
    return onnx.load_model_from_string(content)


def _read_int8(bundle: ModelBundle) -> onnx.ModelProto:
    if not bundle.int8:
        raise EngineError(
            f"{bundle.path}: has no int8 graph; make one: python -m training.quantise {bundle.path} FOLDER_OF_FRAMES"
        )
    try:
        content = bundle.int8_path.read_bytes()
    except OSError as error:
        raise EngineError(f"{bundle.int8_path}: cannot be read ({error.strerror}); copy the whole bundle again") from error
    found = hashlib.sha256(content).hexdigest()
    if found != bundle.int8["sha256"]:
        raise EngineError(
            f"{bundle.int8_path}: sha256 is {found}, but bundle.yaml says {bundle.int8['sha256']}: quantise it again"
        )
    return _parsed(bundle, content)


def _serialized(bundle: ModelBundle, model: onnx.ModelProto) -> bytes:
    import onnx

    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise EngineError(f"{bundle.path}: the graph did not survive its conversion: {one_line(error)}") from error
    content: bytes = model.SerializeToString()
    return content


def cast_before_transpose(model: onnx.ModelProto) -> None:
    """Turn Transpose, Cast of the image into Cast, Transpose where a graph begins so, in place: the values stay to the bit.

    TensorRT takes uint8 only into a Cast; earlier exports transposed first.
    """
    graph = model.graph
    readers = [node for node in graph.node if graph.input[0].name in node.input and node.op_type != "Shape"]
    if len(readers) != 1 or readers[0].op_type != "Transpose":
        return
    transpose = readers[0]
    between = transpose.output[0]
    readers = [node for node in graph.node if between in node.input]
    if len(readers) != 1 or readers[0].op_type != "Cast":
        return
    # The first node in the list takes the other's part, so that the list stays in the order of computation.
    cast = readers[0]
    cast.op_type, transpose.op_type = transpose.op_type, cast.op_type
    attributes = list(cast.attribute), list(transpose.attribute)
    for node, taken in zip((transpose, cast), attributes, strict=True):
        del node.attribute[:]
        node.attribute.extend(taken)
    for value in [value for value in graph.value_info if value.name == between]:
        graph.value_info.remove(value)


def outer_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """Return the nodes before the first of LAYERS and those from the last on: they stay float32 in an fp16 graph.

    Rounding the last layer's output and what follows (sigmoid, disparity, depth) to fp16 gives depth in visible steps: the
    default model's 53 000 different depths in an image become 1 500, and its median error doubles. These are few
    and light operations.
    """
    after_a_layer: set[str] = set()
    before: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type in LAYERS or after_a_layer.intersection(node.input):
            after_a_layer.update(node.output)
        else:
            before.append(node)
    before_a_layer: set[str] = set()
    after: list[onnx.NodeProto] = []
    for node in reversed(graph.node):
        if not before_a_layer.intersection(node.output):
            after.append(node)
        if node.op_type in LAYERS or before_a_layer.intersection(node.output):
            before_a_layer.update(node.input)
    return before + after


def to_half(model: onnx.ModelProto, source: str) -> onnx.ModelProto:
    """Return the graph in float16, float32 outside (see outer_nodes) and in SUMS. Raises EngineError naming `source`."""
    import onnx

    if any(attribute.type == onnx.AttributeProto.GRAPH for node in model.graph.node for attribute in node.attribute):
        raise EngineError(f"{source}: has a loop or a branch, which is not converted to fp16; use precision fp32")
    try:
        graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    except onnx.shape_inference.InferenceError as error:
        raise EngineError(f"{source}: its types cannot be told, which a conversion to fp16 needs: {one_line(error)}") from error
    typed = (*graph.value_info, *graph.input, *graph.output)
    floats = {value.name for value in typed if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    floats |= {tensor.name for tensor in graph.initializer if tensor.data_type == onnx.TensorProto.FLOAT}
    converted = _HalfGraph({tensor.name: tensor for tensor in graph.initializer}, floats)
    outer = {node.output[0] for node in outer_nodes(graph)}
    for node in graph.node:
        converted.add(node, half=node.output[0] not in outer and node.op_type not in SUMS)
    for output in graph.output:
        if output.name in converted.half:
            raise EngineError(f"{source}: output '{output.name}' also feeds a layer; use precision fp32")
    used = {name for node in converted.nodes for name in node.input}
    kept = [tensor for name, tensor in converted.tensors.items() if name in used]
    made = onnx.helper.make_graph(converted.nodes, graph.name, graph.input, graph.output, kept)
    return onnx.helper.make_model(made, opset_imports=model.opset_import, ir_version=model.ir_version)


class _HalfGraph:
    """Nodes in the order of computation, each with inputs of its own precision; casts stand where a value changes it."""

    def __init__(self, tensors: dict[str, onnx.TensorProto], floats: set[str]) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.tensors = tensors
        self.half: set[str] = set()  # values computed in float16
        self._floats = floats  # values and weights that were float32
        self._available: set[str] = set()  # what has been cast already

    def add(self, node: onnx.NodeProto, half: bool) -> None:
        import onnx

        for index, name in enumerate(node.input):
            if name in self._floats and not (index > 0 and node.op_type == "Resize"):  # its scales are float32 always
                node.input[index] = self._in_precision(name, half)
        if half:
            self.half.update(name for name in node.output if name in self._floats)
            for attribute in node.attribute:
                if node.op_type == "Cast" and attribute.name == "to" and attribute.i == onnx.TensorProto.FLOAT:
                    attribute.i = onnx.TensorProto.FLOAT16
        self.nodes.append(node)

    def _in_precision(self, name: str, half: bool) -> str:
        from onnx import TensorProto, helper, numpy_helper

        if half == (name in self.half):
            return name
        other = f"{name}_{'half' if half else 'float'}"
        if other not in self._available:
            self._available.add(other)
            if name in self.tensors:
                self.tensors[other] = numpy_helper.from_array(_halved(numpy_helper.to_array(self.tensors[name])), other)
            else:
                to = TensorProto.FLOAT16 if half else TensorProto.FLOAT
                self.nodes.append(helper.make_node("Cast", [name], [other], to=to))
        return other


def _halved(values: NDArray[np.float32]) -> NDArray[np.float16]:
    """Constants in float16: what is beyond its range stays a bound, and what is below its smallest step a guard against 0."""
    half = np.clip(values, -HALF_MAX, HALF_MAX).astype(np.float16)
    least = np.copysign(np.finfo(np.float16).smallest_subnormal, values).astype(np.float16)
    return np.where((half == 0) & (values != 0), least, half)
