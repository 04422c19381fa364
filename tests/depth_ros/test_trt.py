"""The TensorRT engine: its order of work over a stand-in, and real processes for what a machine without a GPU can show."""

import ctypes.util
import logging
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from simulated_cuda import HostDriver, Misuse
from simulated_trt import SimulatedTensorRT, make_plan

from depth_ros.engines import EngineError, EngineOptions, MissingBackendError, trt, trt_package
from depth_ros.engines.cuda_memory import Memory
from depth_ros.engines.plan_keys import Device, plan_key
from depth_ros.engines.plans import Plan, PlanCache
from depth_ros.engines.trt_runner import PlanRunner
from depth_ros.graphs import frame_graph

GPU = Device("tensorrt", "10.3.0", "Simulated GPU", "8.6")
ORDERS = {"late": (), "compute_early": (0,), "copies_early": (1,), "early": (0, 1)}  # the runner makes compute, then copy


@pytest.fixture
def simulate(monkeypatch):
    """Put the stand-ins in the place of TensorRT and CUDA memory; returns the module and the driver."""

    def simulate(name="tensorrt", **settings):
        # PlanRunner's streams are the first two of its memory, and each memory gets a driver of its own.
        drivers = []
        module = SimulatedTensorRT(None, name)

        def open_memory(package):
            module.driver = HostDriver(**settings)
            drivers.append(module.driver)
            return Memory(module.driver)

        monkeypatch.setattr(trt, "import_tensorrt", lambda name: module)
        monkeypatch.setattr(trt, "open_memory", open_memory)
        monkeypatch.setattr(trt_package, "open_memory", open_memory)
        return SimpleNamespace(trt=module, drivers=drivers)

    return simulate


@pytest.fixture
def options(tmp_path):
    return EngineOptions(cache=tmp_path / "cache", batch=4)


def store(simulated, bundle, options, data=None, frame=None):
    key = plan_key(bundle, options, replace(GPU, backend=simulated.trt.__name__), frame)
    data = make_plan(bundle.graph_path.read_bytes(), options.batch) if data is None else data
    cache = PlanCache(options.cache)
    with cache.lock(key):
        return cache.store(key, data, {}).path


def images(count, bundle, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, bundle.height, bundle.width, 3), dtype=np.uint8)


def assert_right(answer, image):
    np.testing.assert_allclose(answer[0], image[..., 0] / 10, rtol=1e-6)
    np.testing.assert_allclose(answer[1], image[..., 1] / 100, rtol=1e-6)


@pytest.mark.parametrize("cuda_graph", [True, False])
@pytest.mark.parametrize("order", ORDERS)
def test_any_number_of_images_gets_the_graphs_answer_whenever_the_streams_run(simulate, make_bundle, options, order, cuda_graph):
    bundle, options = make_bundle(), replace(options, cuda_graph=cuda_graph)
    simulated = simulate(eager=ORDERS[order])
    store(simulated, bundle, options)
    engine = trt.load(bundle, options, "tensorrt")
    for seed, count in enumerate((1, 3, 4, 4, 4, 5, 13, 1, 1, 8, 8)):
        image = images(count, bundle, seed)
        assert_right(engine.infer(image), image)
    assert (simulated.drivers[-1].counts["launch"] > 0) == cuda_graph
    engine.close()
    assert all(driver.live == [] and driver.depth == 0 for driver in simulated.drivers)


def test_no_images_have_no_depth(simulate, make_bundle, options):
    bundle = make_bundle()
    store(simulate(), bundle, options)
    depth, sigma = trt.load(bundle, options, "tensorrt").infer(images(0, bundle))
    assert depth.shape == sigma.shape == (0, bundle.height, bundle.width)


