"""Graphs for a builder: the same numbers in every precision, and types that agree as TensorRT wants them."""

import hashlib
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, numpy_helper, parser

from depth_ros import bundle, graphs
from depth_ros.engines import EngineError, EngineOptions, load_engine
from depth_ros.images import resize_image

DEFAULT = Path(__file__).resolve().parents[2] / "models" / "default"

# Two layers around one of each trap: weights that both precisions read, a bound beyond fp16, a Resize with its scales.
TWO_LAYERS = """<ir_version: 9, opset_import: ["" : 18]>
two_layers (uint8[N, 32, 64, 3] image) => (float[N, 32, 64] depth, float[N, 32, 64] sigma)
<float two = {2.0}, float zero = {0.0}, float bound = {3.0e38}, float level = {255.0},
 float[4] shrink = {1.0, 1.0, 0.5, 0.5}, float[4] grow = {1.0, 1.0, 2.0, 2.0}, int64[1] first = {0}, int64[1] second = {1},
 int64[1] third = {2}>
{
  colours = Cast <to = 1> (image)
  planes = Transpose <perm = [0, 3, 1, 2]> (colours)
  share = Div (planes, level)
  doubled = Mul (share, two)
  features = Conv (doubled, mix)
  positive = Clip (features, zero, bound)
  small = Resize <mode = "nearest", nearest_mode = "floor", coordinate_transformation_mode = "asymmetric"> (positive, , shrink)
  large = Resize <mode = "nearest", nearest_mode = "floor", coordinate_transformation_mode = "asymmetric"> (small, , grow)
  again = Mul (large, two)
  heads = Conv (again, head)
  metres = Mul (heads, two)
  depth_plane = Slice (metres, first, second, second)
  sigma_plane = Slice (metres, second, third, second)
  depth = Squeeze (depth_plane, second)
  sigma = Squeeze (sigma_plane, second)
}"""


def two_layers_model(text=TWO_LAYERS):
    """depth = 8 (red + green) / 255, sigma = 8 blue / 255, of the top left pixel in each 2x2."""
    model = parser.parse_model(text)
    mix = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 1], [-1, -1, -1]], np.float32)[..., None, None]
    head = np.array([[1, 1, 0, 1], [0, 0, 1, 1]], np.float32)[..., None, None]
    model.graph.initializer.extend([numpy_helper.from_array(mix, "mix"), numpy_helper.from_array(head, "head")])
    return model


@pytest.fixture
def two_layers(make_bundle):
    return written(make_bundle(), two_layers_model())


def written(made, model):
    onnx.save(model, made.graph_path)
    return bundle.save(made, made.path)


def run(graph, image, names=("depth", "sigma")):
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"]).run(list(names), {"image": image})


def noise(made, count=1):
    return np.random.default_rng(0).integers(0, 256, (count, made.height, made.width, 3), dtype=np.uint8)


