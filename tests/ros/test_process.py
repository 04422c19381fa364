"""Recordings answered offline: the node's own results, files that others can read, and runs that are cut short and go on."""

from __future__ import annotations

import csv
import json
import os
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from bags import write_bag
from harness import wait_until
from rosbags.rosbag2 import StoragePlugin

from depth_ros.calibration import load_calibration, save_calibration
from depth_ros.ros.declaration import NAMES
from depth_ros.ros.params import NodeParams
from depth_ros.tools import recording
from depth_ros.tools.offline import bag, manifest
from depth_ros.tools.offline.job import Job, run
from depth_ros.tools.offline.pool import Progress, run_here
from depth_ros.tools.process import main, names
from depth_ros.types import CameraModel, Distortion

ROOT = Path(__file__).resolve().parents[2]
STREET = ROOT / "assets" / "street"
CAMERA = CameraModel(128, 64, 100.0, 100.0, 63.5, 31.5)  # the probe's 64x32 at its training focal length, 50
THREADS = max(1, len(os.sched_getaffinity(0)) - 1)  # the node's default


@pytest.fixture
def calibration(tmp_path) -> Path:
    save_calibration(CAMERA, tmp_path / "camera.yaml")
    return tmp_path / "camera.yaml"


@pytest.fixture
def walls(tmp_path) -> Path:
    """Walls at 5, 6, 7 ... m with sigma 0.2 m, for the probe bundle (depth = red / 10, sigma = green / 100)."""
    folder = tmp_path / "walls"
    folder.mkdir()
    for number in range(6):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((64, 128, 3), (200, 20, 50 + 10 * number), np.uint8))
    return folder


@pytest.fixture
def job(walls, tmp_path, calibration, make_bundle) -> Job:
    chosen = NodeParams(model=str(make_bundle().path), engine="onnxruntime", threads=1)
    (tmp_path / "out").mkdir()
    return Job(walls, tmp_path / "out" / "walls", ("png",), chosen, calibration=calibration)


def do(job: Job, images: int | None = None):
    """Run the job in this process, to its end or until it has seen `images`."""
    seen = [0]
    return run(job, lambda now, expected: seen.__setitem__(0, now), lambda: images is not None and seen[0] >= images)


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "depth_ros.tools.process", *map(str, arguments)]


def process(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)


def alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def read_ply(file: Path) -> np.ndarray:
    """Vertices of a binary PLY file, by what its header says."""
    header, _, body = file.read_bytes().partition(b"end_header\n")
    lines = header.decode().splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    types = {"float": "<f4", "uchar": "u1"}
    fields = [(name, types[kind]) for kind, name in re.findall(r"^property (\w+) (\w+)$", header.decode(), re.MULTILINE)]
    (count,) = re.findall(r"^element vertex (\d+)$", header.decode(), re.MULTILINE)
    vertices = np.frombuffer(body, np.dtype(fields))
    assert len(vertices) == int(count)
    return vertices


def test_same_results_as_the_node(tmp_path):
    """Player, node and recorder over DDS, with a lens that needs rectification; the same images offline; bit for bit."""
    images = tmp_path / "street"
    images.mkdir()
    for file in sorted((STREET / "image").glob("*.jpg"))[:5]:
        shutil.copy(file, images)
    lens = Distortion("plumb_bob", (0.2, -0.03, 0.001, -0.001, 0.0))
    save_calibration(replace(load_calibration(STREET / "camera.yaml"), distortion=lens), tmp_path / "camera.yaml")
    common = ("--camera-info", tmp_path / "camera.yaml", "--engine", "onnxruntime")
    live = [sys.executable, "-m", "depth_ros.tools.demo", "--input", images, *common, "--rate", 2, "--out", tmp_path / "live"]
    done = subprocess.run([*map(str, live)], cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    done = process(images, *common, "--out", tmp_path / "offline", "--ros-args", "-p", f"threads:={THREADS}")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "live" / "frames.csv").open(newline="") as stream:
        name_of = {int(stamp_ns): name for stamp_ns, name in csv.reader(stream)}
    offline = {round(a.stamp_ns / 1e8): a for a in recording.answers(tmp_path / "offline" / "street" / "depth.mcap")}
    assert sorted(offline) == [0, 1, 2, 3, 4]  # 10 Hz: what a folder is given
    compared = 0
    for published in recording.answers(tmp_path / "live" / "depth.mcap"):
        again = offline[int(Path(name_of[published.stamp_ns]).stem)]
        for name in ("image", "depth", "sigma", "cloud"):
            assert getattr(published, name).tobytes() == getattr(again, name).tobytes(), name
        assert published.camera == again.camera
        assert np.isnan(published.depth).any()  # what the lens did not see
        assert np.isfinite(published.depth).mean() > 0.5
        compared += 1
    assert compared >= 3