def test_the_next_images_are_sent_before_the_present_ones_are_computed(simulate, make_bundle, options):
    bundle = make_bundle()
    simulated = simulate(eager=(1,))  # copies run at once unless they have to wait; computing waits for the host
    store(simulated, bundle, options)
    engine = trt.load(bundle, options, "tensorrt")
    driver = simulated.drivers[-1]
    arrived = []
    finish = engine._runner.finish
    engine._runner.finish = lambda slot: arrived.append((driver.counts["upload"], len(driver.streams[1].queue))) or finish(slot)
    engine.infer(images(12, bundle))
    assert arrived[:2] == [(2, 0), (3, 0)]  # two sets were sent when the host first waited, and none of them waited for computing


def test_without_the_wait_between_the_streams_the_stand_in_objects(simulate, make_bundle, options, monkeypatch):
    bundle = make_bundle()
    store(simulate(), bundle, options)
    engine = trt.load(bundle, options, "tensorrt")
    monkeypatch.setattr(Memory, "wait", lambda *arguments: None)
    with pytest.raises(Misuse, match="inference overtakes the upload"):
        engine.infer(images(1, bundle))


def test_without_the_wait_on_the_host_the_answer_is_wrong(simulate, make_bundle, options, monkeypatch):
    bundle = make_bundle()
    store(simulate(), bundle, options)
    engine = trt.load(bundle, options, "tensorrt")
    monkeypatch.setattr(Memory, "synchronise", lambda *arguments: None)
    image = images(1, bundle)
    assert not np.allclose(engine.infer(image)[0], image[..., 0] / 10)


def test_a_graph_for_a_single_image_serves_several(simulate, make_bundle, options):
    bundle = make_bundle()
    model = onnx.load(bundle.graph_path)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    store(simulate(), bundle, options, make_plan(model.SerializeToString()))
    image = images(3, bundle)
    assert_right(trt.load(bundle, options, "tensorrt").infer(image), image)


def test_earlier_answers_stay_and_views_are_read_right(simulate, make_bundle, options):
    bundle = make_bundle()
    store(simulate(), bundle, options)
    engine = trt.load(bundle, options, "tensorrt")
    first, second = images(2, bundle), images(2, bundle, 1)
    depth, sigma = engine.infer(first[..., ::-1])
    engine.infer(second)
    assert_right((depth, sigma), first[..., ::-1])
    assert depth.flags.c_contiguous
    second[...] = 7  # the same array with other images in it
    assert_right(engine.infer(second), second)


def test_a_graph_is_captured_after_the_warm_up_and_anew_for_other_shapes(simulate, make_bundle, options):
    bundle = make_bundle()
    simulated = simulate()
    store(simulated, bundle, options)
    engine = trt.load(bundle, options, "tensorrt")
    counts, history = simulated.drivers[-1].counts, []
    for count in (2, 2, 2, 1, 2, 2):
        engine.infer(images(count, bundle))
        history.append((counts["capture"], counts["launch"]))
    assert history == [(0, 0), (1, 1), (1, 2), (1, 2), (1, 2), (2, 3)]


@pytest.mark.parametrize("failure", ["no graphs", "error"])
def test_where_a_graph_cannot_be_captured_inference_runs_without(simulate, make_bundle, options, failure, monkeypatch, caplog):
    bundle = make_bundle()
    store(simulate(captures=failure == "error"), bundle, options)
    engine = trt.load(bundle, options, "tensorrt")
    assert "CUDA graph" in engine.describe()

    def fail(*arguments):
        raise EngineError("CUDA: cudaStreamEndCapture failed: cudaErrorStreamCaptureUnsupported")

    if failure == "error":
        monkeypatch.setattr(HostDriver, "capture", fail)
    for seed in range(3):
        image = images(1, bundle, seed)
        assert_right(engine.infer(image), image)
    assert "CUDA graph" not in engine.describe()
    assert ("cudaErrorStreamCaptureUnsupported" in caplog.text) == (failure == "error")


