"""A frame's whole work as one ONNX graph: resizing, network, masks, upsampling and cloud on the device of the network.

It computes what depth_ros.images.resize_image, depth_ros.estimator (Estimator and upsample) and depth_ros.cloud.CloudBuilder
compute on the host, whose words explain each step; a frame then costs one upload and one download. All of it is float32
around the network, and nothing tests for NaN: comparisons with one are false, masks carry the rest.

| input | shape | meaning |
|---|---|---|
| image | uint8 (N, H, W, 3) | RGB, at the camera's size |
| focal | float32 (N,) | factor on depth and sigma, estimator.focal_factor |
| ray_x, ray_y | float32 (N, w), (N, h) | x / z and y / z of the network's columns and rows |
| unseen | uint8 (N, H, W) | 1 where rectification left nothing |
| limits | float32 (2,) | max_relative_sigma and max_edge_step of the cloud; 0: off |

| output | shape | meaning |
|---|---|---|
| depth, sigma | float32 (N, H, W) | [m] at the camera's size, with NaN and +inf as in DepthPrediction |
| points | float32 (N, h, w, 4) | x y z sigma [m] at the network's size, NaN where dropped |
| colors | uint8 (N, h, w, 3) | RGB, the resized image |
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from depth_ros.bundle import ModelBundle
from depth_ros.engines import EngineError
from depth_ros.images import block_size, nearest

if TYPE_CHECKING:
    import onnx

OPSET = 13  # the oldest whose Squeeze, Unsqueeze and Slice take their axes as used here

SIGNATURE = """frame (uint8[{N}, {H}, {W}, 3] image, float[{N}] focal, float[{N}, {w}] ray_x, float[{N}, {h}] ray_y,
    uint8[{N}, {H}, {W}] unseen, float[2] limits)
=> (float[{N}, {H}, {W}] depth, float[{N}, {H}, {W}] sigma, float[{N}, {h}, {w}, 4] points, uint8[{N}, {h}, {w}, 3] colors)
"""

# images.resize_image: bilinear to a multiple of the size, then the mean of blocks, rounded once. The host's fixed-point
# arithmetic rounds several times on the way and so differs by a grey level here and there.
RESIZE = """
    fine_shape = Concat <axis = 0> (images, fine_size)
    planes = Transpose <perm = [0, 3, 1, 2]> (camera_pixels)
    fine = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel"> (planes, , , fine_shape)
    mean = AveragePool <kernel_shape = [{block_y}, {block_x}], strides = [{block_y}, {block_x}]> (fine)
    levels = Round (mean)
    pixels = Transpose <perm = [0, 2, 3, 1]> (levels)
"""

# Estimator._finish: where there is depth, where there is nothing in range; the rest is invalid.
FINISH = """
    network_depth, network_sigma = Network (pixels)
    near_enough = LessOrEqual (network_depth, largest)
    far_enough = GreaterOrEqual (network_depth, min_depth)
    stated = LessOrEqual (network_sigma, largest)
    positive = Greater (network_sigma, nothing)
    is_depth = And (near_enough, far_enough)
    is_sigma = And (stated, positive)
    valid = And (is_depth, is_sigma)
    below_sky = Less (network_depth, max_depth)
    present = And (valid, below_sky)
    focal_factor = Unsqueeze (focal, rows_columns)
    true_depth = Mul (network_depth, focal_factor)
    true_sigma = Mul (network_sigma, focal_factor)
    z = Where (present, true_depth, unit)
    s = Where (present, true_sigma, nothing)
    reciprocal = Div (unit, z)
    inverse = Where (present, reciprocal, nothing)
    not_valid = Not (valid)
    not_present = Not (present)
    sky_or_invalid = Cast <to = 1> (not_present)
    invalid = Cast <to = 1> (not_valid)
    blank = Add (sky_or_invalid, invalid)
"""  # blank: 0 depth, 1 sky, 2 invalid

# estimator.upsample: what is missing takes the mean of its neighbours, inverse depth and sigma are bilinear, blanks nearest.
UPSAMPLE = """
    present_share = Sub (unit, sky_or_invalid)
    inverse_plane = Unsqueeze (inverse, plane)
    sigma_plane = Unsqueeze (s, plane)
    share_plane = Unsqueeze (present_share, plane)
    values = Concat <axis = 1> (inverse_plane, sigma_plane)
    values_and_share = Concat <axis = 1> (values, share_plane)
    mirrored = Pad <mode = "reflect"> (values_and_share, border)
    means = AveragePool <kernel_shape = [3, 3]> (mirrored)
    mean_values = Slice (means, zero, two, plane)
    mean_share = Slice (means, two, three, plane)
    some_share = Max (mean_share, least_share)
    neighbours = Div (mean_values, some_share)
    is_present = Greater (share_plane, half)
    filled = Where (is_present, values, neighbours)
    {large}
    inverse_large, sigma_large = Split <axis = 1> (large, one_each)
    z_large_plane = Div (unit, inverse_large)
    z_large = Squeeze (z_large_plane, plane)
    s_large = Squeeze (sigma_large, plane)
    blank_rows = Gather <axis = 1> (blank, nearest_rows)
    blank_near = Gather <axis = 2> (blank_rows, nearest_columns)
