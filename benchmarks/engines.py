"""Every engine that runs here, on three networks at four sizes, beside the least time that this machine's ceilings allow.

python benchmarks/engines.py [--engines onnxruntime openvino] [--models default] [--sizes 640x192] [--graphs runs/engines]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import graph_cost, roofline
from benchmarks.engine_models import NETWORKS, add_int8, open_bundle
from benchmarks.report import describe_run, write_report
from depth_ros.bundle import BundleError
from depth_ros.engines import ENGINES, EngineError, one_line
from training.config import ConfigError
from training.export import ExportError

ROOT = Path(__file__).resolve().parents[1]
SIZES = ("320x96", "416x128", "640x192", "640x480")
PEER = "torch"
ON_DEVICE = ("tensorrt", "tensorrt_rtx", "onnxruntime_cuda", PEER)
BATCHES, PRECISIONS = (1, 4, 8), ("fp32", "fp16", "int8")  # of a device; a CPU runs single images in fp32
ITEM_SIZE = {"fp32": 4, "fp16": 2, "int8": 1}  # [bytes]
TARGET = ("onnxruntime", "default", "640x192", 2.5)  # at most so many times the bound, with one thread
HEAD = (
    f"{'engine':17} {'model':10} {'size':8} {'threads':>7} {'precision':9} {'batch':>5} {'p50 ms':>8} {'p95 ms':>8} "
    f"{'cpu ms':>8} {'images/s':>8} {'MB':>6} {'GFLOP':>6} {'bound ms':>8} {'by':10} {'p50/bound':>9}"
)

Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    options = parse(arguments)
    report: Row = {
        **describe_run("engines.py", arguments),
        "weights": "random; the time does not depend on them",
        "ceilings": {},  # of CPU threads or cuda: [FLOP/s] of each precision, copy [B/s]
        "rows": [],
        "missing": {},  # engine -> why this machine does not have it
        "refused": [],  # cases that an engine would not run
    }
    try:
        with tempfile.TemporaryDirectory(prefix="depth_ros_engines_") as temporary:
            print(HEAD, flush=True)
            folder = options.graphs or Path(temporary)
            for bundle, case in cases(options, folder):
                measure(bundle, case, options.seconds, folder / "plans", report)
                write_report(report, options.out)
    except (BundleError, ConfigError, EngineError, ExportError, OSError, RuntimeError, ValueError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    for name, reason in report["missing"].items():
        print(f"{name}: not here: {reason}")
    for (name, reason), times in Counter((c["case"]["engine"], c["reason"]) for c in report["refused"]).items():
        print(f"{name}: {times} refused: {reason}")
    print(verdict(report["rows"]))
    return 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", nargs="+", choices=(*ENGINES, PEER), default=(*ENGINES, PEER), metavar="NAME")
    parser.add_argument("--models", nargs="+", choices=NETWORKS, default=tuple(NETWORKS), metavar="NAME")
    parser.add_argument("--sizes", nargs="+", default=SIZES, metavar="WxH", help="multiples of 32")
    parser.add_argument("--batches", nargs="+", type=int, default=BATCHES, help="of a device")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=PRECISIONS, help="of a device")
    parser.add_argument("--seconds", type=float, default=2.0, help="that each case is timed for (default: 2)")
    parser.add_argument("--graphs", type=Path, help="keep exported graphs and built plans here, and use what lies there")
    out = ROOT / "benchmarks" / "results" / "engines.json"
    parser.add_argument("--out", type=Path, default=out, help="JSON to write (default: benchmarks/results/engines.json)")
    return parser.parse_args(arguments)


def cases(options: argparse.Namespace, folder: Path) -> Iterator[tuple[Path, Row]]:
    """The bundle and what to run it with, of every row. Raises ConfigError, ExportError."""
    cores = len(os.sched_getaffinity(0))
    on_cpu = [(threads, "fp32", 1) for threads in sorted({1, cores})]
    on_device = [(0, precision, batch) for precision in options.precisions for batch in options.batches]
    for model in options.models:
        for size in options.sizes:
            width, _, height = size.partition("x")
            if not (width.isdigit() and height.isdigit()):
                raise ConfigError(f"--sizes {size}; expected a width and a height such as 640x192")
            bundle = open_bundle(model, int(width), int(height), folder).path
            for engine in options.engines:
                for threads, precision, batch in on_device if engine in ON_DEVICE else on_cpu:
                    names = {"engine": engine, "model": model, "size": size}
                    yield bundle, {**names, "threads": threads, "precision": precision, "batch": batch}


def measure(bundle: Path, case: Row, seconds: float, plans: Path, report: Row) -> None:
    """Run one case in a process of its own, and put its outcome in the report."""
    if case["engine"] in report["missing"]:
        return
    if case["precision"] == "int8":
        add_int8(bundle)
    keys = ("engine", "threads", "precision", "batch")
    wanted = {"path": str(bundle), "seconds": seconds, "cache": str(plans), **{key: case[key] for key in keys}}
    command = [sys.executable, str(ROOT / "benchmarks" / "engine_run.py"), json.dumps(wanted)]
    # Python's other libraries must not use more threads than the engine was told.
    environment = {**os.environ, **dict.fromkeys(roofline.THREADS, str(max(1, case["threads"])))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or [f"status {done.returncode}"]
        outcome = {"refused": f"crashed: {last[0]}"}
    else:
        outcome = json.loads(done.stdout.splitlines()[-1])
    if "missing" in outcome:
        report["missing"][case["engine"]] = outcome["missing"]
    elif "refused" in outcome:
        report["refused"].append({"case": case, "reason": outcome["refused"]})
    else:
        place = "cuda" if case["engine"] in ON_DEVICE else f"{case['threads']} thread{'s' if case['threads'] > 1 else ''}"
        if place not in report["ceilings"]:
            report["ceilings"][place] = roofline.in_own_process(case["threads"], place == "cuda")
        row = {**case, **outcome, **bound(bundle / "model.onnx", case, report["ceilings"][place])}
        row["p50_over_bound"] = round(row["ms"]["p50"] / row["bound_ms"], 2)
        report["rows"].append(row)
        print(line(row), flush=True)


@cache
def _cost(graph: Path) -> graph_cost.Cost:
    return graph_cost.count(graph)


def bound(graph: Path, case: Row, ceilings: dict[str, float]) -> Row:
    """The least time [ms] of one call: its arithmetic or its traffic at full speed, whichever takes longer.

    The traffic is what every layer reads and writes, at the speed of the memory; layers whose numbers stay in a cache can be
    faster than that.
    """
    cost, batch, precision = _cost(graph), case["batch"], case["precision"]
    moved = cost.bytes_per_image(ITEM_SIZE[precision], batch)
    times = {"arithmetic": 1000 * batch * cost.flop / ceilings[precision], "memory": 1000 * batch * moved / ceilings["copy"]}
    by = max(times, key=times.__getitem__)
    return {
        "flop_per_image": cost.flop,
        "bytes_per_image": round(moved),
        **{f"{name}_ms": round(value, 4) for name, value in times.items()},
        "bound_ms": round(times[by], 4),
        "bound_by": by,
    }


def line(row: Row) -> str:
    """One row of the printed table."""
    return (
        f"{row['engine']:17} {row['model']:10} {row['size']:8} {row['threads'] or '-':>7} {row['precision']:9} {row['batch']:>5} "
        f"{row['ms']['p50']:8.2f} {row['ms']['p95']:8.2f} "
        f"{row['cpu_ms']:8.2f} {row['images_per_s']:8.1f} {row['memory_mb']:6.0f} "
        f"{row['flop_per_image'] / 1e9:6.2f} {row['bound_ms']:8.2f} {row['bound_by']:10} {row['p50_over_bound']:9.2f}"
    )


def verdict(rows: Sequence[Row]) -> str:
    """What the measured rows say about TARGET."""
    engine, model, size, limit = TARGET
    found = [r for r in rows if (r["engine"], r["model"], r["size"], r["threads"]) == (engine, model, size, 1)]
    if not found:
        return f"{engine}, {model}, {size}, one thread: not measured; target: at most {limit} times the bound"
    ratio = found[0]["p50_over_bound"]
    judged = "met" if ratio <= limit else "MISSED"
    return f"{engine}, {model}, {size}, one thread: {ratio} times the bound; target: at most {limit}: {judged}"


if __name__ == "__main__":
    sys.exit(main())
