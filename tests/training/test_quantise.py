"""The int8 graph: what is quantised and how, and that bundle.yaml says truly how far it is from the float one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from depth_ros import bundle as bundles
from depth_ros import graphs
from depth_ros.bundle import ModelBundle
from depth_ros.engines import EngineOptions, load_engine
from depth_ros.images import resize_image
from depth_ros.types import InputError
from training.quantise import FIRST_LAYERS, main, quantise, read_frames

BundleMaker = Callable[..., ModelBundle]
CHANNELS = 8


def convolutions(count: int) -> onnx.ModelProto:
    """A random network of `count` convolutions (64 x 32), the last with the heads of depth (5 to 15 m) and sigma (1 to 3 m)."""
    rng = np.random.default_rng(3)
    nodes = [
        helper.make_node("Cast", ["image"], ["colours"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["colours"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Div", ["planes", "level"], ["x0"]),
    ]
    tensors = {"level": np.float32(255), "one": np.array([1]), "span": np.array([10, 2], np.float32)[:, None, None]}
    tensors["least"] = np.array([5, 1], np.float32)[:, None, None]
    for number in range(count):
        inputs, outputs = 3 if number == 0 else CHANNELS, 2 if number == count - 1 else CHANNELS
        weights = rng.normal(0, (9 * inputs) ** -0.5, (outputs, inputs, 3, 3)) * rng.uniform(0.5, 2, (outputs, 1, 1, 1))
        tensors |= {f"w{number}": weights.astype(np.float32), f"b{number}": rng.normal(0, 0.1, outputs).astype(np.float32)}
        nodes.append(helper.make_node("Conv", [f"x{number}", f"w{number}", f"b{number}"], [f"y{number}"], pads=[1] * 4))
        nodes.append(helper.make_node("Relu" if number < count - 1 else "Sigmoid", [f"y{number}"], [f"x{number + 1}"]))
    nodes += [
        helper.make_node("Mul", [f"x{count}", "span"], ["spread"]),
        helper.make_node("Add", ["spread", "least"], ["heads"]),
        helper.make_node("Split", ["heads"], ["d", "s"], axis=1, num_outputs=2),
        helper.make_node("Squeeze", ["d", "one"], ["depth"]),
        helper.make_node("Squeeze", ["s", "one"], ["sigma"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", 32, 64, 3])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 32, 64]) for name in ("depth", "sigma")]
    initialisers = [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()]
    graph = helper.make_graph(nodes, "convolutions", [image], outputs, initialisers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def network(make_bundle: BundleMaker, count: int) -> ModelBundle:
    made = make_bundle()
    onnx.save(convolutions(count), made.graph_path)
    return bundles.save(made, made.path)


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """Ten pictures of blurred noise, as a camera of 128 x 80 takes them."""
    folder, rng = tmp_path / "frames", np.random.default_rng(1)
    folder.mkdir()
    for number in range(10):
        image = cv2.GaussianBlur(rng.integers(0, 256, (80, 128, 3), dtype=np.uint8), (9, 9), 0)
        cv2.imwrite(str(folder / f"{number:03d}.png"), cv2.normalize(image, None, 0, 255, cv2.NORM_MINMAX))
    (folder / "meta.json").write_text("{}")
    return folder


def test_the_inner_convolutions_become_int8(make_bundle: BundleMaker, frames: Path) -> None:
    made = network(make_bundle, 6)
    made = quantise(made, read_frames(frames, made, 10), "noise")
    graph = onnx.load(made.int8_path).graph
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    producers = {output: node for node in graph.node for output in node.output}
    layers = [node for node in graph.node if node.op_type == "Conv"]
    for number, layer in enumerate(layers):
        image, weights, bias = (producers.get(name) for name in layer.input)
        quantised = FIRST_LAYERS <= number < len(layers) - 1
        assert bias is None  # float, as it was
        assert [node is not None and node.op_type == "DequantizeLinear" for node in (image, weights)] == [quantised] * 2
        if quantised:
            assert tensors[weights.input[1]].shape == (CHANNELS,)  # a scale per channel
            assert tensors[image.input[1]].shape == ()
            for node in (image, weights):
                assert tensors[node.input[2]].dtype == np.int8
                assert not tensors[node.input[2]].any()  # symmetric
    assert len(layers) == 6


def test_the_bundle_says_how_far_it_is_from_the_float_graph(make_bundle: BundleMaker, frames: Path, tmp_path: Path) -> None:
    made = network(make_bundle, 6)
    made = bundles.load(quantise(made, read_frames(frames, made, 10), "noise").path)
    assert made.int8["sha256"] == hashlib.sha256(made.int8_path.read_bytes()).hexdigest()
    assert (made.int8["calibrated_on"], made.int8["frames"]) == ("noise", 5)
    other = tmp_path / "other"
    other.mkdir()
    (other / "model.onnx").write_bytes(graphs.prepare(made, "int8"))
    judged = [resize_image(cv2.imread(str(frames / f"{n:03d}.png"))[..., ::-1].copy(), 64, 32) for n in (1, 3, 5, 7, 9)]
    answers = [
        load_engine(b, options=EngineOptions(threads=1)).infer(np.stack(judged)) for b in (made, bundles.save(made, other))
    ]
    for name, exact, found in zip(("depth", "sigma"), *answers, strict=True):
        difference = np.abs(found - exact) / exact
        assert 0 < np.median(difference) < 0.02
        assert made.int8[f"{name}_median"] == pytest.approx(np.median(difference), abs=1e-4)
        assert made.int8[f"{name}_p99"] == pytest.approx(np.quantile(difference, 0.99), abs=1e-4)


def test_frames_are_spread_evenly_and_resized_as_on_the_robot(make_bundle: BundleMaker, frames: Path) -> None:
    made = make_bundle()
    chosen = read_frames(frames, made, 4)
    expected = [resize_image(cv2.imread(str(frames / f"{n:03d}.png"))[..., ::-1].copy(), 64, 32) for n in (0, 3, 6, 9)]
    np.testing.assert_array_equal(chosen, np.stack(expected))
    assert len(read_frames(frames, made, 100)) == 10


def test_frames_that_are_none_are_named(make_bundle: BundleMaker, frames: Path, tmp_path: Path) -> None:
    (frames / "005.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"005\.png: cannot be read as an image"):
        read_frames(frames, make_bundle(), 10)
    with pytest.raises(InputError, match=r"holds 0 images.*at least 2"):
        read_frames(tmp_path / "nowhere", make_bundle(), 10)


def test_nothing_to_quantise_is_said(make_bundle: BundleMaker, frames: Path) -> None:
    made = network(make_bundle, FIRST_LAYERS + 1)
    with pytest.raises(InputError, match="has 4 convolutions, none of them between the first 3 and the last"):
        quantise(made, read_frames(frames, made, 4), "noise")
    assert sorted(path.name for path in made.path.iterdir()) == ["bundle.yaml", "model.onnx"]


def test_command_line(make_bundle: BundleMaker, frames: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = network(make_bundle, 6)
    assert main([str(made.path), str(frames)]) == 0
    assert "calibrated on 5 frames; differs from model.onnx by depth median 0." in capsys.readouterr().out
    assert bundles.load(made.path).int8["calibrated_on"] == "frames"
    assert main([str(made.path / "nowhere"), str(frames)]) == 1
    assert "error: " in capsys.readouterr().err


@pytest.mark.parametrize("around", [False, True])
def test_tensorrt_parses_and_builds_it(make_bundle: BundleMaker, frames: Path, around: bool) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX, which builds without a GPU, is not installed")
    made = network(make_bundle, 6)
    made = quantise(made, read_frames(frames, made, 10), "noise")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    parsed = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    reader = trt.OnnxParser(parsed, logger)
    graph = graphs.frame_graph(made, 128, 80, "int8") if around else graphs.prepare(made, "int8")
    assert reader.parse(graph), [reader.get_error(index).desc() for index in range(reader.num_errors)]
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    for tensor in (parsed.get_input(index) for index in range(parsed.num_inputs)):
        if -1 in tensor.shape:
            profile.set_shape(tensor.name, *[[max(1, size) for size in tensor.shape]] * 3)
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(parsed, config) is not None
