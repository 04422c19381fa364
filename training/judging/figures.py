"""The figures of a report, each as an HTML element: curves as SVG, images as PNG."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence

import cv2
import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from depth_ros.metrics import RELIABILITY_LEVELS
from depth_ros.types import Float32Array, InputError, UInt8Array
from training.data.truth import EvaluationItem, EvaluationSet
from training.judging.breakdown import depth_groups
from training.judging.judge import Candidate, Judgement, SkipError
from training.judging.protocols import Prediction, Protocol, align, median_ratio
from training.judging.tables import ORDERING_NAMES

METRIC_NAMES = {"abs_rel": "AbsRel", "rmse": "RMSE [m]", "delta1": "1 - delta1"}
STYLES = {"sigma": "-", "oracle": "--", "depth": ":", "disparity": "-.", "gradient": (0, (1, 4))}
SHEET_WIDTH = 560  # [px] of one panel
ERROR_RANGE = 0.5  # relative error at which the error map is brightest
NEAREST = 1 / 40  # of the cap: where the depth map is brightest, 2 m of 80 m
mpl.rcParams.update(
    {
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "svg.hashsalt": "depth_ros",
        "font.size": 9,
        "axes.grid": True,
        "grid.alpha": 0.3,
    }
)


def sparsification_figure(rows: Mapping[str, Judgement]) -> str:
    """One row of panels per candidate with a sigma of its own, one panel per metric: the curves of every ordering."""
    shown = {name: j for name, j in rows.items() if not _is_baseline(name)} or rows
    figure = Figure(figsize=(11, 0.5 + 2.7 * len(shown)), layout="constrained")
    axes = figure.subplots(len(shown), len(METRIC_NAMES), squeeze=False)
    removed = np.linspace(0, 1, 51)
    for line, (name, judgement) in zip(axes, shown.items(), strict=True):
        for axis, (metric, label) in zip(line, METRIC_NAMES.items(), strict=True):
            curves = judgement.curves[metric]
            for ordering, curve in curves.items():
                axis.plot(removed, curve, ls=STYLES[ordering], label=ORDERING_NAMES.get(ordering, ordering))
            axis.axhline(curves["oracle"][0], color="grey", lw=0.8, label="random")
            axis.set(xlabel="share removed, most uncertain first", ylabel=f"{label} of the rest", title=_short(name))
        line[0].legend(fontsize=7)
    return _svg(figure)


def reliability_figure(rows: Mapping[str, Judgement]) -> str:
    """Observed against nominal coverage: below the diagonal sigma is too small. Empty if nobody states a sigma."""
    shown = {name: j.reliability for name, j in rows.items() if j.reliability is not None and not _is_baseline(name)}
    if not shown:
        return ""
    figure = Figure(figsize=(4.6, 4), layout="constrained")
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color="grey", lw=0.8, label="calibrated Gaussian")
    for name, observed in shown.items():
        axis.plot(RELIABILITY_LEVELS, observed, marker=".", label=_short(name))
    axis.set(xlabel="nominal share within the interval", ylabel="observed share", xlim=(0, 1), ylim=(0, 1), aspect="equal")
    axis.legend(fontsize=7)
    return _svg(figure)


def depth_bins_figure(rows: Mapping[str, Judgement]) -> str:
    """AbsRel and bias over true depth."""
    figure = Figure(figsize=(11, 3.2), layout="constrained")
    bins = [name for name in depth_groups() if any(name in j.groups for j in rows.values())]
    axes = figure.subplots(1, 2)
    for axis, figure_name, label in zip(axes, ("abs_rel", "bias"), ("AbsRel", "bias (below 0: too near)"), strict=True):
        for name, judgement in rows.items():
            values = [judgement.groups.get(b, {}).get(figure_name, np.nan) for b in bins]
            axis.plot(bins, values, marker=".", ls=":" if _is_baseline(name) else "-", label=_short(name))
        axis.set(xlabel="true depth", ylabel=label)
    axes[0].legend(fontsize=7)
    return _svg(figure)


def sheet_figures(
    dataset: EvaluationSet, candidates: Mapping[str, Candidate], protocol: Protocol, shown: Sequence[int]
) -> list[str]:
    """The image, its truth, and each candidate's depth, error and sigma, for the images with these numbers.

    Only images with truth that counts by the protocol have a number.
    """
    judged = (item for item in dataset if protocol.mask(item.truth).any())
    return [_sheet(item, candidates, protocol) for number, item in enumerate(judged) if number in shown]


def _sheet(item: EvaluationItem, candidates: Mapping[str, Candidate], protocol: Protocol) -> str:
    top = {"image": item.frame.image, "truth": _thickened(item.truth, protocol)}
    panels = [_captioned(name, picture) for name, picture in top.items()]
    for name, candidate in candidates.items():
        try:
            prediction = _aligned(candidate, item, protocol)
        except (SkipError, InputError) as reason:
            panels.append(f"<p>{html.escape(name)}: {html.escape(str(reason))}</p>")
            continue
        panels.append(_captioned(f"{_short(name)}: depth", depth_picture(prediction.depth, protocol.clamp_max_m)))
        panels.append(_captioned(f"error, 0 to {ERROR_RANGE:.0%} of the truth", error_picture(prediction, item.truth, protocol)))
        if prediction.sigma is not None:
            relative = prediction.sigma / prediction.depth
            panels.append(_captioned(f"sigma, 0 to {ERROR_RANGE:.0%} of the depth", scale_picture(relative / ERROR_RANGE)))
    grid = f"display:grid;grid-template-columns:repeat(auto-fill,minmax({SHEET_WIDTH // 2}px,1fr));gap:6px"
    return f'<h3>{html.escape(item.name)}</h3><div style="{grid}">{"".join(panels)}</div>'


def depth_picture(depth: Float32Array, cap_m: float) -> UInt8Array:
    """Inverse depth as colours (H, W, 3), near is bright; +inf is as dark as the cap, no depth is grey."""
    shown = (cap_m / np.clip(depth, NEAREST * cap_m, cap_m) - 1) / (1 / NEAREST - 1)
    return scale_picture(np.sqrt(shown), "magma")


def error_picture(prediction: Prediction, truth: Float32Array, protocol: Protocol) -> UInt8Array:
    """Relative error as colours (H, W, 3), grey where there is no truth. Sparse measurements are drawn thicker."""
    clamped = np.clip(prediction.depth, protocol.clamp_min_m, protocol.clamp_max_m)
    valid = protocol.in_range(truth)
    error = np.divide(np.abs(clamped - truth), truth, where=valid, out=np.full(truth.shape, np.nan, np.float32))
    return scale_picture(_grown(error) / ERROR_RANGE)


def scale_picture(values: Float32Array, colours: str = "viridis") -> UInt8Array:
    """Values from 0 to 1 as colours (H, W, 3); NaN is grey."""
    painted = (255 * mpl.colormaps[colours](np.clip(np.nan_to_num(values), 0, 1))[..., :3]).astype(np.uint8)
    painted[np.isnan(values)] = 200
    return painted


def _aligned(candidate: Candidate, item: EvaluationItem, protocol: Protocol) -> Prediction:
    """The prediction in metres; a factor of the whole sequence is approximated by the image's own."""
    prediction = candidate.predict(item, protocol)
    valid = protocol.mask(item.truth) & ~np.isnan(prediction.depth)
    if not valid.any():
        raise SkipError("no pixel can be compared")
    scaling = protocol.scaling_for(candidate.kind)
    factor = median_ratio(prediction.depth, item.truth, valid) if scaling == "sequence" else 1.0
    return align(prediction, item.truth, valid, scaling, factor)


