"""Scale applied to a prediction, and where it stands between engine and outputs."""

from __future__ import annotations

import numpy as np
import pytest

from depth_ros.answers import DeviceAnswerer, HostAnswerer, Wish, open_answerer
from depth_ros.cloud import CloudOptions
from depth_ros.engines import EngineOptions, load_engine
from depth_ros.engines.onnxrt import open_on_cpu
from depth_ros.estimator import Estimator
from depth_ros.graphs import frame_graph
from depth_ros.scale import ConstantScale, Scale, apply
from depth_ros.types import CameraModel, DepthPrediction, Frame, InputError

CAMERA = CameraModel(8, 4, 10.0, 10.0, 3.5, 1.5)


def prediction(depth, sigma):
    values = [np.broadcast_to(np.asarray(v, np.float32), (4, 8)).copy() for v in (depth, sigma)]
    return DepthPrediction(*values, CAMERA)


def test_a_factor_scales_depth_and_adds_its_variance():
    """3 m +- 0.3 m (10 %) times 2 +- 7.5 %: 6 m, and 10 % and 7.5 % make 12.5 %."""
    scaled = apply(prediction(3.0, 0.3), Scale(2.0, 0.075))
    np.testing.assert_allclose(scaled.depth, 6.0, rtol=1e-6)
    np.testing.assert_allclose(scaled.sigma, 0.125 * 6, rtol=1e-6)
    assert scaled.depth.dtype == scaled.sigma.dtype == np.float32


def test_a_shift_acts_in_inverse_depth():
    """1 / (2 x 2.5) + 0.05 = 1 / 4."""
    np.testing.assert_allclose(apply(prediction(2.5, 0.1), Scale(2.0, 0.0, 0.05)).depth, 4.0, rtol=1e-6)


def test_the_identity_changes_nothing():
    plain = prediction(3.0, 0.3)
    assert apply(plain, Scale()) is plain


def test_invalid_stays_invalid_and_nothing_in_range_stays_so():
    depth = np.full((4, 8), 5.0)
    depth[0], depth[1] = np.nan, np.inf
    scaled = apply(prediction(depth, np.where(np.isfinite(depth), 0.5, np.nan)), Scale(2.0, 0.1, -0.2, 0.01))
    assert np.isnan(scaled.depth[0]).all()
    # 1 / 10 - 0.2 is negative: beyond infinity.
    assert np.isposinf(scaled.depth[1:]).all()
    assert np.isnan(scaled.sigma).all()


@pytest.mark.parametrize("correlation", [-0.9, 0.0, 0.95])
def test_sigma_is_the_scatter_of_random_scales(correlation):
    """Against drawing factor, shift and the prediction's own error at random."""
    rng = np.random.default_rng(0)
    scale = Scale(2.0, 0.02, 0.03, 0.002, correlation)
    off = correlation * scale.sigma * scale.shift_sigma
    drawn = rng.multivariate_normal([0, 0], [[scale.sigma**2, off], [off, scale.shift_sigma**2]], 200_000)
    for depth, sigma in ((1.5, 0.02), (6.0, 0.1), (12.0, 0.3)):
        own = depth + sigma * rng.standard_normal(len(drawn))
        metres = 1 / (1 / (scale.factor * (1 + drawn[:, 0]) * own) + scale.shift + drawn[:, 1])
        stated = apply(prediction(depth, sigma), scale)
        assert stated.sigma[0, 0] == pytest.approx(metres.std(), rel=0.03)
        assert stated.depth[0, 0] == pytest.approx(np.median(metres), rel=2e-3)


class Halving:
    """A scaler that measures, and sees what it measures on."""

    constant = None

    def __init__(self):
        self.seen = []

    def scale_for(self, frame, seen):
        self.seen.append((frame, seen))
        if len(self.seen) > 1:
            raise InputError("no scale")
        return Scale(0.5, 0.3)


@pytest.fixture
def estimator(make_bundle):
    made = make_bundle(kind="scale_invariant")
    return Estimator(made, load_engine(made, options=EngineOptions(threads=1)), "range")


WIDE = CameraModel(128, 64, 100.0, 100.0, 63.5, 31.5)


def wall():
    """8 units +- 0.32 (4 %) everywhere."""
    return Frame(np.full((64, 128, 3), (80, 32, 9), np.uint8), WIDE, 5, "camera")


def test_answers_are_in_metres_and_the_scaler_sees_the_networks_resolution(estimator):
    unseen = np.zeros((64, 128), bool)
    unseen[:, :16] = True
    scaler = Halving()
    answerer = open_answerer(estimator, WIDE, unseen, scaler)
    answer = answerer.answer(wall(), Wish(True, CloudOptions()))
    np.testing.assert_allclose(answer.prediction.depth[:, 20:], 4.0, rtol=1e-5)
    np.testing.assert_allclose(answer.prediction.sigma[:, 20:], 4 * np.hypot(0.04, 0.3), rtol=1e-5)
    np.testing.assert_allclose(answer.points["z"][:, 10:], 4.0, rtol=1e-5)
    ((frame, seen),) = scaler.seen
    assert frame.image.shape[:2] == seen.depth.shape == (32, 64)
    assert np.isnan(seen.depth[:, :8]).all()  # what rectification left empty measures nothing
    np.testing.assert_allclose(seen.depth[:, 8:], 8.0, rtol=1e-6)
    with pytest.raises(InputError, match="no scale"):
        answerer.answer(wall(), Wish(True, None))


def test_the_device_takes_a_certain_factor_and_leaves_the_others_to_the_host(estimator, make_bundle):
    def open_frame_graph(width, height):
        return open_on_cpu(frame_graph(estimator.bundle, width, height, "fp32"), "frame graph")

    estimator.engine.open_frame_graph = open_frame_graph
    certain, uncertain = (ConstantScale(Scale(1.5, sigma)) for sigma in (0.0, 0.1))
    device = open_answerer(estimator, WIDE, None, certain)
    assert isinstance(device, DeviceAnswerer)
    answer = device.answer(wall(), Wish(True, None)).prediction
    np.testing.assert_allclose(answer.depth, 12.0, rtol=1e-5)
    np.testing.assert_allclose(answer.sigma, 0.48, rtol=1e-5)
    device.close()
    for scaler in (uncertain, Halving()):
        assert isinstance(open_answerer(estimator, WIDE, None, scaler), HostAnswerer)
