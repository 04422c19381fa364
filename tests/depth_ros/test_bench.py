"""The command as a user runs it, on the engines that are here."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from depth_ros.tools.bench import main


def test_engines_and_the_path_of_a_camera(make_bundle, tmp_path):
    pytest.importorskip("sensor_msgs", reason="the path fills ROS messages")
    command = [
        sys.executable,
        "-m",
        "depth_ros.tools.bench",
        "--model",
        make_bundle().path,
        "--seconds",
        "0.05",
        "--threads",
        "1",
    ]
    command += ["--engines", "tensorrt", "onnxruntime", "--camera", "160x90", "--camera", "64x32"]
    command += ["--json", tmp_path / "bench.json", "--cache", tmp_path]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "bench.json").read_text())
    rows = [row for row in report["rows"] if row["engine"] == "onnxruntime"]
    assert [row["what"] for row in rows] == ["engine", "path 160x90", "path 64x32"]
    for row in rows:
        assert 0 < row["ms"]["p50"] <= row["ms"]["p95"]
        assert row["images_per_s"] > 0
        assert 0 < row["memory_mb"] < 2000
        assert "1 thread" in row["describe"]
        assert f"{row['engine']:17} {row['what']:12} {row['ms']['p50']:8.2f} {row['ms']['p95']:8.2f}" in done.stdout
    assert rows[0]["ms"]["p50"] < rows[1]["ms"]["p50"]  # the path holds the engine
    if not any(row["engine"] == "tensorrt" for row in report["rows"]):
        assert f"bench: tensorrt: {report['not_timed']['tensorrt'].removeprefix('tensorrt: ')}" in done.stderr


@pytest.mark.parametrize("wrong", [("--seconds", "0"), ("--camera", "80"), ("--threads", "-1"), ("--engines", "gpu")])
def test_a_wrong_argument_is_named(capsys, wrong):
    with pytest.raises(SystemExit):
        main(wrong)
    assert f"argument {wrong[0]}: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--model", "/no/such/bundle"], "/no/such/bundle: no such folder"),
        (["--json", "/no/such/folder/a.json"], "expected one to write a.json into"),
        (["--engines", "onnxruntime", "--precision", "bf16"], "onnxruntime: "),
    ],
)
def test_what_cannot_be_timed_is_said_in_one_line(make_bundle, capsys, arguments, reason):
    assert main(["--model", str(make_bundle().path), *arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("bench: ")
    assert reason in line
