"""The node under load, over DDS as on a robot: image sizes, rates and numbers of cameras.

    python benchmarks/node.py [--model models/default] [--sizes 640x480 1280x720 1920x1080] [--rates 10 30 60] [--cameras 1 2 4]

For each combination three processes: cameras that send the street clip, the node, and a listener to depth, uncertainty and the
cloud of every camera. Prints a table and writes it as JSON (see benchmarks/README.md).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.node_latency import add_node_arguments, describe_model, image_size, ros_arguments
from benchmarks.report import describe_run, write_report
from depth_ros import bundle
from depth_ros.bundle import BundleError
from depth_ros.engines import EngineError, EngineOptions, load_engine, one_line
from depth_ros.memory import keep_freed_memory
from depth_ros.tools.processes import ROOT, Child, environment, stop
from depth_ros.tools.session import SessionError
from depth_ros.tools.timing import percentiles
from depth_ros.types import InputError

NAMES = ("front", "left", "right", "rear")
START_TIMEOUT_S = 60.0
TICKS_PER_S = os.sysconf("SC_CLK_TCK")
DEPTH = "depth/image_rect"


@dataclass(frozen=True)
class Load:
    """What the cameras send."""

    width: int
    height: int
    rate_hz: float
    cameras: int

    @property
    def names(self) -> tuple[str, ...]:
        """Of the cameras; none where there is one."""
        return NAMES[: self.cameras] if self.cameras > 1 else ()


def main() -> int:
    """Command line; returns the exit code."""
    options = _parser().parse_args()
    os.chdir(ROOT)  # where the processes find their modules
    report = describe_run("node.py")
    try:
        model = bundle.load(options.model)
        node = ros_arguments({"model": str(model.path.resolve()), "engine": options.engine, "threads": options.threads})
        engine_ms = time_engine(model, options.engine, options.threads)
        report |= {"model": describe_model(model), "seconds": options.seconds, "engine_ms": engine_ms, "rows": []}
        print(f"engine alone: {engine_ms['p50']:.1f} ms\n{HEAD}", flush=True)
        for (width, height), rate_hz, cameras in product(options.sizes, options.rates, options.cameras):
            load = Load(width, height, rate_hz, cameras)
            row = measure(load, node, options.seconds, engine_ms["p50"])
            report["rows"].append(row)
            print(line(row), flush=True)
            write_report(report, options.out)
    except (BundleError, EngineError, InputError, SessionError, OSError) as error:
        print(f"node: {one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(f"written to {options.out}")
    return 0


def time_engine(model: bundle.ModelBundle, name: str, threads: int, count: int = 50) -> dict[str, float]:
    """Milliseconds of an inference in a loop, nothing else running."""
    keep_freed_memory()
    engine = load_engine(model, name, EngineOptions(threads=threads))
    image = np.random.default_rng(0).integers(0, 255, (1, model.height, model.width, 3), np.uint8)
    spent_ms = []
    for _ in range(count + 5):
        start = time.perf_counter()
        engine.infer(image)
        spent_ms.append(1e3 * (time.perf_counter() - start))
    engine.close()
    return percentiles(spent_ms[5:])


def measure(load: Load, node_arguments: list[str], seconds: float, engine_ms: float) -> dict[str, Any]:
    """One row: latency, drops, processor and memory of the node under a load. Raises SessionError."""
    with tempfile.TemporaryDirectory(prefix="node_") as name:
        with traffic(load, node_arguments, seconds, Path(name)) as (node, cameras):
            used = _watch(node, cameras, seconds)
        said, receipts = read_traffic(Path(name))
    return _row(load, said, used, receipts, engine_ms)


@contextmanager
def traffic(load: Load, node_arguments: list[str], seconds: float, folder: Path) -> Iterator[tuple[Child, Child]]:
    """Run listener, node and cameras that send for a time; give node and cameras, and stop all three. Raises SessionError.

    What they write into `folder` is read by read_traffic().
    """
    start = partial(_start, folder, environment(folder))
    several = ["-p", f"camera_names:=[{', '.join(load.names)}]"] if load.names else []
    children = [
        start("listener", ["benchmarks.node_traffic", "listen", str(folder / "receipts.csv"), *load.names]),
        start("node", ["depth_ros.ros.node", *node_arguments, *several]),
    ]
    try:
        _wait_ready(children[1])
        words = [load.width, load.height, load.rate_hz, seconds, *load.names]
        children.append(start("cameras", ["benchmarks.node_traffic", "send", *map(str, words)]))
        yield children[1], children[2]
    finally:
        killed = stop(children[::-1])
    if killed:
        raise SessionError(f"{', '.join(killed)} had to be killed")


def read_traffic(folder: Path) -> tuple[dict[str, float], list[tuple[str, int, int]]]:
    """What the cameras say they sent, and topic, stamp [ns] and receipt [ns] of every answer."""
    said = json.loads((folder / "cameras.txt").read_text(encoding="utf-8").strip().splitlines()[-1])
    with (folder / "receipts.csv").open(newline="", encoding="utf-8") as stream:
        return said, [(topic, int(stamp), int(receipt)) for topic, stamp, receipt in csv.reader(stream)]


def _row(load: Load, said: dict[str, float], used: dict[str, float], receipts: list[Any], engine_ms: float) -> dict[str, Any]:
    latencies = [(receipt - stamp) / 1e6 for topic, stamp, receipt in receipts if topic.endswith(DEPTH)]
    per_camera = [sum(topic == f"{name}/{DEPTH}" for topic, _, _ in receipts) for name in load.names]
    if not latencies:
        raise SessionError(f"no depth came for {said['sent']} images of {load}")
    sent, found = int(said["sent"]) * load.cameras, percentiles(latencies)
    return {
        "width": load.width, "height": load.height, "rate_hz": load.rate_hz, "cameras": load.cameras,
        "sent_hz": round(said["sent"] / said["seconds"], 2), "sent": sent, "answered": len(latencies),
        "answered_per_camera": per_camera or [len(latencies)], "dropped": sent - len(latencies),
        "latency_ms": found, "p95_over_inference": round(found["p95"] / (engine_ms * load.cameras), 2), **used,
    }  # fmt: skip


def _watch(node: Child, cameras: Child, seconds: float) -> dict[str, float]:
    """Processor and memory of the node until the cameras have sent everything."""
    start, begin = _cpu_s(node.pid), time.monotonic()
    if not cameras.wait(START_TIMEOUT_S + 4 * seconds):
        raise SessionError(f"cameras: still sending; {cameras.complaint()}")
    if node.poll() is not None:
        raise SessionError(f"node: {node.complaint()}")
    share = (_cpu_s(node.pid) - start) / (time.monotonic() - begin)
    status = Path(f"/proc/{node.pid}/status").read_text(encoding="ascii").split("VmHWM:")[1]
    return {"cpu_percent": round(100 * share, 1), "memory_mb": round(int(status.split()[0]) / 1e3, 1)}


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def _start(folder: Path, variables: dict[str, str], name: str, arguments: list[str]) -> Child:
    return Child(name, arguments, variables, folder / f"{name}.txt")


def _wait_ready(node: Child) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while "waiting for images" not in node.complaint():
        if node.poll() is not None or time.monotonic() > deadline:
            raise SessionError(f"node: {node.complaint()}")
        time.sleep(0.1)


HEAD = f"{'size':>10}{'Hz':>5}{'cameras':>9}{'sent/s':>8}{'dropped':>9}{'p50 [ms]':>10}{'p95 [ms]':>10}{'CPU %':>7}{'MB':>7}"


def line(row: dict[str, Any]) -> str:
    """One row for a reader."""
    latency, size = row["latency_ms"], f"{row['width']}x{row['height']}"
    share = f"{100 * row['dropped'] / row['sent']:.0f} %"
    return (
        f"{size:>10}{row['rate_hz']:5g}{row['cameras']:9}{row['sent_hz']:8.1f}{share:>9}{latency['p50']:10.1f}"
        f"{latency['p95']:10.1f}{row['cpu_percent']:7.0f}{row['memory_mb']:7.0f}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = [(640, 480), (1280, 720), (1920, 1080)]
    parser.add_argument(
        "--sizes", type=image_size, nargs="+", default=sizes, help="of the images (default: 480, 720 and 1080 rows)"
    )
    parser.add_argument("--rates", type=float, nargs="+", default=[10, 30, 60], help="images per second and camera")
    parser.add_argument("--cameras", type=int, nargs="+", choices=(1, 2, 3, 4), default=[1, 2, 4], help="how many")
    parser.add_argument("--seconds", type=float, default=8.0, help="of sending, per combination (default: %(default)g)")
    add_node_arguments(parser, "node.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
