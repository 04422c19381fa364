"""Published networks as bundles: what comes out is what NumPy makes of the file's own interface, in the node's hands too."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from depth_ros import bundle as bundles
from depth_ros.engines import load_engine
from depth_ros.estimator import Estimator
from depth_ros.graphs import frame_graph, prepare
from depth_ros.tools import check_bundle
from depth_ros.types import CameraModel, Float32Array, Frame, UInt8Array
from training.import_onnx import main

W, H = 24, 16
WEIGHTS = np.array([0.6, -0.3, 0.2], np.float32)  # of the channels as the network sees them: their order counts
TILT = np.linspace(0.0, 0.5, W, dtype=np.float32)  # by column: a mirrored image gets another answer
BIAS = 2.0
Network = Callable[..., Path]


@pytest.fixture
def network(tmp_path: Path) -> Network:
    """Write a network: answer = weights . colours + tilt + bias, with the interface that is asked for."""

    def make(
        name: str = "net", shape: tuple[Any, ...] = ("N", 3, H, W), output: str = "answer", form: str = "NHW", opset: int = 17,
        half: bool = False, bias: float = BIAS, gain: float = 1.0, extra: bool = False, K: tuple[Any, ...] | None = None,
        mean: list[float] | None = None, external: bool = False,
    ) -> Path:  # fmt: skip
        kind, dtype = (TensorProto.FLOAT16, np.float16) if half else (TensorProto.FLOAT, np.float32)
        last = shape[1] != 3
        values = {
            "kernel": (gain * WEIGHTS).reshape(1, 3, 1, 1), "tilt": TILT.reshape(1, 1, 1, W), "bias": np.array(bias),
            "inner_mean": np.array(mean or [0, 0, 0]).reshape(1, 3, 1, 1),
        }  # fmt: skip
        tensors = [numpy_helper.from_array(value.astype(dtype), key) for key, value in values.items()]
        nodes = [helper.make_node("Transpose", ["input.1"], ["planes"], perm=[0, 3, 1, 2])] if last else []
        seen = "planes" if last else "input.1"
        if mean:
            nodes, seen = [helper.make_node("Sub", ["input.1", "inner_mean"], ["centred"])], "centred"
        nodes += [
            helper.make_node("Conv", [seen, "kernel"], ["mixed"]),
            helper.make_node("Add", ["mixed", "tilt"], ["tilted"]),
            helper.make_node("Add", ["tilted", "bias"], ["map"]),
        ]
        inputs = [helper.make_tensor_value_info("input.1", kind, shape)]
        source = "map"
        if K is not None:  # metres of the focal length that it is told: times fx / 100
            inputs.append(helper.make_tensor_value_info("K", kind, K))
            tensors += [numpy_helper.from_array(np.array(v), n) for n, v in (("i", [0]), ("hundred", np.array(100, dtype)))]
            flat = numpy_helper.from_array(np.array([-1]), "flat")
            tensors.append(flat)
            nodes += [
                helper.make_node("Reshape", ["K", "flat"], ["entries"]),
                helper.make_node("Gather", ["entries", "i"], ["fx"]),
                helper.make_node("Div", ["fx", "hundred"], ["ratio"]),
                helper.make_node("Mul", ["map", "ratio"], ["scaled_map"]),
            ]
            source = "scaled_map"
        tensors.append(numpy_helper.from_array(np.array([1]), "axis"))
        if form == "NHW":
            squeezed = {"axes": [1]} if opset < 13 else {}
            nodes.append(helper.make_node("Squeeze", [source] + ([] if squeezed else ["axis"]), [output], **squeezed))
        elif form == "classes":
            nodes.append(helper.make_node("ReduceMax", [source], [output], axes=[1, 2], keepdims=0))
        elif form == "NHW1":
            nodes.append(helper.make_node("Transpose", [source], [output], perm=[0, 2, 3, 1]))
        elif form == "half_size":
            nodes.append(helper.make_node("AveragePool", [source], [output], kernel_shape=[2, 2], strides=[2, 2]))
        elif form == "points":
            nodes += [
                helper.make_node("Neg", [source], ["x"]),
                helper.make_node("Concat", ["x", "x", source], [output], axis=1),
            ]
        else:
            nodes.append(helper.make_node("Identity", [source], [output]))
        rank = {"NHW": 3, "classes": 2}.get(form, 4)
        outputs = [helper.make_tensor_value_info(output, kind, [None] * rank)]
        if extra:
            nodes.append(helper.make_node("Neg", ["map"], ["confidence"]))
            outputs.append(helper.make_tensor_value_info("confidence", kind, [None] * 4))
        graph = helper.make_graph(nodes, name, inputs, outputs, tensors)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        file = tmp_path / f"{name}.onnx"
        onnx.save(model, file, save_as_external_data=external, location=f"{name}.data", size_threshold=0)
        return file

    return make


@pytest.fixture
def images() -> UInt8Array:
    return np.random.default_rng(3).integers(0, 256, (2, H, W, 3), dtype=np.uint8)


def answer(images: UInt8Array, mean: Any, std: Any, levels: float = 1.0, bias: float = BIAS, gain: float = 1.0) -> Any:
    """What the networks above give (N, h, w), after the colours that their authors prescribe."""
    colours = (images / 255.0 * levels - np.array(mean)) / np.array(std)
    return gain * colours @ WEIGHTS.astype(np.float64) + TILT + bias


def made(folder: Path, file: Path, *options: str) -> bundles.ModelBundle:
    assert main([str(file), str(folder), *options]) == 0
    return bundles.load(folder)


def infer(bundle: bundles.ModelBundle, images: UInt8Array) -> tuple[Float32Array, Float32Array]:
    with closing(load_engine(bundle)) as engine:
        return engine.infer(images)


IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def test_midas_relative_inverse_depth_becomes_its_reciprocal(tmp_path: Path, network: Network, images: UInt8Array) -> None:
    bundle = made(tmp_path / "midas", network(), "--like", "midas", "--sigma", "constant:0.3", "--licence", "MIT")
    assert (bundle.kind, bundle.width, bundle.height, bundle.licence) == ("affine_invariant", W, H, "MIT")
    depth, sigma = infer(bundle, images)
    r = answer(images, *IMAGENET)
    assert (r > 0).all()
    np.testing.assert_allclose(depth, 1 / r, rtol=1e-4)
    np.testing.assert_allclose(sigma, 0.3 / r, rtol=1e-4)


def test_metres_are_fitted_on_data_with_truth(
    tmp_path: Path, network: Network, write_set: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """Truth that is 1 / (0.1 r + 0.05) [m] through the bundle's focal length, and so twice as far through twice that."""
    images = np.random.default_rng(3).integers(0, 256, (4, H, W, 3), dtype=np.uint8)
    r = answer(images, *IMAGENET)
    camera = CameraModel(W, H, 2.0 * W, 2.0 * W, W / 2, H / 2)
    data = write_set(tmp_path / "set", camera, images, 2 / (0.1 * r + 0.05))
    bundle = made(tmp_path / "metric", network(), "--like", "midas", "--fit-metric", str(data))
    said = capsys.readouterr().out
    assert f"{bundle.path}: metres fitted on set" in said
    assert f"{bundle.path}: metric, {W}x{H}" in said
    found = {name: float(bundle.provenance[f"fit_{name}"]) for name in ("scale", "shift", "residual")}
    assert (bundle.kind, bundle.fx, bundle.provenance["like"]) == ("metric", W, "midas")
    assert (found["scale"], found["shift"]) == pytest.approx((0.1, 0.05), rel=5e-3)
    assert found["residual"] < 2e-4  # of truth that is stored to 1/256 m
    depth, _ = infer(bundle, images)
    inside = depth < 0.99 * bundle.max_depth
    np.testing.assert_allclose(depth[inside], (1 / (0.1 * r + 0.05))[inside], rtol=5e-3)
    assert inside.mean() > 0.9


