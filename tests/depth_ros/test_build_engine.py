"""build_engine as a user starts it, as far as a machine without a GPU goes."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from depth_ros.engines import EngineError, EngineOptions, trt
from depth_ros.engines.gate import GateReport
from depth_ros.engines.plan_keys import Device
from depth_ros.engines.trt_build import PlanBuilder
from depth_ros.tools import build_engine, check_engine
from depth_ros.tools.build_engine import describe
from depth_ros.tools.engine_arguments import engine_options, path

ROOT = Path(__file__).resolve().parents[2]
FIGURES = {"depth_median": 0.0011, "depth_p99": 0.0123}


def run(*arguments, **environment):
    command = [sys.executable, "-m", "depth_ros.tools.build_engine", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, env={**os.environ, **environment}
    )
    assert "Traceback" not in done.stderr
    return done


@pytest.mark.parametrize("engine", ["tensorrt", "tensorrt_rtx"])
def test_no_gpu_is_said_in_one_line_and_nothing_is_written(make_bundle, tmp_path, engine):
    done = run("--model", make_bundle().path, "--engine", engine, "--cache", tmp_path / "cache", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert engine in done.stderr.replace("-", "_")
    assert any(reason in done.stderr for reason in ("no CUDA driver", "no GPU", "not installed", "cannot be used"))
    assert not (tmp_path / "cache").exists()


def test_the_home_folder_is_found_where_the_shell_does_not_replace_it(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert path("~/engines") == tmp_path / "engines"


@pytest.mark.parametrize(
    ("tool", "own", "chosen"),
    [
        (build_engine, ("--workspace-mb", "64"), {"workspace_mb": 64}),
        (check_engine, ("--threads", "2", "--build-if-missing"), {"threads": 2, "build_if_missing": True}),
    ],
)
def test_every_argument_about_the_engine_reaches_it(tmp_path, tool, own, chosen):
    alike = ("--precision", "int8", "--batch", "3", "--memory", "pycuda", "--cache", str(tmp_path))
    parse = tool._parser().parse_args
    assert engine_options(parse(()), print) == EngineOptions(progress=print)
    assert engine_options(parse((*alike, *own)), print) == EngineOptions(
        precision="int8", batch=3, memory="pycuda", cache=tmp_path, progress=print, **chosen
    )


def test_a_model_that_is_not_there_is_named(tmp_path):
    done = run("--model", tmp_path / "none")
    assert done.returncode == 1
    assert str(tmp_path / "none") in done.stderr


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (("--frame", "1280"), "expected WIDTHxHEIGHT"),
        (("--frame", "1280x0"), "expected WIDTHxHEIGHT"),
        (("--batch", "0"), "expected a whole number, 1 or more"),
        (("--precision", "bf16"), "invalid choice"),
        (("--engine", "openvino"), "invalid choice"),
    ],
)
def test_a_wrong_argument_is_named(wrong, expected):
    done = run(*wrong)
    assert done.returncode == 2
    assert wrong[0] in done.stderr
    assert expected in done.stderr


@pytest.fixture
def make_plan(make_bundle, tmp_path):
    """A plan that TensorRT-RTX really builds, judged by figures made here."""
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: pip install -r requirements/engines.txt")
    made = make_bundle()

    def make(limit_of, **settings):
        def check(data, key):
            return GateReport(key.precision, 4, FIGURES, {name: limit_of[key.precision] for name in FIGURES})

        options = EngineOptions(cache=tmp_path / "cache", batch=2)
        return made, PlanBuilder(trt, made, options, Device("tensorrt_rtx", trt.__version__, "Some GPU", "8.9"), check).provide(
            **settings
        )

    return make


def test_what_was_built_is_told_with_its_figures(make_plan):
    made, plan = make_plan({"fp16": 0.05})
    first, path, built, figures = describe(made, plan).splitlines()
    for word in ("'probe'", "64x32", "fp16", "batch 2", "tensorrt_rtx", "Some GPU"):
        assert word in first
    assert Path(path.strip()).read_bytes() == plan.data
    assert f"{plan.path.stat().st_size / 1e6:.1f} MB" in built
    assert plan.details["built"] in built
    assert "4 images: depth median 0.0011 (limit 0.05), depth p99 0.012 (limit 0.05)" in figures


def test_what_was_refused_is_told_with_its_figures(make_plan):
    made, plan = make_plan({"fp16": 0.01, "fp32": 0.05})
    text = describe(made, plan)
    assert "fp32" in text.splitlines()[0]
    assert "fp16 was refused" in text.splitlines()[-1]
    assert "depth p99 0.0123 > 0.01" in text.splitlines()[-1]


def test_a_plan_for_whole_images_says_their_size(make_plan):
    made, plan = make_plan({"fp16": 0.05}, frame=(100, 60))
    assert "whole frames of 100x60 images" in describe(made, plan)


def test_a_plan_is_told_although_the_next_one_fails(make_plan, monkeypatch, capsys):
    """It took minutes and lies in the cache."""
    made, plan = make_plan({"fp16": 0.05})

    def build(trt, model, options, device, frame, force):
        if frame:
            raise EngineError("no memory left")
        return plan

    for name, stand_in in (("import_tensorrt", str), ("find_device", lambda *given: None), ("build", build)):
        monkeypatch.setattr(trt, name, stand_in)
    monkeypatch.setattr(signal, "signal", lambda *given: None)  # the tests' own Ctrl-C
    assert build_engine.main(["--model", str(made.path), "--frame", "1280x720"]) == 1
    said = capsys.readouterr()
    assert str(plan.path) in said.out
    assert "no memory left" in said.err


def test_ctrl_c_ends_it_at_once():
    """Python's way, an exception, would have to pass through TensorRT."""
    code = (
        "import signal, sys\nfrom depth_ros.tools import build_engine\nassert build_engine.main(['--model', '/none']) == 1\n"
        "print('ready', flush=True)\nwhile True:\n    try:\n        signal.pause()\n    except KeyboardInterrupt:\n        pass"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=10) == -signal.SIGINT
    process.stdout.close()
