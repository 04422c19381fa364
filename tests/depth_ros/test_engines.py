"""The contract that every engine keeps: run over all of ENGINES that work on this machine."""

import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from depth_ros import bundle, graphs
from depth_ros.engines import AUTO, ENGINES, EngineError, EngineOptions, MissingBackendError, choose_engine, load_engine
from depth_ros.engines.onnxrt import BoundRunner, SessionRunner

ROOT = Path(__file__).resolve().parents[2]
ON_CPU = ("onnxruntime", "openvino")
BUILT = TemporaryDirectory(prefix="depth_ros_engines_")  # plans of the engines that are built, shared by the tests


def options(**changes):
    """Every engine as exact as it can be, built where it has to be."""
    return EngineOptions(**{"threads": 1, "precision": "fp32", "build_if_missing": True, "cache": Path(BUILT.name), **changes})


def why_not(name):
    """Return why an engine does not work here, None where it does: found out by loading the default model."""
    try:
        load_engine(bundle.load(ROOT / "models" / "default"), name, options()).close()
    except Exception as error:  # of whatever kind: the test below says which kinds are right
        return error
    return None


WHY_NOT = {name: why_not(name) for name in ENGINES}


@pytest.fixture(params=[name for name in ENGINES if WHY_NOT[name] is None])
def name(request):
    return request.param


@pytest.mark.parametrize("name", [name for name in ENGINES if WHY_NOT[name] is not None])
def test_engine_that_does_not_work_here_says_why_in_one_line(name):
    assert isinstance(WHY_NOT[name], MissingBackendError), f"it is here, but does not run: {WHY_NOT[name]!r}"
    reason = str(WHY_NOT[name])
    assert reason
    assert "\n" not in reason
    pytest.skip(f"the contract is not tested on {reason}")


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
    depth, sigma = load_engine(made, name, options()).infer(image)
    np.testing.assert_allclose(depth, image[..., 0] / 10, rtol=1e-6)
    np.testing.assert_allclose(sigma, image[..., 1] / 100, rtol=1e-6)
    for array in (depth, sigma):
        assert array.dtype == np.float32
        assert array.shape == (count, 32, 64)
        assert array.flags.c_contiguous


def test_same_image_gives_the_same_answer_and_earlier_answers_stay(name, make_bundle):
    made = make_bundle()
    engine = load_engine(made, name, options())
    first, second = images(1, made), images(2, made)[:1]
    depth, _ = engine.infer(first)
    kept = depth.copy()
    engine.infer(second)
    np.testing.assert_array_equal(depth, kept)
    np.testing.assert_array_equal(engine.infer(first)[0], kept)


def test_non_contiguous_images_are_read_right(name, make_bundle):
    made = make_bundle()
    image = images(1, made)
    depth, _ = load_engine(made, name, options()).infer(image[..., ::-1])
    np.testing.assert_allclose(depth, image[..., 2] / 10, rtol=1e-6)