def test_where_relative_inverse_depth_is_not_positive_nothing_is_in_range(
    tmp_path: Path, network: Network, images: UInt8Array
) -> None:
    bundle = made(tmp_path / "midas", network(bias=0.0), "--like", "midas")
    depth, _ = infer(bundle, images)
    r = answer(images, *IMAGENET, bias=0.0)
    assert (r < 0).any()
    assert (r > 0).any()
    assert np.isfinite(depth).all()
    np.testing.assert_array_equal(depth >= bundle.max_depth, r < 1e-6)
    np.testing.assert_allclose(depth[r > 0.01], 1 / r[r > 0.01], rtol=1e-3)


def test_depth_anything_with_open_axes_half_weights_and_another_output(
    tmp_path: Path, network: Network, images: UInt8Array
) -> None:
    file = network(shape=("b", 3, "h", "w"), output="depth", form="N1HW", half=True, extra=True)
    bundle = made(tmp_path / "da", file, "--like", "depth_anything", "--size", f"{W}x{H}", "--sigma", "flip:0.01")
    depth, _ = infer(bundle, images)
    np.testing.assert_allclose(depth, 1 / answer(images, *IMAGENET), rtol=0.01)  # its own arithmetic is in half precision
    assert "confidence" not in {name for node in onnx.load(bundle.graph_path).graph.node for name in node.output}


