"""Corruptions against what their definitions say of ramps, points, flat greys and a rendered street."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from depth_ros.types import InputError
from training.data.corruptions import blur, noise, weather
from training.data.corruptions.__main__ import main
from training.data.corruptions.table import CORRUPTIONS, SEVERITIES, corrupt

ROOT = Path(__file__).resolve().parents[2]
SEEDLESS = {"brightness", "contrast", "defocus_blur", "zoom_blur", "color_quant", "pixelate", "jpeg_compression"}


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def grey(value: float, height: int = 96, width: int = 320) -> np.ndarray:
    return np.full((height, width, 3), value, np.float32)


def point(side: int = 101) -> np.ndarray:
    image = np.zeros((side, side, 3), np.float32)
    image[side // 2, side // 2] = 1
    return image


def ramps(height: int, width: int) -> np.ndarray:
    """Channel 0 holds each pixel's column, 1 its row [px], 2 nothing: a warp of it tells where every pixel came from."""
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    return np.stack([columns, rows, np.zeros_like(rows)], axis=-1)


@pytest.fixture(scope="module")
def street() -> np.ndarray:
    """A frame of the shipped clip, a rendered street."""
    image = cv2.imread(str(ROOT / "assets/street/image/000000.jpg"), cv2.IMREAD_COLOR_RGB)
    return cv2.resize(image, (320, 96), interpolation=cv2.INTER_AREA)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_severity_is_farther_from_the_clean_street_than_the_last(street: np.ndarray, name: str) -> None:
    images = [street, *(corrupt(street, name, severity, 1) for severity in SEVERITIES)]
    distances = [np.abs(image.astype(float) - street).mean() for image in images]
    if name == "frost":  # severity 4 dims what 3 brightened: only what is left of the street's structure shrinks steadily
        distances = [1 - np.corrcoef(image.ravel(), street.ravel())[0, 1] for image in images]
    assert np.all(np.diff(distances) > 0), distances


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_seed_decides_every_pixel(street: np.ndarray, name: str) -> None:
    before = street.copy()
    first, again, other = (corrupt(street, name, 3, seed) for seed in (7, 7, 8))
    assert np.array_equal(first, again)
    assert np.array_equal(first, other) == (name in SEEDLESS)
    assert np.array_equal(street, before)


