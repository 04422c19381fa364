"""Bundles that are right, and bundles that are wrong in one way each, by graphs that really run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from depth_ros import bundle
from depth_ros.bundle import ModelBundle
from depth_ros.tools.check_bundle import main

ENGINE = ("--engine", "onnxruntime", "--threads", "1")


@pytest.fixture
def frames(tmp_path) -> Callable[..., Path]:
    """Images of one colour (red, green, blue) each: the probe's depth is red / 10, its sigma green / 100."""

    def make(*colours: tuple[int, int, int]) -> Path:
        folder = tmp_path / "frames"
        folder.mkdir()
        for number, colour in enumerate(colours):
            cv2.imwrite(str(folder / f"{number}.png"), np.full((32, 64, 3), colour[::-1], np.uint8))
        return folder

    return make


def changed(made: ModelBundle, change: Callable[[onnx.GraphProto], object]) -> ModelBundle:
    model = onnx.load(made.graph_path)
    change(model.graph)
    onnx.save(model, made.graph_path)
    return bundle.save(made, made.path)


def divide_by_zero(graph: onnx.GraphProto) -> None:
    ten = next(item for item in graph.initializer if item.name == "ten")
    ten.CopyFrom(numpy_helper.from_array(np.asarray(0, np.float32), "ten"))


def add_noise(graph: onnx.GraphProto) -> None:
    division = next(node for node in graph.node if node.output[0] == "depth")
    division.output[0] = "plain"
    graph.node.append(helper.make_node("RandomUniformLike", ["plain"], ["noise"]))
    graph.node.append(helper.make_node("Add", ["plain", "noise"], ["depth"]))


def verdicts(printed: str) -> dict[str, bool]:
    rows = [line.split() for line in printed.splitlines() if line.startswith(("  ok ", "  FAILED "))]
    return {row[1]: row[0] == "ok" for row in rows}


def test_a_good_bundle(make_bundle, frames, tmp_path):
    made = make_bundle(licence="Apache-2.0, of its data too")
    command = [sys.executable, "-m", "depth_ros.tools.check_bundle", made.path, *ENGINE]
    command += ["--frames", frames((50, 20, 0), (100, 20, 0)), "--json", tmp_path / "found.json"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == "passed"
    assert verdicts(done.stdout) == dict.fromkeys(("kind", "numbers", "range", "sigma", "repeatable", "sees"), True)
    for text in ("model 'probe'", "64x32", "0.1 to 25 m", "Apache-2.0, of its data too", made.sha256, "depth 5 to 10 m"):
        assert text in done.stdout
    assert "positive at 4096 of 4096 pixels in range; 3% of the depth (median)" in done.stdout  # 0.2 / 5 and 0.2 / 10
    written = json.loads((tmp_path / "found.json").read_text())
    assert (written["sha256"], [check["passed"] for check in written["checks"]]) == (made.sha256, [True] * 6)
    assert 0 < written["ms"]["p50"] <= written["ms"]["p95"]


GOOD = ((50, 20, 0), (100, 20, 0))


@pytest.mark.parametrize(
    ("failed", "colours", "change"),
    [
        (["sigma"], ((50, 20, 0), (100, 0, 0)), None),
        (["range"], ((50, 20, 0), (255, 20, 0)), None),  # 25.5 m of 25
        (["sees"], ((50, 20, 0), (50, 20, 9)), None),
        (["numbers", "range", "sees"], GOOD, divide_by_zero),
        (["repeatable"], GOOD, add_noise),
    ],
)
def test_what_is_wrong_with_a_bundle(make_bundle, frames, capsys, failed, colours, change):
    made = make_bundle()
    if change:
        made = changed(made, change)
    assert main([str(made.path), *ENGINE, "--frames", str(frames(*colours))]) == 1
    printed = capsys.readouterr().out
    assert [name for name, good in verdicts(printed).items() if not good] == failed
    assert printed.splitlines()[-1] == f"FAILED: {', '.join(failed)}"


def test_a_bundle_without_metres_says_what_makes_them(make_bundle, frames, capsys):
    made = make_bundle(kind="affine_invariant")
    assert main([str(made.path), *ENGINE, "--frames", str(frames(*GOOD))]) == 0
    assert (
        "affine_invariant: no metres by itself, the node needs scale.source: range or relative (no metres)"
        in capsys.readouterr().out
    )


def cut_off(made: ModelBundle) -> list[str]:
    made.graph_path.write_bytes(made.graph_path.read_bytes()[:-5])
    return [str(made.path)]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (lambda made: ["/no/such/bundle"], "/no/such/bundle: no such folder"),
        (cut_off, "the graph was changed or cut off"),
        (
            lambda made: [str(made.path), "--frames", "/no/such/folder"],
            "/no/such/folder: no such folder; expected one with images",
        ),
        (lambda made: [str(made.path), "--json", "/no/such/folder/a.json"], "expected one to write a.json into"),
        (lambda made: [str(made.path), *ENGINE, "--precision", "bf16"], "bf16"),
    ],
)
def test_what_cannot_be_checked_is_said_in_one_line(make_bundle, capsys, arguments, reason):
    assert main(arguments(make_bundle())) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("check_bundle: ")
    assert reason in line
