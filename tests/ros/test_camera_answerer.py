"""What is prepared for a camera, and when it is given back."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from harness import info_message, wall

from depth_ros.answers import Wish
from depth_ros.cloud import CloudOptions
from depth_ros.engines import EngineOptions, load_engine
from depth_ros.estimator import Estimator
from depth_ros.ros.camera_answerer import CameraAnswerer
from depth_ros.ros.params import NodeParams
from depth_ros.types import InputError


class Host:
    """An engine without a device, which counts how often a graph for a size of image is asked for."""

    def __init__(self, bundle):
        engine = load_engine(bundle, options=EngineOptions(threads=1))
        self.infer, self.asked = engine.infer, []

    def open_frame_graph(self, width, height):
        self.asked.append((width, height))


@pytest.fixture
def host(make_bundle):
    bundle = make_bundle()
    return bundle, Host(bundle)


def test_a_camera_is_prepared_once_and_warned_of_once(host):
    bundle, engine = host
    warnings = []
    answerer = CameraAnswerer(Estimator(bundle, engine), warnings.append)
    for width, height in ((128, 64), (128, 64), (128, 128), (128, 128), (128, 64)):
        frame = answerer.frame(wall(width, height), info_message(width, height), NodeParams())
        found = answerer.answer(frame, Wish(True, None))
        assert found.prediction.depth.shape == (height, width)
        assert found.points is None
    assert engine.asked == [(128, 64), (128, 128), (128, 64)]
    (warning,) = warnings  # a square image squashed to 2:1
    assert "128x128" in warning


def test_what_the_lens_did_not_see_has_no_depth_and_an_image_that_is_rectified_stays(host):
    bundle, engine = host
    answerer = CameraAnswerer(Estimator(bundle, engine), lambda text: None)
    info = info_message()
    info.d = [0.5, 0.0, 0.0, 0.0, 0.0]  # points are spread outwards, so that the raw image lacks the corners
    depth = answerer.answer(answerer.frame(wall(), info, NodeParams()), Wish(True, CloudOptions())).prediction.depth
    assert np.isnan(depth[0, 0])
    assert depth[30, 60] == pytest.approx(5.0)
    rectified = answerer.frame(wall(), info, NodeParams(image_is_rectified=True))
    depth = answerer.answer(rectified, Wish(True, None)).prediction.depth
    np.testing.assert_allclose(depth, 5.0)
    info.k = [0.0] * 9
    with pytest.raises(InputError, match="not calibrated"):
        answerer.frame(wall(), info, NodeParams())
