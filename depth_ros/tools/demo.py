"""The main job, end to end: a camera stream through the node, recorded, judged and painted.

A camera player, the node and a recorder run as three processes and talk over DDS, on this machine only. The output folder
then holds summary.json, depth.mcap, preview.mp4, preview.png, frames.csv (stamp and name of every image played) and log/.
Ctrl-C ends the stream early; everything is still written. Exit code: 0, 1 if anything failed, 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from depth_ros import bundle
from depth_ros.bundle import BundleError, ModelBundle
from depth_ros.calibration import load_calibration
from depth_ros.ros.sources import is_bag, open_source
from depth_ros.tools.preview import write_preview
from depth_ros.tools.processes import ROOT, noting_signals
from depth_ros.tools.session import PROCESSES, Session, SessionError
from depth_ros.tools.summary import summarise
from depth_ros.truth import TruthFolder
from depth_ros.types import InputError

CLIP = ROOT / "assets" / "street"  # the clip that ships with the repository
RESULTS = ("summary.json", "depth.mcap", "preview.mp4", "preview.png")


@dataclass(frozen=True)
class Job:
    """What to play, through which model, and where to write."""

    input: Path
    camera_info: Path | None
    truth: TruthFolder | None
    rate_hz: float  # 0: the input's own
    topic: str  # of a bag; empty: its only image topic
    model: ModelBundle
    engine: str
    out: Path

    def session(self) -> Session:
        """Return the processes of this job, not yet started."""
        index = self.out / "frames.csv"
        player: dict[str, str | float] = {"input": str(self.input), "topic": self.topic, "rate": self.rate_hz}
        player |= {"index": str(index), "wait_for_subscribers": 2}  # the node and the recorder
        if self.camera_info:
            player["camera_info"] = str(self.camera_info)
        return Session(
            recorder=["depth_ros.tools.record", str(self.out / "depth.mcap")],
            node=["depth_ros.ros.node", *_ros_arguments({"model": str(self.model.path), "engine": self.engine})],
            player=["depth_ros.ros.player", *_ros_arguments(player)],
            index=index,
            log=self.out / "log",
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    interrupted = threading.Event()
    try:
        job = check(options)
        summary = _run(job, interrupted)
        if summary["frames_out"]:
            _report(job, summary)
            _paint(job, summary["frames_out"])
    except KeyboardInterrupt:
        interrupted.set()
    except (InputError, BundleError, SessionError, OSError) as error:
        print(f"demo: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    if interrupted.is_set():
        print("demo: interrupted", file=sys.stderr)
        return 130
    return 0


def check(options: argparse.Namespace) -> Job:
    """Return the job that the options describe. Raises InputError or BundleError, before anything is started."""
    source: Path = options.input or CLIP / "image"
    camera_info: Path | None = options.camera_info
    if options.input is None:
        camera_info = camera_info or CLIP / "camera.yaml"
    open_source(source, options.topic)
    if camera_info is None and not is_bag(source):
        raise InputError(f"{source}: a camera calibration is needed with it; give CAMERA_INFO=<ROS camera calibration YAML>")
    camera = load_calibration(camera_info) if camera_info else None
    truth_folder = options.truth or (CLIP / "depth" if options.input is None else None)
    truth = TruthFolder(truth_folder, options.truth_scale) if truth_folder else None
    if truth and camera:
        truth.check_size(camera.width, camera.height)
    if options.rate < 0:
        raise InputError(f"rate is {options.rate:g} Hz; expected a positive number, or 0 for the input's own")
    return Job(
        input=source.resolve(),
        camera_info=camera_info.resolve() if camera_info else None,
        truth=truth,
        rate_hz=options.rate,
        topic=options.topic,
        model=bundle.load(options.model.resolve()),
        engine=options.engine,
        out=_prepare(options.out, source, camera_info, truth_folder),
    )


def _prepare(out: Path, *inputs: Path | None) -> Path:
    """Make the output folder, and clear it of an earlier run's results; what else lies there stays."""
    results = [out.resolve() / name for name in (*RESULTS, "frames.csv", *(f"log/{process}.txt" for process in PROCESSES))]
    for path in filter(None, inputs):
        for result in results:
            if result == path.resolve() or (result.parent == path.resolve() and result.exists()):
                raise InputError(f"{path}: it would be overwritten by this run ({result}); give another folder with OUT=")
    try:
        (out / "log").mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out), tempfile.TemporaryFile(dir=out / "log"):
            pass
        for result in results:
            result.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror}); give another folder with OUT=") from None
    return out.resolve()