def types_of(model):
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = (*inferred.value_info, *inferred.input, *inferred.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return types | {tensor.name: tensor.data_type for tensor in inferred.initializer}


def layers(graph):
    return [node for node in graph.node if node.op_type in graphs.LAYERS]


def test_fp32_is_the_bundles_graph(make_bundle):
    made = make_bundle()
    image = noise(made, 2)
    depth, sigma = run(graphs.prepare(made, "fp32"), image)
    np.testing.assert_allclose(depth, image[..., 0] / 10, rtol=1e-6)
    np.testing.assert_allclose(sigma, image[..., 1] / 100, rtol=1e-6)


def test_image_that_is_transposed_first_is_cast_first_instead(two_layers):
    model = onnx.load(two_layers.graph_path)
    cast, transpose = model.graph.node[0], model.graph.node[1]
    cast.input[0], cast.output[0] = "bytes", "planes"
    transpose.input[0], transpose.output[0] = "image", "bytes"
    nodes = [transpose, cast, *model.graph.node[2:]]
    model.graph.ClearField("node")
    model.graph.node.extend(nodes)
    onnx.checker.check_model(model, full_check=True)
    old = written(two_layers, onnx.shape_inference.infer_shapes(model))  # as exported: with the types of what lies between
    expected = run(str(old.graph_path), noise(old, 2))
    for precision in ("fp32", "fp16"):
        prepared = graphs.prepare(old, precision)
        readers = [node for node in onnx.load_model_from_string(prepared).graph.node if "image" in node.input]
        assert [node.op_type for node in readers] == ["Cast"]
        for found, value in zip(run(prepared, noise(old, 2)), expected, strict=True):
            np.testing.assert_allclose(found, value, rtol=2e-3, atol=1e-6 if precision == "fp32" else 1e-2)
    np.testing.assert_array_equal(run(graphs.prepare(old, "fp32"), noise(old))[0], run(str(old.graph_path), noise(old))[0])


def test_fp16_computes_the_same_with_layers_in_half_and_ends_in_float(two_layers):
    prepared = graphs.prepare(two_layers, "fp16")
    model = onnx.load_model_from_string(prepared)
    types = types_of(model)
    assert {types[value.name] for value in model.graph.output} == {TensorProto.FLOAT}
    first, last = layers(model.graph)
    assert {types[name] for name in (*first.input, *first.output)} == {TensorProto.FLOAT16}
    assert {types[name] for name in (*last.input, *last.output)} == {TensorProto.FLOAT}
    for node in model.graph.node:
        if node.op_type == "Resize":
            assert [types[name] for name in node.input if name] == [TensorProto.FLOAT16, TensorProto.FLOAT]
    image = noise(two_layers, 2)
    corner = image[:, ::2, ::2].repeat(2, 1).repeat(2, 2).astype(float)
    depth, sigma = run(prepared, image)
    np.testing.assert_allclose(depth, 8 * (corner[..., 0] + corner[..., 1]) / 255, rtol=2e-3)
    np.testing.assert_allclose(sigma, 8 * corner[..., 2] / 255, rtol=2e-3)


def test_sums_stay_float_and_a_small_guard_stays_one(make_bundle):
    text = TWO_LAYERS.replace(
        "again = Mul (large, two)",
        """norm = ReduceL2 (large, second)
        guarded = Clip (norm, guard)
        direction = Div (large, guarded)
        restored = Mul (direction, guarded)
        again = Mul (restored, two)""",
    )
    model = two_layers_model(text)
    model.graph.initializer.append(numpy_helper.from_array(np.array(1e-12, np.float32), "guard"))
    made = written(make_bundle(), model)
    prepared = graphs.prepare(made, "fp16")
    found = onnx.load_model_from_string(prepared)
    types = types_of(found)
    for node in found.graph.node:
        if node.op_type == "ReduceL2":
            assert types[node.input[0]] == types[node.output[0]] == TensorProto.FLOAT
    guards = [numpy_helper.to_array(tensor) for tensor in found.graph.initializer if tensor.name.startswith("guard")]
    assert [(guard.dtype, guard > 0) for guard in guards] == [(np.float16, True)]
    image = noise(made)
    corner = image[:, ::2, ::2].repeat(2, 1).repeat(2, 2).astype(float)
    np.testing.assert_allclose(run(prepared, image)[1], 8 * corner[..., 2] / 255, rtol=4e-3)


def test_fp16_of_a_graph_without_layers_is_exact(make_bundle):
    made = make_bundle()
    for found, expected in zip(
        run(graphs.prepare(made, "fp16"), noise(made)), run(str(made.graph_path), noise(made)), strict=True
    ):
        np.testing.assert_array_equal(found, expected)


def test_default_model_in_fp16_keeps_its_depth_fine(shared_data):
    made = bundle.load(DEFAULT)
    files = sorted((shared_data / "kitti2015_stereo" / "left").glob("*.jpg"))[:2]
    images = np.stack([resize_image(cv2.imread(str(file))[..., ::-1], made.width, made.height) for file in files])
    with closing(load_engine(made, options=EngineOptions(threads=1))) as engine:
        depth, sigma = engine.infer(images)
    prepared = graphs.prepare(made, "fp16")
    half_depth, half_sigma = run(prepared, images)
    for half, exact in ((half_depth, depth), (half_sigma, sigma)):
        difference = np.abs(half - exact) / exact
        assert np.median(difference) < 3e-3
        assert np.quantile(difference, 0.99) < 2e-2
    # fp16 has 1024 steps per octave, some 7000 from 1 to 80 m; the last layer and what follows must not be in it.
    assert np.mean(half_depth == half_depth.astype(np.float16)) < 0.01
    types = types_of(onnx.load_model_from_string(prepared))
    halves = [types[node.output[0]] == TensorProto.FLOAT16 for node in layers(onnx.load_model_from_string(prepared).graph)]
    assert halves == [True] * (len(halves) - 1) + [False]
    assert len(prepared) < 0.6 * made.graph_path.stat().st_size


def test_fp16_of_a_graph_with_a_branch_is_refused(make_bundle):
    made = make_bundle()
    model = onnx.load(made.graph_path)
    branch = parser.parse_graph("branch () => (float one) { one = Constant <value_float = 1.0> () }")
    condition = onnx.helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True)))
    model.graph.node.insert(0, condition)
    model.graph.node.insert(1, onnx.helper.make_node("If", ["yes"], ["one"], then_branch=branch, else_branch=branch))
    with pytest.raises(EngineError, match=r"loop or a branch.*use precision fp32"):
        graphs.prepare(written(made, model), "fp16")


