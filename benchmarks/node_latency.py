"""How long the node takes, over DDS as on a robot, beside what the engine and the middleware take alone.

    python benchmarks/node_latency.py [--images DIR --camera-info YAML | --size 1242x375] [--rate 10] [--set NAME=VALUE]

Four measurements of the same images in one run: (1) camera player -> node -> receiver, three processes, as in the demo;
(2) the same with a stopwatch around the functions that the node calls; (3) camera player -> receiver, no node; (4) the engine
alone in a loop. Prints a table and writes it as JSON (see benchmarks/README.md).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # started as a file, Python looks only in benchmarks/

from benchmarks import timed_node
from benchmarks.report import describe_run, write_report
from depth_ros import bundle
from depth_ros.bundle import BundleError, ModelBundle
from depth_ros.calibration import load_calibration, save_calibration
from depth_ros.engines import EngineError, EngineOptions, load_engine, one_line
from depth_ros.estimator import resize_image
from depth_ros.memory import keep_freed_memory
from depth_ros.ros.sources import Folder
from depth_ros.tools.processes import ROOT, Child, environment, stop
from depth_ros.tools.session import Session, SessionError
from depth_ros.tools.timing import percentiles
from depth_ros.types import InputError

CLIP = ROOT / "assets" / "street"
CLIP_SIZE = (1242, 375)  # KITTI's, for which the targets below are stated
DISTINCT = 60  # images at most, played again and again
WARM_UP = 10  # answers that are not counted
START_TIMEOUT_S = 30.0
TARGETS_MS = {"latency to depth/image_rect, p50": 40.0, "own share, p50": 6.0}  # on two idle cores
DEPTH, CLOUD, IMAGE = "/depth/image_rect", "/points", "/image"


@dataclass(frozen=True)
class Bench:
    """What is measured, and where its processes write."""

    model: ModelBundle
    engine: str
    threads: int
    frames: int
    rate_hz: float
    folder: Path  # temporary; holds image/ and camera.yaml
    settings: dict[str, Any]  # further parameters of the node

    @property
    def player(self) -> dict[str, Any]:
        """Parameters of the camera player but for the number of subscribers."""
        camera = str(self.folder / "camera.yaml")
        return {"input": str(self.folder / "image"), "camera_info": camera, "rate": self.rate_hz}

    @property
    def node(self) -> list[str]:
        """ROS arguments of the node."""
        own = {"model": str(self.model.path.resolve()), "engine": self.engine, "threads": self.threads}
        return ros_arguments(own | self.settings)


def main() -> int:
    """Command line; returns the exit code."""
    options = _parser().parse_args()
    os.chdir(ROOT)  # where the processes find their modules
    report = describe_run("node_latency.py")
    try:
        with tempfile.TemporaryDirectory(prefix="node_latency_") as folder:
            bench = prepare(options, Path(folder))
            report |= {"input": describe_input(options, bench), "model": describe_model(bench.model)}
            report["measured"] = measure(bench)
    except (BundleError, EngineError, InputError, SessionError, OSError) as error:
        print(f"node_latency: {one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(table(report))
    write_report(report, options.out)
    print(f"written to {options.out}")
    return 0


def prepare(options: argparse.Namespace, folder: Path) -> Bench:
    """Put the images, as many as are played, and their calibration into `folder`. Raises InputError or BundleError."""
    if bool(options.images) != bool(options.camera_info):
        raise InputError("--images and --camera-info belong together; give both or neither")
    if options.frames < 1 or not options.rate > 0:
        raise InputError(f"--frames is {options.frames} and --rate {options.rate:g}; expected both positive")
    model = bundle.load(options.model)
    camera = load_calibration(options.camera_info or CLIP / "camera.yaml")
    if not options.images:
        camera = camera.resized(*options.size)
    (folder / "image").mkdir()
    distinct = []
    for item in islice(Folder(options.images or CLIP / "image"), DISTINCT):
        pixels = np.frombuffer(item.image.data, np.uint8).reshape(item.image.height, item.image.width, 3)
        if not options.images:
            pixels = cv2.resize(pixels, options.size, interpolation=cv2.INTER_CUBIC)
        distinct.append(folder / f"{len(distinct):06d}.bmp")  # read in no time: the player is not what is measured
        cv2.imwrite(str(distinct[-1]), pixels)
    for number, file in enumerate(islice(cycle(distinct), options.frames + WARM_UP)):
        (folder / "image" / f"{number:06d}.bmp").symlink_to(file)
    save_calibration(camera, folder / "camera.yaml")
    settings = {name: yaml.safe_load(value) for name, _, value in (text.partition("=") for text in options.set)}
    return Bench(model, options.engine, options.threads, options.frames, options.rate, folder, settings)


def measure(bench: Bench) -> dict[str, Any]:
    """Run the four measurements, the lightest first, so that what is warm (files, caches) is warm for all."""
    engine_ms = time_engine(bench)
    dds_ms = latencies_ms(run_without_node(bench), IMAGE)
    receipts = run_with_node(bench, ["depth_ros.ros.node"])
    times = bench.folder / "times.json"
    run_with_node(bench, ["benchmarks.timed_node", str(times)])
    stages = json.loads(times.read_text(encoding="utf-8"))[WARM_UP:]
    if not stages:
        raise SessionError(f"the node answered no more than the {WARM_UP} images of the warm-up; play more, or slower")
    names = [*timed_node.STAGES, "hand-over", "rest", "own", "own_cpu", "engine"]
    return {
        "images": bench.frames,
        "answered": len({stamp for topic, stamp, _ in receipts if topic == DEPTH}) - WARM_UP,
        "latency_ms": {topic: percentiles(latencies_ms(receipts, topic)) for topic in (DEPTH, CLOUD)},
        "node_ms": {name: percentiles([frame.get(name, 0.0) for frame in stages]) for name in names},
        "alone_ms": {"engine in a loop": percentiles(engine_ms), "DDS, player to receiver": percentiles(dds_ms)},
    }


def time_engine(bench: Bench) -> list[float]:
    """Milliseconds of engine.infer, called again and again on the bench's images."""
    keep_freed_memory()
    size = bench.model.width, bench.model.height
    files = sorted(bench.folder.glob("*.bmp"))
    images = [resize_image(cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB), *size)[None] for file in files]
    engine = load_engine(bench.model, bench.engine, EngineOptions(threads=bench.threads))
    spent_ms = []
    for image in islice(cycle(images), bench.frames + WARM_UP):
        start = time.perf_counter_ns()
        engine.infer(image)
        spent_ms.append((time.perf_counter_ns() - start) / 1e6)
    engine.close()
    return spent_ms[WARM_UP:]