def _run(job: Job, interrupted: threading.Event) -> dict[str, Any]:
    """Play and write the summary; a signal to end only cuts the stream short. Raises what failed, after the summary."""
    session = job.session()
    summary: dict[str, Any] = {"frames_in": 0, "frames_out": 0}
    failure: Exception | None = None
    with noting_signals(interrupted):
        try:
            session.run(interrupted)
        except (SessionError, OSError) as error:
            failure = error
        try:
            if (job.out / "depth.mcap").is_file():
                summary = _summarise(job)
        except Exception as error:  # of a recording that was cut short, most likely by the failure
            failure = failure or error
    if failure:
        raise failure
    if interrupted.is_set():
        return summary
    if not summary["frames_out"]:
        raise SessionError(f"no depth was received for {summary['frames_in']} images; the node says: {session.complaint('node')}")
    if job.truth and not summary["frames_with_truth"]:
        raise InputError(f"{job.truth.folder}: no PNG is named like one of the {summary['frames_out']} answered images")
    return summary


def _summarise(job: Job) -> dict[str, Any]:
    figures = summarise(job.out / "depth.mcap", job.out / "frames.csv", job.truth)
    summary = {"input": str(job.input), "model": job.model.name, "engine": job.engine, **figures}
    (job.out / "summary.json").write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return summary


def _report(job: Job, summary: dict[str, Any]) -> None:
    """Print the summary for a reader."""
    latency = summary["latency_ms"]
    rate = f" at {summary['rate_hz']:.1f} Hz" if summary["rate_hz"] else ""
    print(f"{summary['frames_out']} of {summary['frames_in']} images answered{rate}, {summary['frames_dropped']} dropped")
    print(f"latency {latency['p50']:.0f} ms (median), {latency['p95']:.0f} ms (95 %), {latency['max']:.0f} ms (worst)")
    if summary.get("frames_with_truth"):
        print(
            f"against {summary['frames_with_truth']} images of truth: AbsRel {summary['abs_rel']:.3f} in raw metres, "
            f"{summary['abs_rel_median_scaled']:.3f} median-scaled; {summary['delta1']:.1%} within a factor of 1.25; "
            f"{summary['coverage_1sigma']:.0%} within one sigma, {summary['coverage_2sigma']:.0%} within two"
        )


def _paint(job: Job, frames: int) -> None:
    with tqdm(total=frames, desc="preview", unit=" images", mininterval=0.5 if sys.stderr.isatty() else 5.0, leave=False) as bar:
        write_preview(job.out / "depth.mcap", job.out / "preview.mp4", job.out / "preview.png", bar.update)
    print(f"written to {job.out}: {', '.join(RESULTS)}")


def _ros_arguments(parameters: dict[str, str | float]) -> list[str]:
    """Parameters as rcl reads them: YAML values, so text is quoted."""
    values = {name: json.dumps(value, ensure_ascii=False) for name, value in parameters.items()}
    return ["--ros-args", *(word for name, value in values.items() for word in ("-p", f"{name}:={value}"))]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m depth_ros.tools.demo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", type=Path, help="video, folder of images or ROS 2 bag (default: the clip in assets/street)")
    parser.add_argument("--camera-info", type=Path, help="ROS camera calibration YAML; a bag with camera_info needs none")
    parser.add_argument("--truth", type=Path, help="folder of 16-bit depth PNGs with the images' names")
    parser.add_argument("--truth-scale", type=float, default=256.0, help="PNG value of one metre (default: %(default)g)")
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "default", help="model bundle (default: models/default)")
    parser.add_argument("--engine", default="auto", help="inference backend (default: the fastest that works)")
    parser.add_argument(
        "--rate", type=float, default=0.0, help="images per second (default: a video's or bag's own; 10 for a folder)"
    )
    parser.add_argument("--topic", default="", help="image topic of a bag that has several")
    parser.add_argument("--out", type=Path, default=Path("out/demo"), help="folder for the results (default: %(default)s)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
