"""Bytes to RGB with colours worked out by hand, rectification against distortion formulas written out here."""

import json

import cv2
import numpy as np
import pytest

from depth_ros.images import ENCODINGS, Rectifier, UnsupportedEncodingError, colorize, decode
from depth_ros.types import CameraModel, Distortion, InputError

RED, GREEN, BLUE = 200, 100, 50
BYTES = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono16": 2, "yuv422": 2, "uyvy": 2, "yuv422_yuy2": 2, "yuyv": 2}


def decoded(encoding, pixels, is_bigendian=False):
    """Decode pixels (H, W, bytes) laid out without padding."""
    height, width, size = pixels.shape
    return decode(encoding, width, height, width * size, np.ascontiguousarray(pixels).reshape(-1), is_bigendian)


def tiled(*rows):
    """Repeat a small block of pixels (lists of byte tuples) to 8 x 12 blocks."""
    return np.tile(np.array(rows, np.uint8), (8, 12, 1))


@pytest.mark.parametrize(
    ("encoding", "pixel"),
    [
        ("rgb8", (RED, GREEN, BLUE)),
        ("bgr8", (BLUE, GREEN, RED)),
        ("rgba8", (RED, GREEN, BLUE, 7)),
        ("bgra8", (BLUE, GREEN, RED, 7)),
    ],
)
def test_colour_channels(encoding, pixel):
    np.testing.assert_array_equal(decoded(encoding, tiled([pixel])), np.broadcast_to((RED, GREEN, BLUE), (8, 12, 3)))


@pytest.mark.parametrize(
    ("encoding", "block"),
    [
        ("bayer_rggb8", ([(RED,), (GREEN,)], [(GREEN,), (BLUE,)])),
        ("bayer_bggr8", ([(BLUE,), (GREEN,)], [(GREEN,), (RED,)])),
        ("bayer_gbrg8", ([(GREEN,), (BLUE,)], [(RED,), (GREEN,)])),
        ("bayer_grbg8", ([(GREEN,), (RED,)], [(BLUE,), (GREEN,)])),
    ],
)
def test_bayer_patterns_read_from_the_top_left_pixel(encoding, block):
    np.testing.assert_array_equal(decoded(encoding, tiled(*block)), np.broadcast_to((RED, GREEN, BLUE), (16, 24, 3)))


def test_mono8_is_grey():
    grey = np.arange(96, dtype=np.uint8).reshape(8, 12, 1)
    np.testing.assert_array_equal(decoded("mono8", grey), np.repeat(grey, 3, axis=2))