def test_files_hold_what_the_model_says(job):
    """Walls: every figure is known. Red 0 is below the range (NaN), red 255 beyond it (+inf)."""
    cv2.imwrite(str(job.source / "6.png"), np.full((64, 128, 3), (200, 20, 0), np.uint8))
    cv2.imwrite(str(job.source / "7.png"), np.full((64, 128, 3), (200, 20, 255), np.uint8))
    (job.source / "8.png").write_bytes(b"not a png")
    cv2.imwrite(str(job.source / "9.png"), np.zeros((32, 64, 3), np.uint8))
    outcome = do(replace(job, formats=("png", "sigma", "ply", "mp4")))
    assert (outcome.good, outcome.answered, outcome.unreadable, outcome.refused) == (True, 8, 1, 1)
    assert "64x32" in outcome.refusal
    steps = {file.stem: np.unique(cv2.imread(str(file), cv2.IMREAD_UNCHANGED)) for file in (job.out / "depth").iterdir()}
    assert steps == {**{str(n): [256 * (5 + n)] for n in range(6)}, "6": [0], "7": [65535]}
    sigma = {file.stem: np.unique(cv2.imread(str(file), cv2.IMREAD_UNCHANGED)) for file in (job.out / "uncertainty").iterdir()}
    assert sigma == {**{str(n): [51] for n in range(6)}, "6": [0], "7": [0]}  # 0.2 x 256 = 51.2
    for name in ("depth", "uncertainty"):
        sidecar = json.loads((job.out / f"{name}.json").read_text())
        assert (sidecar["scale"], sidecar["invalid"], sidecar["nothing_in_range"]) == (256, 0, 65535)
        camera = {"width": 128, "height": 64, "fx": 100.0, "fy": 100.0, "cx": 63.5, "cy": 31.5}
        assert sidecar["cameras"] == [{"first_image": "0", **camera}]
    points = read_ply(job.out / "points" / "2.ply")
    assert len(points) == 64 * 32  # at the network's resolution
    np.testing.assert_allclose(points["z"], 7.0, rtol=1e-6)
    np.testing.assert_allclose(points["sigma"], 0.2, rtol=1e-6)
    u, v = np.meshgrid(np.arange(64), np.arange(32))
    np.testing.assert_allclose(points["x"], (u.ravel() - 31.5) / 50 * 7, atol=1e-5)
    np.testing.assert_allclose(points["y"], (v.ravel() - 15.5) / 50 * 7, atol=1e-5)
    assert (set(points["red"]), set(points["green"]), set(points["blue"])) == ({70}, {20}, {200})
    assert [len(read_ply(job.out / "points" / f"{n}.ply")) for n in (6, 7)] == [0, 0]
    film = cv2.VideoCapture(str(job.out / "preview.mp4"))
    assert (film.get(cv2.CAP_PROP_FRAME_COUNT), film.get(cv2.CAP_PROP_FPS)) == (8, 10)


def test_a_bag_keeps_its_stamps_and_frame(tmp_path, make_bundle, job):
    for compressed in (False, True):
        write_bag(tmp_path / f"drive_{compressed}", StoragePlugin.MCAP, compressed)
        out = tmp_path / "out" / f"drive_{compressed}"
        outcome = do(replace(job, source=tmp_path / f"drive_{compressed}", out=out, formats=("bag",), calibration=None))
        assert (outcome.good, outcome.answered) == (True, 4)
        answers = list(recording.answers(out / "depth.mcap"))
        assert [answer.stamp_ns for answer in answers] == [0, 50_000_000, 100_000_000, 150_000_000]
        expected = np.array([4, 8, 12]) * np.sqrt(51 / 50)  # grey 40, 80, 120, by the focal lengths 50 and 51 of a model's 50
        assert [np.nanmedian(answer.depth) for answer in answers[1:]] == pytest.approx(expected, rel=1e-3)
        assert {answer.camera for answer in answers} == {CameraModel(64, 32, 50.0, 51.0, 31.0, 15.0)}


