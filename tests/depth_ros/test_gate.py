"""The gate against engines with known errors, on a model in closed form: depth = red / 10, sigma = green / 100."""

import json
import math
import shutil

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, parser

from depth_ros import bundle
from depth_ros.engines import EngineError, load_engine
from depth_ros.engines.gate import DEFAULT_LIMITS, FRAMES, MOST_FRAMES, check, limits_of, load_frames
from depth_ros.types import InputError

LIMITS = {"depth_median": 0.01, "depth_p99": 0.02, "sigma_median": 0.03, "sigma_p99": 0.04}


def exact(image):
    return image[..., 0] / np.float32(10), image[..., 1] / np.float32(100)


class HandMade:
    """An engine whose answer is a function of the images."""

    def __init__(self, answer):
        self.infer = answer


@pytest.fixture
def made(make_bundle):
    """40 x 25 pixels: 1 % of an image are 10 pixels. In range are depths of 1 m to 20 m, so red from 10 to 199."""
    return make_bundle(40, 25, min_depth=1.0, max_depth=20.0, limits={"fp32": LIMITS, "fp16": {"depth_p99": 0.5}})


@pytest.fixture
def frames(made):
    """Three different images, every pixel in range."""
    return np.random.default_rng(0).integers(20, 150, (3, made.height, made.width, 3), dtype=np.uint8)


def test_exact_engine_passes(made, frames):
    report = check(HandMade(exact), made, frames)
    assert report.passed
    assert report.failures == ()
    assert max(report.figures.values()) < 1e-6
    assert report.figures.keys() == report.limits.keys()
    assert "\n" not in report.describe()
    assert "agrees with ONNX Runtime on 3 images" in report.describe()


def test_the_reference_agrees_with_itself_to_the_bit(made, frames):
    report = check(load_engine(made), made, frames)
    assert report.passed
    assert set(report.figures.values()) == {0.0}


def test_scaled_depth_is_measured_and_refused(made, frames):
    def scaled(image):
        depth, sigma = exact(image)
        return depth * np.float32(1.05), sigma

    report = check(HandMade(scaled), made, frames)
    assert report.figures["depth_median"] == pytest.approx(0.05, rel=1e-4)
    assert report.figures["depth_p99"] == pytest.approx(0.05, rel=1e-4)
    assert report.figures["sigma_p99"] < 1e-6
    assert report.failures == ("depth median 0.05 > 0.01", "depth p99 0.05 > 0.02")
    assert not report.passed
    assert report.describe() == "fp32 differs from ONNX Runtime on 3 images: depth median 0.05 > 0.01; depth p99 0.05 > 0.02"


def test_scaled_sigma_is_measured_and_refused(made, frames):
    def scaled(image):
        depth, sigma = exact(image)
        return depth, sigma * np.float32(0.75)

    report = check(HandMade(scaled), made, frames)
    assert report.figures["sigma_median"] == pytest.approx(0.25, rel=1e-4)
    assert report.failures == ("sigma median 0.25 > 0.03", "sigma p99 0.25 > 0.04")


OVERFLOWING = """<ir_version: 9, opset_import: ["" : 18]>
network (uint8[N, 25, 40, 3] image) => (float[N, 25, 40] depth, float[N, 25, 40] sigma)
<float[2, 3, 1, 1] grow = {1000, 0, 0, 0, 1, 0}, float[2, 2, 1, 1] shrink = {0.0001, 0, 0, 0.01}, int64[1] channel = {1}>
{
  levels = Cast <to = 1> (image)
  planes = Transpose <perm = [0, 3, 1, 2]> (levels)
  large = Conv (planes, grow)
  inside = Cast <to = TYPE> (large)
  outside = Cast <to = 1> (inside)
  small = Conv (outside, shrink)
  depth_plane, sigma_plane = Split <axis = 1, num_outputs = 2> (small)
  depth = Squeeze (depth_plane, channel)
  sigma = Squeeze (sigma_plane, channel)
}"""


def test_half_precision_that_overflows_is_found(made, frames):
    """Depth is red x 1000 / 10000, in fp16 between: that ends at 65504, so at 6.5 m."""
    graphs = [parser.parse_model(OVERFLOWING.replace("TYPE", str(kind))) for kind in (TensorProto.FLOAT, TensorProto.FLOAT16)]
    onnx.save(graphs[0], made.graph_path)
    full = bundle.save(made, made.path)
    (made.path / "half").mkdir()
    onnx.save(graphs[1], made.path / "half" / "model.onnx")
    half = load_engine(bundle.save(full, made.path / "half"))
    too_far = np.count_nonzero(frames[..., 0] > 65)
    report = check(half, full, frames, "fp16")
    assert report.figures["not_finite"] == too_far > 0
    assert check(half, full, np.minimum(frames, 65), "fp16").passed