def test_int8_is_the_graph_beside_it(make_bundle):
    made = make_bundle()
    with pytest.raises(EngineError, match=r"no int8 graph.*training\.quantise"):
        graphs.prepare(made, "int8")
    onnx.save(two_layers_model(), made.int8_path)
    digest = hashlib.sha256(made.int8_path.read_bytes()).hexdigest()
    signed = bundle.save(replace(made, int8={"sha256": digest}), made.path)
    red = np.zeros((1, 32, 64, 3), np.uint8)
    red[..., 0] = 51
    np.testing.assert_allclose(run(graphs.prepare(signed, "int8"), red)[0], 8 * 51 / 255, rtol=1e-5)
    made.int8_path.write_bytes(b"changed")
    with pytest.raises(EngineError, match=r"model\.int8\.onnx: sha256 is .*quantise it again"):
        graphs.prepare(signed, "int8")
    made.int8_path.unlink()
    with pytest.raises(EngineError, match="cannot be read"):
        graphs.prepare(signed, "int8")


def test_unknown_precision_and_broken_graph_are_named(make_bundle):
    made = make_bundle()
    with pytest.raises(EngineError, match=r"'fp61' is unknown.*fp16"):
        graphs.prepare(made, "fp61")
    made.graph_path.write_bytes(b"no graph")
    with pytest.raises(EngineError, match="not a valid ONNX graph") as caught:
        graphs.prepare(bundle.save(made, made.path), "fp32")
    assert str(made.path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_default_model_parses_strongly_typed(precision):
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX, which parses without a GPU, is not installed")
    network = parsed(trt, graphs.prepare(bundle.load(DEFAULT), precision))
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    assert {(tensor.name, tensor.dtype) for tensor in outputs} == {("depth", trt.float32), ("sigma", trt.float32)}
    assert network.get_input(0).dtype == trt.uint8


def parsed(trt, graph):
    logger = trt.Logger(trt.Logger.ERROR)
    network = trt.Builder(logger).create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    reader = trt.OnnxParser(network, logger)
    assert reader.parse(graph), [reader.get_error(index).desc() for index in range(reader.num_errors)]
    return network


def test_onnx_is_imported_only_to_make_a_graph():
    code = "import sys, depth_ros.graphs, depth_ros.frame_graph; sys.exit('onnx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_missing_onnx_is_said(make_bundle):
    code = (
        "import sys; sys.modules['onnx'] = None\n"
        "from depth_ros import bundle, graphs; from depth_ros.engines import EngineError\n"
        f"made = bundle.load({str(make_bundle().path)!r})\n"
        "try: graphs.prepare(made, 'fp16')\nexcept EngineError as error: sys.exit(str(error))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install onnx" in done.stderr
    assert "Traceback" not in done.stderr