def test_a_run_that_was_cut_short_goes_on_at_the_right_image(job):
    cut = do(job, images=2)
    assert (cut.interrupted, cut.answered) == (True, 2)
    assert not job.out.exists()
    before = {file.name: file.stat().st_mtime_ns for file in (job.partial / "depth").iterdir()}
    assert sorted(before) == ["0.png", "1.png"]
    outcome = do(job)
    assert (outcome.good, outcome.answered, outcome.kept) == (True, 6, 2)
    assert not job.partial.exists()
    after = {file.name: file.stat().st_mtime_ns for file in (job.out / "depth").iterdir()}
    assert sorted(after) == [f"{n}.png" for n in range(6)]
    assert before.items() <= after.items()
    again = do(job)
    assert (again.good, again.finished_before, again.answered) == (True, True, 6)
    assert {file.name: file.stat().st_mtime_ns for file in (job.out / "depth").iterdir()} == after


def test_two_runs_do_not_write_into_one_folder(job):
    refused = []

    def meet(seen: int, expected: int) -> None:
        if seen == 2:
            refused.append(do(job).failure)

    assert run(job, meet, lambda: False).good
    assert "another run is at work here" in refused[0]


def test_a_video_gives_its_rate_and_the_numbers_of_its_frames(job):
    video = job.source.with_name("drive.1.mp4")
    writer = cv2.VideoWriter(str(video), cv2.VideoWriter.fourcc(*"mp4v"), 20.0, (128, 64))
    for number in range(5):
        writer.write(np.full((64, 128, 3), (200, 20, 50 + 10 * number), np.uint8))
    writer.release()
    told = []
    outcome = run(
        replace(job, source=video, formats=("bag", "png", "mp4")),
        lambda seen, expected: told.append((seen, expected)),
        lambda: False,
    )
    assert outcome.good
    assert told == [(number, 5) for number in range(6)]
    answers = list(recording.answers(job.out / "depth.mcap"))
    assert [answer.stamp_ns for answer in answers] == [50_000_000 * number for number in range(5)]
    assert [np.median(a.depth) for a in answers] == pytest.approx([5, 6, 7, 8, 9], abs=0.45)  # a lossy codec
    assert sorted(file.name for file in (job.out / "depth").iterdir()) == [f"{number:06d}.png" for number in range(5)]
    assert cv2.VideoCapture(str(job.out / "preview.mp4")).get(cv2.CAP_PROP_FPS) == 20


def test_names_of_results(tmp_path):
    for folder in ("a/run.1", "b", "c"):
        (tmp_path / folder).mkdir(parents=True)
    inputs = [tmp_path / "a" / "run.1", tmp_path / "b" / "cam.mcap", tmp_path / "c" / "cam.mcap", tmp_path / "c" / "x.mp4"]
    assert names(inputs) == ["run.1", "b_cam", "c_cam", "x"]


def test_a_bag_that_was_cut_short_goes_on(job, monkeypatch):
    """Twice: what was answered is not answered again, and the bag is that of a run in one go."""
    monkeypatch.setattr(bag, "PART", 2)
    alone = replace(job, formats=("bag",))
    assert [do(alone, images=n).answered for n in (1, 3)] == [1, 3]
    assert not job.out.exists()
    outcome = do(alone)
    assert (outcome.good, outcome.answered, outcome.kept) == (True, 6, 3)
    assert sorted(file.name for file in job.out.iterdir()) == ["depth.mcap", "manifest.json"]
    whole = replace(alone, out=job.out.with_name("whole"))
    assert do(whole).good
    for found, expected in zip(*(recording.answers(j.out / "depth.mcap") for j in (alone, whole)), strict=True):
        assert found.stamp_ns == expected.stamp_ns
        assert found.depth.tobytes() == expected.depth.tobytes()
        assert found.cloud.tobytes() == expected.cloud.tobytes()
    assert len(list(recording.answers(job.out / "depth.mcap"))) == 6


def test_an_unfinished_part_of_a_bag_is_written_again(job):
    """As after a crash: the part lies there, its list does not, or not all of it."""
    alone = replace(job, formats=("bag",))
    do(alone, images=2)
    (names_of_part,) = job.partial.glob("depth.parts/*.json")
    names_of_part.unlink()
    outcome = do(alone)
    assert (outcome.good, outcome.kept) == (True, 0)
    assert [answer.stamp_ns for answer in recording.answers(job.out / "depth.mcap")] == [n * 10**8 for n in range(6)]