def _thickened(truth: Float32Array, protocol: Protocol) -> UInt8Array:
    return depth_picture(_grown(np.where(protocol.in_range(truth), truth, np.float32(np.nan))), protocol.clamp_max_m)


def _grown(values: Float32Array) -> Float32Array:
    """Values whose gaps of a pixel are closed where most of the image is a gap, so that sparse truth can be seen."""
    if np.isnan(values).mean() < 0.5:
        return values
    grown = cv2.dilate(np.nan_to_num(values, nan=-1.0), np.ones((3, 3), np.uint8))
    return np.where(grown >= 0, grown, np.float32(np.nan))


def _captioned(caption: str, picture: UInt8Array) -> str:
    height, width = picture.shape[:2]
    scale = SHEET_WIDTH / width
    small = cv2.resize(picture, (SHEET_WIDTH, max(1, round(height * scale))), interpolation=cv2.INTER_AREA)
    data = base64.b64encode(cv2.imencode(".png", small[..., ::-1])[1]).decode()
    shown = f'<img alt="" src="data:image/png;base64,{data}"><figcaption>{html.escape(caption)}</figcaption>'
    return f'<figure style="margin:0">{shown}</figure>'


def _svg(figure: Figure) -> str:
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    text = stream.getvalue()
    return text[text.index("<svg") :]


def _is_baseline(name: str) -> bool:
    return name in ("constant", "mean map", "mean map, pooled")


def _short(name: str) -> str:
    """The end of a long path."""
    return name if len(name) <= 40 else f"...{name[-37:]}"
