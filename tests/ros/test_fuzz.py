"""10 000 random image messages through the message path: each is answered in its own size, or refused in one line."""

from __future__ import annotations

import resource
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

import cv2
from harness import image_message, info_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2

from depth_ros.answers import answer_together
from depth_ros.engines import EngineOptions, load_engine
from depth_ros.estimator import Estimator
from depth_ros.images import ENCODINGS
from depth_ros.ros.camera_answerer import CameraAnswerer
from depth_ros.ros.params import NodeParams
from depth_ros.ros.pipeline import IMAGES, Job, Pipeline
from depth_ros.types import InputError

COUNT = 2000  # messages per setting of the node
TOPICS = (*IMAGES, "depth/camera_info", "points")
BYTES_PER_PIXEL = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono16": 2, "yuv422": 2, "uyvy": 2, "yuv422_yuy2": 2, "yuyv": 2}
COEFFICIENTS = {"plumb_bob": 5, "rational_polynomial": 8, "equidistant": 4, "": 5}
SIZES = (*((64, 32), (64, 48), (40, 30), (6, 4), (1, 1), (2, 90), (97, 3)) * 8, (32800, 1))
ODD_SIZES = (0, 1, 2, 3, 63, 64, 65, 32767, 32768, 65535, 2**31, 2**32 - 1)
ODD_NUMBERS = (0.0, -0.0, -1.0, 1e-300, 1e-30, 1e30, 1e300, float("nan"), float("inf"), -float("inf"))
ODD_TEXTS = (
    "",
    "jpeg2000",
    "32FC1",
    "RGB8",
    "rgb8 ",
    "bayer_rggb16",
    "x" * 5000,
    "two\nlines",
    "\x00\x1b[31m",
    "depth; compressedDepth",
)
MEMORY_MB = 1024  # of address space, of which each thread reserves more than these images need
SETTINGS = {
    "plain": {},
    "full cloud": {"cloud_full_resolution": True, "cloud_stride": 3, "image_is_rectified": True},
    "voxels": {"cloud_voxel_size": 0.1, "depth_encoding": "16UC1"},
    "filtered": {"temporal_filter": True, "max_depth": 8.0},
    "cameras": {"camera_names": ("front", "left")},
}


class Publisher:
    """Keeps the last message of a topic that has a subscriber."""

    def __init__(self) -> None:
        self.last: Any = None

    def get_subscription_count(self) -> int:
        return 1

    def publish(self, message: Any) -> None:
        self.last = message


# ---- good messages


def good_info(random: Random, width: int, height: int) -> CameraInfo:
    f = random.uniform(0.3, 3.0) * width
    info = info_message(width, height, f, random.uniform(0, width), random.uniform(0, height))
    if random.random() < 0.3:
        info.distortion_model = random.choice([*COEFFICIENTS])
        info.d = [random.uniform(-0.2, 0.2) for _ in range(COEFFICIENTS[info.distortion_model])]
    return info


def good_image(random: Random, noise: np.random.Generator, width: int, height: int) -> Image:
    encoding = random.choice(ENCODINGS)
    pixels = noise.integers(0, 256, (height, width, BYTES_PER_PIXEL.get(encoding, 1)), np.uint8)
    return image_message(pixels, encoding, random.choice((0, 0, 5)), random.random() < 0.2)


def good_compressed(random: Random, noise: np.random.Generator, width: int, height: int) -> CompressedImage:
    channels = random.choice((1, 3, 4))
    kind = ".png" if channels == 4 or random.random() < 0.5 else ".jpg"
    depth = np.uint16 if kind == ".png" and random.random() < 0.2 else np.uint8
    data = cv2.imencode(kind, noise.integers(0, 256, (height, width, channels)).astype(depth))[1]
    label = random.choice(
        ("jpeg", "png", "bgr8; png compressed bgr8", "bayer_rggb8; jpeg compressed ", "rgb8; jpeg compressed rgb8")
    )
    message = CompressedImage(format=label)
    message.data.frombytes(data)
    return message