def test_a_film_that_was_cut_short_is_made_again(job):
    both = replace(job, formats=("bag", "png", "mp4"))
    assert do(both, images=2).interrupted
    assert do(both).good
    assert len(list(recording.answers(job.out / "depth.mcap"))) == 6
    assert cv2.VideoCapture(str(job.out / "preview.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 6
    assert sorted(file.name for file in job.out.iterdir()) == [
        "depth",
        "depth.json",
        "depth.mcap",
        "manifest.json",
        "preview.mp4",
    ]


def test_images_without_a_calibration_are_refused_before_any_is_read(job):
    seen = []
    outcome = run(replace(job, calibration=None), lambda now, expected: seen.append(now), lambda: False)
    assert "give --camera-info" in outcome.failure
    assert not seen


@pytest.mark.parametrize("finished", [False, True])
def test_a_run_with_other_options_is_refused(job, make_bundle, finished):
    assert do(job, images=None if finished else 2).good == finished
    save_calibration(replace(CAMERA, fx=90.0), job.calibration.with_name("other.yaml"))
    others = {
        "formats": replace(job, formats=("ply",)),
        "parameter cloud_stride": replace(job, params=replace(job.params, cloud_stride=2)),
        "parameter engine": replace(job, params=replace(job.params, engine="openvino")),
        "camera": replace(job, calibration=job.calibration.with_name("other.yaml")),
        "model_sha256": replace(job, params=replace(job.params, model=str(make_bundle(96, 64).path))),
    }
    for key, other in others.items():
        outcome = do(other)
        assert f"was made with {key} " in outcome.failure
        assert "choose another --out" in outcome.failure
    assert do(replace(job, params=replace(job.params, threads=2))).good  # no other result
    cv2.imwrite(str(job.source / "new.png"), np.zeros((64, 128, 3), np.uint8))
    assert "was made with input_bytes" in do(job).failure if finished else True


def test_what_a_damaged_bag_still_holds_is_kept(job, tmp_path):
    """It opens, and its third image is cut off."""
    write_bag(tmp_path / "bag", StoragePlugin.SQLITE3, compressed=False)
    (file,) = (tmp_path / "bag").glob("*.db3")
    with sqlite3.connect(file) as database:
        database.execute("UPDATE messages SET data = substr(data, 1, 1000) WHERE timestamp = 100000000")
    damaged = replace(job, source=tmp_path / "bag", calibration=None)
    for _ in range(2):  # also when asked again
        outcome = do(damaged)
        assert (outcome.good, outcome.answered) == (False, 2)
        assert "cannot be read any further" in outcome.ended_early
    assert len(list((job.out / "depth").iterdir())) == 2


def test_a_disk_that_cannot_be_written_is_a_failure_in_words(job):
    job.partial.mkdir()
    (job.partial / "depth").write_text("in the way")
    (job.partial / "manifest.json").write_text("{}")
    assert "was made with format None" in do(job).failure
    (job.partial / "manifest.json").unlink()
    assert "manifest.json: cannot be read" in do(job).failure
    shutil.rmtree(job.partial)
    job.partial.write_text("in the way")
    assert "File exists" in do(job).failure


def test_a_full_disk_fails_the_input_and_leaves_nothing_that_looks_finished(walls, calibration, make_bundle, tmp_path):
    """Files of at most 200 kB, by the kernel: of a bag not even one image fits."""
    common = ("--out", tmp_path / "out", "--camera-info", calibration, "--model", make_bundle().path, "--engine", "onnxruntime")

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))

    arguments = {"cwd": ROOT, "capture_output": True, "text": True, "timeout": 120, "check": False, "preexec_fn": limit}
    done = subprocess.run(command(walls, *common), **arguments)
    assert done.returncode == 1
    (complaint,) = [line for line in done.stderr.splitlines() if "process: " in line]
    assert ".mcap cannot be written: [Errno 27] File too large" in complaint
    assert "Traceback" not in done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".walls.partial"]
    assert process(walls, *common).returncode == 0
    assert len(list(recording.answers(tmp_path / "out" / "walls" / "depth.mcap"))) == 6


def test_only_parameters_without_effect_may_change_between_runs():
    assert set(manifest.WITHOUT_EFFECT) <= set(NAMES)


