"""The bundle's graph around a published network: bytes to its colours, its map to depth, a sigma; and the same in NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import onnx
from numpy.typing import NDArray

from depth_ros.types import Float32Array, Float64Array, UInt8Array
from training.importing.composing import around
from training.importing.original import Original
from training.importing.presets import Interface
from training.importing.sigma import Sigma

SIGNATURE = "wrapped (uint8[{N}, {h}, {w}, 3] image) => (float[{N}, {h}, {w}] depth, float[{N}, {h}, {w}] sigma)"
COLOURS = """
    colours = Cast <to = 1> (image)
    centred = Sub (colours, mean)
    normalised = Div (centred, std)
    ordered = {order}
    axes = {axes}
    seen = {type}"""
MIRROR = """
    seen_mirrored = Gather <axis = {columns}> (seen, backwards)"""
# For the image, and with the suffix _mirrored for its mirror image.
MAP = """
    answer{s} = Network (seen{s})
    float_answer{s} = Cast <to = 1> (answer{s})
    plane{s} = {plane}
    {resize}
    map{s} = {turn}
    units{s} = Mul (map{s}, factor)
    bounded{s} = Max (units{s}, least)
    depth{s} = {depth}"""
RESIZE = """
    shape{s} = Shape (plane{s})
    count{s} = Slice (shape{s}, zero, first)
    size{s} = Concat <axis = 0> (count{s}, sizes)
    channel_plane{s} = Unsqueeze (plane{s}, first)
    enlarged{s} = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel"> (channel_plane{s}, , , size{s})
    sized{s} = Squeeze (enlarged{s}, first)"""


def wrap(original: Original, interface: Interface, sigma: Sigma) -> onnx.ModelProto:
    """One graph with the inputs and outputs of a bundle, for a network that is used as `interface` says."""
    text = "\n".join((SIGNATURE.format(N=1 if original.one_by_one else "N", w=original.width, h=original.height), "{"))
    text += COLOURS.format(
        order="Gather <axis = 3> (normalised, swapped)" if interface.order == "bgr" else "Identity (normalised)",
        axes="Identity (ordered)" if original.last else "Transpose <perm = [0, 3, 1, 2]> (ordered)",
        type=f"Cast <to = {10 if original.half else 1}> (axes)",
    )
    text += MIRROR.format(columns=2 if original.last else 3) if sigma.mirrors else ""
    for suffix in ("", "_mirrored") if sigma.mirrors else ("",):
        text += _map_text(original, interface, suffix)
    text += f"{sigma.text}\n    sigma = Mul (depth, share)\n}}"
    return around(original.model, (original.output,), text, {**_constants(original, interface), **sigma.constants()})


def expected(original: Original, interface: Interface, sigma: Sigma, images: UInt8Array) -> tuple[Float32Array, Float32Array]:
    """Depth and sigma (N, h, w) of images (N, h, w, 3) as NumPy makes them of the published file's own answers."""
    colours = interface.levels * (images.astype(np.float64) / 255)
    colours = (colours - np.array(interface.mean)) / np.array(interface.std)
    if interface.order == "bgr":
        colours = colours[..., ::-1]
    batches = list(colours)
    if sigma.mirrors:
        batches += [image[:, ::-1] for image in colours]
    given = [image[None] if original.last else np.moveaxis(image, -1, 0)[None] for image in batches]
    answers = original.run([np.ascontiguousarray(batch, original.blank(0).dtype) for batch in given])
    depths = np.stack([_depth(original, interface, answer) for answer in answers])
    depth, mirrored = depths[: len(images)], depths[len(images) :, :, ::-1]
    share = sigma.share(depth, mirrored if sigma.mirrors else None)
    return depth.astype(np.float32), (share * depth).astype(np.float32)


def _depth(original: Original, interface: Interface, answer: NDArray[Any]) -> Float64Array:
    """Depth (h, w) of the answer to one image."""
    if original.channel_axis is not None:
        answer = np.take(answer, interface.channel, original.channel_axis)
    plane = answer.reshape(answer.shape[-2:]).astype(np.float32)
    values = cv2.resize(plane, (original.width, original.height), interpolation=cv2.INTER_LINEAR)
    units = interface.factor * values.astype(np.float64)
    return 1 / np.maximum(units, _least(interface)) if interface.gives == "inverse" else units


def _least(interface: Interface) -> float:
    """Inverse depth at which a network's map is cut off: depth beyond the range, which is nothing in range."""
    return 0.5 / interface.range[1]


def _map_text(original: Original, interface: Interface, suffix: str) -> str:
    plane = {
        2: "Unsqueeze ({answer}, zero)", 3: "Identity ({answer})",
        4: f"Gather <axis = {original.channel_axis}> ({{answer}}, channel)",
    }[len(original.shape)]  # fmt: skip
    same = original.map_size == (original.height, original.width)
    return MAP.format(
        s=suffix,
        plane=plane.format(answer=f"float_answer{suffix}"),
        resize=f"sized{suffix} = Identity (plane{suffix})" if same else RESIZE.format(s=suffix),
        turn=f"Gather <axis = 2> (sized{suffix}, backwards)" if suffix else "Identity (sized)",
        depth=f"Div (one, bounded{suffix})" if interface.gives == "inverse" else f"Identity (units{suffix})",
    )


def _constants(original: Original, interface: Interface) -> Mapping[str, Any]:
    grey = 255 / interface.levels  # bytes of one unit of mean and std
    return {
        "mean": (grey * np.array(interface.mean)).astype(np.float32), "std": (grey * np.array(interface.std)).astype(np.float32),
        "factor": np.float32(interface.factor), "least": np.float32(_least(interface)), "one": np.float32(1),
        "swapped": np.array([2, 1, 0]), "backwards": np.arange(original.width)[::-1].copy(),
        "channel": np.int64(interface.channel), "zero": np.array([0]), "first": np.array([1]),
        "sizes": np.array([1, original.height, original.width]),
    }  # fmt: skip