@pytest.mark.parametrize(("pixels", "within"), [(9, True), (11, False)])
def test_one_percent_of_the_pixels_may_be_wrong(made, frames, pixels, within):
    def blotched(image):
        depth, sigma = exact(image)
        depth.reshape(len(image), -1)[:, :pixels] *= 1.5
        return depth, sigma

    report = check(HandMade(blotched), made, frames)
    assert report.passed == within
    assert report.figures["depth_median"] < 1e-6


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("output", [0, 1])
def test_one_pixel_that_is_not_finite_is_refused(made, frames, value, output):
    def holed(image):
        answer = exact(image)
        answer[output][0, 3, 5] = value
        return answer

    report = check(HandMade(holed), made, frames[:1])
    assert report.figures["not_finite"] == 1
    assert report.failures == ("not finite 1 > 0",)


def test_engine_without_any_finite_pixel(made, frames):
    def blind(image):
        return (np.full(image.shape[:3], np.nan, np.float32),) * 2

    report = check(HandMade(blind), made, frames)
    assert report.figures["not_finite"] == 3 * 25 * 40
    assert report.figures["depth_median"] == math.inf
    assert not report.passed
    assert json.loads(json.dumps(report.as_dict(), allow_nan=False))["figures"]["depth_median"] is None


def test_engine_that_differs_when_asked_again(made, frames):
    calls = []

    def restless(image):
        depth, sigma = exact(image)
        calls.append(1)
        depth[0, 0, 0] += np.float32(1e-4 * len(calls))
        return depth, sigma

    report = check(HandMade(restless), made, frames)
    assert report.failures == ("not repeated 3 > 0",)  # one pixel in each of the three images


def test_same_nan_again_is_a_repeat(made, frames):
    def holed(image):
        depth, sigma = exact(image)
        depth[:, 0, 0] = np.nan
        return depth, sigma

    assert check(HandMade(holed), made, frames).figures["not_repeated"] == 0


def test_swapped_outputs_are_refused(made, frames):
    report = check(HandMade(lambda image: exact(image)[::-1]), made, frames)
    assert {text.rsplit(" ", 3)[0] for text in report.failures} == {"depth median", "depth p99", "sigma median", "sigma p99"}


@pytest.mark.parametrize(("output", "failure"), [(0, "batch depth p99"), (1, "batch sigma p99")])
def test_batch_out_of_order_is_refused(made, frames, output, failure):
    def shuffled(image):
        answer = list(exact(image))
        answer[output] = answer[output][::-1]
        return tuple(answer)

    report = check(HandMade(shuffled), made, frames)
    assert len(report.failures) == 1
    assert report.failures[0].startswith(failure)


def test_answers_that_the_next_call_overwrites_are_refused(made, frames):
    buffers = np.empty((2, len(frames), made.height, made.width), np.float32)

    def reusing(image):
        depth, sigma = buffers[:, : len(image)]
        depth[:], sigma[:] = exact(image)
        return depth, sigma

    assert not check(HandMade(reusing), made, frames).passed


def test_beyond_the_range_every_depth_is_the_same(made, frames):
    """The robot publishes +inf for 22 m and for 24 m alike; and a sigma only where it publishes a depth."""
    frames[:, :, :20, 0] = 220

    def farther(image):
        depth, sigma = exact(image)
        far = depth >= 20
        return np.where(far, np.float32(24), depth), np.where(far, 9 * sigma, sigma)

    report = check(HandMade(farther), made, frames)
    assert report.passed
    assert max(report.figures.values()) < 1e-6


def test_depth_where_there_is_nothing_in_range_counts_up_to_the_range(made, frames):
    frames[:, :, :20, 0] = 220  # 22 m, and the engine says 16: 4 / 20 against the end of the range

    def nearer(image):
        depth, sigma = exact(image)
        return np.where(depth >= 20, np.float32(16), depth), sigma

    assert check(HandMade(nearer), made, frames).figures["depth_p99"] == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda image: (exact(image)[0][:, 1:], exact(image)[1]), "depth is (1, 24, 40) float32; expected (1, 25, 40) float32"),
        (lambda image: (exact(image)[0], exact(image)[1].astype(float)), "sigma is (1, 25, 40) float64"),
        (lambda image: exact(image)[:1], "ValueError: "),
        (lambda image: (None, None), "AttributeError: "),
        (lambda image: 1 / 0, "ZeroDivisionError: division by zero"),
    ],
)
def test_engine_that_breaks_the_contract_is_reported(made, frames, answer, reason):
    report = check(HandMade(answer), made, frames)
    assert not report.passed
    assert reason in report.describe()
    assert report.as_dict()["failures"] == list(report.failures)


