"""One ONNX graph from a text and a network that it runs, once or several times with the same weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper, parser


def around(network: onnx.ModelProto, outputs: Sequence[str], text: str, constants: Mapping[str, Any]) -> onnx.ModelProto:
    """The graph of `text` (ONNX's syntax) with the network, which has one input, in place of each operation Network.

    `a, b = Network (x)` gives those of the network's results that `outputs` names. What the text names besides are `constants`,
    arrays; what no output depends on is left out.
    """
    graph = parser.parse_graph(text)
    weights = {tensor.name: f"network_{tensor.name}" for tensor in network.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    for index, node in enumerate(graph.node):
        if node.op_type == "Network":
            names = {**weights, network.graph.input[0].name: node.input[0], **dict(zip(outputs, node.output, strict=True))}
            nodes += [_renamed(inner, names, f"network_{index}_") for inner in network.graph.node]
        else:
            nodes.append(node)
    nodes = _needed(nodes, {value.name for value in graph.output})
    used = _read_by(nodes)
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items() if name in used]
    for tensor in network.graph.initializer:
        if weights[tensor.name] in used:
            tensors.append(onnx.TensorProto())
            tensors[-1].CopyFrom(tensor)
            tensors[-1].name = weights[tensor.name]
    made = helper.make_graph(nodes, graph.name, graph.input, graph.output, tensors)
    return helper.make_model(made, opset_imports=network.opset_import, ir_version=network.ir_version)


def _renamed(node: onnx.NodeProto, names: Mapping[str, str], prefix: str) -> onnx.NodeProto:
    """A copy of a node with `names` for the names that it reads and writes, and the prefix before all others."""

    def new(name: str) -> str:
        return name and names.get(name, prefix + name)

    def rename(part: onnx.NodeProto) -> None:
        part.name = ""
        part.input[:] = [new(name) for name in part.input]
        part.output[:] = [new(name) for name in part.output]
        for graph in _graphs(part):
            del graph.value_info[:]
            for value in (*graph.input, *graph.output, *graph.initializer):
                value.name = new(value.name)
            for inner in graph.node:
                rename(inner)

    copied = onnx.NodeProto()
    copied.CopyFrom(node)
    rename(copied)
    return copied


def _graphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The branches and loops of a node."""
    return [attribute.g for attribute in node.attribute if attribute.type == onnx.AttributeProto.GRAPH]


def _read_by(nodes: Iterable[onnx.NodeProto]) -> set[str]:
    """Names that nodes read, in their branches too."""
    read: set[str] = set()
    for node in nodes:
        read.update(node.input)
        for graph in _graphs(node):
            read |= _read_by(graph.node) | {value.name for value in graph.output}
    return read


def _needed(nodes: list[onnx.NodeProto], outputs: set[str]) -> list[onnx.NodeProto]:
    """The nodes that some output depends on: a network may have other maps."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted |= _read_by([node])
    return kept[::-1]
