"""Building TensorRT engines, with TensorRT-RTX, which builds without a GPU (and runs nothing without one)."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from depth_ros import bundle, graphs
from depth_ros.engines import EngineError, EngineOptions, gate, trt_progress
from depth_ros.engines.plan_keys import Device, plan_key
from depth_ros.engines.plans import PlanCache
from depth_ros.engines.trt_build import PlanBuilder, build_plan, configure, make_profile, parse
from depth_ros.engines.trt_progress import Shares, make_log, make_monitor

trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install -r requirements/engines.txt")

ROOT = Path(__file__).resolve().parents[2]
DEVICE = Device("tensorrt_rtx", trt.__version__, "Some GPU", "8.9")


@dataclass
class Judge:
    """A gate that lets some precisions pass, and remembers what it saw."""

    passing: tuple[str, ...]

    def __post_init__(self):
        self.seen = []

    def __call__(self, data, key):
        self.seen.append(key.precision)
        limit = 0.5 if key.precision in self.passing else 0.05
        return gate.GateReport(key.precision, 4, {"depth_p99": 0.31}, {"depth_p99": limit})


@pytest.fixture
def options(tmp_path):
    return EngineOptions(cache=tmp_path / "cache", workspace_mb=64, progress=[].append)


@pytest.fixture
def said(options):
    return options.progress.__self__


@pytest.fixture(scope="module")
def default():
    return bundle.load(ROOT / "models" / "default")


def builder(made, options, *passing):
    return PlanBuilder(trt, made, options, DEVICE, Judge(passing))


def network_of(graph, source="model.onnx"):
    """TensorRT's view of a graph, with what must outlive it."""
    log = make_log(trt)
    maker = trt.Builder(log)
    return maker, parse(trt, maker, log, graph, source), log


def io_of(network):
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    return [{tensor.name: (tensor.dtype, tuple(tensor.shape)) for tensor in side} for side in (inputs, outputs)]


def expected_io(made):
    size = (-1, made.height, made.width)
    return [{"image": (trt.uint8, (*size, 3))}, {"depth": (trt.float32, size), "sigma": (trt.float32, size)}]


# ---- what is built


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_shipped_model_is_read_with_its_names_types_and_sizes(default, precision):
    maker, network, _ = network_of(graphs.prepare(default, precision))
    assert io_of(network) == expected_io(default)
    assert network.get_flag(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    profile = make_profile(maker, network, 3)
    size = (default.height, default.width, 3)
    assert [tuple(shape) for shape in profile.get_shape("image")] == [(1, *size), (3, *size), (3, *size)]


def test_the_shipped_model_is_built_in_fp32_and_in_fp16_and_half_of_it_is_half_as_large(default, options):
    sizes = {}
    for precision in ("fp32", "fp16"):
        plan = builder(default, replace(options, precision=precision, batch=2), precision).provide()
        assert (plan.key.precision, plan.reason, plan.refused) == (precision, "", "")
        assert plan.path.read_bytes() == plan.data
        sizes[precision] = len(plan.data)
    weights = sum(numpy_helper.to_array(tensor).nbytes for tensor in onnx.load(default.graph_path).graph.initializer)
    assert 0.9 * weights < sizes["fp32"] < 1.5 * weights
    assert 0.45 * weights < sizes["fp16"] < 0.75 * sizes["fp32"]


def test_a_calibrated_model_is_read_and_built_in_int8(default, options, tmp_path):
    quantise = pytest.importorskip("training.quantise").quantise
    shutil.copytree(default.path, tmp_path / "mine")
    made = quantise(bundle.load(tmp_path / "mine"), gate.load_frames(default), "the images of the numeric gate")
    maker, network, _ = network_of(graphs.prepare(made, "int8"))
    assert io_of(network) == expected_io(made)
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    assert sum(layer.type == trt.LayerType.QUANTIZE for layer in layers) > 20
    del layers, network, maker
    plan = builder(made, replace(options, precision="int8"), "int8").provide()
    assert (plan.key.precision, plan.refused) == ("int8", "")
    other = builder(replace(made, int8={"sha256": "0" * 64}), replace(options, precision="int8"), "int8")
    assert plan_key(other.bundle, other.options, DEVICE) != plan.key  # calibrated anew, built anew


def test_exported_systems_are_read_and_built(system, options):
    """Chained pooling, a nested decoder, pooled shortcuts, learned sigmas, Lite-Mono's attention, a diffusion's sampling."""
    sizes = {}
    for precision in ("fp32", "fp16"):
        maker, network, _ = network_of(graphs.prepare(system.bundle, precision))
        assert io_of(network) == expected_io(system.bundle)
        del network, maker
        plan = builder(system.bundle, replace(options, precision=precision), precision).provide()
        assert (plan.key.precision, plan.refused) == (precision, "")
        sizes[precision] = len(plan.data)
    weights = sum(numpy_helper.to_array(tensor).nbytes for tensor in onnx.load(system.bundle.graph_path).graph.initializer)
    assert 0.9 * weights < sizes["fp32"] < weights + 10e6  # beside the weights a plan holds some megabytes of code
    assert sizes["fp32"] - sizes["fp16"] == pytest.approx(0.5 * weights, rel=0.1)


def test_a_graph_for_a_single_image_needs_no_profile(make_bundle):
    made = make_bundle()
    model = onnx.load(made.graph_path)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    maker, network, _ = network_of(model.SerializeToString())
    assert make_profile(maker, network, 4) is None
    assert build_plan(trt, model.SerializeToString(), EngineOptions(batch=4))


def test_limits_of_the_builder_are_those_of_the_options(make_bundle, options):
    maker, network, _ = network_of(make_bundle().graph_path.read_bytes())
    config, _ = configure(trt, maker, network, options, "probe")
    assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 64 * 2**20
    assert not config.get_flag(trt.BuilderFlag.TF32)
    assert config.num_optimization_profiles == 1


# ---- what cannot be built


def graph_of(nodes, shape=("N", 32, 64, 3)):
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, shape)
    depth = helper.make_tensor_value_info("depth", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "made", [image], [depth])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()