# ---- and what goes wrong with them


def odd_data(random: Random, message: Image | CompressedImage) -> None:
    data = bytearray(message.data)
    for _ in range(random.choice((1, 1, 8, 64))):  # flipped bytes, headers and lengths of chunks among them
        if data:
            data[random.randrange(min(len(data), random.choice((32, 4096))))] = random.randrange(256)
    cut = random.choice((None, None, 0, 1, random.randrange(len(data) + 1)))
    message.data = bytes(data[:cut]) + bytes(random.choice((0, 0, 1, 300)))


def odd_image_size(random: Random, message: Image | CompressedImage) -> None:
    if isinstance(message, Image):
        setattr(message, random.choice(("width", "height", "step")), random.choice(ODD_SIZES))
    elif len(message.data) > 24:  # where a PNG has its own
        at = random.choice((16, 20))
        message.data[at : at + 4] = type(message.data)("B", random.choice(ODD_SIZES).to_bytes(4, "big"))


def odd_text(random: Random, message: Image | CompressedImage) -> None:
    setattr(message, "encoding" if isinstance(message, Image) else "format", random.choice((*ODD_TEXTS, *ENCODINGS)))


def odd_header(random: Random, message: Image | CompressedImage) -> None:
    message.header.frame_id = random.choice(ODD_TEXTS)
    message.header.stamp.sec = random.choice((0, -(2**31), 2**31 - 1))
    message.header.stamp.nanosec = random.choice((0, 2**32 - 1))


def odd_matrix(random: Random, info: CameraInfo) -> None:
    name = random.choice("kkrpp")
    values = list(getattr(info, name))
    for _ in range(random.choice((1, 1, 3, 20))):
        values[random.randrange(len(values))] = random.choice((*ODD_NUMBERS, random.gauss(0, 1e3)))
    setattr(info, name, random.choice((values, values, [0.0] * len(values))))


def odd_distortion(random: Random, info: CameraInfo) -> None:
    info.distortion_model = random.choice((*COEFFICIENTS, "fisheye", "barrel", *ODD_TEXTS))
    info.d = [random.choice((*ODD_NUMBERS, random.gauss(0, 1))) for _ in range(random.choice((0, 1, 3, 4, 5, 8, 12, 14, 200)))]


def odd_info_size(random: Random, info: CameraInfo) -> None:
    setattr(info, random.choice(("width", "height")), random.choice(ODD_SIZES))


def odd_region(random: Random, info: CameraInfo) -> None:
    setattr(info, random.choice(("binning_x", "binning_y")), random.choice(ODD_SIZES))
    for _ in range(random.randrange(3)):
        setattr(info.roi, random.choice(("x_offset", "y_offset", "width", "height")), random.choice(ODD_SIZES))


OF_IMAGES: tuple[Callable[[Random, Any], None], ...] = (odd_data, odd_image_size, odd_text, odd_header)
OF_INFOS: tuple[Callable[[Random, Any], None], ...] = (odd_matrix, odd_distortion, odd_info_size, odd_region)


def messages_of(random: Random, noise: np.random.Generator) -> tuple[Image | CompressedImage, CameraInfo]:
    width, height = random.choice(SIZES)
    make = random.choice((good_image, good_compressed))
    image, info = make(random, noise, width, height), good_info(random, width, height)
    for _ in range(random.choice((0, 1, 1, 2))):
        if random.random() < 0.5:
            random.choice(OF_IMAGES)(random, image)
        else:
            random.choice(OF_INFOS)(random, info)
    return image, info


# ---- what comes of them