Receipt = tuple[str, int, int]  # topic, stamp, receipt [ns]


def run_with_node(bench: Bench, node: list[str]) -> list[Receipt]:
    """Play everything through the node, as the demo does. Raises SessionError."""
    log, receipts = bench.folder / "log", bench.folder / "receipts.csv"
    log.mkdir(exist_ok=True)
    index = bench.folder / "frames.csv"
    player = bench.player | {"index": str(index), "wait_for_subscribers": 2}
    session = Session(
        recorder=["benchmarks.receiver", str(receipts)],
        node=[*node, *bench.node],
        player=["depth_ros.ros.player", *ros_arguments(player)],
        index=index,
        log=log,
    )
    tqdm.write(f"{bench.frames} images at {bench.rate_hz:g} Hz through {node[0]}", file=sys.stderr)
    session.run(threading.Event())
    return read_receipts(receipts)


def run_without_node(bench: Bench) -> list[Receipt]:
    """Play everything straight to the receiver. Raises SessionError."""
    log, receipts = bench.folder / "log", bench.folder / "receipts.csv"
    log.mkdir(exist_ok=True)
    tqdm.write(f"{bench.frames} images at {bench.rate_hz:g} Hz to the receiver alone", file=sys.stderr)
    start = partial(Child, environment=environment(log), log=log / "player.txt")
    receiver = start("receiver", ["benchmarks.receiver", str(receipts)], log=log / "receiver.txt")
    player = start("player", ["depth_ros.ros.player", *ros_arguments(bench.player | {"wait_for_subscribers": 1})])
    try:
        if not player.wait(START_TIMEOUT_S + (bench.frames + WARM_UP) / bench.rate_hz) or player.poll():
            raise SessionError(f"player: {player.complaint()}")
    finally:
        stop([player, receiver])
    if receiver.poll():
        raise SessionError(f"receiver: {receiver.complaint()}")
    return read_receipts(receipts)


