"""What the node's worker holds on a device, and when it lets go of it."""

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from sensor_msgs.msg import CameraInfo, Image

from depth_ros.answers import answer_together
from depth_ros.engines import EngineError, EngineOptions, load_engine
from depth_ros.engines.onnxrt import open_on_cpu
from depth_ros.estimator import Estimator
from depth_ros.graphs import frame_graph
from depth_ros.ros.camera_answerer import CameraAnswerer
from depth_ros.ros.params import NodeParams
from depth_ros.ros.pipeline import Pipeline


class Publisher:
    def __init__(self):
        self.published = []

    def get_subscription_count(self):
        return 1

    def publish(self, message):
        self.published.append(message)


class Device:
    """An engine that takes over frames; `failing` sizes of image it cannot open."""

    def __init__(self, bundle):
        self._bundle, self.open, self.failing = bundle, [], []
        self.engine = load_engine(bundle, options=EngineOptions(threads=1))

    def open_frame_graph(self, width, height):
        if (width, height) in self.failing:
            raise EngineError("out of memory")
        runner = open_on_cpu(frame_graph(self._bundle, width, height, "fp32"), "frame graph")
        close, size = runner.close, (width, height)
        runner.close = lambda: (self.open.remove(size), close())
        self.open.append(size)
        return runner


def message(width, height):
    image = Image(width=width, height=height, encoding="rgb8", step=3 * width)
    image.data = np.full(3 * width * height, 100, np.uint8).tobytes()
    info = CameraInfo(width=width, height=height)
    info.k = [100.0, 0.0, width / 2, 0.0, 100.0, height / 2, 0.0, 0.0, 1.0]
    return image, info


@pytest.fixture
def device(make_bundle):
    return Device(make_bundle())


def answer(pipeline, image, info):
    """Accept, answer and publish, as the node does with the image of its only camera."""
    job = pipeline.accept(image, info, NodeParams())
    (answer,) = answer_together([job.request])
    pipeline.publish(job, answer)
    return True


@pytest.fixture
def pipeline(device):
    answerer = CameraAnswerer(Estimator(device._bundle, device), lambda text: None)
    return Pipeline(answerer, {"depth/image_rect": Publisher()})


def test_another_camera_gives_back_what_the_one_before_held(pipeline, device):
    for size in ((160, 90), (80, 60)):
        assert answer(pipeline, *message(*size))
        assert device.open == [size]
    pipeline.answerer.close()
    pipeline.answerer.close()
    assert device.open == []


def test_a_camera_whose_graph_cannot_be_opened_is_asked_for_again(pipeline, device):
    assert answer(pipeline, *message(160, 90))
    device.failing = [(80, 60)]
    with pytest.raises(EngineError, match="out of memory"):
        answer(pipeline, *message(80, 60))
    assert device.open == []
    for size in ((160, 90), (80, 60)):
        device.failing = []
        assert answer(pipeline, *message(*size))
        assert device.open == [size]