RUNNING = {  # parameters of a running node, at other values than their defaults
    "autostart": "false", "report_period_s": "1.0", "camera_names": "[front, left]", "image_transport": "compressed",
    "batch_window_ms": "20.0", "max_rate": "0.1", "depth_encoding": "16UC1", "depth_full_resolution": "false",
    "publish_depth": "false", "publish_compressed": "false", "publish_uncertainty": "false", "publish_color": "false",
    "publish_cloud": "false",
}  # fmt: skip


def test_parameters_of_a_running_node_change_nothing_and_are_named(job, tmp_path, capfd):
    def files(out: Path, *given: str) -> dict[str, bytes]:
        common = ("--camera-info", job.calibration, "--model", job.params.model, "--engine", "onnxruntime")
        formats = ("--formats", "png", "sigma", "ply")
        arguments = [job.source, "--out", out, *common, *formats, "--ros-args", "-p", "threads:=1", *given]
        assert main(list(map(str, arguments))) == 0
        return {str(file.relative_to(out)): file.read_bytes() for file in out.rglob("*.p*") if file.is_file()}

    plain = files(tmp_path / "plain")
    assert len(plain) == 18
    assert "process: " not in capfd.readouterr().err
    given = [text for name, value in RUNNING.items() for text in ("-p", f"{name}:={value}")]
    assert files(tmp_path / "given", *given) == plain
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "process: " in line]
    named, _, said = line.partition("process: ")[2].partition(": ")
    assert said == "of a running node, without effect here (docs/offline.md)"
    assert set(named.split(", ")) == set(RUNNING)
    page = (ROOT / "docs" / "offline.md").read_text(encoding="utf-8")
    listed = page.partition("What only a running node has")[2].partition("\n\n")[0]
    patterns = re.findall(r"`([a-z_*]+)`", listed)
    assert {name for name in NAMES if any(fnmatch(name, pattern) for pattern in patterns)} == set(RUNNING)


def test_a_process_that_is_killed_fails_its_own_input_only(job):
    import multiprocessing
    import threading

    many = job.source.with_name("many")
    shutil.copytree(job.source, many)
    for number in range(10, 400):
        shutil.copy(many / "0.png", many / f"{number}.png")
    jobs = [replace(job, source=many, out=job.out.with_name("many")), job]
    outcomes, killed = {}, False
    for number, event in run_here(jobs, 1, threading.Event()):
        if number == 0 and isinstance(event, Progress) and event.seen and not killed:
            (child,) = multiprocessing.active_children()
            killed = not os.kill(child.pid, signal.SIGKILL)
        if not isinstance(event, Progress):
            outcomes[number] = event
    assert "its process ended with signal SIGKILL" in outcomes[0].failure
    assert (outcomes[1].good, outcomes[1].answered) == (True, 6)
    assert not jobs[0].out.exists()


