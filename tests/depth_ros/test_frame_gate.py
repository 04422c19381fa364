"""The frame gate against runners with known errors: the reference's own answers, changed by hand."""

import numpy as np
import pytest

from depth_ros import graphs
from depth_ros.engines import EngineError
from depth_ros.engines.frame_gate import check_frames, open_reference
from depth_ros.engines.gate import DEFAULT_LIMITS
from depth_ros.engines.onnxrt import open_on_cpu

WIDTH, HEIGHT = 40, 20  # of the camera
LIMITS = {"depth_median": 0.01, "depth_p99": 0.02, "sigma_median": 0.03, "sigma_p99": 0.04}


@pytest.fixture
def made(make_bundle):
    """depth = red / 10, in range from 1 m to 20 m; sigma = green / 100."""
    return make_bundle(20, 10, min_depth=1.0, max_depth=20.0, limits={"fp32": LIMITS})


@pytest.fixture
def images():
    """Two flat images: 5 m on the left, nothing in range on the right; and 8 m everywhere."""
    pictures = np.full((2, HEIGHT, WIDTH, 3), 60, np.uint8)
    pictures[0, ..., 0], pictures[1, ..., 0] = 50, 80
    pictures[0, :, WIDTH // 2 :, 0] = 220
    return pictures


class Changed:
    """Answers like `runner`, then `change(values)` in place."""

    def __init__(self, runner, change):
        self.runner, self.change, self.precision = runner, change, runner.precision

    def run(self, inputs, outputs):
        values = {name: array.copy() for name, array in self.runner.run(inputs, outputs).items()}
        self.change(values)
        return values


def report_of(made, images, change):
    reference = open_reference(made, WIDTH, HEIGHT)
    return check_frames(Changed(reference, change), reference, made, images)


def test_the_reference_agrees_with_itself(made, images):
    report = report_of(made, images, lambda values: None)
    assert report.passed
    assert set(report.figures.values()) == {0.0}
    assert report.figures.keys() == report.limits.keys()
    assert "agrees with ONNX Runtime on 2 images" in report.describe()


def scale_depth(values):
    values["depth"] *= np.float32(1.05)


def scale_sigma(values):
    values["sigma"] *= np.float32(1.25)


def scale_points(values):
    values["points"][..., :3] *= np.float32(1.05)


def scale_points_sigma(values):
    values["points"][..., 3] *= np.float32(0.75)


def brighten(values):
    values["colors"] += np.uint8(2)


def lose_depth(values):
    values["depth"][0, 0, :10] = values["sigma"][0, 0, :10] = np.nan


def lose_points(values):
    values["points"][0, 0] = np.nan


def lose_sky(values):
    values["depth"][np.isposinf(values["depth"])] = np.nan


@pytest.mark.parametrize(
    ("change", "failures"),
    [
        (scale_depth, ("depth median 0.05 > 0.01", "depth p99 0.05 > 0.02")),
        (scale_sigma, ("sigma median 0.25 > 0.03", "sigma p99 0.25 > 0.04")),
        (scale_points, ("points p99 0.05 > 0.02",)),
        (scale_points_sigma, ("points sigma p99 0.25 > 0.04",)),
        (brighten, ("colors 2 > 1",)),
        (lose_depth, ("not finite 0.0125 > 0.001",)),  # 10 of 40 x 20 pixels
        (lose_points, ("points missing 0.075 > 0.02",)),  # 10 of row one in image 1 (the rest is sky), 20 of it in image 2
        (lose_sky, ("not finite 0.25 > 0.001",)),  # half of one of two images
    ],
)
def test_an_error_is_measured_and_refused(made, images, change, failures):
    assert report_of(made, images, change).failures == failures


def test_x_and_y_of_points_are_held_too(made, images):
    def swap(values):
        values["points"][..., :2] = values["points"][..., 1::-1].copy()

    (failure,) = report_of(made, images, swap).failures
    assert failure.startswith("points p99")


def test_runner_that_differs_when_asked_again(made, images):
    calls = []

    def restless(values):
        calls.append(1)
        values["sigma"][0, 0, 0] += np.float32(1e-5 * len(calls))

    assert report_of(made, images, restless).failures == ("not repeated 2 > 0",)


def test_runner_that_fails_is_reported(made, images):
    def fail(values):
        raise EngineError("the device is gone")

    report = report_of(made, images, fail)
    assert report.failures == ("the device is gone",)


def test_half_precision_of_a_frame_graph_passes(make_bundle, images):
    made = make_bundle(20, 10, min_depth=1.0, max_depth=20.0)
    runner = open_on_cpu(graphs.frame_graph(made, WIDTH, HEIGHT, "fp16"), "frame graph", "fp16")
    report = check_frames(runner, open_reference(made, WIDTH, HEIGHT), made, images)
    assert report.passed
    assert (report.precision, report.limits["depth_p99"]) == ("fp16", DEFAULT_LIMITS["fp16"]["depth_p99"])


def test_reference_that_cannot_be_made_is_named(make_bundle):
    made = make_bundle()
    made.graph_path.write_bytes(b"no graph")
    with pytest.raises(EngineError, match="bundle_64x32"):
        open_reference(made, WIDTH, HEIGHT)
    with pytest.raises(EngineError, match="a frame of probe: ONNX Runtime cannot load"):
        open_on_cpu(b"no graph", "a frame of probe")