def test_the_description_is_one_line_with_all_that_matters(simulate, make_bundle, options):
    bundle = make_bundle()
    simulated = simulate("tensorrt_rtx")
    store(simulated, bundle, replace(options, precision="fp32"))
    text = trt.load(bundle, replace(options, precision="fp32"), "tensorrt_rtx").describe()
    assert text == "TensorRT-RTX 10.3.0, Simulated GPU (compute capability 8.6), fp32, batch 4, host, CUDA graph"


def test_a_closed_engine_says_so(simulate, make_bundle, options):
    bundle = make_bundle()
    store(simulate(), bundle, options)
    engine = trt.load(bundle, options, "tensorrt")
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.infer(images(1, bundle))


@pytest.mark.parametrize("wrong", [(1, 32, 63, 3), (32, 64, 3), (1, 3, 32, 64)])
def test_images_of_another_shape_are_refused(simulate, make_bundle, options, wrong):
    bundle = make_bundle()
    store(simulate(), bundle, options)
    with pytest.raises(EngineError, match=r"expected \(N, 32, 64, 3\) uint8"):
        trt.load(bundle, options, "tensorrt").infer(np.zeros(wrong, np.uint8))


# The runner by itself, on a graph with several inputs and outputs of several types.


def mixed_graph():
    """sum = a + b (N, 5) float32; twice = 2 a (N, 5) float32; bytes = c (N, 3) uint8."""
    values = {
        name: helper.make_tensor_value_info(name, kind, shape)
        for name, kind, shape in (
            ("a", TensorProto.FLOAT, ["N", 5]),
            ("b", TensorProto.FLOAT, [5]),
            ("c", TensorProto.UINT8, ["N", 3]),
            ("sum", TensorProto.FLOAT, ["N", 5]),
            ("twice", TensorProto.FLOAT, ["N", 5]),
            ("bytes", TensorProto.UINT8, ["N", 3]),
        )
    }
    nodes = [
        helper.make_node("Add", ["a", "b"], ["sum"]),
        helper.make_node("Add", ["a", "a"], ["twice"]),
        helper.make_node("Cast", ["c"], ["wide"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["wide"], ["bytes"], to=TensorProto.UINT8),
    ]
    graph = helper.make_graph(nodes, "mixed", [values[n] for n in "abc"], [values[n] for n in ("sum", "twice", "bytes")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()


@pytest.fixture
def runner(simulate, make_bundle, options):
    bundle = make_bundle()
    simulated = simulate()
    key = plan_key(bundle, options, GPU)
    runner = trt.open_runner(simulated.trt, options, Plan(key, options.cache / "mixed.plan", make_plan(mixed_graph(), 4)))
    runner.counts = simulated.drivers[-1].counts
    yield runner
    runner.close()
    assert simulated.drivers[-1].live == []


def mixed_inputs(count, seed=0):
    random = np.random.default_rng(seed)
    a, b = random.normal(size=(count, 5)).astype(np.float32), random.normal(size=5).astype(np.float32)
    return {"a": a, "b": b, "c": random.integers(0, 256, (count, 3), dtype=np.uint8)}


@pytest.mark.parametrize("wanted", [("sum", "twice", "bytes"), ("bytes",), ("bytes", "sum")])
def test_the_wanted_outputs_come_by_name(runner, wanted):
    for seed, count in enumerate((1, 2, 2, 2, 4, 3)):
        inputs = mixed_inputs(count, seed)
        found = runner.run(inputs, wanted)
        expected = {"sum": inputs["a"] + inputs["b"], "twice": 2 * inputs["a"], "bytes": inputs["c"]}
        assert list(found) == list(wanted)
        for name in wanted:
            assert found[name].dtype == expected[name].dtype
            np.testing.assert_array_equal(found[name], expected[name])


def test_all_outputs_come_in_one_copy_and_some_in_one_each(runner):
    inputs = mixed_inputs(2)
    for wanted, copies in (
        (("sum", "twice", "bytes"), 1),
        (("bytes", "twice", "sum"), 1),
        (("sum", "bytes"), 2),
        (("twice",), 1),
    ):
        before = runner.counts["download"]
        runner.run(inputs, wanted)
        assert runner.counts["download"] - before == copies


def test_only_an_array_that_is_another_one_is_sent_again(runner):
    inputs = mixed_inputs(2)
    runner.run(inputs, ["sum"])
    sent = runner.counts["upload"]
    assert sent == 3
    runner.run(inputs, ["sum"])
    assert runner.counts["upload"] == sent
    changed = {**inputs, "a": inputs["a"].copy()}
    np.testing.assert_array_equal(runner.run(changed, ["sum"])["sum"], inputs["a"] + inputs["b"])
    assert runner.counts["upload"] == sent + 1
    other = {**changed, "b": changed["b"] + 1}
    np.testing.assert_array_equal(runner.run(other, ["sum"])["sum"], inputs["a"] + (inputs["b"] + 1))
    assert runner.counts["upload"] == sent + 2


def test_an_array_whose_sending_failed_is_sent_again(runner, monkeypatch):
    inputs = mixed_inputs(2)
    with monkeypatch.context() as patch:
        patch.setattr(Memory, "upload", lambda *arguments: (_ for _ in ()).throw(EngineError("CUDA: lost")))
        with pytest.raises(EngineError, match="lost"):
            runner.run(inputs, ["sum"])
    np.testing.assert_array_equal(runner.run(inputs, ["sum"])["sum"], inputs["a"] + inputs["b"])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"d": np.zeros(1, np.float32)}, "inputs are a, b, c, d; expected a, b, c"),
        ({"a": np.zeros((2, 5))}, r"a is \(2, 5\) float64; expected \(1..4, 5\) float32"),
        ({"a": np.zeros((5, 5), np.float32)}, r"a is \(5, 5\) float32; expected \(1..4, 5\)"),
        ({"a": np.zeros((0, 5), np.float32)}, r"a is \(0, 5\) float32; expected \(1..4, 5\)"),
        ({"b": np.zeros(6, np.float32)}, r"b is \(6,\) float32; expected \(5\)"),
        ({"b": np.zeros((1, 5), np.float32)}, r"b is \(1, 5\) float32; expected \(5\)"),
    ],
)
def test_inputs_that_the_plan_does_not_take_are_refused(runner, change, named):
    with pytest.raises(EngineError, match=named):
        runner.run(mixed_inputs(2) | change, ["sum"])
    inputs = mixed_inputs(3)
    np.testing.assert_array_equal(runner.run(inputs, ["twice"])["twice"], 2 * inputs["a"])


