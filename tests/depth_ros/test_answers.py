"""The host and an engine's device answer frames alike."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest

from depth_ros.answers import DeviceAnswerer, HostAnswerer, Wish, open_answerer
from depth_ros.cloud import CloudOptions
from depth_ros.engines import EngineError, EngineOptions, load_engine
from depth_ros.engines.onnxrt import open_on_cpu
from depth_ros.estimator import Estimator
from depth_ros.graphs import frame_graph
from depth_ros.temporal import TemporalOptions
from depth_ros.types import CameraModel, Frame, InputError

CAMERA = CameraModel(160, 90, 120.0, 118.0, 78.0, 47.0)
CLOUDS = [
    CloudOptions(),
    CloudOptions(stride=3, max_relative_sigma=0.11, max_edge_step=0.3),
    CloudOptions(full_resolution=True, stride=2),
]


class OnDevice:
    """An engine that takes over frames, on the one device that every machine has."""

    def __init__(self, engine, bundle):
        self._engine, self._bundle, self.runs = engine, bundle, []

    def infer(self, image):
        raise AssertionError("the device has the whole frame; nothing is left for the host to infer")

    def open_frame_graph(self, width, height):
        runner = open_on_cpu(frame_graph(self._bundle, width, height, "fp32"), "frame graph")
        run = runner.run

        def recorded(inputs, outputs):
            self.runs.append((dict(inputs), tuple(outputs)))
            return run(inputs, outputs)

        runner.run = recorded
        return runner


@pytest.fixture
def pair(make_bundle):
    bundle = make_bundle()
    engine = load_engine(bundle, options=EngineOptions(threads=1))
    device = OnDevice(engine, bundle)
    with closing(engine):
        yield Estimator(bundle, engine), Estimator(bundle, device)


def frame(seed=0, camera=CAMERA):
    rng = np.random.default_rng(seed)
    rows = np.linspace(0, 200, camera.height)[:, None, None]
    image = (rows + rng.integers(0, 40, (camera.height, camera.width, 3))).astype(np.uint8)
    image[30:50, 60:90] = (255, 50, 9)  # the probe model's sky
    image[60:70, 20:50] = (0, 50, 9)  # and what it takes for invalid
    return Frame(image, camera, 7, "camera")


@pytest.mark.parametrize("cloud", CLOUDS)
def test_the_device_answers_like_the_host(pair, cloud):
    unseen = np.zeros((CAMERA.height, CAMERA.width), bool)
    unseen[:, :12] = True
    host, device = (open_answerer(estimator, CAMERA, unseen) for estimator in pair)
    assert isinstance(host, HostAnswerer)
    assert isinstance(device, DeviceAnswerer)
    ours, theirs = host.answer(frame(), Wish(True, cloud)), device.answer(frame(), Wish(True, cloud))
    for name, grey_level in (("depth", 0.1), ("sigma", 0.01)):  # what one is worth to the probe model [m]
        a, b = getattr(ours.prediction, name), getattr(theirs.prediction, name)
        assert np.isnan(a[:, :12]).all()
        assert (np.isfinite(a) == np.isfinite(b)).mean() > 0.995  # a grey level at a threshold of the probe model
        both = np.isfinite(a) & np.isfinite(b)
        assert both.mean() > 0.5
        assert np.quantile(np.abs(b[both] - a[both]), 0.98) <= grey_level
    assert ours.points.shape == theirs.points.shape
    assert ours.points.dtype == theirs.points.dtype
    kept = [np.isfinite(points["z"]) for points in (ours.points, theirs.points)]
    assert (kept[0] == kept[1]).mean() > 0.98
    both = kept[0] & kept[1]
    assert both.mean() > 0.2
    for name in ("x", "y", "z", "sigma"):
        assert np.quantile(np.abs(ours.points[name][both] - theirs.points[name][both]), 0.98) <= 0.1
    colors = [np.ascontiguousarray(points["rgb"]).view(np.uint8).astype(int) for points in (ours.points, theirs.points)]
    assert np.abs(colors[0] - colors[1]).max() <= 1


@pytest.mark.parametrize("full", [False, True])
def test_voxels_are_those_of_the_organised_cloud_on_host_and_device(pair, full):
    for estimator in pair:
        answerer = open_answerer(estimator, CAMERA, None)
        limits = {"full_resolution": full, "max_relative_sigma": 0.2, "max_edge_step": 0.3}
        organised = answerer.answer(frame(), Wish(False, CloudOptions(**limits))).points.copy()
        voxels = answerer.answer(frame(), Wish(False, CloudOptions(**limits, voxel_size=0.5))).points
        assert organised.ndim == 2
        assert np.isnan(organised["z"]).any()
        assert voxels.ndim == 1
        cubes = {tuple(np.floor(np.array(point) / np.float32(0.5))) for point in organised[["x", "y", "z"]].ravel().tolist()}
        assert voxels.size == len({cube for cube in cubes if not np.isnan(cube).any()})
        assert 10 < voxels.size < np.isfinite(organised["z"]).sum()


def test_sky_is_infinite_in_the_image_and_absent_in_the_cloud(pair):
    for estimator in pair:
        answer = open_answerer(estimator, CAMERA, None).answer(frame(), Wish(True, CloudOptions(full_resolution=True)))
        sky = np.isposinf(answer.prediction.depth)
        assert sky[35:45, 65:85].all()
        assert np.isnan(answer.points["z"][sky]).all()


def test_smoothed_answers_are_fused_over_time_and_done_by_the_host(pair):
    estimator, on_device = pair
    assert isinstance(open_answerer(on_device, CAMERA, None, smoothing=TemporalOptions()), HostAnswerer)
    options = TemporalOptions(noise_share=1.0, process_noise=0.01, motion=0.0)
    smooth, plain = open_answerer(estimator, CAMERA, None, smoothing=options), open_answerer(estimator, CAMERA, None)
    for number in range(1, 8):
        image = np.full((CAMERA.height, CAMERA.width, 3), (100 + 4 * (number % 2), 200, 9), np.uint8)  # 10 or 10.4 m, sigma 2 m
        given = Frame(image, CAMERA, number * 100_000_000, "camera")
        answers = [answerer.answer(given, Wish(True, CloudOptions())) for answerer in (smooth, plain)]
        flicker = 10.4 if number % 2 else 10.0
        np.testing.assert_allclose(answers[1].prediction.depth / answers[1].prediction.depth.mean(), 1, rtol=1e-4)
    factor = answers[1].prediction.depth.mean() / flicker  # of the focal length
    assert answers[0].prediction.depth / factor == pytest.approx(10.2, abs=0.05)
    np.testing.assert_allclose(answers[0].points["z"] / factor, 10.2, atol=0.05)


def test_only_what_was_asked_for_comes_back(pair):
    _, estimator = pair
    answerer = open_answerer(estimator, CAMERA, None)
    answer = answerer.answer(frame(), Wish(True, None))
    assert answer.points is None
    answer = answerer.answer(frame(), Wish(False, CloudOptions()))
    assert answer.prediction is None
    answerer.answer(frame(), Wish(False, CloudOptions(full_resolution=True)))
    assert [outputs for _, outputs in estimator.engine.runs] == [("depth", "sigma"), ("points", "colors"), ("depth", "sigma")]


def test_what_stays_the_same_is_the_same_array_so_that_it_is_sent_once(pair):
    _, estimator = pair
    answerer = open_answerer(estimator, CAMERA, None)
    for seed in range(2):
        answerer.answer(frame(seed), Wish(True, CloudOptions(max_edge_step=0.1)))
    (first, _), (second, _) = estimator.engine.runs
    assert {name for name in first if first[name] is second[name]} == {"focal", "ray_x", "ray_y", "unseen", "limits"}
    answerer.answer(frame(), Wish(True, CloudOptions(max_edge_step=0.2)))
    assert estimator.engine.runs[-1][0]["limits"] == pytest.approx([0, 0.2])


def test_a_frame_of_another_camera_is_refused(pair):
    other = CameraModel(160, 90, 121.0, 118.0, 78.0, 47.0)
    for estimator in pair:
        with pytest.raises(InputError, match=r"frame of .* expected one of"):
            open_answerer(estimator, CAMERA, None).answer(frame(camera=other), Wish(True, None))


def test_the_runner_is_closed_with_its_answerer(pair):
    host, device = (open_answerer(estimator, CAMERA, None) for estimator in pair)
    for answerer in (host, device):
        answerer.close()
    with pytest.raises(EngineError, match="closed"):
        device.answer(frame(), Wish(True, None))
    assert host.answer(frame(), Wish(True, None)).prediction is not None  # the engine is not the answerer's