def test_another_process_draws_the_same_pixels() -> None:
    script = (
        "import hashlib, numpy as np; from training.data.corruptions.table import CORRUPTIONS, corrupt; "
        "image = (np.arange(40 * 64 * 3) * 37 % 256).astype(np.uint8).reshape(40, 64, 3); "
        "digest = hashlib.sha256(b''.join(corrupt(image, name, 4, 123).tobytes() for name in CORRUPTIONS)).hexdigest()"
    )
    here: dict[str, str] = {}
    exec(script, here)
    done = subprocess.run(
        [sys.executable, "-c", f"{script}; print(digest)"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.strip() == here["digest"], done.stderr


@pytest.mark.parametrize("size", [(32, 32), (37, 131), (150, 33)])
def test_any_size_from_32_pixels(size: tuple[int, int]) -> None:
    image = rng().integers(0, 256, (*size, 3), dtype=np.uint8)
    for name in CORRUPTIONS:
        for severity in (1, 5):
            out = corrupt(image, name, severity, 0)
            assert (out.shape, out.dtype) == (image.shape, np.uint8), name


def test_what_cannot_be_corrupted_is_told() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    with pytest.raises(InputError, match=r"image is \(31, 64, 3\) uint8; expected .* at least 32 px a side"):
        corrupt(image[:31], "fog", 1, 0)
    with pytest.raises(InputError, match=r"image is .* float32; expected"):
        corrupt(image.astype(np.float32), "fog", 1, 0)
    with pytest.raises(InputError, match="corruption 'smog' is unknown; expected one of brightness, dark, fog"):
        corrupt(image, "smog", 1, 0)
    with pytest.raises(InputError, match="severity is 6; expected 1 to 5"):
        corrupt(image, "fog", 6, 0)


# Weather and light


def test_brightness_adds_to_the_value_and_keeps_hue_and_saturation() -> None:
    """The value is the largest channel; all scale with it until it is 1."""
    image = grey(0.0)
    image[:] = (0.2, 0.4, 0.1)
    assert weather.brightness(image, 0.3, rng())[5, 5] == pytest.approx((0.35, 0.7, 0.175), abs=1e-5)
    assert weather.brightness(image, 0.9, rng())[5, 5] == pytest.approx((0.5, 1.0, 0.25), abs=1e-5)


def test_darkness_is_quadratic_after_a_stretch_to_the_full_range() -> None:
    image = grey(0.6)
    image[0], image[1] = 0.4, 0.8  # stretched: 0.6 -> 0.5
    out = weather.dark(image, 0.4, 1e6, 0.0, rng())
    assert out[2:].mean() == pytest.approx(0.4 * 0.25, rel=1e-3)
    assert out[1].mean() == pytest.approx(0.4, rel=1e-3)
    assert np.abs(weather.dark(grey(0.5), 0.4, 1e6, 0.0, rng()) - 0.1).max() < 2e-3  # nothing to stretch


def test_contrast_scales_about_the_mean(street: np.ndarray) -> None:
    image = street.astype(np.float32) / 255
    out = weather.contrast(image, 0.3, rng())
    assert out.mean(axis=(0, 1)) == pytest.approx(image.mean(axis=(0, 1)), abs=1e-4)
    assert out.std(axis=(0, 1)) == pytest.approx(0.3 * image.std(axis=(0, 1)), rel=1e-4)


def test_fog_adds_one_haze_to_every_image_and_keeps_the_maximum(street: np.ndarray) -> None:
    """With maximum 1, fog(x) = (x + t haze) / (1 + t)."""
    image, white_spot = street.astype(np.float32) / 255, grey(0.0)
    image[0, 0] = white_spot[0, 0] = 1
    foggy, haze = weather.fog(image, 1.5, 2.0, rng(3)), weather.fog(white_spot, 1.5, 2.0, rng(3))
    assert np.abs((foggy - haze) - (image - white_spot) / 2.5).max() < 1e-5
    assert haze[1:].min() >= 0
    assert haze[1:].max() <= 1.5 / 2.5 + 1e-6


@pytest.mark.parametrize("decay", [1.4, 2.0])
def test_the_fractal_shrinks_by_the_decay_squared_per_octave(decay: float) -> None:
    """Each centre of a square is its corners' mean plus something uniform, whose size only the octave decides."""
    field = weather.plasma(256, decay, rng(1)).astype(float)
    assert (field.min(), field.max()) == (0, 1)
    deviations = []
    for step in (1, 2):
        f = field[::step, ::step]
        corners = f[::2, ::2] + np.roll(f, -2, 0)[::2, ::2] + np.roll(f, -2, 1)[::2, ::2] + np.roll(f, (-2, -2), (0, 1))[::2, ::2]
        displacement = f[1::2, 1::2] - corners / 4
        deviations.append(displacement.std())
        assert np.abs(displacement).max() == pytest.approx(math.sqrt(3) * displacement.std(), rel=0.05)  # uniform
    assert deviations[1] / deviations[0] == pytest.approx(decay**2, rel=0.03)


def test_frost_lays_the_same_ice_over_any_dimmed_image(street: np.ndarray) -> None:
    image = street.astype(np.float32) / 255
    ice = weather.frost_texture(*image.shape[:2], rng(2))
    assert np.abs(weather.frost(image, 0.7, 0.6, rng(2)) - (0.7 * image + 0.6 * ice)).max() < 1e-6
    assert (ice.min(), ice.max() <= 1) == (0, True)
    assert 0.2 < (ice.max(axis=2) > 0.2).mean() < 0.8  # some of the glass is clear
    assert ice[..., 0].mean() < ice[..., 2].mean()  # and ice is bluish


def test_snow_without_flakes_only_whitens() -> None:
    """max(x, 1.5 grey + 0.5) is white for all but the darkest: 0.2 -> 0.8."""
    out = weather.snow(grey(0.2), -9.0, 0.1, 2, 0.5, 10, 4, 0.7, rng())
    assert np.abs(out - (0.7 * 0.2 + 0.3 * 0.8)).max() < 1e-5


def test_snow_falls_steeply_and_looks_the_same_upside_down() -> None:
    flakes = weather.snow(grey(0.0), 0.1, 0.3, 3, 0.5, 10, 4, 1.0, rng(1))[..., 0]
    assert flakes.max() > 0.1
    assert np.abs(flakes - flakes[::-1, ::-1]).max() < 1e-6
    along, across = np.abs(np.diff(flakes, axis=0)).mean(), np.abs(np.diff(flakes, axis=1)).mean()
    assert along < 0.8 * across


# Sensor and movement


def test_defocus_spreads_a_point_over_the_disc() -> None:
    """Severity 1: radius 3, hardly softened. 29 pixels have x^2 + y^2 <= 9."""
    out = blur.defocus_blur(point(), 3, 0.1, rng())[..., 0]
    y, x = np.mgrid[-50:51, -50:51]
    inside = x**2 + y**2 <= 9
    assert inside.sum() == 29
    assert np.abs(out - inside / 29).max() < 1e-6


@pytest.mark.parametrize("severity", SEVERITIES)
def test_blurs_keep_the_light(severity: int) -> None:
    for name in ("defocus_blur", "motion_blur"):
        out = CORRUPTIONS[name](point(), severity, rng(severity))
        assert out.sum(axis=(0, 1)) == pytest.approx(np.ones(3), abs=1e-4)
        assert np.abs(CORRUPTIONS[name](grey(0.3), severity, rng()) - 0.3).max() < 1e-5  # up to the borders


@pytest.mark.parametrize("seed", range(4))
def test_motion_draws_a_point_into_half_a_gaussian_line(seed: int) -> None:
    out = blur.motion_blur(point(151), 15, 8, rng(seed))[..., 0].astype(float)
    y, x = np.mgrid[-75:76, -75:76]
    centroid = np.array([(x * out).sum(), (y * out).sum()])
    steps = np.arange(31)
    weights = np.exp(-(steps**2) / (2 * 8**2))
    assert np.hypot(*centroid) == pytest.approx((steps * weights).sum() / weights.sum(), abs=0.2)
    assert abs(centroid[1]) <= abs(centroid[0]) + 0.2  # within 45 degrees of the horizontal
    direction = centroid / np.hypot(*centroid)
    off_line = (x * direction[1] - y * direction[0])[out > 1e-4]
    assert np.abs(off_line).max() < 1


def test_zoom_averages_enlarged_images() -> None:
    """A ramp about the centre, enlarged by z, is the ramp / z."""
    image = ramps(65, 129) / 129
    centre = np.array([64, 32, 0]) / 129
    zooms = [1, 1.02, 1.04, 1.06, 1.08]
    expected = centre + (image - centre) * (1 + sum(1 / z for z in zooms)) / 6
    assert np.abs(blur.zoom_blur(image, 1.1, 0.02, rng()) - expected).max() < 2e-3


@pytest.mark.parametrize(
    ("severity", "count", "last"), [(1, 11, 1.10), (2, 16, 1.15), (3, 11, 1.20), (4, 13, 1.24), (5, 11, 1.30)]
)
def test_zooms_of_the_table(severity: int, count: int, last: float) -> None:
    """Far out on the ramp the mean of 1 / z tells how many zooms there were."""
    zooms = np.linspace(1, last, count)
    image = ramps(33, 257) / 257
    centre = np.array([128, 16, 0]) / 257
    expected = centre + (image - centre) * (1 + (1 / zooms).sum()) / (count + 1)
    assert np.abs(CORRUPTIONS["zoom_blur"](image, severity, rng()) - expected).max() < 1e-3


@pytest.mark.parametrize(("reach", "rounds"), [(2, 1), (2, 3), (4, 2)])
def test_glass_shuffles_neighbours(reach: int, rounds: int) -> None:
    """A permutation. A pixel is swapped twice a round on average, each time by an offset uniform in -reach..reach-1."""
    height, width = 96, 128
    order = blur.shuffle_locally(height, width, reach, rounds, rng())
    assert np.array_equal(np.sort(order.ravel()), np.arange(height * width))
    inner = slice(20, -20)
    moved = (order // width - np.arange(height)[:, None])[inner, inner]
    expected = 2 * rounds * np.mean(np.arange(-reach, reach) ** 2)
    assert np.mean(moved.astype(float) ** 2) == pytest.approx(expected, rel=0.25)


def test_glass_keeps_the_light(street: np.ndarray) -> None:
    image = street.astype(np.float32) / 255
    assert blur.glass_blur(image, 0.7, 2, 2, rng()).mean() == pytest.approx(image.mean(), rel=2e-3)


def test_elastic_without_strength_is_the_image(street: np.ndarray) -> None:
    image = street.astype(np.float32) / 255
    assert np.abs(blur.elastic_transform(image, 0.0, rng()) - image).max() < 1e-4


def test_elastic_moves_pixels_by_smoothed_noise() -> None:
    """Uniform noise of deviation 1/sqrt(3), smoothed by Gaussians of s and t pixels, keeps 1 / (2 sqrt(pi s t)) of it."""
    height, width, strength = 200, 300, 12.5
    image = ramps(height, width)
    moved = (blur.elastic_transform(image, strength, rng()) - image)[10:-10, 10:-10, :2]
    expected = strength * 0.005 * height / math.sqrt(3) / (2 * math.sqrt(math.pi * 0.01 * height * 0.01 * width))
    assert moved.std(axis=(0, 1)) == pytest.approx([expected, expected], rel=0.1)
    assert np.abs(moved.mean(axis=(0, 1))).max() < 0.1


@pytest.mark.parametrize("severity", SEVERITIES)
def test_quantisation_leaves_a_power_of_two_of_levels(severity: int) -> None:
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (32, 256, 3))
    out = corrupt(ramp, "color_quant", severity, 0).astype(int)
    bits = 6 - severity
    assert len(np.unique(out)) == 2**bits
    assert np.all((ramp - out >= 0) & (ramp - out < 2 ** (8 - bits)))


# Data and processing


@pytest.mark.parametrize(("severity", "sigma"), [(1, 0.08), (2, 0.12)])
def test_gaussian_noise_has_the_stated_deviation(severity: int, sigma: float) -> None:
    out = corrupt(np.full((192, 320, 3), 128, np.uint8), "gaussian_noise", severity, 0) / 255
    assert out.std() == pytest.approx(sigma, rel=0.01)
    assert out.mean() == pytest.approx(128 / 255, abs=0.001)


@pytest.mark.parametrize("value", [0.1, 0.3, 0.6])
def test_shot_noise_grows_with_the_light(value: float) -> None:
    out = noise.shot_noise(grey(value, 192), 60, rng())
    assert out.mean() == pytest.approx(value, rel=0.005)
    assert out.var() == pytest.approx(value / 60, rel=0.02)
    assert np.abs(out * 60 - np.round(out * 60)).max() < 1e-4  # whole quanta


@pytest.mark.parametrize(("severity", "sigma"), [(1, 0.056), (2, 0.084)])
def test_iso_noise_is_shot_noise_and_normal_noise(severity: int, sigma: float) -> None:
    out = CORRUPTIONS["iso_noise"](grey(0.3, 192), severity, rng())
    assert out.var() == pytest.approx(0.3 / 25 + sigma**2, rel=0.02)


@pytest.mark.parametrize(("severity", "share"), enumerate((0.03, 0.06, 0.09, 0.17, 0.27), 1))
def test_impulses_are_as_often_black_as_white_and_hit_channels_apart(severity: int, share: float) -> None:
    out = corrupt(np.full((192, 320, 3), 100, np.uint8), "impulse_noise", severity, 0)
    assert (out == 0).mean() == pytest.approx(share / 2, rel=0.05)
    assert (out == 255).mean() == pytest.approx(share / 2, rel=0.05)
    assert ((out == 0) | (out == 100) | (out == 255)).all()
    assert (out != 100).all(axis=2).mean() == pytest.approx(share**3, rel=0.5, abs=1e-4)


def test_pixelation_repeats_block_means() -> None:
    image = rng().integers(0, 256, (32, 64, 3), dtype=np.uint8)
    means = image.reshape(8, 4, 16, 4, 3).mean(axis=(1, 3))
    expected = means.repeat(4, axis=0).repeat(4, axis=1)
    assert np.abs(corrupt(image, "pixelate", 5, 0) - expected).max() <= 0.51  # rounded


def test_pixelation_that_does_not_divide_the_size_leaves_as_many_pixels() -> None:
    image = rng().integers(0, 256, (100, 100, 3), dtype=np.uint8)
    out = corrupt(image, "pixelate", 1, 0)
    assert (np.diff(out.astype(int), axis=0) != 0).any(axis=(1, 2)).sum() == 59  # 60 rows have 59 borders


@pytest.mark.parametrize(("severity", "quality"), [(1, 25), (5, 7)])
def test_jpeg_is_an_encoding_and_a_decoding(street: np.ndarray, severity: int, quality: int) -> None:
    _, data = cv2.imencode(".jpg", cv2.cvtColor(street, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    expected = cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    assert np.array_equal(corrupt(street, "jpeg_compression", severity, 0), expected)


# The command


def test_the_contact_sheet_shows_every_corruption(tmp_path: Path, street: np.ndarray) -> None:
    cv2.imwrite(str(tmp_path / "street.png"), street[..., ::-1])
    assert main([str(tmp_path / "street.png"), "--out", str(tmp_path / "sheet.png"), "--width", "128"]) == 0
    sheet = cv2.imread(str(tmp_path / "sheet.png"))[..., ::-1]
    height = round(128 * 96 / 320)
    assert sheet.shape == (18 * (height + 18), 5 * 128, 3)
    small = cv2.resize(street, (128, height), interpolation=cv2.INTER_AREA)
    row = list(CORRUPTIONS).index("color_quant")
    top = row * (height + 18) + 18
    assert np.array_equal(sheet[top : top + height, 2 * 128 : 3 * 128], small & 0b11100000)


@pytest.mark.parametrize("missing", ["image", "folder", "suffix", "size"])
def test_a_sheet_that_cannot_be_made_is_one_line(
    tmp_path: Path, street: np.ndarray, capfd: pytest.CaptureFixture[str], missing: str
) -> None:
    cv2.imwrite(str(tmp_path / "street.png"), street[..., ::-1])
    image = tmp_path / ("nothing.png" if missing == "image" else "street.png")
    out = tmp_path / {"folder": "nowhere/sheet.png", "suffix": "sheet"}.get(missing, "sheet.png")
    width = "100" if missing == "size" else "128"
    assert main([str(image), "--out", str(out), "--width", width]) == 1
    expected = {"image": "nothing.png: not readable", "size": "is 100x30 at --width 100"}.get(
        missing, f"{out}: cannot be written"
    )
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert expected in lines[0]