def test_ctrl_c_leaves_nothing_that_looks_finished_and_the_same_command_goes_on(walls, calibration, make_bundle, tmp_path):
    """As a terminal sends it: to the whole process group. Two inputs at once, one more waits.

    Each of the two has more images than are answered between the starts of two processes.
    """
    inputs = [walls]
    for name in ("a", "b"):
        inputs.append(walls.with_name(name))
        shutil.copytree(walls, inputs[-1])
        for number in range(10, 1004):
            os.link(walls / "0.png", inputs[-1] / f"{number}.png")
    out = tmp_path / "out"
    options = ("--out", out, "--camera-info", calibration, "--model", make_bundle().path, "--engine", "onnxruntime")
    given = command(*inputs[1:], *inputs[:1], *options, "--formats", "ply", "--jobs", 2)
    started = subprocess.Popen(
        given, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    end = time.monotonic() + 120
    while not list(out.glob(".a.partial/points/*.ply")) or not list(out.glob(".b.partial/points/*.ply")):
        assert started.poll() is None, started.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.01)
    os.killpg(started.pid, signal.SIGINT)
    printed, _ = started.communicate(timeout=60)
    assert started.returncode == 130, printed
    assert "Traceback" not in printed, printed
    assert "the same command goes on from here" in printed
    assert sorted(path.name for path in out.iterdir()) == [".a.partial", ".b.partial"]
    wait_until(lambda: not alive(started.pid), "nobody is left")
    done = subprocess.run(given, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^a: 1000 images answered, \d+ of them before -> ", done.stdout, re.MULTILINE)
    assert [len(list((out / name / "points").glob("*.ply"))) for name in ("a", "b", "walls")] == [1000, 1000, 6]


def test_one_bad_input_does_not_stop_the_others(walls, calibration, make_bundle, tmp_path):
    (tmp_path / "clip.mp4").write_bytes(os.urandom(5000))
    common = ("--out", tmp_path / "out", "--camera-info", calibration, "--model", make_bundle().path, "--engine", "onnxruntime")
    done = process(tmp_path / "clip.mp4", walls, *common, "--formats", "png", "--ros-args", "-p", "threads:=1")
    assert done.returncode == 1
    (complaint,) = [line for line in done.stderr.splitlines() if "process: " in line]
    assert re.search(r"process: \S*/clip.mp4: not a video", complaint)
    assert done.stdout == f"walls: 6 images answered -> {tmp_path}/out/walls\n"
    assert "Traceback" not in done.stderr


def unknown_parameter(given):
    return [*given, "--ros-args", "-p", "cloud_strid:=2"], "parameter 'cloud_strid' is unknown; did you mean 'cloud_stride'?"


def out_of_range(given):
    return [*given, "--ros-args", "-p", "cloud_stride:=0"], "cloud_stride"


def no_metres(given):
    return [*given, "--ros-args", "-p", "scale.source:=relative"], "scale.source is 'relative', which has no metres"


def no_bundle(given):
    return [*given, "--model", "/no/such/bundle"], "/no/such/bundle: no such folder"


def twice_the_same(given):
    return [given[0], *given], "their results would both be called"


def results_in_the_input(given):
    return [*given, "--out", given[0]], "would lie among the input's own files"


def results_in_a_file(given):
    return [*given, "--out", str(Path(given[0]) / "0.png")], "0.png: no folder for results can be made there (File exists)"


def a_file_where_results_go(given):
    taken = Path(given[0]).parent / "mine" / Path(given[0]).name
    taken.parent.mkdir()
    taken.write_text("mine")
    return [*given, "--out", str(taken.parent)], f"{taken}: is a file, where results are to be"


def value_without_quotes(given):
    return [*given, "--ros-args", "-p", "scale.sensor_pose:=0", "0"], "['0'] behind --ros-args"


def no_ray(given):
    return [*given, "--ray", "local"], "--ray needs Ray, which is not installed here"


def no_cluster(given):
    return [*given, "--ray", "127.0.0.1:1"], "--ray 127.0.0.1:1: nothing answers there"


@pytest.mark.parametrize(
    "fault",
    [
        unknown_parameter, out_of_range, no_metres, no_bundle, twice_the_same, results_in_the_input, results_in_a_file,
        a_file_where_results_go, value_without_quotes, no_ray, no_cluster,
    ],
)  # fmt: skip
def test_what_is_wrong_with_all_inputs_is_said_in_one_line(walls, calibration, make_bundle, tmp_path, capfd, monkeypatch, fault):
    monkeypatch.setitem(sys.modules, "ray", None)
    given = [
        walls,
        "--out",
        tmp_path / "out",
        "--camera-info",
        calibration,
        "--model",
        make_bundle().path,
        "--engine",
        "onnxruntime",
    ]
    arguments, reason = fault(list(map(str, given)))
    assert main(arguments) == 1
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("process: ")]
    assert reason in line
    assert not list((tmp_path / "out").glob("*"))


def test_ray_gives_the_same_files(walls, calibration, make_bundle, tmp_path):
    """A local Ray: its own processes, started and stopped by the command."""
    pytest.importorskip("ray", reason="needs Ray: pip install -r requirements/ray.txt")
    (tmp_path / "clip.mp4").write_bytes(os.urandom(5000))
    common = ("--camera-info", calibration, "--model", make_bundle().path, "--engine", "onnxruntime", "--formats", "png", "ply")
    here = process(walls, *common, "--out", tmp_path / "here")
    assert here.returncode == 0, here.stderr
    there = process(walls, tmp_path / "clip.mp4", *common, "--out", tmp_path / "there", "--ray", "local")
    assert there.returncode == 1
    assert "clip.mp4: not a video" in there.stderr
    assert f"walls: 6 images answered -> {tmp_path}/there/walls" in there.stdout, there.stderr
    files = sorted(path.relative_to(tmp_path / "here") for path in (tmp_path / "here").rglob("*.p*"))
    assert len(files) == 12
    assert [(tmp_path / "here" / file).read_bytes() == (tmp_path / "there" / file).read_bytes() for file in files] == [True] * 12
