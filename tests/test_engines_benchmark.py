"""The engine benchmark: what a graph costs is counted as by hand, and a run says what benchmarks/README.md promises."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from benchmarks import engines, roofline
from benchmarks.engine_models import NETWORKS, add_int8, build
from benchmarks.graph_cost import Cost, count
from depth_ros import bundle as bundles
from depth_ros.bundle import ModelBundle

ROOT = Path(__file__).resolve().parents[1]
FLOP = 2 * 128 * (4 * 9 + 6)  # of tiny_bundle's graph


def save_graph(file: Path, nodes: Sequence[onnx.NodeProto], shape: Sequence[int | str], constants: dict[str, np.ndarray]) -> Path:
    """A graph from `x` to `y`, both float32."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    stored = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "test", [x], [y], stored)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), file)
    return file


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize(
    ("node", "shape", "constants", "expected"),
    [
        # 8x6 -> 4x3 with stride 2: 5 maps of 12 pixels, each of 3x3 weights on 2 maps; a bias adds 5 numbers and no product.
        (
            helper.make_node("Conv", ["x", "w", "b"], ["y"], pads=[1, 1, 1, 1], strides=[2, 2]),
            ["N", 2, 8, 6],
            {"w": zeros(5, 2, 3, 3), "b": zeros(5)},
            Cost(flop=2 * 5 * 12 * 2 * 9, weights=90 + 5, activations=2 * 48 + 5 * 12),
        ),
        # Depthwise: each of 4 maps of 16 pixels has its own 3x3 weights.
        (
            helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1], group=4),
            ["N", 4, 4, 4],
            {"w": zeros(4, 1, 3, 3)},
            Cost(flop=2 * 4 * 16 * 9, weights=36, activations=64 + 64),
        ),
        # Each of the 3 x 4 x 4 inputs is spread over 2 maps by 2x2 weights.
        (
            helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2]),
            ["N", 3, 4, 4],
            {"w": zeros(3, 2, 2, 2)},
            Cost(flop=2 * 48 * 2 * 4, weights=24, activations=48 + 2 * 64),
        ),
        # (7, 8) @ (8, 5)
        (
            helper.make_node("MatMul", ["x", "w"], ["y"]),
            ["N", 7, 8],
            {"w": zeros(8, 5)},
            Cost(flop=2 * 7 * 8 * 5, weights=40, activations=56 + 35),
        ),
        # (1, 8) @ (5, 8)^T + 5
        (
            helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1),
            ["N", 8],
            {"w": zeros(5, 8), "b": zeros(5)},
            Cost(flop=2 * 8 * 5, weights=45, activations=8 + 5),
        ),
    ],
)
def test_costs_are_those_counted_by_hand(node, shape, constants, expected, tmp_path):
    assert count(save_graph(tmp_path / "graph.onnx", [node], shape, constants)) == expected


def test_a_product_of_two_activations_reads_no_weights(tmp_path):
    """Attention: (6, 4) @ (4, 6), both from the image."""
    nodes = [helper.make_node("Transpose", ["x"], ["t"], perm=[0, 2, 1]), helper.make_node("MatMul", ["x", "t"], ["y"])]
    expected = Cost(flop=2 * 6 * 4 * 6, weights=0, activations=24 + 24 + 36)
    assert count(save_graph(tmp_path / "graph.onnx", nodes, ["N", 6, 4], {})) == expected