@pytest.mark.parametrize(("order", "is_bigendian"), [("<u2", False), (">u2", True)])
def test_mono16_keeps_its_high_byte(order, is_bigendian):
    values = np.array([[0, 255, 256], [0x1234, 0xFF00, 0xFFFF]])
    pixels = values.astype(order).view(np.uint8).reshape(2, 3, 2)
    np.testing.assert_array_equal(decoded("mono16", pixels, is_bigendian)[..., 1], values // 256)


@pytest.mark.parametrize("encoding", ["yuv422", "uyvy", "yuv422_yuy2", "yuyv"])
def test_yuv422_is_bt601(encoding):
    # Two pixels share U and V and differ in Y. BT.601, studio range: R = 1.164 (Y - 16) + 1.596 (V - 128), ...
    y0, y1, u, v = 90, 140, 110, 170
    pair = [(u, y0), (v, y1)] if encoding in ("yuv422", "uyvy") else [(y0, u), (y1, v)]
    rgb = decoded(encoding, tiled(pair)).astype(float)
    for column, y in ((0, y0), (1, y1)):
        luma = 1.164 * (y - 16)
        expected = luma + 1.596 * (v - 128), luma - 0.813 * (v - 128) - 0.391 * (u - 128), luma + 2.018 * (u - 128)
        np.testing.assert_allclose(rgb[:, column::2], np.broadcast_to(expected, (8, 12, 3)), atol=1.5)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_row_padding_is_skipped(encoding):
    height, width, size = 6, 8, BYTES.get(encoding, 1)
    rows = np.random.default_rng(1).integers(0, 256, (height, width * size), dtype=np.uint8)
    plain = decode(encoding, width, height, width * size, rows.reshape(-1), False)
    padded = np.concatenate([rows, np.full((height, 5), 77, np.uint8)], axis=1)
    image = decode(encoding, width, height, width * size + 5, padded.reshape(-1), False)
    np.testing.assert_array_equal(image, plain)
    assert image.shape == (height, width, 3)
    assert image.dtype == np.uint8
    assert image.flags.c_contiguous


def test_rgb8_is_a_view_even_of_a_read_only_buffer():
    data = np.frombuffer(bytes(range(48)), np.uint8)
    image = decode("rgb8", 4, 4, 12, data, False)
    assert np.shares_memory(image, data)
    assert tuple(image[1, 0]) == (12, 13, 14)


def test_unknown_encoding_is_named():
    with pytest.raises(UnsupportedEncodingError, match=r"'32FC1' is not supported.*rgb8"):
        decode("32FC1", 4, 4, 16, np.zeros(64, np.uint8), False)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_truncated_data_is_refused_with_numbers(encoding):
    step = 8 * BYTES.get(encoding, 1)
    with pytest.raises(InputError, match=rf"{encoding} image of 8x6 is truncated: {6 * step - 1} bytes; expected {6 * step}"):
        decode(encoding, 8, 6, step, np.zeros(6 * step - 1, np.uint8), False)


def test_superfluous_data_is_refused():
    with pytest.raises(InputError, match="too long: 200 bytes; expected 192"):
        decode("rgb8", 8, 8, 24, np.zeros(200, np.uint8), False)


def test_step_below_a_row_is_refused():
    with pytest.raises(InputError, match="step 8; expected at least 24"):
        decode("rgb8", 8, 8, 8, np.zeros(64, np.uint8), False)


@pytest.mark.parametrize(("width", "height"), [(0, 4), (4, 0)])
def test_empty_image_is_refused(width, height):
    with pytest.raises(InputError, match="empty"):
        decode("mono8", width, height, width, np.zeros(width * height, np.uint8), False)


@pytest.mark.parametrize(("encoding", "width", "named"), [("yuyv", 7, "odd width"), ("bayer_rggb8", 1, "Bayer cell")])
def test_images_without_whole_colour_cells_are_refused(encoding, width, named):
    step = width * BYTES.get(encoding, 1)
    with pytest.raises(InputError, match=named):
        decode(encoding, width, 4, step, np.zeros(4 * step, np.uint8), False)


def distort_plumb_bob(x, y, d):
    k1, k2, p1, p2, k3 = d
    r2 = x * x + y * y
    radial = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
    return x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x), y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y


def distort_rational(x, y, d):
    k1, k2, p1, p2, k3, k4, k5, k6 = d
    r2 = x * x + y * y
    radial = (1 + k1 * r2 + k2 * r2**2 + k3 * r2**3) / (1 + k4 * r2 + k5 * r2**2 + k6 * r2**3)
    return x * radial + 2 * p1 * x * y + p2 * (r2 + 2 * x * x), y * radial + p1 * (r2 + 2 * y * y) + 2 * p2 * x * y


def distort_equidistant(x, y, d):
    r = np.hypot(x, y)
    theta = np.arctan(r)
    scale = theta * (1 + sum(k * theta ** (2 * i) for i, k in enumerate(d, start=1))) / r
    return x * scale, y * scale


MODELS = {
    "plumb_bob": (distort_plumb_bob, (-0.28, 0.07, 0.002, -0.001, 0.01)),
    "rational_polynomial": (distort_rational, (0.3, 0.05, 0.001, -0.002, 0.01, 0.6, 0.1, 0.02)),
    "equidistant": (distort_equidistant, (-0.02, 0.01, -0.004, 0.001)),
}


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_distorted_point_lands_at_its_pinhole_position(model, rotated):
    distort, coefficients = MODELS[model]
    angle = 0.03 if rotated else 0.0
    rectified_R_camera = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    projection = (290.0, 295.0, 325.0, 235.0) if rotated else None
    distortion = Distortion(model, coefficients, tuple(rectified_R_camera.reshape(-1)), projection)
    rectifier = Rectifier(CameraModel(640, 480, 310.0, 305.0, 318.0, 243.0, distortion))
    pinhole = rectifier.camera
    assert pinhole.distortion is None
    v, u = np.mgrid[0:480, 0:640]
    for target_u, target_v in [(325.0, 240.0), (150.0, 120.0), (500.0, 110.0), (170.0, 390.0), (480.0, 370.0)]:
        ray = rectified_R_camera.T @ [(target_u - pinhole.cx) / pinhole.fx, (target_v - pinhole.cy) / pinhole.fy, 1.0]
        x, y = distort(ray[0] / ray[2], ray[1] / ray[2], coefficients)
        blob = 250 * np.exp(-((u - 310.0 * x - 318.0) ** 2 + (v - 305.0 * y - 243.0) ** 2) / 8)
        seen = rectifier(np.repeat(blob.astype(np.uint8)[..., None], 3, axis=2))[..., 0].astype(float)
        found = (seen * u).sum() / seen.sum(), (seen * v).sum() / seen.sum()
        np.testing.assert_allclose(found, (target_u, target_v), atol=0.1)