def test_metric3d_is_in_metres_of_its_canonical_camera(tmp_path: Path, network: Network, images: UInt8Array) -> None:
    """Hu et al.: depth = output * f / 1000 at the network's size. Its published file centres the colours itself."""
    file = network(shape=(1, 3, H, W), output="pred_depth", form="N1HW", opset=11, bias=300.0, mean=[123.675, 116.28, 103.53])
    bundle = made(tmp_path / "m3d", file, "--like", "metric3d", "--range", "1,800")
    assert (bundle.kind, bundle.fx, bundle.fy) == ("metric", 1000, 1000)
    expected = answer(images, (123.675, 116.28, 103.53), 1.0, levels=255, bias=300.0)
    np.testing.assert_allclose(infer(bundle, images)[0], expected, rtol=1e-4)
    estimator = Estimator(bundle, load_engine(bundle))
    for size, f in ((1, 500.0), (2, 1000.0)):  # a camera of twice the size sees, resized, through the same focal length
        camera = CameraModel(size * W, size * H, f, f, 8 * size, 8 * size)
        image = np.repeat(np.repeat(images[0], size, axis=0), size, axis=1)
        (prediction,) = estimator.predict([Frame(image, camera, 0, "camera")])
        np.testing.assert_allclose(prediction.depth, expected[0] * 0.5, rtol=2e-3)


def test_unidepth_is_told_the_training_cameras_intrinsics(tmp_path: Path, network: Network, images: UInt8Array) -> None:
    file = network(output="depth", form="N1HW", K=("N", 3, 3), bias=20.0, extra=True)
    bundle = made(tmp_path / "uni", file, "--like", "unidepth", "--camera", "150,160")
    assert (bundle.fx, bundle.fy) == (150, 160)
    np.testing.assert_allclose(infer(bundle, images)[0], 1.5 * answer(images, *IMAGENET, bias=20.0), rtol=1e-4)


def test_points_give_their_third_coordinate(tmp_path: Path, network: Network, images: UInt8Array) -> None:
    file = network(output="pts_3d", form="points", bias=20.0)
    bundle = made(tmp_path / "uni", file, "--like", "unidepth", "--camera", "150,150", "--channel", "2")
    np.testing.assert_allclose(infer(bundle, images)[0], answer(images, *IMAGENET, bias=20.0), rtol=1e-4)


def test_disparity_in_bgr_of_half_the_size(tmp_path: Path, network: Network) -> None:
    """Of a grey ramp from row to row, halved and enlarged again, the middle rows stay a ramp."""
    grey = np.broadcast_to(np.arange(H, dtype=np.uint8)[:, None, None] * 10, (H, W, 3))[None]
    bundle = made(tmp_path / "disp", network(form="half_size"), "--like", "disparity", "--order", "bgr", "--factor", "0.5")
    assert bundle.kind == "scale_invariant"
    depth, _ = infer(bundle, np.ascontiguousarray(grey))
    expected = 2 / answer(grey, 0.0, 1.0)
    np.testing.assert_allclose(depth[0, 1:-1, 1:-1], expected[0, 1:-1, 1:-1], rtol=1e-4)


def test_colours_in_another_order_and_last(tmp_path: Path, network: Network, images: UInt8Array) -> None:
    """A BGR network's first weight is of blue."""
    file = network(shape=("N", H, W, 3), form="NHW1", bias=10.0, external=True)
    assert file.with_suffix(".data").is_file()
    options = ("--like", "depth", "--order", "bgr", "--mean", "0.5", "--std", "0.25", "--camera", "30,30")
    bundle = made(tmp_path / "bgr", file, *options)
    assert [path.name for path in sorted(bundle.path.iterdir())] == ["bundle.yaml", "model.onnx"]
    depth, sigma = infer(bundle, images)
    expected = answer(np.ascontiguousarray(images[..., ::-1]), 0.5, 0.25, bias=10.0)
    np.testing.assert_allclose(depth, expected, rtol=1e-4)
    np.testing.assert_allclose(sigma, 0.2 * expected, rtol=1e-4)


