"""benchmarks/gate.py: what it calls bf16 is bf16, and it writes what it measured."""

import json
from types import SimpleNamespace

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks import gate
from depth_ros.engines.gate import FRAMES


def test_every_weight_and_result_is_rounded_to_seven_bits(tmp_path):
    """bf16 keeps 7 bits behind the leading one, ties to even: 1 + 3/256 becomes 1 + 4/256."""
    tensor = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Mul", ["x", "w"], ["product"]),
        helper.make_node("Add", ["product", "small"], ["sum"]),
        helper.make_node("Identity", ["sum"], ["y"]),
    ]
    weights = {"w": 1 + 3 / 256, "small": 1 / 512}  # 1 + 4/256; exact
    initialisers = [numpy_helper.from_array(np.float32(value), name) for name, value in weights.items()]
    ends = [tensor("x", TensorProto.FLOAT, [3])], [tensor("y", TensorProto.FLOAT, [3])]
    graph = helper.make_graph(nodes, "rounded", *ends, initialisers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, tmp_path / "model.onnx")
    content = gate.rounded(SimpleNamespace(graph_path=tmp_path / "model.onnx"), TensorProto.BFLOAT16)
    onnx.checker.check_model(content, full_check=True)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    (found,) = session.run(["y"], {"x": np.array([1, 2, 3], np.float32)})
    # Products 1.015625, 2.03125 and 3.046875 are exact in bf16; with 1/512 more each lies below the middle to the next one.
    np.testing.assert_array_equal(found, np.array([1.015625, 2.03125, 3.046875], np.float32))


def test_figures_of_every_precision_are_written(make_bundle, tmp_path, capsys):
    pytest.importorskip("openvino")
    made = make_bundle(32, 16)
    assert gate.main([str(made.path), "--out", str(tmp_path / "gate.json")]) == 0
    written = json.loads((tmp_path / "gate.json").read_text())
    assert [row["precision"] for row in written["results"]] == ["fp32", "fp16", "bf16"]  # the bundle has no int8 graph
    assert {row["images"] for row in written["results"]} == {"/".join(FRAMES.parts[-2:])}
    assert all(row["depth_p99"] <= written["limits"][row["precision"]]["depth_p99"] for row in written["results"])
    assert gate.main([str(tmp_path / "none"), "--out", str(tmp_path / "gate.json")]) == 1
    assert "no such folder" in capsys.readouterr().err
