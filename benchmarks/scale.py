"""What each source of scale makes of a model whose own metres are thrown away, on KITTI.

python benchmarks/scale.py [--model models/default] [--data ../shared/data]
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.report import describe_run, write_report
from depth_ros import bundle as bundles
from depth_ros.bundle import BundleError
from depth_ros.engines import EngineError, EngineOptions, load_engine
from depth_ros.estimator import Estimator, upsample
from depth_ros.metrics import garg_crop, median_scale, valid_truth
from depth_ros.scale import Measurement, NoMeasurement, Scale, apply
from depth_ros.scale.ground import measure_height
from depth_ros.scale.odometry import OdometryMeter
from depth_ros.scale.projection import image_samples
from depth_ros.scale.ranging import measure_ranges
from depth_ros.scale.track import Track
from depth_ros.truth import judge
from depth_ros.types import CameraModel, DepthPrediction, Float32Array, Frame, InputError

ROOT = Path(__file__).resolve().parents[1]
KITTI_HEIGHT_M = 1.65  # of the cameras above the road, as KITTI's set-up states it
UNIT_M = 5.0  # what a unit of the prediction is worth once its metres are thrown away
POINTS = 300  # of the lidar that a range source gets; the others judge
DRIFT, TIMEOUT_S = 0.05, 10.0  # the node's defaults
VALIDATION = slice(900, 1017)  # frames of KITTI odometry 00 that the shipped model was not trained on
JUDGED = ("abs_rel", "delta1", "coverage_1sigma")


@dataclass(frozen=True)
class Shot:
    """A frame at the network's resolution, its prediction in units of UNIT_M, its camera, and truth where there is any."""

    frame: Frame
    prediction: DepthPrediction
    camera: CameraModel
    truth: Float32Array | None  # (H, W) [m], 0 where not measured


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "default", help="bundle")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder with the three KITTI sets")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "scale.json")
    options = parser.parse_args(arguments)
    report = describe_run("scale.py", arguments)
    try:
        model = bundles.load(options.model)
        estimator = Estimator(model, load_engine(model, "onnxruntime", EngineOptions(threads=1)))
        report["model"] = {"name": model.name, "sha256": model.sha256}
        report["images"] = {
            name: list(on_images(list(shots(estimator, options.data / name, folder, "depth"))))
            for name, folder in (("kitti2015_stereo", "left"), ("kitti_raw_0926_traffic", "image"))
        }
        folder = options.data / "kitti_odom00_416x128"
        report["video"] = {folder.name: list(on_video(list(shots(estimator, folder, "image", None)), folder))}
        write_report(report, options.out)
    except (BundleError, EngineError, InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def shots(estimator: Estimator, folder: Path, images: str, truth: str | None) -> Iterator[Shot]:
    """Predictions of a set's images; of a video its validation frames with their times."""
    K = np.array(json.loads((folder / "meta.json").read_text())["K"])
    files = sorted((folder / images).glob("*"))
    times = np.loadtxt(folder / "times.txt") if truth is None else np.arange(len(files)) / 10
    lidar = next(iter(folder.glob(f"{truth}*")), None) if truth else None
    for file, time_s in list(zip(files, times, strict=False))[VALIDATION if truth is None else slice(None)]:
        image = np.ascontiguousarray(cv2.imread(str(file))[..., ::-1])
        camera = CameraModel(image.shape[1], image.shape[0], K[0, 0], K[1, 1], K[0, 2], K[1, 2])
        frame = estimator.resize(Frame(image, camera, round(time_s * 1e9), "camera"))
        metric = estimator.predict([frame])[0]
        prediction = DepthPrediction(metric.depth / np.float32(UNIT_M), metric.sigma / np.float32(UNIT_M), metric.camera)
        depth = cv2.imread(str(lidar / f"{file.stem}.png"), cv2.IMREAD_UNCHANGED) / np.float32(256) if lidar else None
        yield Shot(frame, prediction, camera, depth)


def on_images(pictures: Sequence[Shot]) -> Iterator[dict[str, object]]:
    """One row per source: accuracy of every image by itself, with the scale measured in it."""
    for name, source in SOURCES.items():
        rows, milliseconds = [], []
        for k, shot in enumerate(pictures):
            given, judging = split(shot.truth, k)
            start = time.perf_counter()
            try:
                scale = source(shot.prediction, given, judging)
            except NoMeasurement:
                continue
            milliseconds.append(1e3 * (time.perf_counter() - start))
            metres = apply(shot.prediction, scale)
            oracle = median_factor(shot.prediction, judging)
            figures = judge(upsample(metres, shot.camera), judging)
            rows.append([*(figures[key] for key in JUDGED), np.log(scale.factor / oracle), scale.sigma])
        yield {"source": name, "images": len(pictures), "refused": len(pictures) - len(rows)} | summary(rows, milliseconds)
        print(name, f"{len(rows)} of {len(pictures)}", np.round(np.mean(rows, axis=0), 3) if rows else "refused")


def summary(rows: Sequence[Sequence[float]], milliseconds: Sequence[float]) -> dict[str, float]:
    """Means over the images, and how far the factor is from the one that makes the medians equal."""
    if not rows:
        return {}
    table = np.array(rows)
    named = dict(zip(JUDGED, table[:, :3].mean(axis=0), strict=True))
    off = {"off_median_scale": np.median(np.abs(table[:, 3])), "stated_sigma": np.median(table[:, 4])}
    return {key: round(float(value), 4) for key, value in {**named, **off, "ms": np.median(milliseconds)}.items()}


def split(truth: Float32Array, seed: int) -> tuple[Float32Array, Float32Array]:
    """POINTS measurements for the source, and the others."""
    given, judging = np.zeros_like(truth), truth.copy()
    chosen = np.random.default_rng(seed).permutation(np.flatnonzero(truth))[:POINTS]
    given.flat[chosen], judging.flat[chosen] = truth.flat[chosen], 0
    return given, judging


def median_factor(prediction: DepthPrediction, truth: Float32Array) -> float:
    """Factor that makes the medians of an image equal: what the literature calls median scaling."""
    full = cv2.resize(prediction.depth, truth.shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
    return median_scale(full, truth, valid_truth(truth) & garg_crop(*truth.shape) & np.isfinite(full))


def _scan(prediction: DepthPrediction, truth: Float32Array) -> Scale:
    """A planar laser: what the lidar saw within four image rows of the principal point."""
    rows = round(prediction.camera.cy * truth.shape[0] / prediction.camera.height) + np.arange(-4, 5)
    band = np.zeros_like(truth)
    band[rows] = truth[rows]
    return measure_ranges(prediction, image_samples(band, prediction.camera), False).scale


SOURCES: Mapping[str, Callable[[DepthPrediction, Float32Array, Float32Array], Scale]] = {
    "the model's own metres": lambda prediction, given, others: Scale(UNIT_M),
    "median scaling (needs truth)": lambda prediction, given, others: Scale(median_factor(prediction, others)),
    "camera_height": lambda prediction, given, others: measure_height(prediction, KITTI_HEIGHT_M).scale,
    "range, 300 lidar points": lambda prediction, given, others: (
        measure_ranges(prediction, image_samples(given, prediction.camera), False).scale
    ),
    "range, a planar scan": lambda prediction, given, others: _scan(prediction, others),
    "range, scale and shift": lambda prediction, given, others: (
        measure_ranges(prediction, image_samples(given, prediction.camera), True).scale
    ),
}


def on_video(pictures: Sequence[Shot], folder: Path) -> Iterator[dict[str, object]]:
    """One row per source: factors over a drive, of each frame and tracked, in units of the model's own metres."""
    poses = np.loadtxt(folder / "poses.txt").reshape(-1, 3, 4)[VALIDATION]
    meter = OdometryMeter()

    def height(k: int) -> Measurement:
        return measure_height(pictures[k].prediction, KITTI_HEIGHT_M)

    def odometry(k: int) -> Measurement:
        return meter.measure(pictures[k].frame, pictures[k].prediction, np.vstack([poses[k], [0, 0, 0, 1]]))

    for name, measure in {"camera_height": height, "odometry": odometry}.items():
        track, rows, milliseconds = Track(DRIFT, TIMEOUT_S), [], []
        for k in range(0, len(pictures), 2):  # 5 Hz, as the node measures
            time_s, start = pictures[k].frame.stamp_ns * 1e-9, time.perf_counter()
            try:
                measured = measure(k)
            except NoMeasurement:
                continue
            milliseconds.append(1e3 * (time.perf_counter() - start))
            track.update(measured, time_s)
            tracked = track.scale(time_s)
            assert tracked is not None
            rows.append([measured.scale.factor, measured.scale.sigma, tracked.factor, tracked.sigma])
        table = np.array(rows)
        figures = {
            "factor_median": np.median(table[:, 0]) / UNIT_M,
            "factor_spread": np.log(table[:, 0]).std(),
            "stated_sigma": np.median(table[:, 1]),
            "tracked_median": np.median(table[:, 2]) / UNIT_M,
            "tracked_spread": np.log(table[:, 2]).std(),
            "tracked_sigma": np.median(table[:, 3]),
            "ms": np.median(milliseconds),
        }
        print(name, {key: round(float(value), 3) for key, value in figures.items()})
        tried = len(range(0, len(pictures), 2))
        row: dict[str, object] = {"source": name, "frames": tried, "refused": tried - len(rows)}
        yield row | {key: round(float(value), 4) for key, value in figures.items()}


if __name__ == "__main__":
    sys.exit(main())