"""
LARGE = """
    large_shape = Concat <axis = 0> (images, large_size)
    large = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel"> (filled, , , large_shape)
"""
SAME = """
    z_large = Identity (z)
    s_large = Identity (s)
    blank_near = Identity (blank)
"""
MASK = """
    unseen_share = Cast <to = 1> (unseen)
    unseen_blank = Mul (unseen_share, twice)
    blank_large = Max (blank_near, unseen_blank)
    shows_depth = Less (blank_large, half)
    shows_sky = Less (blank_large, sky_below)
    sky_or_nan = Where (shows_sky, infinity, nan)
    depth = Where (shows_depth, z_large, sky_or_nan)
    sigma = Where (shows_depth, s_large, nan)
"""

# cloud.CloudBuilder.build with cloud.depth_edges of span 1, of what rectification has seen at the network's size.
CLOUD = """
    unseen_rows = Gather <axis = 1> (unseen_blank, seen_rows)
    unseen_small = Gather <axis = 2> (unseen_rows, seen_columns)
    blank_small = Max (blank, unseen_small)
    has_depth = Less (blank_small, half)
    counts = Less (blank_small, sky_below)
    known = Cast <to = 1> (counts)
    max_relative_sigma = Slice (limits, zero, one)
    max_edge_step = Slice (limits, one, two)
    limits_sigma = Greater (max_relative_sigma, nothing)
    largest_sigma = Mul (max_relative_sigma, z)
    above = Greater (s, largest_sigma)
    unsure = And (above, limits_sigma)
    {bends}
    bent = Max (bent_1, bent_2)
    bent_plane = Unsqueeze (bent, plane)
    beside_rows = MaxPool <kernel_shape = [3, 1], pads = [1, 0, 1, 0]> (bent_plane)
    beside_columns = MaxPool <kernel_shape = [1, 3], pads = [0, 1, 0, 1]> (bent_plane)
    beside_plane = Max (beside_rows, beside_columns)
    beside = Squeeze (beside_plane, plane)
    on_edge = Greater (beside, half)
    limits_edges = Greater (max_edge_step, nothing)
    edge = And (on_edge, limits_edges)
    doubtful = Or (unsure, edge)
    trusted = Not (doubtful)
    kept = And (has_depth, trusted)
    column_rays = Unsqueeze (ray_x, plane)
    row_rays = Unsqueeze (ray_y, two)
    x = Mul (z, column_rays)
    y = Mul (z, row_rays)
    x_field = Unsqueeze (x, three)
    y_field = Unsqueeze (y, three)
    z_field = Unsqueeze (z, three)
    s_field = Unsqueeze (s, three)
    fields = Concat <axis = 3> (x_field, y_field, z_field, s_field)
    kept_field = Unsqueeze (kept, three)
    points = Where (kept_field, fields, nan)
"""
# Along one axis: where the second difference of inverse depth, between three known pixels, is too much of the middle one.
BEND = """
    before_{a} = Slice (inverse, zero, minus_two, axis_{a})
    middle_{a} = Slice (inverse, one, minus_one, axis_{a})
    after_{a} = Slice (inverse, two, end, axis_{a})
    twice_{a} = Add (middle_{a}, middle_{a})
    step_{a} = Sub (before_{a}, twice_{a})
    bend_{a} = Add (step_{a}, after_{a})
    size_{a} = Abs (bend_{a})
    largest_bend_{a} = Mul (max_edge_step, middle_{a})
    bends_{a} = Greater (size_{a}, largest_bend_{a})
    known_before_{a} = Slice (known, zero, minus_two, axis_{a})
    known_middle_{a} = Slice (known, one, minus_one, axis_{a})
    known_after_{a} = Slice (known, two, end, axis_{a})
    known_pair_{a} = Mul (known_before_{a}, known_after_{a})
    known_three_{a} = Mul (known_pair_{a}, known_middle_{a})
    bends_float_{a} = Cast <to = 1> (bends_{a})
    inside_{a} = Mul (bends_float_{a}, known_three_{a})
    bent_{a} = Pad (inside_{a}, ends_{a})
