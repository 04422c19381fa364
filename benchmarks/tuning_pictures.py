"""The pictures of docs/tuning.md: what parameters do to one image of assets/street, answered by the shipped model.

python benchmarks/tuning_pictures.py [--out docs]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.flicker import STREET, folder, noisy
from depth_ros import bundle
from depth_ros.answers import HostAnswerer, Wish
from depth_ros.calibration import load_calibration
from depth_ros.cloud import CloudOptions
from depth_ros.engines import EngineOptions, load_engine
from depth_ros.estimator import Estimator
from depth_ros.images import colorize
from depth_ros.temporal import TemporalFilter, TemporalOptions
from depth_ros.tools.painter import TopView, draw_points, look_at, write
from depth_ros.types import CameraModel, DepthPrediction, Float32Array, Frame, UInt8Array

ROOT = Path(__file__).resolve().parents[1]
IMAGE = 10  # of the clip: cars on both sides
PANEL = (480, 300)  # [px] width and height of a cloud's panel
REACH_M = 30.0  # of the clouds that are shown
NETWORK_PIXEL = 1.6  # points are drawn this much wider than a pixel of the network: surfaces are seen at a slant
DARK, GREY = (28, 22, 18), (172, 164, 156)
DEFAULTS = CloudOptions(max_relative_sigma=0.35, max_edge_step=0.1)  # the node's
FLICKER_IMAGES = 6


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="folder of the pictures (default: docs)")
    options = parser.parse_args(arguments)
    model = bundle.load(ROOT / "models" / "default")
    estimator = Estimator(model, load_engine(model, "onnxruntime", EngineOptions(threads=1)))
    camera = load_calibration(STREET / "camera.yaml")
    image = list(folder(STREET / "image"))[IMAGE][2]
    for name, picture in {
        "tuning_edges": edges(estimator, camera, image),
        "tuning_sigma": sigmas(estimator, camera, image),
        "tuning_size": sizes(estimator, camera, image),
        "tuning_flicker": flicker(estimator, camera, image),
    }.items():
        cv2.imwrite(str(options.out / f"{name}.jpg"), picture, [cv2.IMWRITE_JPEG_QUALITY, 88])
    return 0


def edges(estimator: Estimator, camera: CameraModel, image: UInt8Array) -> UInt8Array:
    """Clouds from above with several limits of a step in depth; the other test is off, since it takes out edges too."""
    kinds = {f"max_edge_step: {step:g}": CloudOptions(max_edge_step=step) for step in (0.1, 0.05, 0.03)}
    return clouds(estimator, camera, image, kinds, above=True)


def sigmas(estimator: Estimator, camera: CameraModel, image: UInt8Array) -> UInt8Array:
    """Clouds from above of which uncertain points are taken out."""
    kinds = {f"max_relative_sigma: {limit:g}": replace(DEFAULTS, max_relative_sigma=limit) for limit in (0.0, 0.35, 0.2)}
    return clouds(estimator, camera, image, kinds, above=True)


def sizes(estimator: Estimator, camera: CameraModel, image: UInt8Array) -> UInt8Array:
    """Clouds from behind with fewer points."""
    kinds = {
        "cloud_stride: 1": DEFAULTS,
        "cloud_stride: 3": replace(DEFAULTS, stride=3),
        "cloud_voxel_size: 0.4": replace(DEFAULTS, voxel_size=0.4),
    }
    return clouds(estimator, camera, image, kinds, above=False)


def clouds(
    estimator: Estimator, camera: CameraModel, image: UInt8Array, kinds: Mapping[str, CloudOptions], above: bool
) -> UInt8Array:
    """Panels side by side, each with the cloud that these options make of the image, and how many points it has."""
    panels = []
    for title, options in kinds.items():
        answer = HostAnswerer(estimator, camera, None).answer(Frame(image, camera, 0, ""), Wish(False, options))
        assert answer.points is not None
        points = answer.points[np.isfinite(answer.points["z"])]
        caption = f"{title}   {len(points)} points"
        coarse = camera.width / camera.fx / estimator.bundle.width
        panels.append(titled(cloud_panel(points, above, coarse), caption))
    return side_by_side(panels)


def cloud_panel(points: NDArray[np.void], above: bool, angle: float) -> UInt8Array:
    """Draw points; one covers `angle` [rad] of the camera's view."""
    width, height = PANEL
    panel: UInt8Array = np.full((height, width, 3), DARK, np.uint8)
    points = points[points["z"] < REACH_M]
    places = np.stack([points[name] for name in "xyz"], axis=1).astype(np.float64)
    colours = np.ascontiguousarray(points["rgb"]).view(np.uint8).reshape(-1, 4)[:, :3]
    focal = 0.9 * width
    behind = CameraModel(width, height, focal, focal, (width - 1) / 2, (height - 1) / 2)
    view = TopView(width, height, (height - 20) / REACH_M, 10) if above else look_at(behind, (0, -6.0, -7.0), (-1.0, 1.5, 13.0))
    draw_points(panel, view, places, colours, places[:, 2] * angle * NETWORK_PIXEL)
    return panel


def flicker(estimator: Estimator, camera: CameraModel, image: UInt8Array) -> UInt8Array:
    """Depth of a still scene, and its change from image to image without and with the temporal filter."""
    frames = [frame for _, frame in zip(range(FLICKER_IMAGES), noisy(image), strict=False)]
    filtered = TemporalFilter(TemporalOptions())
    kinds = {
        "temporal_filter: false": HostAnswerer(estimator, camera, None),
        "temporal_filter: true": HostAnswerer(estimator, camera, None, smoothing=filtered),
    }
    last = {title: [answered(host, camera, *frame[1:]) for frame in frames][-2:] for title, host in kinds.items()}
    panels = [titled(shrunk(colorize(last["temporal_filter: false"][1].depth, 2.0, 60.0)), "depth")]
    panels += [titled(shrunk(coloured_change(*(p.depth for p in pair))), f"change, {title}") for title, pair in last.items()]
    return side_by_side(panels)


def answered(host: HostAnswerer, camera: CameraModel, stamp_ns: int, image: UInt8Array) -> DepthPrediction:
    """The prediction at the camera's resolution."""
    prediction = host.answer(Frame(image, camera, stamp_ns, ""), Wish(True, None)).prediction
    assert prediction is not None
    return prediction


def coloured_change(before: Float32Array, now: Float32Array) -> UInt8Array:
    """Relative change of depth: black is none, white 5 % and more."""
    with np.errstate(invalid="ignore"):  # +inf - +inf
        change = np.nan_to_num(np.abs(now - before) / before, nan=0.0, posinf=1.0)
    return cv2.applyColorMap((np.clip(change / 0.05, 0, 1) * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)


def shrunk(picture: UInt8Array) -> UInt8Array:
    """At the panels' width."""
    height = round(picture.shape[0] * PANEL[0] / picture.shape[1])
    return cv2.resize(picture, (PANEL[0], height), interpolation=cv2.INTER_AREA)


def titled(panel: UInt8Array, title: str) -> UInt8Array:
    """Put a line above a panel."""
    head: UInt8Array = np.full((26, panel.shape[1], 3), DARK, np.uint8)
    write(head, title, 6, 18, GREY, 0.45)
    return np.vstack([head, panel])


def side_by_side(panels: Sequence[UInt8Array]) -> UInt8Array:
    """Panels of one height with gaps."""
    gap = np.full((panels[0].shape[0], 6, 3), 255, np.uint8)
    return np.hstack([part for panel in panels for part in (panel, gap)][:-1])


if __name__ == "__main__":
    sys.exit(main())
