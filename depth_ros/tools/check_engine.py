"""Check an engine before trusting its depth: compare it with ONNX Runtime on the CPU, on images.

The engine is loaded as the node would load it. Exit code: 0 if every figure is within its limit, 1 if not or if it cannot be
loaded.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from depth_ros import bundle
from depth_ros.bundle import PRECISIONS, BundleError
from depth_ros.engines import AUTO, ENGINES, EngineError, EngineOptions, choose_engine
from depth_ros.engines.gate import GateReport, check, frames_folder, load_frames
from depth_ros.engines.plans import PRECISIONS as PLAN_PRECISIONS
from depth_ros.ros.params import default_model
from depth_ros.types import InputError

ENGINE_OPTIONS = ("precision", "batch", "threads", "memory", "cache", "build_if_missing")  # of EngineOptions, of the same name


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        model = bundle.load(options.model or default_model())
        folder: Path = options.frames or frames_folder(model)
        frames = load_frames(model, folder)
        engine_options = EngineOptions(**{name: getattr(options, name) for name in ENGINE_OPTIONS}, progress=_say)
        choice = choose_engine(model, options.engine, engine_options)
        with closing(choice.engine):
            for passed_over in choice.passed_over:
                _say(f"not {passed_over}")
            report = check(choice.engine, model, frames, options.precision or own_precision(choice.name))
            description = choice.engine.describe()
        print(f"model '{model.name}', {model.width}x{model.height}, on {description}")
        print(_table(report, folder))
        if options.json:
            facts = {"model": model.name, "sha256": model.sha256, "engine": choice.name, "description": description}
            _write(options.json, facts | {"passed_over": [*map(str, choice.passed_over)]} | report.as_dict())
    except (BundleError, EngineError, InputError, OSError) as error:
        _say(" ".join(str(error).split()))
        return 1
    return 0 if report.passed else 1


def own_precision(engine: str) -> str:
    """What an engine runs where the user has not chosen (EngineOptions.precision)."""
    return PLAN_PRECISIONS[0] if engine.startswith("tensorrt") else "fp32"


def _table(report: GateReport, folder: Path) -> str:
    lines = [f"{report.precision} against ONNX Runtime on the CPU, {report.frames} images of {folder}"]
    if report.figures:
        lines.append(f"{'relative difference':<20}{'found':>10}{'limit':>10}")
    for name, value in report.figures.items():
        mark = "" if value <= report.limits[name] else "  too much"
        lines.append(f"{name.replace('_', ' '):<20}{value:>10.3g}{report.limits[name]:>10g}{mark}")
    return "\n".join([*lines, "passed" if report.passed else f"FAILED: {'; '.join(report.failures)}"])


def _write(file: Path, values: dict[str, Any]) -> None:
    file.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _say(text: str) -> None:
    print(f"check_engine: {text}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    defaults = {  # declared once, in EngineOptions
        item.name: item.default_factory() if item.default_factory is not MISSING else item.default
        for item in fields(EngineOptions)
    }
    parser = argparse.ArgumentParser(
        prog="check_engine", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", type=Path, help="folder of the bundle (default: the one that comes with the package)")
    add("--engine", default=AUTO, choices=(AUTO, *ENGINES), help="default: %(default)s, the first that works")
    add("--precision", default="", choices=PRECISIONS, help="default: the engine's own; the limits are those of the precision")
    add("--batch", type=int, help="images at once of a TensorRT engine (default: %(default)s)")
    add("--threads", type=int, help="of a CPU engine (default: one less than there are cores)")
    add("--memory", choices=("auto", "pycuda", "cuda_bindings"), help="what manages CUDA memory (default: %(default)s)")
    add("--cache", type=Path, help="folder of built engines (default: %(default)s)")
    add("--build-if-missing", action="store_true", help="build a TensorRT engine first, which can take minutes")
    add("--frames", type=Path, help="folder of images, best of the robot's own camera (default: those that come with the model)")
    add("--json", type=Path, metavar="FILE", help="write the figures")
    parser.set_defaults(**{name: defaults[name] for name in ENGINE_OPTIONS})
    return parser


if __name__ == "__main__":
    sys.exit(main())