def test_what_a_real_lens_did_not_see_is_known(shared_data):
    """EuRoC's lens is undone with a wider pinhole, so that the corners are black; where a pixel's ray falls says which."""
    meta = json.loads((shared_data / "euroc_v1_micro" / "meta.json").read_text())
    (fx, _, cx), (_, fy, cy), _ = meta["K"]
    k1, k2, p1, p2 = meta["distortion_radtan"]
    width, height = meta["width"], meta["height"]
    lens = Distortion("plumb_bob", (k1, k2, p1, p2), projection=(0.7 * fx, 0.7 * fy, cx, cy))
    rectifier = Rectifier(CameraModel(width, height, fx, fy, cx, cy, lens))
    v, u = np.mgrid[:height, :width]
    x, y = distort_plumb_bob((u - cx) / (0.7 * fx), (v - cy) / (0.7 * fy), (k1, k2, p1, p2, 0.0))
    x, y = fx * x + cx, fy * y + cy
    beyond = np.maximum(np.abs(x - (width - 1) / 2) - width / 2, np.abs(y - (height - 1) / 2) - height / 2)  # [px] of the border
    assert rectifier.unseen[beyond > 0.6].all()
    assert not rectifier.unseen[beyond < -0.6].any()
    assert 0.02 < rectifier.unseen.mean() < 0.6
    white = rectifier(np.full((height, width, 3), 255, np.uint8))
    assert (white[rectifier.unseen] < 128).all()


def test_camera_without_distortion_passes_the_image_on():
    image = np.zeros((4, 6, 3), np.uint8)
    camera = CameraModel(6, 4, 5.0, 5.0, 2.5, 1.5)
    rectifier = Rectifier(camera)
    assert rectifier(image) is image
    assert rectifier.camera == camera
    assert rectifier.unseen is None


def test_rectifier_refuses_an_image_of_another_size():
    rectifier = Rectifier(CameraModel(64, 48, 31.0, 30.0, 31.0, 24.0, Distortion("plumb_bob", (0.1, 0, 0, 0, 0))))
    with pytest.raises(InputError, match="image is 32x24, but its camera_info says 64x48"):
        rectifier(np.zeros((24, 32, 3), np.uint8))


@pytest.mark.parametrize(
    ("model", "coefficients", "named"),
    [
        ("plumb_bob", (0.1, 0.2, 0.3), "3 coefficients; expected 4 or 5"),
        ("rational_polynomial", (0.1,) * 5, "5 coefficients; expected 8"),
        ("equidistant", (0.1,) * 5, "5 coefficients; expected 4"),
    ],
)
def test_wrong_number_of_coefficients_is_refused(model, coefficients, named):
    with pytest.raises(InputError, match=named):
        Rectifier(CameraModel(64, 48, 31.0, 30.0, 31.0, 24.0, Distortion(model, coefficients)))


def test_an_image_too_large_for_opencv_to_rectify_is_refused():
    with pytest.raises(InputError, match="a 32767x4 image cannot be rectified; expected at most 32766 pixels"):
        Rectifier(CameraModel(32767, 4, 20000.0, 20000.0, 16000.0, 2.0, Distortion("plumb_bob", (0.1, 0, 0, 0, 0))))
    camera = CameraModel(32766, 4, 20000.0, 20000.0, 16000.0, 2.0, Distortion("plumb_bob", (0.1, 0, 0, 0, 0)))
    assert Rectifier(camera)(np.zeros((4, 32766, 3), np.uint8)).shape == (4, 32766, 3)


