"""Answer recordings as the node would, without ROS running: bags, videos and folders to bags, PNGs, point clouds and films.

Every input gets a folder of its name below --out, which is there only when it is complete. Started again, the command skips what
is complete and goes on with what is not. The node's parameters are given as to the node: --ros-args -p name:=value or
--params-file FILE. So are the names of a bag's sensors that scale.source listens to: -r range/scan:=/front/scan, for example.
Exit code: 0 if every input was answered, 1 if one was not (the others are), 130 if interrupted.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import rclpy
from rclpy.context import Context
from rclpy.exceptions import ParameterException
from rclpy.impl.implementation_singleton import rclpy_implementation
from rclpy.node import Node
from rclpy.utilities import remove_ros_args
from tqdm import tqdm

from depth_ros import bundle
from depth_ros.bundle import BundleError
from depth_ros.engines import AUTO, ENGINES, EngineError, choose_engine, one_line
from depth_ros.ros.declaration import declare, ros_arguments
from depth_ros.ros.node import NODE_NAME
from depth_ros.ros.parameter_files import unread
from depth_ros.ros.params import NodeParams
from depth_ros.ros.sensor_topics import TOPICS
from depth_ros.scale import RELATIVE
from depth_ros.tools.engine_arguments import path, positive
from depth_ros.tools.offline.job import Job, Outcome
from depth_ros.tools.offline.manifest import OF_A_RUNNING_NODE
from depth_ros.tools.offline.pool import Event, Progress, run_here, run_on_ray
from depth_ros.tools.offline.writers import FORMATS
from depth_ros.tools.processes import noting_signals
from depth_ros.types import InputError

ON_GPU = ("tensorrt", "tensorrt_rtx", "onnxruntime_cuda")
INTERRUPTED = 130  # as of a program that SIGINT ended


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    given = [sys.argv[0], *(sys.argv[1:] if arguments is None else arguments)]
    stop = threading.Event()
    try:
        with ros_arguments():
            options = _parser().parse_args(remove_ros_args(given)[1:])
        with noting_signals(stop):
            jobs, size = prepare(options, *_asked_of_node(given))
            events = run_on_ray(jobs, options.ray, stop) if options.ray else run_here(jobs, size, stop)
            outcomes = _follow(jobs, events)
    except (BundleError, EngineError, InputError, ParameterException, rclpy_implementation.RCLError, OSError) as error:
        _say(one_line(error))
        return 1
    if any(outcome.interrupted for outcome in outcomes):
        _say("interrupted; the same command goes on from here")
        return INTERRUPTED
    return 0 if all(outcome.good for outcome in outcomes) else 1


def prepare(options: argparse.Namespace, node_params: NodeParams, sensors: Mapping[str, str]) -> tuple[list[Job], int]:
    """Return the jobs and how many of them are to run at once; `sensors` as in Job. Raises what is wrong with all of them."""
    folder = (options.model or node_params.model_folder).resolve()
    model = bundle.load(folder)
    chosen = replace(node_params, model=str(folder), engine=options.engine or node_params.engine)
    cores = len(os.sched_getaffinity(0))
    size = options.jobs or min(len(options.inputs), cores)
    if not options.ray:
        # Once for all jobs, so that they run on the same engine, and one that has to be built is built once.
        choice = choose_engine(model, chosen.engine, chosen.engine_options(_say))
        choice.engine.close()
        chosen = replace(chosen, engine=choice.name)
        size = options.jobs or (1 if choice.name in ON_GPU else size)
    chosen = replace(chosen, threads=chosen.threads or (1 if options.ray else max(1, cores // size)))
    formats = tuple(name for name in FORMATS if name in options.formats)
    out, calibration = options.out.resolve(), options.camera_info.resolve() if options.camera_info else None
    jobs = [
        Job(source.resolve(), out / name, formats, chosen, options.topic, calibration, sensors)
        for source, name in zip(options.inputs, names(options.inputs), strict=True)
    ]
    _make_room(jobs, out)
    return jobs, size


def _make_room(jobs: Sequence[Job], out: Path) -> None:
    """Make the folder of all results. Raises InputError where those of a job have no place."""
    for job in jobs:
        if job.source == out or job.source.is_relative_to(job.out) or job.source.is_relative_to(job.partial):
            raise InputError(f"{job.source}: its results would lie among the input's own files; choose another --out")
        for folder in (job.out, job.partial):
            if folder.is_file():
                raise InputError(f"{folder}: is a file, where results are to be; move it, or choose another --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out}: no folder for results can be made there ({error.strerror}); choose another --out") from error


def names(inputs: Sequence[Path]) -> list[str]:
    """Return a folder name for each input: its own, with its folder's in front where two have the same. Raises InputError."""
    resolved = [source.resolve() for source in inputs]
    own = [source.name if source.is_dir() else source.stem for source in resolved]
    times_used = Counter(own)
    chosen = [
        name if times_used[name] == 1 else f"{source.parent.name}_{name}" for source, name in zip(resolved, own, strict=True)
    ]
    for name, times in Counter(chosen).items():
        if times > 1:
            same = ", ".join(str(source) for source, other in zip(inputs, chosen, strict=True) if other == name)
            raise InputError(f"{same}: their results would both be called '{name}'; process them into different --out")
    return chosen