def test_what_depends_on_constants_alone_costs_nothing(tmp_path):
    """A position encoding: its product is computed at load; what is left reads the product's 4x4 numbers as weights."""
    nodes = [
        helper.make_node("MatMul", ["a", "b"], ["c"]),
        helper.make_node("Relu", ["c"], ["w"]),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    expected = Cost(flop=2 * 3 * 4 * 4, weights=16, activations=12 + 12)
    assert count(save_graph(tmp_path / "graph.onnx", nodes, ["N", 3, 4], {"a": zeros(4, 9), "b": zeros(9, 4)})) == expected


def test_a_graph_of_unknown_size_is_refused(tmp_path):
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    with pytest.raises(ValueError, match=r"the shape of 'x' \(MatMul\) cannot be told; expected a static graph"):
        count(save_graph(tmp_path / "graph.onnx", [node], ["N", "any", 4], {"w": zeros(4, 4)}))


def test_a_batch_reads_its_weights_once():
    cost = Cost(flop=1, weights=1000, activations=50)
    assert (cost.bytes_per_image(4), cost.bytes_per_image(2, batch=4)) == (4200, 2 * (50 + 250))


def test_the_default_network_is_the_shipped_one():
    """Multiply-adds of the network that is benchmarked, from the shapes in torch, beside those of the shipped graph."""
    with torch.device("meta"):
        network = build("default", 416, 128).depth_net
        products = []

        def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            products.append(output.numel() * module.weight[0].numel())

        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_hook(note)
        network(torch.zeros(1, 3, 128, 416))
    # Of the heads only the finest is in the graph; the coarser two serve training: 2 maps of 9 weights on 48 and 64 channels.
    coarse = 2 * 9 * (48 * 104 * 32 + 64 * 52 * 16)
    assert count(ROOT / "models" / "default" / "model.onnx").flop == 2 * (sum(products) - coarse)


def test_the_bound_is_whatever_takes_longer(tmp_path):
    """2 images of 480 FLOP and 4 bytes x 91 numbers and 40 weights, at 1e6 FLOP/s and either a slow or a fast memory."""
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = save_graph(tmp_path / "graph.onnx", [node], ["N", 7, 8], {"w": zeros(8, 5)})
    case = {"precision": "fp32", "batch": 2}
    slow = engines.bound(graph, case, {"fp32": 1e6, "copy": 1e5})
    assert (slow["bound_by"], slow["bound_ms"]) == ("memory", pytest.approx(1000 * (2 * 91 + 40) * 4 / 1e5))
    fast = engines.bound(graph, case, {"fp32": 1e6, "copy": 1e9})
    assert (fast["bound_by"], fast["bound_ms"]) == ("arithmetic", pytest.approx(1000 * 2 * 2 * 7 * 8 * 5 / 1e6))
    halves = engines.bound(graph, {**case, "precision": "fp16"}, {"fp32": 1e9, "fp16": 1e9, "copy": 1e5})
    assert halves["bound_ms"] == pytest.approx(slow["bound_ms"] / 2)


def test_the_ceilings_are_those_of_products_and_copies(monkeypatch):
    """A clock that gives every call one second: the fastest product is the largest one."""
    monkeypatch.setattr(roofline, "best_time", lambda task: (task(), 1.0)[1])
    monkeypatch.setattr(roofline, "SIZES", (8, 16))
    monkeypatch.setattr(roofline, "COPY_MB", 2)
    assert roofline.measure_cpu(threads=1) == {"fp32": 2 * 16**3, "copy": 2 * 2 * 2**20}


@pytest.fixture
def tiny_bundle(tmp_path: Path) -> Callable[[str], ModelBundle]:
    """A bundle of 1x1 convolutions on 128 pixels, four from 3 to 3 maps and one from 3 to 2: FLOP."""

    def make(name: str) -> ModelBundle:
        folder = tmp_path / "graphs" / name
        folder.mkdir(parents=True)
        image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 8, 16, 3])
        outputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", 8, 16]) for n in ("depth", "sigma")]
        constants = {
            "v": np.ones((3, 3, 1, 1), np.float32),
            "w": np.ones((2, 3, 1, 1), np.float32),
            "0": np.int64(0),
            "1": np.int64(1),
        }
        nodes = [
            helper.make_node("Cast", ["image"], ["colour"], to=TensorProto.FLOAT),
            helper.make_node("Transpose", ["colour"], ["c0"], perm=[0, 3, 1, 2]),
            *(helper.make_node("Conv", [f"c{i}", "v"], [f"c{i + 1}"]) for i in range(4)),
            helper.make_node("Conv", ["c4", "w"], ["maps"]),
            helper.make_node("Gather", ["maps", "0"], ["depth"], axis=1),
            helper.make_node("Gather", ["maps", "1"], ["sigma"], axis=1),
        ]
        stored = [numpy_helper.from_array(np.asarray(value), key) for key, value in constants.items()]
        graph = helper.make_graph(nodes, name, [image], outputs, stored)
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), folder / "model.onnx")
        described = ModelBundle(name, 16, 8, 10.0, 10.0, "metric", 0.1, 25.0, 1.0, "nothing", "Apache-2.0")
        return bundles.save(described, folder)

    return make


