"""The frame graph does what the host does around the network: images, masks, upsampling and cloud."""

from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime as ort
import pytest

from depth_ros import bundle, graphs
from depth_ros.cloud import CloudBuilder, pack_points, rays
from depth_ros.engines import EngineError, EngineOptions, load_engine
from depth_ros.estimator import Estimator, focal_factor, upsample
from depth_ros.images import resize_image
from depth_ros.types import CameraModel, Frame

DEFAULT = Path(__file__).resolve().parents[2] / "models" / "default"
OUTPUTS = ("depth", "sigma", "points", "colors")
OFF = (0.0, 0.0)


def camera_of(width, height, focal=50.0):
    """A camera whose focal length at the probe's 64 x 32 is `focal` px; its principal point is off the centre."""
    return CameraModel(width, height, focal * width / 64, focal * height / 32, 0.45 * width, 0.55 * height)


def scene(width, height, seed=0):
    """For the probe model: slopes and steps of depth, and patches of sky (red 250 and more), invalid (red 0, green 0), unsure."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width] / np.array([height, width])[:, None, None]
    image = np.stack([40 + 120 * rows + 30 * columns, 20 + 60 * columns, 255 * rng.random((height, width))], axis=-1)
    for _ in range(40):
        top, left = rng.integers(0, height), rng.integers(0, width)
        patch = image[top : top + rng.integers(2, 1 + height // 3), left : left + rng.integers(2, 1 + width // 3)]
        patch[:] = [(255, 50, 9), (0, 50, 9), (90, 0, 9), (30, 200, 9), (200, 60, 9)][rng.integers(0, 5)]
    return image.astype(np.uint8)


def mask(width, height):
    unseen = np.zeros((height, width), bool)
    unseen[:, : width // 7] = unseen[height - height // 9 :] = True
    return unseen


class FrameGraph:
    """The graph of a bundle and a camera size, run by ONNX Runtime."""

    def __init__(self, made, width, height, precision="fp32"):
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 3
        self.bundle = made
        graph = graphs.frame_graph(made, width, height, precision)
        self._session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def run(self, frames, unseen, limits):
        small = [frame.camera.resized(self.bundle.width, self.bundle.height) for frame in frames]
        ray_x, ray_y = zip(*(rays(camera) for camera in small), strict=True)
        inputs = {
            "image": np.stack([frame.image for frame in frames]),
            "focal": np.array([focal_factor(camera, self.bundle) for camera in small], np.float32),
            "ray_x": np.stack(ray_x).reshape(len(frames), -1),
            "ray_y": np.stack(ray_y).reshape(len(frames), -1),
            "unseen": np.stack([unseen.view(np.uint8)] * len(frames)),
            "limits": np.array(limits, np.float32),
        }
        return dict(zip(OUTPUTS, self._session.run(list(OUTPUTS), inputs), strict=True))


def host(estimator, frame, unseen, limits, colors):
    """The same on the host, from the resized image `colors`: prediction at the camera's size, and the cloud."""
    made = estimator.bundle
    (prediction,) = estimator.predict([Frame(colors, frame.camera.resized(made.width, made.height), 0, "camera")])
    size = made.width, made.height
    small = cv2.resize(unseen.view(np.uint8), size, interpolation=cv2.INTER_NEAREST_EXACT).view(bool)
    cloud = CloudBuilder(prediction.camera).build(prediction.without(small), colors, *limits)
    return upsample(prediction, frame.camera).without(unseen), cloud


def assert_same(found, index, expected, cloud):
    """NaN and +inf at the same places; of the cloud, a point in a thousand may lie within rounding of a limit."""
    for name, values in (("depth", expected.depth), ("sigma", expected.sigma)):
        np.testing.assert_allclose(found[name][index], values, rtol=1e-4, err_msg=name)
    points = pack_points(found["points"][index], found["colors"][index], 1)
    different = np.isnan(points["z"]) != np.isnan(cloud["z"])
    assert different.mean() <= 1e-3
    for name in ("x", "y", "z", "sigma"):
        np.testing.assert_allclose(points[name][~different], cloud[name][~different], rtol=1e-4, atol=1e-6, err_msg=name)
    np.testing.assert_array_equal(points["rgb"].view(np.uint32), cloud["rgb"].view(np.uint32))


@pytest.fixture
def estimator(make_bundle):
    made = make_bundle()
    return Estimator(made, load_engine(made, options=EngineOptions(threads=1)))