def test_real_distorted_camera_is_resampled_where_its_lens_put_the_light(shared_data):
    folder = shared_data / "euroc_v1_micro"
    meta = json.loads((folder / "meta.json").read_text())
    (fx, _, cx), (_, fy, cy), _ = meta["K"]
    k1, k2, p1, p2 = meta["distortion_radtan"]
    raw = cv2.imread(str(sorted((folder / "cam0").iterdir())[0]), cv2.IMREAD_GRAYSCALE)
    camera = CameraModel(meta["width"], meta["height"], fx, fy, cx, cy, Distortion("plumb_bob", (k1, k2, p1, p2)))
    rectified = Rectifier(camera)(np.repeat(raw[..., None], 3, axis=2))[..., 0].astype(float)

    v, u = np.mgrid[40:440:7, 40:710:7]
    x, y = distort_plumb_bob((u - cx) / fx, (v - cy) / fy, (k1, k2, p1, p2, 0.0))
    x, y = fx * x + cx, fy * y + cy
    assert np.hypot(x - u, y - v).max() > 20  # [px] the lens bends this much, so an unrectified image would not pass
    x0, y0 = np.floor(x).astype(int), np.floor(y).astype(int)
    dx, dy, pixels = x - x0, y - y0, raw.astype(float)
    top = pixels[y0, x0] * (1 - dx) + pixels[y0, x0 + 1] * dx
    bottom = pixels[y0 + 1, x0] * (1 - dx) + pixels[y0 + 1, x0 + 1] * dx
    difference = np.abs(rectified[v, u] - (top * (1 - dy) + bottom * dy))
    assert difference.mean() < 0.6  # grey levels; maps are exact to 1/32 px
    assert np.percentile(difference, 99) < 4


def bow_px(corners):
    """Largest distance [px] of a chessboard corner from the straight line through its row."""
    worst = 0.0
    for row in corners.reshape(6, 9, 2):
        centred = row - row.mean(axis=0)
        worst = max(worst, np.abs(centred @ np.linalg.svd(centred)[2][1]).max())
    return worst


def test_straight_lines_of_real_chessboards_become_straight(shared_data):
    images = [cv2.imread(str(file)) for file in sorted((shared_data / "opencv_samples" / "chessboard").glob("left*.jpg"))]
    board = np.zeros((54, 3), np.float32)
    board[:, :2] = np.mgrid[0:9, 0:6].T.reshape(-1, 2)

    def corners(image):
        grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
        found, points = cv2.findChessboardCorners(grey, (9, 6))
        stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 30, 0.01)
        return cv2.cornerSubPix(grey, points, (5, 5), (-1, -1), stop) if found else None

    raw = [corners(image) for image in images]
    seen = [points for points in raw if points is not None]
    height, width = images[0].shape[:2]
    _, K, d, _, _ = cv2.calibrateCamera([board] * len(seen), seen, (width, height), None, None)
    camera = CameraModel(width, height, K[0, 0], K[1, 1], K[0, 2], K[1, 2], Distortion("plumb_bob", tuple(d.reshape(-1))))
    rectifier = Rectifier(camera)
    pairs = [(points, corners(rectifier(image))) for points, image in zip(raw, images, strict=True) if points is not None]
    bows = np.array([(bow_px(before), bow_px(after)) for before, after in pairs if after is not None])
    assert len(bows) >= 8
    assert np.median(bows[:, 0]) > 1.0
    assert np.median(bows[:, 1]) < 0.35
    assert (bows[:, 1] < bows[:, 0]).all()


def test_colorize_is_warm_near_cold_far_and_black_where_invalid():
    depth = np.array([[1.0, 3.0, 10.0, 30.0, 100.0, np.inf, np.nan, 0.0, -1.0]], np.float32)
    picture = colorize(depth, 1.0, 100.0).astype(int)
    assert picture.shape == (1, 9, 3)
    blue, _, red = picture[0].T
    assert red[0] > blue[0] + 80
    assert blue[4] > red[4] + 10
    np.testing.assert_array_equal(picture[0, 5], picture[0, 4])  # +inf: as far as it gets
    assert (picture[0, 6:] == 0).all()
    assert (picture[0, :6].sum(axis=1) > 0).all()


def test_colorize_is_logarithmic_and_clamped():
    # 1..100 m on a log scale: 10 m is halfway, the middle of the colour map (green).
    middle = colorize(np.array([[10.0]], np.float32), 1.0, 100.0)[0, 0].astype(int)
    assert middle.argmax() == 1
    below, near = colorize(np.array([[0.2, 1.0]], np.float32), 1.0, 100.0)[0]
    np.testing.assert_array_equal(below, near)


@pytest.mark.parametrize("limits", [(0.0, 10.0), (10.0, 10.0), (20.0, 10.0)])
def test_colorize_needs_a_range(limits):
    with pytest.raises(InputError, match="colour range is"):
        colorize(np.ones((2, 2), np.float32), *limits)