def put_through(
    pipeline: Pipeline, image: Image | CompressedImage, info: CameraInfo, params: NodeParams
) -> tuple[Job | None, str]:
    """What the node does with an image: the job that was published, or why there is none."""
    try:
        job = pipeline.accept(image, info, params)
        (answer,) = answer_together([job.request])
        if isinstance(answer, InputError):
            return None, str(answer)
    except InputError as error:
        return None, str(error)
    pipeline.publish(job, answer)
    return job, ""


def sizes_by_hand(image: Image | CompressedImage, info: CameraInfo) -> tuple[tuple[int, int], tuple[int, int]]:
    """Width and height of the pixels that were sent, and those that the camera_info says they have."""
    if isinstance(image, Image):
        sent = image.width, image.height
    else:
        sent = cv2.imdecode(np.frombuffer(image.data, np.uint8), cv2.IMREAD_UNCHANGED).shape[1::-1]
    full = (info.roi.width or info.width, info.roi.height or info.height)
    return sent, (full[0] // max(1, info.binning_x), full[1] // max(1, info.binning_y))


def check_outputs(size_px: tuple[int, int], publishers: dict[str, Publisher], params: NodeParams) -> None:
    width, height = size_px
    info = publishers["depth/camera_info"].last
    assert (info.width, info.height) == size_px
    arrays = {}
    for topic in ("depth/image_rect", "depth/uncertainty", "depth/image_color"):
        message = publishers[topic].last
        size = {"32FC1": 4, "16UC1": 2, "bgr8": 3}[message.encoding]
        assert (message.width, message.height, message.step) == (width, height, size * width)
        assert len(message.data) == message.step * message.height
        arrays[topic] = np.frombuffer(message.data, np.float32 if size == 4 else np.uint8)
    if params.depth_encoding == "32FC1":
        depth, sigma = arrays["depth/image_rect"], arrays["depth/uncertainty"]
        assert not (depth <= 0).any()  # NaN or +inf for what is none
        np.testing.assert_array_equal(np.isfinite(sigma), np.isfinite(depth))
        assert not (sigma <= 0).any()
    png = np.frombuffer(publishers["depth/image_rect/compressedDepth"].last.data, np.uint8)[12:]
    assert cv2.imdecode(png, cv2.IMREAD_UNCHANGED).shape == (height, width)
    check_cloud(publishers["points"].last)


def check_cloud(cloud: PointCloud2) -> None:
    assert (cloud.point_step, cloud.row_step) == (20, 20 * cloud.width)
    assert len(cloud.data) == cloud.row_step * cloud.height
    x, y, z, _, sigma = np.frombuffer(cloud.data, np.float32).reshape(-1, 5).T
    for field in (x, y, sigma):
        np.testing.assert_array_equal(np.isfinite(field), np.isfinite(z))
    assert not np.isinf(z).any()


def address_space_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


@pytest.fixture
def limited_memory():
    """What asks for gigabytes gets an error instead."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (address_space_bytes() + (MEMORY_MB << 20), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("setting", SETTINGS)
def test_every_message_is_answered_in_its_size_or_refused_in_one_line(make_bundle, limited_memory, setting):
    seed = [*SETTINGS].index(setting)
    random, noise = Random(seed), np.random.default_rng(seed)
    params = NodeParams(**SETTINGS[setting])
    model = make_bundle()
    estimator = Estimator(model, load_engine(model, options=EngineOptions(threads=1)))
    publishers = {topic: Publisher() for topic in TOPICS}
    pipeline = Pipeline(CameraAnswerer(estimator, lambda text: None, on_host=bool(params.camera_names)), publishers)
    answered = 0
    for number in range(COUNT):
        image, info = messages_of(random, noise)
        job, reason = put_through(pipeline, image, info, params)
        assert len(reason) < 600, number
        assert not reason or reason.isprintable(), number
        if job is not None:
            sent, said = sizes_by_hand(image, info)
            assert sent == said, number
            check_outputs(sent, publishers, params)
            answered += 1
    assert COUNT / 10 < answered < COUNT * 9 / 10
