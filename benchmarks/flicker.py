"""How much depth flickers, and what the temporal filter makes of it: flicker, accuracy and sigma with and without it.

python benchmarks/flicker.py [--data ../shared/data] [--model models/default]
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np

from benchmarks.report import describe_run, write_report
from depth_ros import bundle
from depth_ros.bundle import BundleError
from depth_ros.calibration import load_calibration
from depth_ros.engines import EngineError, EngineOptions, load_engine
from depth_ros.estimator import Estimator, upsample
from depth_ros.memory import keep_freed_memory
from depth_ros.temporal import TemporalFilter, TemporalOptions
from depth_ros.tools.timing import percentiles
from depth_ros.truth import PROTOCOL, TruthFolder, judge
from depth_ros.types import CameraModel, DepthPrediction, Frame, InputError, UInt8Array

ROOT = Path(__file__).resolve().parents[1]
STREET = ROOT / "assets" / "street"
TENTH_NS = 100_000_000
STILL_IMAGES = 60
FIGURES = ("abs_rel", "delta1", "coverage_1sigma", "coverage_2sigma")  # of truth.judge
ROWS = ("plain", "filtered")


@dataclass(frozen=True)
class Clip:
    """Images of one camera in order."""

    what: str
    camera: CameraModel
    images: Callable[[], Iterator[tuple[str, int, UInt8Array]]]  # name, stamp [ns], RGB (H, W, 3)
    truth: TruthFolder | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = ROOT.parent / "shared" / "data"
    parser.add_argument("--data", type=Path, default=data, help="folder of the real clips; what is not there is left out")
    parser.add_argument("--model", type=Path, default=ROOT / "models" / "default", help="bundle (default: models/default)")
    out = ROOT / "benchmarks" / "results" / "flicker.json"
    parser.add_argument("--out", type=Path, default=out, help="JSON to write (default: benchmarks/results/flicker.json)")
    options = parser.parse_args(arguments)
    keep_freed_memory()  # as the node does: the filter's time depends on it
    try:
        model = bundle.load(options.model)
        estimator = Estimator(model, load_engine(model, options=EngineOptions(threads=1)))
        report = describe_run("flicker.py", arguments) | {
            "model": model.name, "sha256": model.sha256, "engine": estimator.engine.describe(), "protocol": PROTOCOL,
            "filter": asdict(TemporalOptions()),
        }  # fmt: skip
        report["clips"] = {name: row(name, clip, estimator) for name, clip in clips(options.data).items()}
        write_report(report, options.out)
    except (BundleError, EngineError, InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def row(name: str, clip: Clip, estimator: Estimator) -> dict[str, object]:
    """Measure a clip and print what was found."""
    found = measure(clip, estimator)
    for kind in ROWS:
        print(f"{name:14} {kind:9}", "  ".join(f"{key} {value:.4f}" for key, value in found[kind].items()), flush=True)
    return {"what": clip.what, **found}


def clips(data: Path) -> dict[str, Clip]:
    """What ships with the repository, and the real clips that are in `data`."""
    street = load_calibration(STREET / "camera.yaml")
    found = {
        "street_still": Clip(
            "the first image of assets/street, 60 times with new shot and read noise (2 grey levels in the dark, 4 in the light)",
            street, lambda: noisy(next(folder(STREET / "image"))[2]),
        ),
        "street": Clip(
            "assets/street, fast and rendered", street, lambda: folder(STREET / "image"), TruthFolder(STREET / "depth", 256)
        ),
    }  # fmt: skip
    vtest, euroc, traffic = data / "opencv_samples", data / "euroc_v1_micro", data / "kitti_raw_0926_traffic"
    if vtest.is_dir():
        camera = CameraModel(576, 432, 400.0, 400.0, 287.5, 215.5)  # unknown: flicker is relative and does not depend on it
        what = "vtest: a camera on a wall, people walking"
        found["vtest"] = Clip(what, camera, lambda: video(vtest / "vtest_static_20s.mp4"))
    if euroc.is_dir():
        camera = CameraModel(752, 480, 458.654, 457.296, 367.215, 248.375)
        found["euroc"] = Clip(
            "EuRoC: a drone standing still, grey, 2 Hz, as distorted as it is", camera, lambda: euroc_images(euroc)
        )
    if traffic.is_dir():
        camera = CameraModel(1242, 375, 721.5377, 721.5377, 609.5593, 172.854)
        what = "KITTI raw 2011_09_26, slow traffic, moving cars"
        found["traffic"] = Clip(what, camera, lambda: folder(traffic / "image"), TruthFolder(traffic / "depth", 256))
    return found


def folder(path: Path) -> Iterator[tuple[str, int, UInt8Array]]:
    """The images of a folder at 10 Hz."""
    for number, file in enumerate(sorted(path.iterdir()), 1):
        yield file.name, number * TENTH_NS, rgb(cv2.imread(str(file)))


def euroc_images(path: Path) -> Iterator[tuple[str, int, UInt8Array]]:
    """The images of EuRoC's left camera; a file's name is its stamp."""
    for file in sorted((path / "cam0").glob("*.jpg")):
        yield file.name, int(file.stem), rgb(cv2.imread(str(file)))


def video(path: Path) -> Iterator[tuple[str, int, UInt8Array]]:
    """The frames of a video at its rate."""
    capture = cv2.VideoCapture(str(path))
    rate_hz = capture.get(cv2.CAP_PROP_FPS)
    number = 1
    while (read := capture.read())[0]:
        yield f"{number:06d}", round(number * 1e9 / rate_hz), rgb(read[1])
        number += 1


def noisy(image: UInt8Array) -> Iterator[tuple[str, int, UInt8Array]]:
    """One image again and again, each time with the noise of a sensor: a variance that grows with the light."""
    rng = np.random.default_rng(0)
    deviation = np.sqrt(2.0**2 + (4.0**2 - 2.0**2) * image / 255.0)
    for number in range(1, STILL_IMAGES + 1):
        seen = np.clip(np.rint(image + deviation * rng.normal(size=image.shape)), 0, 255).astype(np.uint8)
        yield f"{number:06d}", number * TENTH_NS, seen


def rgb(bgr: UInt8Array) -> UInt8Array:
    """OpenCV's BGR as contiguous RGB."""
    return np.ascontiguousarray(bgr[..., ::-1])