@pytest.mark.parametrize("outputs", [[], ["product"], ["sum", "product"]])
def test_outputs_that_the_plan_has_not_are_refused(runner, outputs):
    with pytest.raises(EngineError, match="expected some of sum, twice, bytes"):
        runner.run(mixed_inputs(1), outputs)


def test_a_run_that_tensorrt_refuses_gives_its_reason(runner, monkeypatch):
    monkeypatch.setattr(PlanRunner, "_set_addresses", lambda *arguments: None)
    with pytest.raises(EngineError, match="TensorRT cannot run the plan: not all addresses and shapes are set"):
        runner.run(mixed_inputs(1), ["sum"])


# Loading.


def test_without_a_plan_the_command_is_told(simulate, make_bundle, options):
    bundle = make_bundle()
    simulate()
    with pytest.raises(EngineError) as caught:
        trt.load(bundle, options, "tensorrt")
    assert str(caught.value) == (
        f"no plan for Simulated GPU in {options.cache}; "
        f"run: ros2 run depth_ros build_engine --model {bundle.path} --engine tensorrt --batch 4 --cache {options.cache}"
    )
    assert not isinstance(caught.value, MissingBackendError)  # all is here but the plan


def test_the_command_builds_where_the_plan_was_looked_for(simulate, make_bundle, tmp_path, monkeypatch):
    """With the cache left out it would build into another folder, and the node would still find nothing."""
    bundle = make_bundle()
    simulate()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    options = EngineOptions(memory="pycuda", workspace_mb=512)
    with pytest.raises(EngineError) as caught:
        trt.load(bundle, options, "tensorrt")
    assert str(caught.value).endswith("--engine tensorrt --workspace-mb 512 --memory pycuda")
    with pytest.raises(EngineError) as caught:
        trt.load(bundle, replace(options, cache=tmp_path / "my engines"), "tensorrt")
    assert str(caught.value).endswith(f"--memory pycuda --cache '{tmp_path}/my engines'")