def test_closed_engine_is_reported(made, frames):
    engine = load_engine(made)
    engine.close()
    assert "closed" in check(engine, made, frames).describe()


def test_precisions_have_their_own_limits(made, frames):
    def scaled(image):
        depth, sigma = exact(image)
        depth.reshape(len(image), -1)[:, :20] *= 1.2
        return depth, sigma

    assert check(HandMade(scaled), made, frames).failures == ("depth p99 0.2 > 0.02",)
    assert check(HandMade(scaled), made, frames, "fp16").passed  # up to 0.5 in this bundle


def test_limits_that_a_bundle_leaves_out_are_the_usual_ones(made):
    limits = limits_of(made, "fp16")
    assert limits["depth_p99"] == limits["batch_depth_p99"] == 0.5
    assert limits["sigma_p99"] == limits["batch_sigma_p99"] == DEFAULT_LIMITS["fp16"]["sigma_p99"]
    assert limits["not_finite"] == limits["not_repeated"] == 0
    with pytest.raises(EngineError, match="precision 'fp8' is unknown; expected one of fp32, fp16, bf16, int8"):
        limits_of(made, "fp8")


@pytest.mark.parametrize("shape", [(25, 40, 3), (0, 25, 40, 3), (1, 40, 25, 3)])
def test_frames_of_another_size_are_the_callers_mistake(made, shape):
    with pytest.raises(InputError, match=r"expected \(N, 25, 40, 3\) uint8"):
        check(HandMade(exact), made, np.zeros(shape, np.uint8))


def test_frames_on_which_the_model_sees_nothing_say_nothing(made):
    with pytest.raises(InputError, match="nothing in its range"):
        check(HandMade(exact), made, np.zeros((2, 25, 40, 3), np.uint8))


def test_frames_that_ship_are_resized_to_the_model(made):
    frames = load_frames(made)
    assert frames.shape == (4, 25, 40, 3)
    assert frames.dtype == np.uint8
    assert min(np.std(frames, axis=(1, 2, 3))) > 20  # pictures, not flat colour
    assert check(HandMade(exact), made, frames).passed


def test_frames_of_a_folder_are_rgb_and_spread_over_it(make_bundle, tmp_path):
    made = make_bundle(8, 4)
    for index in range(2 * MOST_FRAMES - 1):
        cv2.imwrite(str(tmp_path / f"{index:03d}.png"), np.full((4, 8, 3), (0, 0, index), np.uint8))  # BGR
    (tmp_path / "notes.txt").write_text("no image")
    frames = load_frames(made, tmp_path)
    assert frames[:, 0, 0, 0].tolist() == list(range(0, 2 * MOST_FRAMES - 1, 2))
    assert not frames[..., 1:].any()


def test_frames_are_read_by_the_opencv_of_ubuntu(made, monkeypatch):
    """4.5 and 4.6, which ROS is built with, cannot be asked for RGB."""
    expected = load_frames(made)
    monkeypatch.delattr(cv2, "IMREAD_COLOR_RGB")
    np.testing.assert_array_equal(load_frames(made), expected)


def test_a_bundle_brings_its_own_frames(made):
    (made.path / "frames").mkdir()
    shutil.copy(FRAMES / "room.jpg", made.path / "frames")
    frames = load_frames(made)
    assert len(frames) == 1
    np.testing.assert_array_equal(frames[0], load_frames(made, FRAMES)[sorted(FRAMES.iterdir()).index(FRAMES / "room.jpg")])


def test_folder_without_images(made, tmp_path):
    with pytest.raises(InputError, match="holds no images"):
        load_frames(made, made.path)
    with pytest.raises(InputError, match="no such folder"):
        load_frames(made, tmp_path / "none")
    (tmp_path / "cut.jpg").write_bytes((FRAMES / "room.jpg").read_bytes()[:100])
    with pytest.raises(InputError, match=r"cut.jpg: cannot be read"):
        load_frames(made, tmp_path)