def measure(clip: Clip, estimator: Estimator, options: TemporalOptions | None = None) -> dict[str, dict[str, float]]:
    """Figures of a clip without and with the filter, its resets, and what an update takes [ms]."""
    smoothing = TemporalFilter(options)
    changes: Mapping[str, list[np.ndarray]] = defaultdict(list)
    scores: Mapping[str, list[dict[str, float]]] = defaultdict(list)
    last: dict[str, DepthPrediction] = {}
    taken_ms = []
    for name, stamp_ns, image in clip.images():
        small = estimator.resize(Frame(image, clip.camera, stamp_ns, "camera"))
        plain = estimator.predict([small])[0]
        start = time.perf_counter()
        pair = {"plain": plain, "filtered": smoothing.update(plain, small.image, stamp_ns)}
        taken_ms.append(1e3 * (time.perf_counter() - start))
        truth = clip.truth.depth(name) if clip.truth else None
        for kind, prediction in pair.items():
            if last:
                changes[kind].append(relative_change(last[kind], prediction))
            if truth is not None:
                scores[kind].append(judge(upsample(prediction, clip.camera), truth))
        last = pair
    figures = {kind: summary(changes[kind]) | mean(scores[kind]) for kind in ROWS}
    counts = {"images": len(taken_ms), **{reason: float(count) for reason, count in smoothing.resets.items()}}
    return {**figures, "counts": counts, "update_ms": percentiles(taken_ms)}


def relative_change(before: DepthPrediction, after: DepthPrediction) -> np.ndarray:
    """|ln(after / before)| of every pixel with depth in both, the relative change of depth from image to image."""
    both = np.isfinite(before.depth) & np.isfinite(after.depth)
    return np.abs(np.log(after.depth[both] / before.depth[both]))


def summary(changes: Sequence[np.ndarray]) -> dict[str, float]:
    """Mean, median and 95 % of all pixels of all images."""
    values = np.concatenate(changes)
    median, high = np.percentile(values, (50, 95))
    found = {"change_mean": values.mean(dtype=float), "change_median": median, "change_p95": high}
    return {name: round(float(value), 5) for name, value in found.items()}


def mean(scores: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Mean over the images of what truth.judge found; nothing without truth."""
    judged = [score for score in scores if score]
    return {name: round(float(np.mean([score[name] for score in judged])), 5) for name in FIGURES} if judged else {}


if __name__ == "__main__":
    sys.exit(main())