def test_a_damaged_plan_is_not_run(simulate, make_bundle, options):
    bundle = make_bundle()
    path = store(simulate(), bundle, options)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(EngineError, match=r"corrupt.*run: ros2 run depth_ros build_engine"):
        trt.load(bundle, options, "tensorrt")


def test_a_plan_that_tensorrt_cannot_read_gives_its_reason_in_one_line(simulate, make_bundle, options):
    bundle = make_bundle()
    simulated = simulate()
    path = store(simulated, bundle, options, b"no plan")
    with pytest.raises(EngineError) as caught:
        trt.load(bundle, options, "tensorrt")
    text = str(caught.value)
    assert text.startswith(
        f"{path}: tensorrt 10.3.0 cannot read the plan: Serialization assertion magicTag == kMAGIC_TAG failed."
    )
    assert text.endswith("--force")
    assert "\n" not in text
    assert all(driver.live == [] for driver in simulated.drivers)


def test_a_plan_of_another_version_or_gpu_is_not_run(simulate, make_bundle, options):
    bundle = make_bundle()
    simulated = simulate()
    store(simulated, bundle, options)
    simulated.trt.__version__ = "10.13.0"
    with pytest.raises(EngineError, match=r"version 10\.3\.0, here it is 10\.13\.0"):
        trt.load(bundle, options, "tensorrt")
    simulated = simulate(capability=(8, 7))
    with pytest.raises(EngineError, match=r"compute capability 8\.6, here it is 8\.7"):
        trt.load(bundle, options, "tensorrt")


def test_a_plan_of_another_model_is_refused(simulate, make_bundle, options):
    bundle, other = make_bundle(), make_bundle(96, 64)
    simulated = simulate()
    path = store(simulated, bundle, options, make_plan(other.graph_path.read_bytes(), 4))
    with pytest.raises(EngineError, match=rf"{path} is not a plan of this model: .*'image' is uint8 \(None, 64, 96, 3\)"):
        trt.load(bundle, options, "tensorrt")
    assert all(driver.live == [] for driver in simulated.drivers)


@pytest.mark.parametrize("found", [None, b"no plan"])
def test_a_plan_is_built_where_there_is_none_that_can_be_read(simulate, make_bundle, options, found, monkeypatch):
    bundle, options = make_bundle(), replace(options, build_if_missing=True)
    simulated = simulate()
    if found:
        store(simulated, bundle, options, found)
    forced = []

    def build(module, bundle, options, gpu, frame=None, force=False):
        forced.append(force)
        store(simulated, bundle, options)
        return trt.find(module, bundle, options, gpu, frame)[0]

    monkeypatch.setattr(trt, "build", build)
    image = images(2, bundle)
    assert_right(trt.load(bundle, options, "tensorrt").infer(image), image)
    assert forced == [found is not None]


def test_what_runs_instead_of_a_refused_precision_is_said(simulate, make_bundle, options, caplog):
    bundle = make_bundle()
    simulated = simulate()
    key = plan_key(bundle, options, GPU)
    store(simulated, bundle, replace(options, precision="fp32"))
    cache = PlanCache(options.cache)
    cache.refuse(key, "depth p99 0.3 > 0.05", replace(key, precision="fp32"), {})
    engine = trt.load(bundle, options, "tensorrt")
    assert ", fp32, " in engine.describe()
    assert "depth p99 0.3 > 0.05" in caplog.text