def test_graph_for_a_single_image_serves_a_batch(name, make_bundle):
    def fix_batch(graph):
        for value in (*graph.input, *graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = 1

    made = edited(make_bundle(), fix_batch)
    image = images(3, made)
    depth, sigma = load_engine(made, name, options()).infer(image)
    np.testing.assert_allclose(depth, image[..., 0] / 10, rtol=1e-6)
    np.testing.assert_allclose(sigma, image[..., 1] / 100, rtol=1e-6)


def test_description_is_one_line_with_version_precision_and_threads(name, make_bundle):
    engine = load_engine(make_bundle(), name, options(threads=2))
    text = engine.describe()
    assert "\n" not in text
    assert engine.precision == "fp32"
    assert "fp32" in text
    assert any(character.isdigit() for character in text)
    assert ("2 threads" in text) == (name in ON_CPU)


def test_default_model_sees_what_onnx_runtime_sees(name):
    model = bundle.load(ROOT / "models" / "default")
    street = cv2.imread(str(next((ROOT / "assets" / "street").rglob("*.jpg"))))[..., ::-1]
    image = cv2.resize(street, (model.width, model.height))[None]
    with closing(load_engine(model, name, options())) as engine, closing(load_engine(model, options=options())) as reference:
        for found, expected in zip(engine.infer(image), reference.infer(image), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_exported_systems_see_what_torch_sees(name, system):
    with closing(load_engine(system.bundle, name, options())) as engine:
        depth, sigma = engine.infer(system.image)
    assert np.ptp(system.depth) > 0.5 * np.median(system.depth)  # no constant, which anything would agree with
    assert np.ptp(system.sigma / system.depth) > 0.1
    np.testing.assert_allclose(depth, system.depth, rtol=1e-4)
    np.testing.assert_allclose(sigma, system.sigma, rtol=1e-3)


def test_read_only_images_are_taken(name, make_bundle):
    made = make_bundle()
    image = images(2, made)
    image.flags.writeable = False
    np.testing.assert_allclose(load_engine(made, name, options()).infer(image)[0], image[..., 0] / 10, rtol=1e-6)


def test_an_array_filled_anew_is_another_image(name, make_bundle):
    made = make_bundle()
    engine = load_engine(made, name, options())
    image = images(1, made)
    engine.infer(image)
    image[:] = 70
    np.testing.assert_allclose(engine.infer(image)[0], 7.0, rtol=1e-6)


def test_number_of_images_may_change(name, make_bundle):
    made = make_bundle()
    engine = load_engine(made, name, options())
    for count in (1, 3, 2, 1):
        image = images(count, made)
        np.testing.assert_allclose(engine.infer(image)[1], image[..., 1] / 100, rtol=1e-6)


def test_a_cpu_leaves_the_rest_of_a_frame_to_the_host(name, make_bundle):
    if name in ON_CPU:
        assert load_engine(make_bundle(), name, options()).open_frame_graph(128, 64) is None


def test_unknown_precision_is_refused_with_the_known_ones(name, make_bundle):
    with pytest.raises(EngineError, match=r"'fp64'.*fp32"):
        load_engine(make_bundle(), name, options(precision="fp64"))


def test_closed_engine_says_so(name, make_bundle):
    made = make_bundle()
    engine = load_engine(made, name, options())
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.infer(images(1, made))


@pytest.mark.parametrize("wrong", [(1, 32, 63, 3), (32, 64, 3), (1, 3, 32, 64)])
def test_images_of_another_shape_are_refused(name, make_bundle, wrong):
    engine = load_engine(make_bundle(), name, options())
    with pytest.raises(EngineError, match=r"expected \(N, 32, 64, 3\) uint8"):
        engine.infer(np.zeros(wrong, np.uint8))


def test_float_images_are_refused(name, make_bundle):
    with pytest.raises(EngineError, match="float32"):
        load_engine(make_bundle(), name, options()).infer(np.zeros((1, 32, 64, 3), np.float32))


@pytest.mark.parametrize("content", [b"", b"not a graph at all", bytes(1000)])
def test_file_that_is_no_graph_is_named(name, make_bundle, content):
    made = make_bundle()
    made.graph_path.write_bytes(content)
    made = bundle.save(made, made.path)
    with pytest.raises(EngineError) as caught:
        load_engine(made, name, options())
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
        (take_floats, r"'image' is float32"),
    ],
)
def test_graph_that_breaks_the_contract_is_refused(name, make_bundle, change, named):
    made = edited(make_bundle(), change)
    with pytest.raises(EngineError, match=named):
        load_engine(made, name, options())


def test_graph_of_another_size_than_the_bundle_says_is_refused(name, make_bundle):
    made = make_bundle(64, 32)
    other = make_bundle(128, 96)
    made.graph_path.write_bytes(other.graph_path.read_bytes())
    with pytest.raises(EngineError, match=r"96, 128, 3.*bundle.yaml says.*32, 64, 3"):
        load_engine(bundle.save(made, made.path), name, options())


def test_unknown_engine_lists_the_known_ones(make_bundle):
    with pytest.raises(EngineError, match=r"'tensorflow' is unknown.*onnxruntime"):
        load_engine(make_bundle(), "tensorflow")


