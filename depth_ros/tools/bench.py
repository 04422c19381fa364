"""How fast a bundle is here: on every engine of this machine, alone and, with --camera, with all that the node does around it.

Each engine is timed in a process of its own, one image after the other. "Path" is the node's work on an image without DDS:
decode, rectify, resize, infer, upsample, build the cloud, fill the messages. Exit code: 0 if an engine was timed, 1 if none.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from multiprocessing import get_context
from typing import Any

import numpy as np

from depth_ros import bundle
from depth_ros.bundle import BundleError, ModelBundle
from depth_ros.engines import ENGINES, Engine, EngineError, MissingBackendError, load_engine, one_line
from depth_ros.estimator import Estimator
from depth_ros.memory import keep_freed_memory
from depth_ros.tools.engine_arguments import (
    add_device_arguments,
    add_model_argument,
    add_run_arguments,
    check_json,
    default_model,
    engine_options,
    path,
    size,
    write_json,
)
from depth_ros.tools.timing import peak, percentiles, start_of_peak, time_calls
from depth_ros.types import CameraModel, InputError

DISTINCT = 4  # images, in turn: an engine may not send again what it holds
HEAD = f"{'engine':17} {'what':12} {'p50 ms':>8} {'p95 ms':>8} {'images/s':>9} {'MB':>6}"
Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        model = bundle.load(options.model or default_model())
        check_json(options.json)
        print(f"model '{model.name}', {model.width}x{model.height}, {len(os.sched_getaffinity(0))} cores\n{HEAD}", flush=True)
        report: Row = {"model": model.name, "sha256": model.sha256, "size": f"{model.width}x{model.height}", **_machine()}
        report |= {"rows": [], "not_timed": {}}
        for name in options.engines:
            _time(model, name, options, report)
        if options.json:
            write_json(options.json, report)
    except (BundleError, EngineError, InputError, OSError) as error:
        _say(one_line(error))
        return 1
    return 0 if report["rows"] else 1


def _time(model: ModelBundle, name: str, options: Namespace, report: Row) -> None:
    """Time one engine in a process of its own; what it cannot do is said and put into the report."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            rows = pool.submit(measure, model, name, options).result()
        except MissingBackendError as error:
            reason = f"not here: {one_line(error)}"
        except (BundleError, EngineError, InputError) as error:
            reason = one_line(error)
        except BrokenProcessPool:
            reason = "its process crashed"
        else:
            report["rows"] += rows
            for row in rows:
                print(line(row), flush=True)
            return
    report["not_timed"][name] = reason
    _say(f"{name}: {reason.removeprefix(f'{name}: ')}")


def measure(model: ModelBundle, name: str, options: Namespace) -> list[Row]:
    """Rows of the engine `name`: alone, and with the node's work for each camera size. Raises EngineError, InputError."""
    keep_freed_memory()
    before = start_of_peak()
    with closing(load_engine(model, name, engine_options(options, _say))) as engine:
        images = _images(model.height, model.width)
        alone = time_calls(lambda number: engine.infer(images[number % DISTINCT][None]), options.seconds)
        rows = [_row(name, engine, "engine", alone, before)]
        for camera in options.camera:
            rows += _path(model, name, engine, camera, options.seconds, before)
    return rows


def _path(
    model: ModelBundle, name: str, engine: Engine, camera_size: tuple[int, int], seconds: float, before: int
) -> Iterator[Row]:
    """The node's whole work on images of a camera with the field of view that the model was trained with."""
    from sensor_msgs.msg import Image  # the engines alone are timed without ROS

    from depth_ros.ros import messages
    from depth_ros.ros.camera_answerer import CameraAnswerer
    from depth_ros.ros.params import NodeParams

    width, height = camera_size
    centre = (model.width - 1) / 2, (model.height - 1) / 2
    camera = CameraModel(model.width, model.height, model.fx, model.fy, *centre).resized(width, height)
    published, params = [], NodeParams()
    for pixels in _images(height, width):
        image = Image(height=height, width=width, encoding="rgb8", step=3 * width)
        image.data.frombytes(pixels)
        published.append(image)
    info = messages.camera_info(camera, published[0].header)
    with closing(CameraAnswerer(Estimator(model, engine), _say)) as answerer:

        def answer(number: int) -> None:
            image = published[number % DISTINCT]
            frame = answerer.frame(image, info, params)
            found = answerer.answer(frame, params.wish(True, True))
            assert found.prediction is not None
            assert found.points is not None
            for values in (found.prediction.depth, found.prediction.sigma):
                messages.depth_image(values, image.header)
            messages.point_cloud(found.points, image.header)

        yield _row(name, engine, f"path {width}x{height}", time_calls(answer, seconds), before)


def _row(name: str, engine: Engine, what: str, timed: tuple[list[float], list[float]], before: int) -> Row:
    times, cpu_times = timed
    return {
        "engine": name,
        "describe": engine.describe(),
        "what": what,
        "runs": len(times),
        "ms": percentiles(1000 * np.array(times)),
        "cpu_ms": percentiles(1000 * np.array(cpu_times))["p50"],
        "images_per_s": round(len(times) / sum(times), 2),
        "memory_mb": round((peak() - before) / 1e6, 1),  # of the host, what the process has grown by
    }


def line(row: Row) -> str:
    """One row of the printed table."""
    ms = row["ms"]
    figures = f"{ms['p50']:8.2f} {ms['p95']:8.2f} {row['images_per_s']:9.1f} {row['memory_mb']:6.0f}"
    return f"{row['engine']:17} {row['what']:12} {figures}"


def _images(height: int, width: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (DISTINCT, height, width, 3), np.uint8)


def _machine() -> Row:
    return {"machine": platform.machine(), "cores": len(os.sched_getaffinity(0)), "load_average": round(os.getloadavg()[0], 2)}


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 3600:
        raise argparse.ArgumentTypeError(f"'{text}'; expected a number of seconds above 0")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add_model_argument(parser)
    add("--engines", nargs="+", choices=ENGINES, default=tuple(ENGINES), metavar="NAME", help=f"of {', '.join(ENGINES)} (all)")
    add_run_arguments(parser)
    add_device_arguments(parser)
    add("--camera", type=size, action="append", default=[], metavar="WIDTHxHEIGHT",
        help="also the node's whole work on images of this size; may be given again")  # fmt: skip
    add("--seconds", type=_seconds, default=2.0, help="that each row is timed for (default: %(default)g)")
    add("--json", type=path, metavar="FILE", help="write the figures")
    return parser


if __name__ == "__main__":
    sys.exit(main())