def test_a_frame_graph_is_opened_where_there_is_a_plan_of_its_size(simulate, make_bundle, options, caplog):
    bundle = make_bundle()
    simulated = simulate()
    store(simulated, bundle, options)
    store(simulated, bundle, options, make_plan(mixed_graph(), 4), frame=(1280, 720))
    engine = trt.load(bundle, options, "tensorrt")
    with caplog.at_level(logging.INFO):
        assert engine.open_frame_graph(640, 480) is None
    assert "--frame 640x480" in caplog.text
    frames = engine.open_frame_graph(1280, 720)
    inputs = mixed_inputs(1)
    np.testing.assert_array_equal(frames.run(inputs, ["twice"])["twice"], 2 * inputs["a"])
    frames.close()
    image = images(1, bundle)
    assert_right(engine.infer(image), image)  # the engine has memory of its own


def test_a_frame_graph_that_fell_back_says_its_own_precision(simulate, make_bundle, options):
    bundle, frame = make_bundle(), (160, 90)
    simulated = simulate()
    store(simulated, bundle, options)
    store(simulated, bundle, replace(options, precision="fp32"), make_plan(mixed_graph(), 4), frame)
    key = plan_key(bundle, options, GPU, frame)
    PlanCache(options.cache).refuse(key, "depth p99 0.3 > 0.05", replace(key, precision="fp32"), {})
    engine = trt.load(bundle, options, "tensorrt")
    frames = engine.open_frame_graph(*frame)
    assert (engine.precision, frames.precision) == ("fp16", "fp32")
    frames.close()


@pytest.mark.parametrize("failure", ["unreadable", "cannot be built"])
def test_without_its_frame_graph_an_engine_leaves_frames_to_the_host(
    simulate, make_bundle, options, failure, monkeypatch, caplog
):
    """An error would refuse every image, or build anew for every image, although the network itself runs."""
    bundle = make_bundle()
    simulated = simulate()
    store(simulated, bundle, options)
    if failure == "unreadable":
        store(simulated, bundle, options, b"no plan", frame=(160, 90))
        reason = "cannot read the plan"
    else:
        options, reason = replace(options, build_if_missing=True), "fp32 gives wrong depth"
        monkeypatch.setattr(trt, "build", raise_error(reason))
    engine = trt.load(bundle, options, "tensorrt")
    assert engine.open_frame_graph(160, 90) is None
    (record,) = [record for record in caplog.records if "160x90 images are resized on the CPU" in record.message]
    assert record.levelno == logging.WARNING
    assert reason in record.message
    image = images(1, bundle)
    assert_right(engine.infer(image), image)


def raise_error(reason):
    def build(*arguments, **settings):
        raise EngineError(reason)

    return build


def test_the_gate_opens_a_plan_as_the_node_would_and_sees_when_it_is_wrong(simulate, make_bundle, options):
    bundle, wrong = make_bundle(), onnx.load(make_bundle().graph_path)
    simulated = simulate()
    key, check = plan_key(bundle, options, GPU), trt.make_check(simulated.trt, bundle, options, GPU)
    assert check(make_plan(bundle.graph_path.read_bytes(), 4), key).passed
    next(value for value in wrong.graph.initializer if value.name == "ten").CopyFrom(
        numpy_helper.from_array(np.float32(9), "ten")
    )
    report = check(make_plan(wrong.SerializeToString(), 4), key)
    assert report.figures["depth_median"] == pytest.approx(1 / 9, rel=1e-3)  # 10 / 9 - 1
    assert not report.passed
    assert all(driver.live == [] for driver in simulated.drivers)