"""


def around(network: onnx.ModelProto, bundle: ModelBundle, width: int, height: int) -> onnx.ModelProto:
    """Return the frame graph (see the module) around a bundle's graph for images of width x height [px].

    Raises EngineError if the bundle's graph is of an ONNX opset before 13, or reads its image other than by a Cast to float32.
    """
    from onnx import compose, helper, numpy_helper, parser

    opset = next(entry.version for entry in network.opset_import if not entry.domain)
    if opset < OPSET:
        raise EngineError(f"{bundle.path}: the graph is of ONNX opset {opset}; expected at least {OPSET}: export it again")
    inner = compose.add_prefix(network, "network_").graph
    first = inner.input[0].type.tensor_type.shape.dim[0]
    graph = parser.parse_graph(_text(bundle, width, height, first.dim_value or "N"))
    position = next(index for index, node in enumerate(graph.node) if node.op_type == "Network")
    nodes = [*graph.node[:position], *_reading(inner, "pixels", bundle), *graph.node[position + 1 :]]
    used = {name for node in nodes for name in node.input}
    constants = _constants(bundle, width, height).items()
    tensors = [numpy_helper.from_array(value, name) for name, value in constants if name in used]
    made = helper.make_graph(nodes, "frame", graph.input, graph.output, [*tensors, *inner.initializer])
    return helper.make_model(made, opset_imports=network.opset_import, ir_version=network.ir_version)


def _text(bundle: ModelBundle, width: int, height: int, count: int | str) -> str:
    """The graph in ONNX's text syntax, with an operation Network for the network."""
    sizes = {"N": count, "W": width, "H": height, "w": bundle.width, "h": bundle.height}
    blocks = {"block_x": block_size(width, bundle.width), "block_y": block_size(height, bundle.height)}
    bends = "".join(BEND.format(a=axis) for axis in (1, 2))
    same = (width, height) == (bundle.width, bundle.height)
    lines = (
        "image_shape = Shape (image)",
        "images = Slice (image_shape, zero, one)",
        "camera_pixels = Cast <to = 1> (image)",
        "pixels = Identity (camera_pixels)" if same else RESIZE.format(**blocks),
        "colors = Cast <to = 2> (pixels)",
        FINISH,
        SAME if same else UPSAMPLE.format(large=LARGE),
        MASK,
        CLOUD.format(bends=bends),
    )
    return SIGNATURE.format(**sizes) + "{\n" + "\n".join(lines) + "\n}"


def _reading(network: onnx.GraphProto, pixels: str, bundle: ModelBundle) -> list[onnx.NodeProto]:
    """The network's nodes, reading float32 `pixels` where they cast the image: TensorRT knows no uint8 inside a graph."""
    image = network.input[0].name
    readers = [node for node in network.node if image in node.input]
    casts = [node for node in readers if node.op_type == "Cast" and node.attribute[0].i == 1]
    if not all(node in casts or node.op_type == "Shape" for node in readers):
        kinds = ", ".join(node.op_type for node in readers)
        raise EngineError(f"{bundle.path}: the graph reads its image by {kinds}; expected a Cast to float32 before all else")
    replaced = {image, *(node.output[0] for node in casts)}
    nodes = [node for node in network.node if node not in casts]
    for node in nodes:
        for index, name in enumerate(node.input):
            if name in replaced:
                node.input[index] = pixels
    return nodes


def _constants(bundle: ModelBundle, width: int, height: int) -> dict[str, NDArray[Any]]:
    fine = (bundle.width * block_size(width, bundle.width), bundle.height * block_size(height, bundle.height))
    numbers = {
        "min_depth": bundle.min_depth, "max_depth": bundle.max_depth, "largest": np.finfo(np.float32).max, "nothing": 0.0,
        "unit": 1.0, "half": 0.5, "twice": 2.0, "sky_below": 1.5, "least_share": 1e-3, "infinity": np.inf, "nan": np.nan,
    }  # fmt: skip
    integers = {
        "zero": [0], "one": [1], "two": [2], "three": [3], "minus_one": [-1], "minus_two": [-2], "end": [2**31 - 1],
        "plane": [1], "axis_1": [1], "axis_2": [2], "rows_columns": [1, 2], "one_each": [1, 1],
        "fine_size": [3, fine[1], fine[0]], "large_size": [2, height, width],
        "border": [0, 0, 1, 1, 0, 0, 1, 1], "ends_1": [0, 1, 0, 0, 1, 0], "ends_2": [0, 0, 1, 0, 0, 1],
        "nearest_rows": nearest(bundle.height, height), "nearest_columns": nearest(bundle.width, width),
        "seen_rows": nearest(height, bundle.height), "seen_columns": nearest(width, bundle.width),
    }  # fmt: skip
    return {
        **{name: np.array(value, np.float32) for name, value in numbers.items()},
        **{name: np.array(value, np.int64) for name, value in integers.items()},
    }
