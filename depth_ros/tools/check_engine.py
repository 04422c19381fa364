"""Check an engine before trusting its depth: compare it with ONNX Runtime on the CPU, on images.

Whether the bundle's own answers make sense is check_bundle's question, and how fast they come is bench's. The engine is loaded
as the node would load it. Exit code: 0 if every figure is within its limit, 1 if not or if it cannot be loaded.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from depth_ros import bundle
from depth_ros.bundle import BundleError, ModelBundle
from depth_ros.engines import Engine, EngineError, one_line
from depth_ros.engines.frame_gate import check_frames, open_reference
from depth_ros.engines.gate import GateReport, check, frames_folder, load_frames
from depth_ros.tools.engine_arguments import (
    add_choice_arguments,
    add_engine_arguments,
    check_json,
    choose,
    default_model,
    path,
    write_json,
)
from depth_ros.types import InputError

NETWORK = "network"  # the report on the network alone, beside those on frame graphs, which are named by their size


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    if options.build_if_missing:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # as in build_engine
    try:
        model = bundle.load(options.model or default_model())
        folder: Path = options.frames or frames_folder(model)
        load_frames(model, folder)  # complains before an engine is built
        check_json(options.json)
        choice = choose(model, options, _say)
        with closing(choice.engine) as engine:
            description = engine.describe()
            print(f"model '{model.name}', {model.width}x{model.height}, on {description}")
            reports = check_all(engine, model, folder, options.frame)
        print("\n".join(_table(name, report, folder) for name, report in reports.items()))
        if options.json:
            facts: dict[str, Any] = {
                "model": model.name,
                "sha256": model.sha256,
                "engine": choice.name,
                "description": description,
                "passed_over": [str(passed_over) for passed_over in choice.passed_over],
            }
            write_json(options.json, facts | {name: report.as_dict() for name, report in reports.items()})
    except (BundleError, EngineError, InputError, OSError) as error:
        _say(one_line(error))
        return 1
    return 0 if all(report.passed for report in reports.values()) else 1


def check_all(engine: Engine, model: ModelBundle, folder: Path, sizes: Sequence[tuple[int, int]]) -> dict[str, GateReport]:
    """Reports on the network, and on its frame graph for each (width, height) of a camera. Raises EngineError, InputError.

    Each is judged by the precision that it runs in: where fp16 was refused and fp32 runs instead, fp16's limits would let too
    much pass.
    """
    reports = {NETWORK: check(engine, model, load_frames(model, folder), engine.precision)}
    for width, height in sizes:
        runner = engine.open_frame_graph(width, height)
        if runner is None:
            raise EngineError(
                f"{engine.describe()}: has no frame graph for {width}x{height}: the host does that work; omit --frame"
            )
        with closing(runner), closing(open_reference(model, width, height)) as reference:
            images = load_frames(model, folder, (width, height))
            reports[f"{width}x{height}"] = check_frames(runner, reference, model, images)
    return reports


def _table(name: str, report: GateReport, folder: Path) -> str:
    lines = [f"{name}, {report.precision}, against ONNX Runtime on the CPU, {report.frames} images of {folder}"]
    if report.figures:
        lines.append(f"  {'relative difference':<20}{'found':>10}{'limit':>10}")
    for figure, value in report.figures.items():
        mark = "" if value <= report.limits[figure] else "  too much"
        lines.append(f"  {figure.replace('_', ' '):<20}{value:>10.3g}{report.limits[figure]:>10g}{mark}")
    return "\n".join([*lines, "passed" if report.passed else f"FAILED: {'; '.join(report.failures)}"])


def _say(text: str) -> None:
    print(f"check_engine: {text}", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="check_engine", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_engine_arguments(parser, "also what a GPU makes of whole images of this size")
    add_choice_arguments(parser)
    add = parser.add_argument
    add("--frames", type=path, help="folder of images, best of the robot's own camera (default: those that come with the model)")
    add("--json", type=path, metavar="FILE", help="write the figures")
    return parser


if __name__ == "__main__":
    sys.exit(main())