def read_receipts(file: Path) -> list[Receipt]:
    """Read what the receiver wrote."""
    with file.open(newline="", encoding="utf-8") as stream:
        return [(topic, int(stamp_ns), int(receipt_ns)) for topic, stamp_ns, receipt_ns in csv.reader(stream)]


def latencies_ms(receipts: list[Receipt], topic: str) -> list[float]:
    """Milliseconds from an image's stamp to the receipt of the message with that stamp on `topic`, after the warm-up."""
    found = [(receipt_ns - stamp_ns) / 1e6 for name, stamp_ns, receipt_ns in receipts if name == topic][WARM_UP:]
    if not found:
        raise SessionError(f"nothing arrived on {topic} after the warm-up of {WARM_UP} images")
    return found


def describe_input(options: argparse.Namespace, bench: Bench) -> dict[str, Any]:
    """Return what was played."""
    camera = load_calibration(bench.folder / "camera.yaml")
    return {
        "images": "/".join(options.images.parts[-2:]) if options.images else "assets/street, enlarged",
        "width": camera.width,
        "height": camera.height,
        "rate_hz": bench.rate_hz,
        "warm_up": WARM_UP,
    }


def describe_model(model: ModelBundle) -> dict[str, Any]:
    """Return which model ran."""
    return {"name": model.name, "sha256": model.sha256, "width": model.width, "height": model.height}


def table(report: dict[str, Any]) -> str:
    """Return the figures for a reader."""
    measured = report["measured"]
    lines = [f"{report['cpu']}, {report['cores']} cores, load average {report['load_average_at_start']} at the start"]
    lines += [f"{'[ms]':32}{'p50':>8}{'p95':>8}{'p99':>8}{'max':>8}"]
    sections = {
        f"image stamp to receipt ({measured['answered']} of {measured['images']} answered)": measured["latency_ms"],
        "inside the node": measured["node_ms"],
        "alone": measured["alone_ms"],
    }
    for title, rows in sections.items():
        lines.append(title)
        lines += [f"  {name:30}" + "".join(f"{value:8.2f}" for value in row.values()) for name, row in rows.items()]
    found = (measured["latency_ms"][DEPTH]["p50"], measured["node_ms"]["own"]["p50"])
    for (name, target), value in zip(TARGETS_MS.items(), found, strict=True):
        lines.append(f"{name}: {value:.1f} ms; target on two idle cores: {target:g} ms")
    return "\n".join(lines)


def ros_arguments(parameters: dict[str, Any]) -> list[str]:
    """Parameters as rcl reads them: YAML values, so text is quoted."""
    return ["--ros-args", *(word for name, value in parameters.items() for word in ("-p", f"{name}:={json.dumps(value)}"))]


def add_node_arguments(parser: argparse.ArgumentParser, name: str) -> None:
    """Model, engine and the JSON file, of every benchmark that starts the node; paths hold although it changes the folder."""
    parser.add_argument("--model", type=_absolute, default=ROOT / "models" / "default", help="bundle (default: models/default)")
    parser.add_argument("--engine", default="onnxruntime", help="inference backend (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="of the backend (default: one less than there are cores)")
    out = ROOT / "benchmarks" / "results" / name
    parser.add_argument("--out", type=_absolute, default=out, help=f"JSON to write (default: benchmarks/results/{name})")


def image_size(text: str) -> tuple[int, int]:
    """WIDTHxHEIGHT of a command line."""
    width, _, height = text.partition("x")
    return int(width), int(height)


def _absolute(text: str) -> Path:
    return Path(text).resolve()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=_absolute, help="folder of images (default: assets/street)")
    parser.add_argument(
        "--size", type=image_size, default=CLIP_SIZE, help="to which assets/street is enlarged (default: 1242x375)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE", help="parameter of the node, as YAML; repeatable"
    )
    parser.add_argument("--camera-info", type=_absolute, help="their ROS camera calibration YAML")
    parser.add_argument("--frames", type=int, default=300, help="images that count (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=10.0, help="images per second (default: %(default)g)")
    add_node_arguments(parser, "node_latency.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
