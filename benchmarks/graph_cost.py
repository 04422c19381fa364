"""What one image costs in an ONNX graph, counted from its shapes: arithmetic, and the numbers that have to be moved."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from pathlib import Path

import onnx
from onnx import shape_inference

Shapes = dict[str, list[int]]


@dataclass(frozen=True)
class Cost:
    """Of the Conv, ConvTranspose, MatMul and Gemm nodes; everything else is taken to be fused into them, at no cost."""

    flop: int  # per image; a multiply-add is two
    weights: int  # numbers read, once per batch
    activations: int  # numbers that these nodes read and write, per image

    def bytes_per_image(self, itemsize: int, batch: int = 1) -> float:
        """Bytes moved per image of a batch whose numbers have `itemsize` bytes, where nothing stays in a cache."""
        return itemsize * (self.activations + self.weights / batch)


def count(file: Path) -> Cost:
    """Count a bundle's graph. What depends on constants alone is not counted: engines compute that when they load.

    Raises ValueError naming the tensor if a shape cannot be told.
    """
    model = onnx.load(file)
    for entry in (*model.graph.input, *model.graph.output):
        if entry.type.tensor_type.shape.dim:
            entry.type.tensor_type.shape.dim[0].dim_value = 1
    del model.graph.value_info[:]  # the exporter's still speak of N images
    graph = shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    shapes = _shapes(graph)
    constant = {tensor.name for tensor in graph.initializer}
    flop = weights = activations = 0
    for node in graph.node:
        inputs = [name for name in node.input if name]
        if all(name in constant for name in inputs) and not _has_subgraph(node):
            constant.update(node.output)
        elif node.op_type in ("Conv", "ConvTranspose", "MatMul", "Gemm"):
            for name in (*inputs, node.output[0]):
                if name not in shapes:
                    raise ValueError(f"{file}: the shape of '{name}' ({node.op_type}) cannot be told; expected a static graph")
                if name in constant:
                    weights += prod(shapes[name])
                else:
                    activations += prod(shapes[name])
            flop += _flop(node, shapes)
    return Cost(flop, weights, activations)


def _flop(node: onnx.NodeProto, shapes: Shapes) -> int:
    first, second, output = (shapes[name] for name in (*node.input[:2], node.output[0]))
    if node.op_type == "Conv":  # weight (outputs, inputs / groups, *kernel): that many multiply-adds per output
        return 2 * prod(output) * prod(second[1:])
    if node.op_type == "ConvTranspose":  # weight (inputs, outputs / groups, *kernel): that many per input
        return 2 * prod(first) * prod(second[1:])
    transposed = node.op_type == "Gemm" and any(a.name == "transA" and a.i for a in node.attribute)
    return 2 * prod(output) * first[0 if transposed else -1]


def _shapes(graph: onnx.GraphProto) -> Shapes:
    found = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for entry in (*graph.input, *graph.output, *graph.value_info):
        dims = entry.type.tensor_type.shape.dim
        if all(dim.HasField("dim_value") for dim in dims):
            found[entry.name] = [dim.dim_value for dim in dims]
    return found


def _has_subgraph(node: onnx.NodeProto) -> bool:
    return any(attribute.HasField("g") for attribute in node.attribute)