def test_int8_needs_the_quantised_graph(make_bundle):
    with pytest.raises(EngineError, match=r"no int8 graph; make one"):
        load_engine(make_bundle(), "onnxruntime", options(precision="int8"))


def test_bf16_runs_where_the_cpu_has_it_and_is_refused_elsewhere(make_bundle):
    """OpenVINO itself would quietly calculate in fp32."""
    if WHY_NOT["openvino"]:
        pytest.skip(f"openvino: {WHY_NOT['openvino']}")
    flags = Path("/proc/cpuinfo").read_text()
    if "avx512_bf16" in flags or "amx_bf16" in flags:
        assert "bf16" in load_engine(make_bundle(), "openvino", options(precision="bf16")).describe()
    else:
        with pytest.raises(EngineError, match=r"no bf16.*choose precision fp32"):
            load_engine(make_bundle(), "openvino", options(precision="bf16"))


def test_threads_are_one_less_than_the_cores_unless_chosen(make_bundle):
    cores = len(os.sched_getaffinity(0))
    expected = "1 thread" if cores <= 2 else f"{cores - 1} threads"
    for name in ON_CPU:
        if not WHY_NOT[name]:
            assert load_engine(make_bundle(), name).describe().endswith(expected)


# ---- memory that stays on a device, on the one that is always there


@pytest.fixture
def bound(make_bundle):
    """An ONNX Runtime session with its inputs and outputs bound, as on CUDA."""
    made = make_bundle()
    session = ort.InferenceSession(str(made.graph_path), providers=["CPUExecutionProvider"])
    return made, BoundRunner(session, "model.onnx", "fp32", "cpu"), SessionRunner(session, "model.onnx", "fp32")


def test_bound_memory_gives_the_same_answers(bound):
    made, runner, plain = bound
    for count in (1, 3, 1):
        inputs = {"image": images(count, made)[..., ::-1]}
        found, expected = (r.run(inputs, ["sigma", "depth"]) for r in (runner, plain))
        assert list(found) == ["sigma", "depth"]
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values)
    assert list(runner.run(inputs, ["depth"])) == ["depth"]


def test_bound_memory_is_filled_again_only_for_another_array(bound):
    made, runner, _ = bound
    image = np.full((1, made.height, made.width, 3), 50, np.uint8)
    runner.run({"image": image}, ["depth"])
    image[:] = 70
    np.testing.assert_allclose(runner.run({"image": image}, ["depth"])["depth"], 5.0)
    np.testing.assert_allclose(runner.run({"image": image.copy()}, ["depth"])["depth"], 7.0)


def test_bound_memory_serves_a_graph_with_more_inputs_than_images(make_bundle):
    """The frame graph: its limits have no batch dimension, its outputs differ in rank and type."""
    made = make_bundle()
    graph = graphs.frame_graph(made, 100, 60, "fp32")
    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    runner, plain = BoundRunner(session, "frame", "fp32", "cpu"), SessionRunner(session, "frame", "fp32")
    inputs = {
        "image": np.random.default_rng(0).integers(1, 200, (1, 60, 100, 3), dtype=np.uint8),
        "focal": np.ones(1, np.float32),
        "ray_x": np.linspace(-1, 1, made.width, dtype=np.float32)[None],
        "ray_y": np.linspace(-1, 1, made.height, dtype=np.float32)[None],
        "unseen": np.zeros((1, 60, 100), np.uint8),
        "limits": np.zeros(2, np.float32),
    }
    for focal in (1.0, 2.0):
        inputs["focal"] = np.array([focal], np.float32)
        found, expected = (r.run(inputs, ["depth", "sigma", "points", "colors"]) for r in (runner, plain))
        for name, values in expected.items():
            np.testing.assert_array_equal(found[name], values)
        assert found["depth"].shape == (1, 60, 100)
    assert list(runner.run(inputs, ["points"])) == ["points"]