@pytest.mark.parametrize("count", ["N", 1])
@pytest.mark.parametrize("gives", ["inverse", "depth"])
def test_flip_states_how_far_the_mirrored_answer_is(
    tmp_path: Path, network: Network, images: UInt8Array, count: Any, gives: str
) -> None:
    """Mirrored, a pixel's colours are the same and its column is another: the answers differ by the tilt alone."""
    file = network(shape=(count, 3, H, W))
    bundle = made(tmp_path / "flip", file, "--like", "midas", "--gives", gives, "--sigma", "flip:0.05")
    depth, sigma = infer(bundle, images)
    plain = answer(images, *IMAGENET)
    other = plain - TILT + TILT[::-1]
    inverse, other_inverse = (plain, other) if gives == "inverse" else (1 / plain, 1 / other)
    np.testing.assert_allclose(depth, 1 / inverse, rtol=1e-4)
    share = np.maximum(np.abs(inverse - other_inverse) / inverse, 0.05)
    assert (share == 0.05).any()
    assert (share > 0.05).any()
    np.testing.assert_allclose(sigma, share / inverse, rtol=1e-3)
    names = [tensor.name for tensor in onnx.load(bundle.graph_path).graph.initializer]
    assert sum("kernel" in name for name in names) == 1  # two passes, one network


def test_a_preset_of_another_kind_has_the_range_of_that_kind(tmp_path: Path, network: Network, images: UInt8Array) -> None:
    """Disparity whose unit is known, 0.1 / m, is metric."""
    options = ("--like", "disparity", "--kind", "metric", "--factor", "0.1", "--camera", "30,30")
    bundle = made(tmp_path / "metric", network(), *options)
    assert (bundle.kind, bundle.min_depth, bundle.max_depth) == ("metric", 0.1, 80.0)
    np.testing.assert_allclose(infer(bundle, images)[0], 10 / answer(images, 0.0, 1.0), rtol=1e-4)


def test_a_node_with_twice_the_focal_length_sees_twice_the_depth(tmp_path: Path, network: Network, images: UInt8Array) -> None:
    bundle = made(tmp_path / "rule", network(bias=10.0), "--like", "depth", "--focal-rule", "canonical:300")
    estimator = Estimator(bundle, load_engine(bundle))
    near, far = (estimator.predict([Frame(images[0], CameraModel(W, H, f, f, 8.0, 8.0), 0, "camera")])[0] for f in (150.0, 300.0))
    np.testing.assert_allclose(far.depth, answer(images, 0.0, 1.0, bias=10.0)[0], rtol=1e-4)
    np.testing.assert_allclose(far.depth, 2 * near.depth, rtol=1e-6)
    np.testing.assert_allclose(far.sigma, 2 * near.sigma, rtol=1e-6)


def test_the_bundle_is_one_for_every_engine(tmp_path: Path, network: Network) -> None:
    bundle = made(tmp_path / "net", network(), "--like", "midas", "--sigma", "flip")
    assert check_bundle.main([str(bundle.path)]) == 0
    assert prepare(bundle, "fp16")
    assert frame_graph(bundle, 64, 48, "fp32")
    readers = [node for node in onnx.load(bundle.graph_path).graph.node if "image" in node.input]
    assert [node.op_type for node in readers] == ["Cast"]


def test_a_table_of_sigma_is_what_the_errors_are(tmp_path: Path, network: Network, write_set: Callable[..., Path]) -> None:
    """Below 24 m the truth is a tenth off, beyond a third, as often nearer as farther."""
    grey = np.broadcast_to(np.linspace(0, 255, W).reshape(1, W, 1).astype(np.uint8), (H, W, 3))
    depth = 3 * (grey[..., 0] / 255 * 0.5 * 20 + TILT + 4)
    share = np.where(depth < 24, 0.1, 1 / 3)
    truths = [depth * (1 + sign * share) for sign in (1, 1, -1, -1)]
    camera = CameraModel(W, H, 30.0, 30.0, W / 2, H / 2)
    data = write_set(tmp_path / "set", camera, [grey] * 4, truths)
    file = network(bias=4.0, gain=20.0)
    options = ("--like", "depth", "--camera", "30,30", "--factor", "3", "--sigma", f"fit:{data}")
    bundle = made(tmp_path / "table", file, *options)
    found, sigma = infer(bundle, np.ascontiguousarray(grey)[None])
    np.testing.assert_allclose(found[0], depth, rtol=1e-3)
    for part in (depth < 16, depth > 33):  # not where one share goes over into the other
        assert part.sum() > 30
        np.testing.assert_allclose((sigma[0] / found[0])[part], (share * depth / found[0])[part], rtol=0.02)
    assert bundle.metrics["images"] == 2
    assert 0.5 < bundle.metrics["coverage_1sigma"] <= 1