CAST = helper.make_node("Cast", ["image"], ["colour"], to=TensorProto.FLOAT)


def test_an_operation_that_tensorrt_does_not_know_is_named_with_its_node_and_file():
    nodes = [CAST, helper.make_node("Det", ["colour"], ["depth"], name="volume")]
    with pytest.raises(
        EngineError, match=r"/robot/model\.onnx: tensorrt_rtx [\d.]+ cannot read it: node 'volume' \(Det\)"
    ) as caught:
        build_plan(trt, graph_of(nodes), EngineOptions(), source="/robot/model.onnx")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a graph"])
def test_a_file_that_is_no_graph_is_named(content):
    with pytest.raises(EngineError, match=r"model\.onnx: tensorrt_rtx [\d.]+ cannot read it: .+") as caught:
        build_plan(trt, content, EngineOptions())
    assert "\n" not in str(caught.value)


def test_each_failure_gives_its_own_reason():
    log = make_log(trt)
    with pytest.raises(EngineError, match="node 'volume'"):
        build_plan(trt, graph_of([CAST, helper.make_node("Det", ["colour"], ["depth"], name="volume")]), EngineOptions())
    assert "Det" in log.last_error
    assert make_log(trt) is log  # TensorRT takes only one per process
    assert log.last_error == "no reason given"


def test_an_image_of_open_size_is_refused():
    nodes = [CAST, helper.make_node("Sqrt", ["colour"], ["depth"])]
    with pytest.raises(EngineError, match=r"'image' is \(-1, -1, 64, 3\); expected only the number of images to be open"):
        build_plan(trt, graph_of(nodes, ("N", "H", 64, 3)), EngineOptions())


# ---- the gate


def test_a_precision_that_gives_wrong_depth_gives_way_to_fp32(make_bundle, options, said):
    made = make_bundle()
    maker = builder(made, options, "fp32")
    plan = maker.provide()
    assert plan.key.precision == "fp32"
    why = "fp16 differs from ONNX Runtime on 4 images: depth p99 0.31 > 0.05"
    assert plan.refused == f"fp16 was refused ({why})"
    assert any(f"probe fp16 is not used: {why}; building fp32 instead" in line for line in said)
    assert maker.check.seen == ["fp16", "fp32"]
    assert maker.provide() == plan  # remembered: fp16 is not tried again
    assert maker.check.seen == ["fp16", "fp32"]
    written = json.loads(plan.path.with_suffix(".json").read_text())["gate"]
    assert (written["passed"], written["precision"], written["figures"]) == (True, "fp32", {"depth_p99": 0.31})


def test_nothing_is_kept_where_fp32_gives_wrong_depth_too(make_bundle, options):
    maker = builder(make_bundle(), options)
    for _ in range(2):
        with pytest.raises(EngineError, match=r"depth p99 0\.31 > 0\.05"):
            maker.provide()
    assert maker.check.seen == ["fp16", "fp32"]  # once: it takes minutes, and fails again
    assert list(options.cache.glob("*.plan")) == []
    healed = replace(maker, check=Judge(("fp16",)))
    assert healed.provide(force=True).key.precision == "fp16"


def test_a_plan_is_built_once_and_anew_only_by_force(make_bundle, options):
    maker = builder(make_bundle(), options, "fp16")
    first = maker.provide()
    assert maker.provide() == first
    assert maker.check.seen == ["fp16"]
    assert maker.provide(force=True).key == first.key
    assert maker.check.seen == ["fp16", "fp16"]


def test_a_plan_of_another_version_is_left_alone_and_said_to_be(make_bundle, options, said):
    maker = builder(make_bundle(), options, "fp16")
    older = replace(plan_key(maker.bundle, options, DEVICE), version="1.0.0")
    with PlanCache(options.cache).lock(older):
        PlanCache(options.cache).store(older, b"old", {})
    plan = maker.provide()
    assert any(f"version 1.0.0, here it is {trt.__version__}" in line for line in said)
    assert plan.key.version == trt.__version__
    assert PlanCache(options.cache).find(older).data == b"old"