def test_a_run_measures_what_is_here_and_says_what_is_not(tiny_bundle, tmp_path, monkeypatch, capsys):
    for name in NETWORKS:
        tiny_bundle(f"{name}_16x8")
    ceilings = {"fp32": 1e9, "copy": 1e12}
    monkeypatch.setattr(roofline, "in_own_process", lambda threads, cuda=False: ceilings)  # they take seconds to measure
    out = tmp_path / "results" / "engines.json"
    arguments = ["--engines", "onnxruntime", "torch", "--models", "default", "--sizes", "16x8", "--seconds", "0.01"]
    devices = ["--batches", "1", "--precisions", "fp32"]
    assert engines.main([*arguments, *devices, "--graphs", str(tmp_path / "graphs"), "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    threads = sorted({1, report["cores"]})
    rows = [row for row in report["rows"] if row["engine"] == "onnxruntime"]
    assert [(r["model"], r["size"], r["threads"], r["batch"]) for r in rows] == [("default", "16x8", n, 1) for n in threads]
    for row in rows:
        assert 0 < row["ms"]["p50"] <= row["ms"]["p95"]
        assert 0 < row["memory_mb"] < 2000
        assert row["flop_per_image"] == FLOP
        assert row["bound_ms"] == pytest.approx(1000 * FLOP / 1e9, abs=1e-4)
        assert f"{row['threads']} thread" in row["describe"]
    if not torch.cuda.is_available():
        assert list(report["missing"]) == ["torch"]
        assert "torch: not here: " in capsys.readouterr().out


def test_an_int8_graph_is_made_once(tiny_bundle):
    path = tiny_bundle("default_16x8").path
    add_int8(path)
    made = bundles.load(path)
    assert (made.int8["frames"], made.int8_path.is_file()) == (4, True)  # the other four of the eight judge
    written = made.int8_path.stat().st_mtime_ns
    add_int8(path)
    assert made.int8_path.stat().st_mtime_ns == written


def test_a_case_that_crashes_is_a_refusal_with_its_reason(tmp_path):
    report = {"missing": {}, "refused": [], "rows": [], "ceilings": {}}
    case = {"engine": "onnxruntime", "model": "default", "size": "16x8", "threads": 1, "precision": "fp32", "batch": 1}
    engines.measure(tmp_path / "gone", case, 0.01, tmp_path, report)
    assert report["rows"] == []
    assert [(r["case"], "gone: no such folder" in r["reason"]) for r in report["refused"]] == [(case, True)]


def test_a_refusal_names_its_engine_once(tiny_bundle, tmp_path):
    report = {"missing": {}, "refused": [], "rows": [], "ceilings": {}}
    case = {"engine": "onnxruntime", "model": "default", "size": "16x8", "threads": 1, "precision": "bf16", "batch": 1}
    engines.measure(tiny_bundle("default_16x8").path, case, 0.01, tmp_path, report)
    (refusal,) = report["refused"]
    assert (refusal["case"], "no precision 'bf16'" in refusal["reason"]) == (case, True)
    assert "onnxruntime: " not in refusal["reason"]


def test_a_size_that_is_none_is_refused_in_one_line(tmp_path, capsys):
    assert engines.main(["--sizes", "640", "--out", str(tmp_path / "o.json")]) == 1
    assert capsys.readouterr().err == "error: --sizes 640; expected a width and a height such as 640x192\n"