WRONG: dict[str, tuple[dict[str, Any], tuple[str, ...], str]] = {
    "open size": ({"shape": ("b", 3, "h", "w")}, ("--like", "midas"), "leaves its size open .*; expected --size WxH"),
    "fixed size": ({}, ("--like", "midas", "--size", "48x16"), "its width is 24 px, and cannot be the 48 of --size"),
    "several outputs": ({"extra": True}, ("--like", "midas"), "outputs 'answer' .*, 'confidence' .*; choose one: --output NAME"),
    "unknown output": ({}, ("--like", "midas", "--output", "depth"), "has no output 'depth'; expected one of answer"),
    "no camera": ({}, ("--like", "depth"), "expected --camera FX,FY of the training camera at 24x16"),
    "no intrinsics": ({"K": (1, 3, 3)}, ("--like", "unidepth"), "takes intrinsics as 'K'; give them: --camera"),
    "rays": (
        {"K": ("N", 3, H, W)}, ("--like", "unidepth", "--camera", "9,9"), "its inputs are .*; expected one image",
    ),
    "no image": ({"shape": ("N", 1, H, W)}, ("--like", "midas"), "expected one image, float32 or float16"),
    "many images": ({"shape": (4, 3, H, W)}, ("--like", "midas"), "takes 4 images at once; expected 1, or an open number"),
    "sigma": ({}, ("--like", "midas", "--sigma", "flop"), "--sigma flop: expected constant:SHARE, flip"),
    "several channels": ({"form": "points"}, ("--like", "midas"), "has 3 channels, and --channel is not given; .* from 0 to 2"),
    "no such channel": ({"form": "points"}, ("--like", "midas", "--channel", "3"), "--channel is 3; expected one from 0 to 2"),
    "channel of one": ({}, ("--like", "midas", "--channel", "1"), "has 1 channels, and --channel is 1"),
    "scores of classes": ({"form": "classes"}, ("--like", "midas"), r"'answer' is \(1, 24\); expected a map"),
    "metres of metres": (
        {}, ("--like", "depth", "--camera", "9,9", "--fit-metric", "nowhere"), r"net.onnx: kind is 'metric'; expected affine_inv",
    ),
    "fit of no metres": ({}, ("--like", "midas", "--sigma", "fit:nowhere"), "nowhere"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_wrapped_is_refused_with_a_reason(
    tmp_path: Path, network: Network, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    net, options, message = WRONG[case]
    assert main([str(network(**net)), str(tmp_path / "made"), *options]) == 1
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--mean", "0.5,0.5"), "--mean: found '0.5,0.5'; expected one number, or three of red, green, blue"),
        (("--mean", "inf"), "--mean: found 'inf'; expected one number"),
        (("--std", "0.2,0,0.2"), "--std: found '0.2,0,0.2'; expected one number, or three of red, green, blue, above 0"),
        (("--levels", "0"), "--levels: found '0'; expected a number above 0"),
        (("--factor", "-1"), "--factor: found '-1'; expected a number above 0"),
        (("--range", "10,1"), "--range: found '10,1'; expected MIN,MAX with 0 < MIN < MAX"),
        (("--size", "0x16"), "--size: found '0x16'; expected WxH in whole pixels above 0"),
        (("--camera", "50"), "--camera: found '50'; expected FX,FY, both above 0"),
        (("--focal-rule", "300"), "--focal-rule: found '300'; expected canonical:F with F above 0"),
        (("--camera", "9,9", "--focal-rule", "canonical:9"), "--focal-rule: not allowed with argument --camera"),
    ],
)
def test_values_without_a_meaning_are_refused_by_their_option(
    tmp_path: Path, network: Network, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], message: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(network()), str(tmp_path / "made"), "--like", "midas", *options])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_a_bundle_with_nothing_in_range_is_noted(tmp_path: Path, network: Network, capsys: pytest.CaptureFixture[str]) -> None:
    """Metres around 2 in a range from 50: as if they were millimetres."""
    for low, noted in (("50", True), ("0.5", False)):
        made(tmp_path / low, network(), "--like", "depth", "--camera", "30,30", "--range", f"{low},100")
        assert ("no depth is from 50 to 100" in capsys.readouterr().err) == noted


def test_weights_that_are_missing_are_named(tmp_path: Path, network: Network, capsys: pytest.CaptureFixture[str]) -> None:
    file = network(external=True)
    file.with_suffix(".data").unlink()
    assert main([str(file), str(tmp_path / "made"), "--like", "midas"]) == 1
    assert "net.data" in capsys.readouterr().err


def test_operations_of_one_runtime_are_refused(tmp_path: Path, network: Network, capsys: pytest.CaptureFixture[str]) -> None:
    file = network()
    model = onnx.load(file)
    model.graph.node[0].domain = "com.microsoft"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, file)
    assert main([str(file), str(tmp_path / "made"), "--like", "midas"]) == 1
    assert "has operations of com.microsoft, which one runtime alone knows" in capsys.readouterr().err