def _asked_of_node(arguments: list[str]) -> tuple[NodeParams, dict[str, str]]:
    """The node's parameters from --ros-args, with the same names, defaults, ranges and complaints as the node's own.

    And the full names of the topics that its scale.source listens to.
    """
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "OFF")  # nobody is to see this one
    context = Context()
    rclpy.init(args=arguments, context=context)
    try:
        node = Node(NODE_NAME, context=context, enable_rosout=False, start_parameter_services=False)
        try:
            found = declare(node)
            for text in unread(node, arguments):
                _say(text)
            if found.scale.source == RELATIVE:
                raise InputError(
                    "scale.source is 'relative', which has no metres, and all results here are in metres; "
                    "expected bundle, fixed or camera_height, or for bags range or odometry"
                )
            idle = [name for name in OF_A_RUNNING_NODE if getattr(found, name) != getattr(NodeParams(), name)]
            if idle:
                _say(f"{', '.join(idle)}: of a running node, without effect here (docs/offline.md)")
            return found, {topic: node.resolve_topic_name(topic) for topic in TOPICS.get(found.scale.source, ())}
        finally:
            node.destroy_node()
    finally:
        rclpy.try_shutdown(context=context)


def _follow(jobs: Sequence[Job], events: Iterator[tuple[int, Event]]) -> list[Outcome]:
    """Show one bar over all inputs until the last event; say what became of each input."""
    progress: dict[int, Progress] = {}
    outcomes: dict[int, Outcome] = {}
    refresh_s = 0.3 if sys.stderr.isatty() else 5.0
    with tqdm(unit=" images", mininterval=refresh_s, dynamic_ncols=True) as bar:
        for number, event in events:
            if isinstance(event, Progress):
                progress[number] = event
            else:
                outcomes[number] = event
                _report(jobs[number], event)
            bar.total = sum(max(p.seen, p.expected) for p in progress.values()) or None
            bar.set_postfix_str(f"{len(outcomes)} of {len(jobs)} inputs", refresh=False)
            bar.update(sum(p.seen for p in progress.values()) - bar.n)
    return [outcomes[number] for number in sorted(outcomes)]


def _report(job: Job, outcome: Outcome) -> None:
    for warning in outcome.warnings:
        _say(f"{job.source}: {warning}")
    if outcome.failure:
        _say(f"{job.source}: {outcome.failure}".replace(f"{job.source}: {job.source}", str(job.source)))
    elif outcome.ended_early:
        _say(f"{job.source}: {outcome.answered} images answered, then: {outcome.ended_early}")
    elif not outcome.interrupted:
        with tqdm.external_write_mode():
            print(f"{job.source.name}: {_counts(outcome)} -> {job.out}", flush=True)


def _counts(outcome: Outcome) -> str:
    if outcome.finished_before:
        return f"finished before, {outcome.answered} images"
    words = [f"{outcome.answered} images answered"]
    if outcome.kept:
        words.append(f"{outcome.kept} of them before")
    if outcome.unreadable:
        words.append(f"{outcome.unreadable} unreadable skipped")
    if outcome.refused:
        words.append(f"{outcome.refused} refused ({outcome.refusal})")
    return ", ".join(words)


def _say(text: str) -> None:
    with suppress(BrokenPipeError):
        tqdm.write(f"process: {text}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="process", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="formats:\n" + "\n".join(f"  {name:6} {what}" for name, what in FORMATS.items()),
    )  # fmt: skip
    add = parser.add_argument
    add("inputs", nargs="+", type=path, metavar="IN", help="video, folder of images, or ROS 2 bag")
    add("--out", type=path, required=True, metavar="DIR", help="folder of the results, one folder for each input")
    add("--formats", nargs="+", choices=FORMATS, default=["bag"], metavar="FORMAT",
        help=f"of {', '.join(FORMATS)} (default: bag)")  # fmt: skip
    add("--camera-info", type=path, metavar="YAML", help="ROS camera calibration; a bag with camera_info needs none")
    add("--topic", default="", help="image topic of a bag that has several")
    add("--model", type=path, help="folder of the bundle (default: the one that comes with the package)")
    add("--engine", choices=(AUTO, *ENGINES), help=f"default: {AUTO}, the first that works")
    add("--jobs", type=positive, metavar="N",
        help="inputs at once on this machine (default: as many as there are cores; one with a GPU)")  # fmt: skip
    add("--ray", metavar="ADDRESS", help="run on the Ray cluster there (host:port, auto), or on one on this machine (local)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