@pytest.mark.parametrize("size", [(192, 96), (150, 70), (333, 211), (64, 32), (40, 20), (64, 96), (63, 33)])
@pytest.mark.parametrize("limits", [(0.35, 0.1), OFF])
def test_two_cameras_get_what_the_host_gives_them(estimator, size, limits):
    frames = [Frame(scene(*size, seed), camera_of(*size, focal), 0, "camera") for seed, focal in ((1, 50.0), (2, 90.0))]
    unseen = mask(*size)
    found = FrameGraph(estimator.bundle, *size).run(frames, unseen, limits)
    for index, frame in enumerate(frames):
        colors = found["colors"][index]
        assert np.abs(colors.astype(int) - resize_image(frame.image, 64, 32)).max() <= 1
        expected, cloud = host(estimator, frame, unseen, limits, colors)
        assert np.isnan(expected.depth).any()
        assert np.isposinf(expected.depth).any()
        assert np.isfinite(cloud["z"]).any()
        assert_same(found, index, expected, cloud)


@pytest.mark.parametrize("limits", [(0.35, 0.0), (0.0, 0.1), (0.05, 0.02), (2.0, 0.9)])
def test_each_limit_of_the_cloud_drops_what_the_host_drops(estimator, limits):
    frame = Frame(scene(64, 32, 3), camera_of(64, 32), 0, "camera")
    nothing = np.zeros((32, 64), bool)
    graph = FrameGraph(estimator.bundle, 64, 32)
    found, unlimited = graph.run([frame], nothing, limits), graph.run([frame], nothing, OFF)
    assert np.isnan(found["points"]).sum() > np.isnan(unlimited["points"]).sum()
    assert_same(found, 0, *host(estimator, frame, nothing, limits, frame.image))


def test_a_wall_at_5_m_with_sky_above_by_hand(estimator):
    camera = CameraModel(128, 64, 200.0, 200.0, 63.5, 31.5)  # 100 px at 64 x 32: twice the probe's, so twice the depth
    image = np.full((64, 128, 3), (50, 30, 7), np.uint8)
    image[:20] = (255, 30, 7)
    unseen = np.zeros((64, 128), bool)
    unseen[:, 126:] = True
    found = FrameGraph(estimator.bundle, 128, 64).run([Frame(image, camera, 0, "camera")], unseen, (0.35, 0.1))
    depth, sigma, points = (found[name][0] for name in ("depth", "sigma", "points"))
    assert np.isposinf(depth[:20, :126]).all()
    assert np.isnan(sigma[:20]).all()
    np.testing.assert_allclose(depth[20:, :126], 10.0, rtol=1e-6)
    np.testing.assert_allclose(sigma[20:, :126], 0.6, rtol=1e-6)
    assert np.isnan(depth[:, 126:]).all()
    # Rows of the network: 0 to 9 are sky, 10 is the wall's edge against it and 11 beside it; column 63 is unseen.
    assert np.isnan(points[:12]).all()
    assert np.isnan(points[:, 63]).all()
    rows, columns = np.mgrid[12:32, :63]
    expected = np.stack([10 * (columns - 31.5) / 100, 10 * (rows - 15.5) / 100, 10 + 0 * rows, 0.6 + 0 * rows], axis=-1)
    np.testing.assert_allclose(points[12:, :63], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found["colors"][0, 15, 20], (50, 30, 7))


def test_network_that_gives_nan_and_infinity_is_masked_like_on_the_host(make_bundle):
    made = make_bundle()
    model = onnx.load(made.graph_path)
    blue = onnx.helper.make_node("Gather", ["colour", "two"], ["b"], axis=3)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(2), "two"))
    model.graph.node.insert(3, blue)
    for node in model.graph.node:
        if node.op_type == "Div":
            node.input[1] = "b"  # depth = red / blue, sigma = green / blue: x / 0 is inf, 0 / 0 is NaN
    onnx.save(model, made.graph_path)
    estimator = Estimator(bundle.save(made, made.path), load_engine(made, options=EngineOptions(threads=1)))
    image = np.random.default_rng(5).choice(np.array([0, 10, 20], np.uint8), (32, 64, 3))
    frame, nothing = Frame(image, camera_of(64, 32), 0, "camera"), np.zeros((32, 64), bool)
    found = FrameGraph(estimator.bundle, 64, 32).run([frame], nothing, OFF)
    with np.errstate(divide="ignore", invalid="ignore"):
        depth, sigma = image[..., 0] / image[..., 2], image[..., 1] / image[..., 2]
    finite = (image[..., 2] > 0) & (image[..., 0] > 0) & (image[..., 1] > 0)
    np.testing.assert_array_equal(np.isfinite(found["depth"][0]), finite)
    assert np.isnan(found["depth"][0][~finite]).all()
    np.testing.assert_allclose(found["depth"][0][finite], depth[finite], rtol=1e-6)
    np.testing.assert_allclose(found["sigma"][0][finite], sigma[finite], rtol=1e-6)


