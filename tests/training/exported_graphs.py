"""A network as a graph behind a bundle's input, and what others make of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import nn

Shape = tuple[int, ...]


def export_graph(graph: nn.Module, width: int, height: int, folder: Path) -> bytes:
    """ONNX of a module from uint8 images (N, height, width, 3) to one map."""
    file, example = folder / "model.onnx", torch.zeros(2, height, width, 3, dtype=torch.uint8)
    torch.onnx.export(
        graph, (example,), file, input_names=["image"], output_names=["map"], opset_version=18, dynamo=True,
        external_data=False, dynamic_shapes={"image": {0: torch.export.Dim("N")}}, verbose=False,
    )  # fmt: skip
    return file.read_bytes()


def run_graph(model: bytes, images: np.ndarray) -> torch.Tensor:
    """The map by ONNX Runtime."""
    session = ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"image": images})[0])


def shapes_in_tensorrt(model: bytes) -> tuple[Shape, Shape]:
    """Shapes of input and output as TensorRT-RTX parses them; skips the test where it is not installed."""
    trt = pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    parsed = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(parsed, trt.Logger(trt.Logger.ERROR))
    assert parser.parse(model), [str(parser.get_error(i)) for i in range(parser.num_errors)]
    return tuple(parsed.get_input(0).shape), tuple(parsed.get_output(0).shape)
