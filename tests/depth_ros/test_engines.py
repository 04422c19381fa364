"""The contract that every engine keeps: run over all of ENGINES."""

import importlib.util
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from depth_ros import bundle
from depth_ros.engines import ENGINES, EngineError, EngineOptions, load_engine

BACKENDS = {"onnxruntime": "onnxruntime"}  # engine -> the package it needs


@pytest.fixture(params=ENGINES)
def name(request):
    package = BACKENDS.get(request.param, request.param)
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"engine {request.param} needs {package}, which is not installed")
    return request.param


def edited(made, change):
    """Apply `change` to the graph of bundle `made` and sign it anew."""
    model = onnx.load(made.graph_path)
    change(model.graph)
    onnx.save(model, made.graph_path)
    return bundle.save(made, made.path)


def images(count, made):
    return np.random.default_rng(count).integers(0, 256, (count, made.height, made.width, 3), dtype=np.uint8)


@pytest.mark.parametrize("count", [1, 3])
def test_depth_and_sigma_are_what_the_graph_computes(name, make_bundle, count):
    made = make_bundle()
    image = images(count, made)
    depth, sigma = load_engine(made, name, options=EngineOptions(threads=1)).infer(image)
    np.testing.assert_allclose(depth, image[..., 0] / 10, rtol=1e-6)
    np.testing.assert_allclose(sigma, image[..., 1] / 100, rtol=1e-6)
    for array in (depth, sigma):
        assert array.dtype == np.float32
        assert array.shape == (count, 32, 64)
        assert array.flags.c_contiguous


def test_same_image_gives_the_same_answer_and_earlier_answers_stay(name, make_bundle):
    made = make_bundle()
    engine = load_engine(made, name, options=EngineOptions(threads=1))
    first, second = images(1, made), images(2, made)[:1]
    depth, _ = engine.infer(first)
    kept = depth.copy()
    engine.infer(second)
    np.testing.assert_array_equal(depth, kept)
    np.testing.assert_array_equal(engine.infer(first)[0], kept)


def test_non_contiguous_images_are_read_right(name, make_bundle):
    made = make_bundle()
    image = images(1, made)
    depth, _ = load_engine(made, name, options=EngineOptions(threads=1)).infer(image[..., ::-1])
    np.testing.assert_allclose(depth, image[..., 2] / 10, rtol=1e-6)


def test_graph_for_a_single_image_serves_a_batch(name, make_bundle):
    def fix_batch(graph):
        for value in (*graph.input, *graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = 1

    made = edited(make_bundle(), fix_batch)
    image = images(3, made)
    depth, sigma = load_engine(made, name, options=EngineOptions(threads=1)).infer(image)
    np.testing.assert_allclose(depth, image[..., 0] / 10, rtol=1e-6)
    np.testing.assert_allclose(sigma, image[..., 1] / 100, rtol=1e-6)


def test_description_is_one_line_with_version_and_threads(name, make_bundle):
    text = load_engine(make_bundle(), name, options=EngineOptions(threads=2)).describe()
    assert "\n" not in text
    assert "2 threads" in text
    assert any(character.isdigit() for character in text)


def test_closed_engine_says_so(name, make_bundle):
    made = make_bundle()
    engine = load_engine(made, name, options=EngineOptions(threads=1))
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.infer(images(1, made))


@pytest.mark.parametrize("wrong", [(1, 32, 63, 3), (32, 64, 3), (1, 3, 32, 64)])
def test_images_of_another_shape_are_refused(name, make_bundle, wrong):
    engine = load_engine(make_bundle(), name, options=EngineOptions(threads=1))
    with pytest.raises(EngineError, match=r"expected \(N, 32, 64, 3\) uint8"):
        engine.infer(np.zeros(wrong, np.uint8))


def test_float_images_are_refused(name, make_bundle):
    with pytest.raises(EngineError, match="float32"):
        load_engine(make_bundle(), name, options=EngineOptions(threads=1)).infer(np.zeros((1, 32, 64, 3), np.float32))


@pytest.mark.parametrize("content", [b"", b"not a graph at all", bytes(1000)])
def test_file_that_is_no_graph_is_named(name, make_bundle, content):
    made = make_bundle()
    made.graph_path.write_bytes(content)
    made = bundle.save(made, made.path)
    with pytest.raises(EngineError) as caught:
        load_engine(made, name, options=EngineOptions(threads=1))
    assert str(made.graph_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def rename_sigma(graph):
    graph.node[-1].output[0] = graph.output[1].name = "variance"


def drop_sigma(graph):
    del graph.output[1], graph.node[-1]


def add_input(graph):
    graph.input.append(helper.make_tensor_value_info("exposure", TensorProto.FLOAT, [1]))


def take_floats(graph):
    graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (rename_sigma, "outputs are depth, variance; expected depth, sigma"),
        (drop_sigma, "outputs are depth; expected depth, sigma"),
        (add_input, "inputs are image, exposure; expected image"),
        (take_floats, r"'image' is tensor\(float\)"),
    ],
)
def test_graph_that_breaks_the_contract_is_refused(name, make_bundle, change, named):
    made = edited(make_bundle(), change)
    with pytest.raises(EngineError, match=named):
        load_engine(made, name, options=EngineOptions(threads=1))


def test_graph_of_another_size_than_the_bundle_says_is_refused(name, make_bundle):
    made = make_bundle(64, 32)
    other = make_bundle(128, 96)
    made.graph_path.write_bytes(other.graph_path.read_bytes())
    with pytest.raises(EngineError, match=r"96, 128, 3.*bundle.yaml says.*32, 64, 3"):
        load_engine(bundle.save(made, made.path), name, options=EngineOptions(threads=1))


def test_unknown_engine_lists_the_known_ones(make_bundle):
    with pytest.raises(EngineError, match=r"'tensorflow' is unknown.*onnxruntime"):
        load_engine(make_bundle(), "tensorflow")


def test_a_backend_is_imported_only_when_it_is_chosen():
    code = "import sys, depth_ros.engines, depth_ros.estimator; sys.exit('onnxruntime' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