def test_graph_for_a_single_image_makes_a_frame_of_one(make_bundle):
    made = make_bundle()
    model = onnx.load(made.graph_path)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.save(model, made.graph_path)
    made = bundle.save(made, made.path)
    graph = onnx.load_model_from_string(graphs.frame_graph(made, 100, 50, "fp32"))
    assert [value.type.tensor_type.shape.dim[0].dim_value for value in graph.graph.output] == [1, 1, 1, 1]
    estimator = Estimator(made, load_engine(made, options=EngineOptions(threads=1)))
    frame, unseen = Frame(scene(100, 50), camera_of(100, 50), 0, "camera"), mask(100, 50)
    found = FrameGraph(made, 100, 50).run([frame], unseen, OFF)
    assert_same(found, 0, *host(estimator, frame, unseen, OFF, found["colors"][0]))


def test_graph_that_asks_for_its_images_shape_gets_it(make_bundle):
    made = make_bundle()
    model = onnx.load(made.graph_path)
    for node in model.graph.node:
        if "ten" in node.input:
            node.input[1] = "rows"  # depth = red / 32, the number of rows
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(1), "second"))
    model.graph.node.insert(0, onnx.helper.make_node("Cast", ["row_count"], ["rows"], to=1))
    model.graph.node.insert(0, onnx.helper.make_node("Gather", ["shape"], ["row_count"]))
    model.graph.node[0].input.append("second")
    model.graph.node.insert(0, onnx.helper.make_node("Shape", ["image"], ["shape"]))
    onnx.save(model, made.graph_path)
    frame = Frame(np.full((50, 100, 3), 96, np.uint8), camera_of(100, 50), 0, "camera")
    found = FrameGraph(bundle.save(made, made.path), 100, 50).run([frame], np.zeros((50, 100), bool), OFF)
    np.testing.assert_allclose(found["depth"], 3.0, rtol=1e-6)


def read_image_twice(model):
    model.graph.node.append(onnx.helper.make_node("Transpose", ["image"], ["turned"]))


def age(model):
    model.opset_import[0].version = 11


@pytest.mark.parametrize(
    ("change", "named"), [(read_image_twice, "reads its image by Cast, Transpose"), (age, "opset 11; expected")]
)
def test_graph_that_cannot_be_wrapped_is_refused(make_bundle, change, named):
    made = make_bundle()
    model = onnx.load(made.graph_path)
    change(model)
    onnx.save(model, made.graph_path)
    with pytest.raises(EngineError, match=named) as caught:
        graphs.frame_graph(bundle.save(made, made.path), 128, 64, "fp32")
    assert str(made.path) in str(caught.value)


@pytest.mark.parametrize(("folder", "focal"), [("kitti2015_stereo/left", 721.5), ("sevenscenes_redkitchen/image", 585.0)])
def test_real_frames_with_the_default_model(shared_data, folder, focal):
    made = bundle.load(DEFAULT)
    image = cv2.imread(str(sorted((shared_data / folder).glob("*.jpg"))[1]))[..., ::-1].copy()
    height, width = image.shape[:2]
    frame = Frame(image, CameraModel(width, height, focal, focal, width / 2, height / 2), 0, "camera")
    unseen, limits = mask(width, height), (0.35, 0.1)
    found = FrameGraph(made, width, height).run([frame], unseen, limits)
    colors = found["colors"][0]
    assert np.abs(colors.astype(int) - resize_image(image, made.width, made.height)).max() <= 1
    estimator = Estimator(made, load_engine(made, options=EngineOptions(threads=1)))
    assert_same(found, 0, *host(estimator, frame, unseen, limits, colors))
    # From the host's own resizing, a grey level away here and there, the network says nearly the same.
    own, _ = host(estimator, frame, unseen, limits, resize_image(image, made.width, made.height))
    both = np.isfinite(own.depth) & np.isfinite(found["depth"][0])
    assert np.mean(both != np.isfinite(own.depth)) < 2e-3
    difference = np.abs(found["depth"][0][both] - own.depth[both]) / own.depth[both]
    assert np.median(difference) < 1e-2
    assert np.quantile(difference, 0.99) < 5e-2


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_tensorrt_parses_and_builds_it(precision):
    trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX, which builds without a GPU, is not installed")
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    reader = trt.OnnxParser(network, logger)
    graph = graphs.frame_graph(bundle.load(DEFAULT), 1280, 720, precision)
    assert reader.parse(graph), [reader.get_error(index).desc() for index in range(reader.num_errors)]
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = [max(1, size) for size in tensor.shape]
        if -1 in tensor.shape:
            profile.set_shape(tensor.name, shape, shape, [2, *shape[1:]])
    config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config) is not None
    types = {network.get_output(index).name: network.get_output(index).dtype for index in range(network.num_outputs)}
    assert types == {"depth": trt.float32, "sigma": trt.float32, "points": trt.float32, "colors": trt.uint8}
