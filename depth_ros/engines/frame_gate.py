"""The numeric gate of a frame graph (depth_ros.frame_graph): a device's whole work on an image, compared with ONNX Runtime's."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from depth_ros.bundle import ModelBundle
from depth_ros.engines import ENGINES, GraphRunner
from depth_ros.engines.gate import Answer, GateReport, compare, finite, limits_of, quantile, reason
from depth_ros.types import UInt8Array

OUTPUTS = ("depth", "sigma", "points", "colors")
# Shares of pixels that may cross a threshold by rounding: that of validity, and for points also the end of the range.
FLIPS = {"not_finite": 1e-3, "points_missing": 0.02}
LEVELS = 1.0  # of grey: what rounding may change in the resized image

Outputs = dict[str, NDArray[Any]]


def open_reference(bundle: ModelBundle, width: int, height: int) -> GraphRunner:
    """The bundle's frame graph in fp32, run by ONNX Runtime on the CPU. Raises EngineError, also without the package onnx."""
    from depth_ros.graphs import frame_graph  # with onnx, which only a robot that builds engines needs

    graph = frame_graph(bundle, width, height, "fp32")
    runner: GraphRunner = import_module(ENGINES["onnxruntime"]).open_on_cpu(graph, f"{bundle.graph_path} for {width}x{height}")
    return runner


def check_frames(runner: GraphRunner, reference: GraphRunner, bundle: ModelBundle, images: UInt8Array) -> GateReport:
    """Compare `runner` with `reference` on RGB images (N, H, W, 3) of the camera's size, one by one.

    The limits are those of the runner's precision.

    The report has depth_* and sigma_* at the camera's size; of the cloud, points_p99 (distance between points / distance from the
    camera), points_sigma_p99 and points_missing (share that is in one only); colors (largest difference, of 255); not_finite
    (share of pixels that are NaN in one only) and not_repeated (outputs of an image). Whatever is wrong with the runner is
    reported; raises EngineError if the reference fails.
    """
    limits = limits_of(bundle, runner.precision)
    limits = {name: value for name, value in limits.items() if not name.startswith("batch")}
    limits |= {"points_p99": limits["depth_p99"], "points_sigma_p99": limits["sigma_p99"]}
    limits |= {"colors": LEVELS, **FLIPS}
    expected = _run(reference, bundle, images)
    try:
        found, again = _run(runner, bundle, images), _run(runner, bundle, images)
        figures = _figures(found, expected, bundle)
    except Exception as error:  # each backend raises classes of its own, as in gate.check
        return GateReport(runner.precision, len(images), {}, limits, (reason(error),))
    repeated = (a.tobytes() == b.tobytes() for name in OUTPUTS for a, b in zip(found[name], again[name], strict=True))
    figures["not_repeated"] = float(sum(not same for same in repeated))
    return GateReport(runner.precision, len(images), figures, limits)


def _run(runner: GraphRunner, bundle: ModelBundle, images: UInt8Array) -> Outputs:
    """All outputs (N, ...) for a camera like training's, so that depth is in the bundle's range, and no point dropped."""
    inputs: dict[str, NDArray[Any]] = {
        "focal": np.ones(1, np.float32),
        "ray_x": np.linspace(-1, 1, bundle.width, dtype=np.float32)[None],
        "ray_y": np.linspace(-1, 1, bundle.height, dtype=np.float32)[None],
        "unseen": np.zeros((1, *images.shape[1:3]), np.uint8),
        "limits": np.zeros(2, np.float32),
    }
    answers = []
    for index in range(len(images)):
        values = runner.run({"image": images[index : index + 1], **inputs}, OUTPUTS)
        answers.append({name: values[name].copy() for name in OUTPUTS})  # they are valid until the next call
    return {name: np.concatenate([answer[name] for answer in answers]) for name in OUTPUTS}


def _figures(found: Outputs, expected: Outputs, bundle: ModelBundle) -> dict[str, float]:
    figures = compare(_answer(found, bundle), _answer(expected, bundle), bundle)
    present = [np.isfinite(values["points"]).all(axis=-1) for values in (found, expected)]
    both = present[0] & present[1]
    points, reference = (values["points"][both] for values in (found, expected))
    distance = np.linalg.norm(points[:, :3] - reference[:, :3], axis=1)
    figures["points_p99"] = quantile(distance / np.linalg.norm(reference[:, :3], axis=1), 0.99)
    figures["points_sigma_p99"] = quantile(np.abs(points[:, 3] - reference[:, 3]) / reference[:, 3], 0.99)
    figures["colors"] = float(np.abs(np.subtract(found["colors"], expected["colors"], dtype=np.int16)).max())
    figures["points_missing"] = float((present[0] != present[1]).mean())
    figures["not_finite"] = float((finite(_answer(found, bundle)) != finite(_answer(expected, bundle))).mean())
    return figures


def _answer(values: Outputs, bundle: ModelBundle) -> Answer:
    """Depth and sigma at the camera's size; what is out of range (+inf) counts as the end of the range, so only NaN is left."""
    sky = np.isposinf(values["depth"])
    return np.where(sky, np.float32(bundle.max_depth), values["depth"]), np.where(sky, np.float32(0), values["sigma"])
