"""The command as a user runs it: a process with an exit code, a table and a JSON file."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from depth_ros import bundle
from depth_ros.engines import load_engine, onnxrt
from depth_ros.engines.gate import FRAMES
from depth_ros.engines.onnxrt import open_on_cpu
from depth_ros.graphs import frame_graph
from depth_ros.tools.check_engine import check_all, main


def check_engine(*arguments):
    command = [sys.executable, "-m", "depth_ros.tools.check_engine", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def int8_bundle(make_bundle):
    """A bundle with a second graph, "int8", whose depth is red / `divisor`; in the bundle's own it is red / 10."""

    def make(divisor, **limits):
        made = make_bundle(limits={"int8": {"depth_median": 0.01, "depth_p99": 0.02} | limits})
        model = onnx.load(made.graph_path)
        ten = next(item for item in model.graph.initializer if item.name == "ten")
        ten.CopyFrom(numpy_helper.from_array(np.asarray(divisor, np.float32), "ten"))
        onnx.save(model, made.int8_path)
        return bundle.save(replace(made, int8={"sha256": hashlib.sha256(made.int8_path.read_bytes()).hexdigest()}), made.path)

    return make


def test_engine_that_agrees(make_bundle, tmp_path):
    made = make_bundle()
    done = check_engine("--model", made.path, "--engine", "onnxruntime", "--threads", 1, "--json", tmp_path / "gate.json")
    assert done.returncode == 0, done.stderr
    assert "passed" in done.stdout.splitlines()
    assert "ONNX Runtime" in done.stdout
    written = json.loads((tmp_path / "gate.json").read_text())
    assert (written["model"], written["engine"], written["sha256"]) == ("probe", "onnxruntime", made.sha256)
    assert written["network"]["passed"]
    assert (written["network"]["precision"], written["network"]["frames"]) == ("fp32", 4)
    assert set(written["network"]["figures"].values()) == {0.0}


def test_engine_that_disagrees(int8_bundle, tmp_path):
    made = int8_bundle(8.0)  # 10 / 8: depth is 25 % too large, and the limits are the bundle's
    arguments = ("--model", made.path, "--engine", "onnxruntime", "--precision", "int8", "--json", tmp_path / "gate.json")
    done = check_engine(*arguments)
    assert done.returncode == 1
    assert "FAILED: depth median 0.25 > 0.01; depth p99 0.25 > 0.02" in done.stdout
    written = json.loads((tmp_path / "gate.json").read_text())["network"]
    assert not written["passed"]
    assert written["figures"]["depth_median"] == pytest.approx(0.25, abs=1e-5)
    assert written["failures"] == ["depth median 0.25 > 0.01", "depth p99 0.25 > 0.02"]


def test_limits_are_the_bundles(int8_bundle):
    made = int8_bundle(9.9, depth_median=0.011)  # 1.01 % too large
    assert main(["--model", str(made.path), "--engine", "onnxruntime", "--precision", "int8"]) == 0


def test_limits_are_those_of_the_precision_that_runs(int8_bundle, capsys, monkeypatch):
    """As where TensorRT refused the precision asked for and runs fp32 instead."""
    load = onnxrt.load
    monkeypatch.setattr(onnxrt, "load", lambda bundle, options, name: load(bundle, replace(options, precision=""), name))
    assert main(["--model", str(int8_bundle(9.9).path), "--engine", "onnxruntime", "--precision", "int8"]) == 0
    assert "network, fp32, against ONNX Runtime" in capsys.readouterr().out


@pytest.mark.parametrize("wrong", [("--threads", "-3"), ("--batch", "0"), ("--frame", "80"), ("--memory", "ram")])
def test_a_wrong_argument_is_named(capsys, wrong):
    with pytest.raises(SystemExit):
        main(wrong)
    assert f"argument {wrong[0]}: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--model", "/no/such/bundle"), "/no/such/bundle: no such folder"),
        (("--frames", "/no/such/folder"), "/no/such/folder: no such folder; expected one with images"),
        (("--engine", "onnxruntime", "--precision", "bf16"), "bf16"),
        (("--engine", "onnxruntime", "--frame", "80x60"), "has no frame graph for 80x60: the host does that work"),
        (("--json", "/no/such/folder/gate.json"), "/no/such/folder: no such folder; expected one to write gate.json into"),
        (("--json", "/", "--engine", "onnxruntime"), "Is a directory"),
    ],
)
def test_what_cannot_be_checked_is_said_in_one_line(make_bundle, capsys, arguments, reason):
    """Of several engines each would say why it is passed over: a wrong folder is said before one is tried."""
    assert main(["--model", str(make_bundle().path), *arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("check_engine: ")
    assert reason in line


def test_the_best_engine_is_the_default_and_the_better_ones_are_explained(make_bundle, tmp_path):
    done = check_engine("--model", make_bundle().path, "--json", tmp_path / "gate.json", "--cache", tmp_path)
    assert done.returncode == 0, done.stderr
    written = json.loads((tmp_path / "gate.json").read_text())
    assert [text.split(":")[0] for text in written["passed_over"]] == [
        line.removeprefix("check_engine: not ").split(":")[0] for line in done.stderr.splitlines() if "check_engine: not" in line
    ]


class Device:
    """ONNX Runtime on the CPU in the place of a device, with frame graphs, which are those of another `model` if one is given."""

    def __init__(self, made, model=None, precision="fp32"):
        engine = load_engine(made)
        self.model, self.precision, self.infer, self.describe = model or made, precision, engine.infer, engine.describe

    def open_frame_graph(self, width, height):
        return open_on_cpu(frame_graph(self.model, width, height, "fp32"), "device")


def test_frame_graph_of_a_device_is_checked_as_well(make_bundle):
    """Once right and once with a range that ends too early."""
    made = make_bundle()
    right = check_all(Device(made), made, FRAMES, [(80, 60)])
    assert [(name, report.passed) for name, report in right.items()] == [("network", True), ("80x60", True)]
    wrong = check_all(Device(made, replace(made, max_depth=15.0)), made, FRAMES, [(80, 60), (64, 32)])
    assert [(name, report.passed) for name, report in wrong.items()] == [("network", True), ("80x60", False), ("64x32", False)]


def test_frame_graph_that_fell_back_to_fp32_is_judged_as_fp32(make_bundle):
    """Each plan falls back alone: the network may still run in fp16."""
    made = make_bundle(limits={"fp16": {"depth_p99": 0.5}, "fp32": {"depth_p99": 0.01}})
    reports = check_all(Device(made, precision="fp16"), made, FRAMES, [(80, 60)])
    assert {name: (report.precision, report.limits["depth_p99"]) for name, report in reports.items()} == {
        "network": ("fp16", 0.5),
        "80x60": ("fp32", 0.01),
    }
