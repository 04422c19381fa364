"""What the programs about engines take alike on their command lines, and the engine made of it."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from depth_ros.bundle import PRECISIONS, ModelBundle
from depth_ros.engines import AUTO, ENGINES, MEMORIES, Choice, EngineOptions, choose_engine
from depth_ros.types import InputError


def add_engine_arguments(parser: argparse.ArgumentParser, whole_frames: str) -> None:
    """Add --model, --frame (`whole_frames` says what for), --batch, --memory and --cache."""
    add_model_argument(parser)
    add_device_arguments(parser)
    parser.add_argument("--frame", type=size, action="append", default=[], metavar="WIDTHxHEIGHT",
        help=f"{whole_frames}; may be given again")  # fmt: skip


def add_model_argument(parser: argparse.ArgumentParser) -> None:
    """Add --model."""
    parser.add_argument("--model", type=path, help="folder of the bundle (default: the one that comes with the package)")


def add_device_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --batch, --memory and --cache."""
    defaults = EngineOptions()
    add = parser.add_argument
    add("--batch", type=positive, metavar="N", help=f"most images at once with TensorRT (default: {defaults.batch})")
    add("--memory", choices=MEMORIES, help=f"what manages CUDA memory (default: {defaults.memory})")
    add("--cache", type=path, help=f"folder of built engines (default: {defaults.cache})")


def add_choice_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what choose() reads: --engine, and --precision, --threads and --build-if-missing."""
    parser.add_argument("--engine", default=AUTO, choices=(AUTO, *ENGINES), help="default: %(default)s, the first that works")
    add_run_arguments(parser)


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --precision, --threads and --build-if-missing."""
    add = parser.add_argument
    add("--precision", choices=PRECISIONS, help="default: the engine's own")
    add("--threads", type=positive, metavar="N", help="of a CPU engine (default: one less than there are cores)")
    add("--build-if-missing", action="store_true", help="build a TensorRT engine first, which can take minutes")


def choose(model: ModelBundle, given: argparse.Namespace, say: Callable[[str], None]) -> Choice:
    """Load the engine that the command line asks for, and say which faster ones are passed over. Raises EngineError."""
    choice = choose_engine(model, given.engine, engine_options(given, say))
    for passed_over in choice.passed_over:
        say(f"not {passed_over}")
    return choice


def write_json(file: Path, values: Mapping[str, Any]) -> None:
    """Write figures that are all finite. Raises OSError."""
    file.write_text(json.dumps(values, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def check_json(file: Path | None) -> None:
    """Before the work: raise InputError if the folder of --json does not exist."""
    if file and not file.parent.is_dir():
        raise InputError(f"{file.parent}: no such folder; expected one to write {file.name} into")


def engine_options(given: argparse.Namespace, progress: Callable[[str], None]) -> EngineOptions:
    """The options that the command line gives, each under its name in EngineOptions; the defaults where it gives none."""
    values = {field.name: getattr(given, field.name, None) for field in fields(EngineOptions)}
    return EngineOptions(**{name: value for name, value in values.items() if value is not None} | {"progress": progress})


def default_model() -> Path:
    """Folder of the bundle that comes with the package."""
    from depth_ros.ros import params  # needs ROS, which a named model does not

    return params.default_model()


def path(text: str) -> Path:
    """A path; the shell leaves the ~ of --cache=~/engines as it is."""
    return Path(text).expanduser()


def positive(text: str) -> int:
    """A whole number, 1 or more. Raises ArgumentTypeError."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}'; expected a whole number, 1 or more")
    return int(text)


def size(text: str) -> tuple[int, int]:
    """Width and height of an image [px]. Raises ArgumentTypeError."""
    width, _, height = text.partition("x")
    try:
        return positive(width), positive(height)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"'{text}'; expected WIDTHxHEIGHT [px], such as 1280x720") from None