# ---- processes

PROGRAM = """
import sys, time
from pathlib import Path
import tensorrt_rtx
from depth_ros import bundle
from depth_ros.engines import EngineOptions
from depth_ros.engines.gate import GateReport
from depth_ros.engines.plan_keys import Device
from depth_ros.engines.trt_build import PlanBuilder
folder, cache, go = map(Path, sys.argv[1:])

def say(text): print(text, flush=True)

def check(data, key):
    while not go.exists():
        time.sleep(0.02)
    return GateReport(key.precision, 4, {}, {})

made = bundle.load(folder)
device = Device("tensorrt_rtx", tensorrt_rtx.__version__, "Some GPU", "8.9")
plan = PlanBuilder(tensorrt_rtx, made, EngineOptions(cache=cache, progress=say), device, check).provide()
say(f"done {len(plan.data)}")
"""


@pytest.fixture
def start(make_bundle, options, tmp_path):
    made, processes = make_bundle(), []

    def run():
        command = [sys.executable, "-c", PROGRAM, str(made.path), str(options.cache), str(tmp_path / "go")]
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def lines_until(process, beginning):
    lines = []
    for line in process.stdout:
        lines.append(line.strip())
        if line.startswith(beginning):
            return lines
    raise AssertionError(f"ended without '{beginning}': {lines}")


def test_of_two_builders_at_once_one_builds_and_the_other_uses_it(start, tmp_path, options):
    first = start()
    lines_until(first, "comparing")
    second = start()
    assert f"waiting for process {first.pid} " in lines_until(second, "waiting")[-1]
    (tmp_path / "go").touch()
    built, used = lines_until(first, "done"), lines_until(second, "done")
    assert built[-1] == used[-1]
    assert not any(line.startswith(("building", "comparing")) for line in used)
    assert len(list(options.cache.glob("*.plan"))) == 1


def test_a_builder_that_is_killed_leaves_nothing_and_blocks_nobody(start, tmp_path, options):
    first = start()
    lines_until(first, "comparing")
    first.send_signal(signal.SIGKILL)
    first.wait(timeout=30)
    assert [file.suffix for file in options.cache.iterdir()] == [".lock"]
    (tmp_path / "go").touch()
    second = start()
    lines = lines_until(second, "done")
    assert any(line.startswith("comparing") for line in lines)
    assert not any(line.startswith("waiting") for line in lines)


# ---- how far it is


def test_shares_of_nested_phases_add_up():
    shares = Shares()
    shares.start("build", None, 4)
    assert shares.done() == 0
    shares.step("build", 0)
    assert shares.done() == 1 / 4
    shares.start("optimise", "build", 5)
    shares.step("optimise", 1)  # 2 of 5 steps within the second quarter
    assert shares.done() == pytest.approx(1 / 4 + 2 / 5 / 4)
    shares.start("time", "optimise", 2)
    shares.step("time", 0)
    assert shares.done() == pytest.approx(1 / 4 + (2 + 1 / 2) / 5 / 4)
    shares.finish("time")
    assert shares.done() == pytest.approx(1 / 4 + (2 + 1 / 2) / 5 / 4)  # never back
    shares.finish("optimise")
    shares.step("build", 3)
    assert shares.done() == 1


def test_progress_is_told_in_rising_percentages(make_bundle, options, said, monkeypatch):
    monkeypatch.setattr(trt_progress, "PROGRESS_PERIOD_S", 0.0)
    build_plan(trt, make_bundle().graph_path.read_bytes(), options, "probe fp16")
    shares = [int(line.removeprefix("building probe fp16: ").removesuffix(" %")) for line in said]
    assert shares == sorted(shares)
    assert len(set(shares)) > 3
    assert shares[0] >= 0
    assert 80 <= shares[-1] <= 100


def test_progress_is_told_at_most_once_a_period():
    monitor = make_monitor(trt, told := [].append)
    monitor.phase_start("build", None, 1000)
    for step in range(1000):
        assert monitor.step_complete("build", step)
    assert len(told.__self__) <= 1


def test_what_progress_raises_ends_the_build(make_bundle, options, monkeypatch):
    monkeypatch.setattr(trt_progress, "PROGRESS_PERIOD_S", 0.0)

    def stop(text):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_plan(trt, make_bundle().graph_path.read_bytes(), replace(options, progress=stop))


@pytest.mark.filterwarnings("ignore:.*Timing cache operations:DeprecationWarning")
@pytest.mark.parametrize("stale", [None, b"", b"of another version"])
def test_measurements_are_kept_and_stale_ones_do_no_harm(make_bundle, options, tmp_path, stale):
    timing = tmp_path / "cache" / "measured.timing"
    if stale is not None:
        timing.parent.mkdir()
        timing.write_bytes(stale)
    for _ in range(2):
        assert build_plan(trt, make_bundle().graph_path.read_bytes(), options, timing=timing)
        assert timing.stat().st_size > 20
    assert [file.name for file in timing.parent.iterdir()] == ["measured.timing"]
