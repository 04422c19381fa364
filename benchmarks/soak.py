"""The node for a long time under a steady load, and what of it grows.

    python benchmarks/soak.py [--minutes 30] [--model models/default] [--size 640x480] [--rate 30] [--cameras 1]

Cameras that send, the node and a listener run as three processes, as in benchmarks/node.py. At equal intervals the node's memory,
threads, file handles and Fast DDS's shared memory are noted. Prints what grew after the warm-up, and writes it as JSON (see
benchmarks/README.md). The exit code is 1 if something grew, or if the node did not answer to the end.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.node import DEPTH, Load, read_traffic, traffic
from benchmarks.node_latency import add_node_arguments, describe_model, image_size, ros_arguments
from benchmarks.report import describe_run, write_report
from depth_ros import bundle
from depth_ros.bundle import BundleError
from depth_ros.engines import one_line
from depth_ros.tools.processes import ROOT, Child, shared_memory_of
from depth_ros.tools.session import SessionError

WARM_UP = 0.1  # of the time, in which libraries and pools take what they need
FLAT = 0.02  # relative growth of memory that counts as none
COUNTS = ("threads", "files", "shared_memory_files")


@dataclass(frozen=True)
class Sample:
    """What the node uses at one moment."""

    time_s: float  # since the cameras were started
    memory_mb: float  # resident
    threads: int
    files: int  # open
    shared_memory_files: int  # mapped, of Fast DDS
    shared_memory_mb: float  # of these


def sample(pid: int, time_s: float) -> Sample:
    """What a process uses now. Raises OSError if it has ended."""
    pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    threads, files = (len(list(Path(f"/proc/{pid}/{kind}").iterdir())) for kind in ("task", "fd"))
    mapped, shared_bytes = shared_memory_of(pid), 0
    for file in mapped:
        with suppress(FileNotFoundError):  # a camera that left took it along
            shared_bytes += 512 * file.stat().st_blocks
    return Sample(
        round(time_s, 1),
        round(pages * resource.getpagesize() / 1e6, 2),
        threads,
        files,
        len(mapped),
        round(shared_bytes / 1e6, 2),
    )


def watch(node: Child, cameras: Child, seconds: float, every_s: float) -> list[Sample]:
    """Samples at equal intervals until the cameras have sent everything. Raises SessionError if the node ends before."""
    samples, start = [], time.monotonic()
    with tqdm(total=round(seconds), unit="s", disable=None) as bar:
        while not cameras.wait(every_s):
            if node.poll() is not None:
                raise SessionError(f"node: {node.complaint()}")
            samples.append(sample(node.pid, time.monotonic() - start))
            bar.update(min(round(samples[-1].time_s), bar.total) - bar.n)
    return samples


def growth(samples: Sequence[Sample]) -> dict[str, float]:
    """What grew after the warm-up: memory [relative], median of the last tenth to that of the first; counts, most to first."""
    settled = [item for item in samples if item.time_s >= WARM_UP * samples[-1].time_s]
    if len(settled) < 3:
        raise SessionError(f"{len(samples)} samples are too few: let it run longer, or lower --every")
    tenth = max(1, len(settled) // 10)
    first, last = (median(item.memory_mb for item in part) for part in (settled[:tenth], settled[-tenth:]))
    counts = {name: max(getattr(item, name) for item in settled) - getattr(settled[0], name) for name in COUNTS}
    return {"memory": round(last / first - 1, 4), **counts}


def answered_per_tenth(receipts: Sequence[tuple[str, int, int]]) -> list[int]:
    """Depth images received in each tenth of the time between the first and the last one: it has not died away."""
    times = [receipt for topic, _, receipt in receipts if topic.endswith(DEPTH)]
    if not times:
        return []
    span = max(times) - min(times) + 1
    tenths = [10 * (receipt - min(times)) // span for receipt in times]
    return [tenths.count(number) for number in range(10)]


def main() -> int:
    """Command line; returns the exit code."""
    options = _parser().parse_args()
    os.chdir(ROOT)  # where the processes find their modules
    load = Load(*options.size, options.rate, options.cameras)
    seconds = 60 * options.minutes
    try:
        model = bundle.load(options.model)
        arguments = ros_arguments({"model": str(model.path), "engine": options.engine, "threads": options.threads})
        report = describe_run("soak.py") | {"model": describe_model(model), "load": asdict(load), "minutes": options.minutes}
        report |= soak(load, arguments, seconds, options.every)
        write_report(report, options.out)
    except (BundleError, SessionError, OSError) as error:
        print(f"soak: {one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    print(f"{verdict(report)}\nwritten to {options.out}")
    return 0 if report["flat"] else 1


def soak(load: Load, node_arguments: list[str], seconds: float, every_s: float) -> dict[str, Any]:
    """Run the load for a time; return samples and what they say. Raises SessionError."""
    with tempfile.TemporaryDirectory(prefix="soak_") as name:
        with traffic(load, node_arguments, seconds, Path(name)) as (node, cameras):
            samples = watch(node, cameras, seconds, every_s)
        said, receipts = read_traffic(Path(name))
    grown, answered = growth(samples), answered_per_tenth(receipts)
    flat = grown["memory"] <= FLAT and not any(grown[name] > 0 for name in COUNTS) and min(answered, default=0) > 0
    columns = {name: [getattr(item, name) for item in samples] for name in asdict(samples[0])}
    return {
        "sent": int(said["sent"]) * load.cameras,
        "answered_per_tenth": answered,
        "growth": grown,
        "flat": flat,
        "samples": columns,
    }


def verdict(report: dict[str, Any]) -> str:
    """The figures for a reader."""
    grown, memory = report["growth"], report["samples"]["memory_mb"]
    counts = ", ".join(f"{grown[name]} more {name.replace('_', ' ')}" for name in COUNTS)
    return (
        f"{report['minutes']:g} minutes, {report['sent']} images sent, {sum(report['answered_per_tenth'])} answered: memory "
        f"{100 * grown['memory']:+.1f} % ({memory[0]:.0f} MB at first, {memory[-1]:.0f} MB at last), {counts}"
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="of sending (default: %(default)g)")
    parser.add_argument("--size", type=image_size, default=(640, 480), help="of the images (default: 640x480)")
    parser.add_argument("--rate", type=float, default=30.0, help="images per second and camera (default: %(default)g)")
    parser.add_argument("--cameras", type=int, choices=(1, 2, 3, 4), default=1, help="how many (default: %(default)s)")
    parser.add_argument("--every", type=float, default=10.0, help="seconds between samples (default: %(default)g)")
    add_node_arguments(parser, "soak.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