def test_closed_runner_says_so(bound):
    made, runner, _ = bound
    runner.close()
    with pytest.raises(EngineError, match=r"model.onnx: the engine is closed"):
        runner.run({"image": images(1, made)}, ["depth"])


# ---- the choice


@pytest.fixture
def write_backend(monkeypatch, tmp_path):
    """Write a module as a user's machine might hold it, and make it the next fastest engine."""
    monkeypatch.setattr("depth_ros.engines.ENGINES", {"onnxruntime": ENGINES["onnxruntime"]})
    monkeypatch.syspath_prepend(tmp_path)

    def write(name, code):
        (tmp_path / f"backend_{name}.py").write_text(code)
        from depth_ros import engines

        monkeypatch.setattr("depth_ros.engines.ENGINES", {name: f"backend_{name}", **engines.ENGINES})

    return write


def test_auto_takes_the_first_that_works_and_says_why_not_the_others(write_backend, make_bundle):
    write_backend("refusing", "def load(bundle, options, name):\n    from depth_ros.engines import EngineError\n"
                  "    raise EngineError('no plan: run build_engine')")  # fmt: skip
    write_backend("crashing", "def load(bundle, options, name):\n    raise RuntimeError('driver\\nlost')")
    write_backend("broken", "raise ImportError('libabacus.so: cannot open')")
    write_backend("missing", "import abacus.beads")
    choice = choose_engine(make_bundle(), AUTO)
    assert choice.name == "onnxruntime"
    assert choice.engine.describe().startswith("ONNX Runtime")
    assert [str(item) for item in choice.passed_over] == [
        "missing: not installed (pip install abacus)",
        "broken: its package is installed but cannot be imported: libabacus.so: cannot open",
        "crashing: crashed: RuntimeError: driver lost",
        "refusing: no plan: run build_engine",
    ]
    assert [item.expected for item in choice.passed_over] == [True, False, False, False]


def test_a_named_engine_is_the_only_one_tried(write_backend, make_bundle):
    write_backend("missing", "import abacus")
    with pytest.raises(EngineError, match=r"^missing: not installed \(pip install abacus\)$"):
        choose_engine(make_bundle(), "missing")
    assert choose_engine(make_bundle(), "onnxruntime").passed_over == ()


def test_no_engine_at_all_gives_every_reason(make_bundle):
    made = make_bundle()
    made.graph_path.write_bytes(b"not a graph")
    with pytest.raises(EngineError) as caught:
        choose_engine(bundle.save(made, made.path), AUTO)
    for name in ENGINES:
        assert f"{name}: " in str(caught.value)
    assert "\n" not in str(caught.value)


def test_auto_takes_the_fastest_that_works_here(make_bundle):
    choice = choose_engine(make_bundle(), AUTO, options())
    usable = [name for name in ENGINES if WHY_NOT[name] is None]
    assert choice.name == usable[0]
    assert [item.name for item in choice.passed_over] == list(ENGINES)[: list(ENGINES).index(usable[0])]


@pytest.mark.parametrize("engine", [name for name in ON_CPU if not WHY_NOT[name]])
def test_an_engine_reports_to_nobody(tmp_path, engine):
    """Importing OpenVINO as it comes sends usage data, and leaves an identifier in the home folder."""
    code = (
        "import sys; from depth_ros import bundle; from depth_ros.engines import load_engine;"
        "load_engine(bundle.load('models/default'), sys.argv[1]); sys.exit(bool(sys.modules.get('openvino_telemetry')))"
    )
    environment = {key: value for key, value in os.environ.items() if key not in ("CI", "TF_BUILD", "JENKINS_URL")}
    done = subprocess.run(
        [sys.executable, "-c", code, engine], env={**environment, "HOME": str(tmp_path)}, cwd=ROOT, check=False, timeout=60
    )
    assert done.returncode == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["onnxruntime", "openvino", "tensorrt_rtx"])
def test_a_backend_is_imported_only_when_it_is_chosen(package):
    code = f"import sys, depth_ros.engines, depth_ros.estimator; sys.exit({package!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
