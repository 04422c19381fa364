"""A picture and a film of a recording: image | depth | uncertainty | cloud seen from behind and from above."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from depth_ros import images
from depth_ros.tools.painter import Colour, TopView, draw_lines, draw_points, frustum, look_at, write
from depth_ros.tools.recording import Answer, answers
from depth_ros.types import CameraModel, Float32Array, Float64Array, UInt8Array

WIDTH, HEIGHT = 1920, 1080  # [px] of the whole picture
HEADER, GAP, TITLE, BAR = 56, 16, 30, 84  # [px] margins, and the room for a colour bar and its figures
SLANT = 1.6  # surfaces are seen at a slant: points are drawn this much wider than a pixel, so that they close up
MAX_FILM_FRAMES = 300  # a longer recording is sampled evenly
ROUND_NUMBERS = tuple(d * 10.0**e for e in (-1, 0, 1, 2) for d in (1, 2, 5))

BACKGROUND: Colour = (28, 22, 18)
PANEL: Colour = (42, 34, 29)
GRID: Colour = (96, 84, 74)
FAINT: Colour = (172, 164, 156)
ACCENT: Colour = (70, 190, 255)


@dataclass(frozen=True)
class Limits:
    """Scales that stay the same over a film."""

    min_depth: float  # [m]
    max_depth: float  # [m]
    max_relative_sigma: float

    @staticmethod
    def of(sample: list[Answer]) -> Limits:
        """Choose scales that hold most pixels of these answers."""
        depth = np.concatenate([a.depth[::4, ::4].ravel() for a in sample])
        sigma = np.concatenate([a.sigma[::4, ::4].ravel() for a in sample])
        finite = np.isfinite(depth)
        if not finite.any():
            return Limits(1.0, 10.0, 0.1)
        near, far = np.percentile(depth[finite], (1, 93))
        relative = np.percentile(sigma[finite] / depth[finite], 97)
        return Limits(float(near), float(max(far, 2 * near)), max(0.04, float(np.ceil(relative * 25) / 25)))


def draw(answer: Answer, limits: Limits, caption: str = "") -> UInt8Array:
    """Return the picture (HEIGHT, WIDTH, 3) BGR of one answer."""
    canvas = np.full((HEIGHT, WIDTH, 3), BACKGROUND, np.uint8)
    write(canvas, "depth_ros", GAP, 38, size=0.9)
    write(canvas, caption, WIDTH - GAP, 37, FAINT, 0.6, align=1)
    row = (HEIGHT - HEADER) // 3
    height = row - TITLE - GAP
    width = min(round(height * answer.camera.width / answer.camera.height), WIDTH // 2 + 80)
    for i, (title, (picture, bar)) in enumerate(panels(answer.image, answer.depth, answer.sigma, limits).items()):
        top = HEADER + i * row
        write(canvas, title, GAP, top + 20, size=0.6)
        place(canvas[top + TITLE : top + TITLE + height, GAP : GAP + width], picture)
        if bar is not None:
            bar(canvas[top + TITLE : top + TITLE + height, GAP + width + 12 : GAP + width + BAR], limits)
    left = GAP + width + BAR + GAP
    row = (HEIGHT - HEADER) // 2
    for i, (title, view) in enumerate({"cloud from behind": _from_behind, "cloud from above": _from_above}.items()):
        top = HEADER + i * row
        write(canvas, title, left, top + 20, size=0.6)
        panel = canvas[top + TITLE : top + row - GAP, left : WIDTH - GAP]
        panel[:] = PANEL
        view(panel, answer, limits)
    return canvas


def panels(
    image: UInt8Array, depth: Float32Array, sigma: Float32Array, limits: Limits
) -> dict[str, tuple[UInt8Array, Callable[[UInt8Array, Limits], None] | None]]:
    """Return by title the BGR pictures (H, W, 3) of an RGB image, of depth and of sigma [m], and what draws their colour bars."""
    return {
        "image": (cv2.cvtColor(image, cv2.COLOR_RGB2BGR), None),
        "depth": (images.colorize(depth, limits.min_depth, limits.max_depth), _depth_bar),
        "uncertainty (one sigma / depth)": (_colour_sigma(sigma / depth, limits), _sigma_bar),
    }


def write_preview(recording: Path, film: Path, picture: Path, progress: Callable[[], object] = lambda: None) -> None:
    """Write the film (MP4, in real time) and the picture (PNG, its middle frame) of a recording with at least one answer.

    Raises OSError if one of them cannot be written.
    """
    stamps = [answer.stamp_ns for answer in answers(recording)]
    chosen = np.unique(np.linspace(0, len(stamps) - 1, min(len(stamps), MAX_FILM_FRAMES)).round().astype(int))
    sample = set(chosen[:: max(1, len(chosen) // 8)])
    limits = Limits.of([answer for i, answer in enumerate(answers(recording)) if i in sample])
    seconds = (stamps[-1] - stamps[0]) * 1e-9
    rate_hz = (len(chosen) - 1) / seconds if seconds > 0 else 1.0
    writer = cv2.VideoWriter(str(film), cv2.VideoWriter.fourcc(*"mp4v"), rate_hz, (WIDTH, HEIGHT))
    if not writer.isOpened():
        raise OSError(f"{film}: this video cannot be written; check the folder's permissions and the free space")
    try:
        for i, answer in enumerate(answers(recording)):
            if i in chosen:
                elapsed_s = (answer.stamp_ns - stamps[0]) * 1e-9
                caption = f"frame {i + 1} of {len(stamps)}     {elapsed_s:.1f} s     latency {answer.latency_ms:.0f} ms"
                drawn = draw(answer, limits, caption)
                writer.write(drawn)
                if i == chosen[len(chosen) // 2] and not cv2.imwrite(str(picture), drawn):
                    raise OSError(f"{picture}: this picture cannot be written")
            progress()
    finally:
        writer.release()


def place(panel: UInt8Array, picture: UInt8Array) -> None:
    """Fit `picture` into `panel`, centred, its shape kept."""
    panel[:] = PANEL
    scale = min(panel.shape[0] / picture.shape[0], panel.shape[1] / picture.shape[1])
    height, width = round(picture.shape[0] * scale), round(picture.shape[1] * scale)
    resized = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    top, left = (panel.shape[0] - height) // 2, (panel.shape[1] - width) // 2
    panel[top : top + height, left : left + width] = resized


def _depth_bar(panel: UInt8Array, limits: Limits) -> None:
    """Logarithmic, as images.colorize()."""
    low, high = limits.min_depth, limits.max_depth
    ramp = np.geomspace(high, low, panel.shape[0]).astype(np.float32)[:, None]
    panel[:, :18] = images.colorize(np.repeat(ramp, 18, axis=1), low, high)
    ticks = [t for t in ROUND_NUMBERS if low <= t <= high]
    _ticks(panel, {f"{t:g} m": float(np.log(high / t) / np.log(high / low)) for t in ticks})


def _sigma_bar(panel: UInt8Array, limits: Limits) -> None:
    top = limits.max_relative_sigma
    ramp = np.linspace(top, 0, panel.shape[0]).astype(np.float32)[:, None]
    panel[:, :18] = _colour_sigma(np.repeat(ramp, 18, axis=1), limits)
    _ticks(panel, {f"{100 * top * (1 - place):.3g} %": place for place in (0, 0.25, 0.5, 0.75, 1)})


def _ticks(panel: UInt8Array, places: dict[str, float]) -> None:
    """Write labels beside a bar; places run from 0 (top) to 1 (bottom)."""
    for label, place in places.items():
        y = round(place * (panel.shape[0] - 1))
        panel[y, 18:23] = FAINT
        write(panel, label, 27, np.clip(y + 5, 11, panel.shape[0] - 2), FAINT, 0.42)


def _colour_sigma(relative: Float32Array, limits: Limits) -> UInt8Array:
    """Colour sigma / depth: dark is certain, bright is not, black is no depth."""
    known = np.isfinite(relative)
    level = np.where(known, np.clip(relative / limits.max_relative_sigma, 0, 1), 0) * 230 + 25
    picture: UInt8Array = cv2.applyColorMap(level.astype(np.uint8), cv2.COLORMAP_INFERNO)
    picture[~known] = 0
    return picture


def _from_behind(panel: UInt8Array, answer: Answer, limits: Limits) -> None:
    height, width = panel.shape[:2]
    reach = limits.max_depth
    focal = 1.05 * min(width, 1.75 * height)
    camera = CameraModel(width, height, focal, focal, (width - 1) / 2, (height - 1) / 2)
    view = look_at(camera, eye=(0.0, -0.2 * reach, -0.36 * reach), target=(0.0, 0.02 * reach, 0.4 * reach))
    draw_points(panel, view, *_cloud(answer))
    length = _round_down(0.12 * reach)
    draw_lines(panel, view, frustum(answer.camera, length), ACCENT)
    write(panel, f"camera's field of view up to {length:g} m", 14, height - 14, ACCENT, 0.5)


def _from_above(panel: UInt8Array, answer: Answer, limits: Limits) -> None:
    height, width = panel.shape[:2]
    view = TopView(width, height, (height - 48) / limits.max_depth, margin=28)
    step = _round_down(limits.max_depth / 3)
    angle = np.arctan2(answer.camera.width / 2, answer.camera.fx)
    bearing = np.linspace(-angle, angle, 49)
    for distance in np.arange(step, limits.max_depth + 1e-6, step):
        arc = distance * np.stack([np.sin(bearing), np.zeros_like(bearing), np.cos(bearing)], axis=1)
        draw_lines(panel, view, arc[None], GRID)
        (x, y), *_ = view.project(arc[-1:])[0]
        if x < width - 60:
            write(panel, f"{distance:g} m", x + 6, y + 4, FAINT, 0.45)
    draw_points(panel, view, *_cloud(answer))
    edges = limits.max_depth * np.stack([np.sin(bearing[[0, -1]]), np.zeros(2), np.cos(bearing[[0, -1]])], axis=1)
    draw_lines(panel, view, np.stack([np.zeros((2, 3)), edges], axis=1), ACCENT)
    _scale_bar(panel, step, view.scale)


def _scale_bar(panel: UInt8Array, length_m: float, scale: float) -> None:
    left, y = 16, panel.shape[0] - 16
    right = left + round(length_m * scale)
    cv2.line(panel, (left, y), (right, y), ACCENT, 2)
    for x in (left, right):
        cv2.line(panel, (x, y - 5), (x, y + 5), ACCENT, 2)
    write(panel, f"{length_m:g} m", (left + right) / 2, y - 10, ACCENT, 0.5, align=0.5)


def _cloud(answer: Answer) -> tuple[Float64Array, UInt8Array, Float64Array]:
    """Return the valid points (N, 3) [m], their BGR colours (N, 3) and what each one covers (N,) [m]."""
    cloud = answer.cloud
    valid = np.isfinite(cloud["z"])
    points = np.stack([cloud[name][valid] for name in "xyz"], axis=1).astype(np.float64)
    colours = np.ascontiguousarray(cloud["rgb"][valid]).view(np.uint8).reshape(-1, 4)[:, :3]
    pixel = answer.camera.width / answer.camera.fx / cloud.shape[1]
    return points, colours, points[:, 2] * pixel * SLANT


def _round_down(length_m: float) -> float:
    return max((n for n in ROUND_NUMBERS if n <= length_m), default=ROUND_NUMBERS[0])