@pytest.mark.parametrize("order", ORDERS)
def test_the_gate_opens_a_frame_graph(simulate, make_bundle, options, order):
    bundle = make_bundle()
    simulated = simulate(eager=ORDERS[order])
    key = plan_key(bundle, options, GPU, (160, 90))
    check = trt.make_check(simulated.trt, bundle, options, GPU)
    report = check(make_plan(frame_graph(bundle, 160, 90, "fp32"), 4), key)
    assert report.passed, report.describe()
    assert report.figures["depth_p99"] == report.figures["points_p99"] == 0  # the stand-in computes with ONNX Runtime, too
    assert simulated.drivers[-1].counts["launch"] > 0
    assert simulated.drivers[-1].live == []


def test_a_gpu_that_tensorrt_rtx_does_not_know_is_named(simulate, make_bundle, options):
    simulate("tensorrt_rtx", capability=(9, 0))
    with pytest.raises(MissingBackendError, match=r"Simulated GPU is SM90; TensorRT-RTX 10\.3\.0 runs on SM75, SM86 only"):
        trt.load(make_bundle(), options, "tensorrt_rtx")


# Real processes.


def load_in_a_process(bundle, name, *paths):
    """What choosing the engine says, in a process of its own that has `paths` before everything else."""
    code = (
        f"import sys; sys.path[:0] = {[*map(str, paths)]!r}\n"
        "from depth_ros import bundle\nfrom depth_ros.engines import EngineError, load_engine\n"
        f"try: load_engine(bundle.load({str(bundle.path)!r}), {name!r})\n"
        "except EngineError as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def distribution(folder, name, source=None):
    """A site folder with a distribution, and a package with this source."""
    information = folder / f"{name}-10.16.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 10.16.0\n")
    if source is not None:
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(source)
    return folder


def test_tensorrt_rtx_without_a_driver_is_an_error_and_no_crash(make_bundle):
    pytest.importorskip("tensorrt_rtx")
    if ctypes.util.find_library("cuda"):
        pytest.skip("this machine has a CUDA driver")
    assert load_in_a_process(make_bundle(), "tensorrt_rtx").startswith("MissingBackendError tensorrt_rtx: no CUDA driver: ")


def test_the_real_tensorrt_rtx_refuses_a_damaged_plan_with_a_reason_and_no_crash():
    pytest.importorskip("tensorrt_rtx")
    code = (
        "import tensorrt_rtx\nfrom pathlib import Path\nfrom depth_ros.engines import EngineError, trt\n"
        "from depth_ros.engines.plans import Plan\n"
        "try: trt._deserialise(tensorrt_rtx, Plan(None, Path('x.plan'), bytes(1000)))\n"
        "except trt.UnreadablePlanError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("x.plan: tensorrt_rtx ")
    assert "cannot read the plan: " in done.stdout
    assert "no reason given" not in done.stdout
    assert done.stdout.count("\n") == 1


@pytest.mark.skipif(bool(trt_package._installed("tensorrt")), reason="TensorRT is installed here")
def test_tensorrt_that_is_not_installed_says_how_to_get_it(make_bundle):
    text = load_in_a_process(make_bundle(), "tensorrt")
    assert text.startswith("MissingBackendError tensorrt: not installed: apt install python3-libnvinfer")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (None, "No module named 'tensorrt'"),
        ("from tensorrt_libs import nothing", "No module named 'tensorrt_libs'"),
        ("raise ImportError('libnvinfer.so.10: cannot open\\nshared object file')", "libnvinfer.so.10: cannot open shared"),
        ("import ctypes; ctypes.CDLL('libnvinfer.so.999')", "libnvinfer.so.999"),
        ("", "it has no Runtime"),
    ],
)
@pytest.mark.skipif(bool(trt_package._installed("tensorrt")), reason="TensorRT is installed here")
def test_a_stub_is_told_from_tensorrt(make_bundle, tmp_path, source, reason):
    text = load_in_a_process(make_bundle(), "tensorrt", distribution(tmp_path, "tensorrt", source))
    assert text.startswith("EngineError tensorrt: tensorrt 10.16.0 is installed but cannot be used (")
    assert reason in text
    assert "python3-libnvinfer" in text
