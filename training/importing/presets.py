"""How families of published depth networks take an image and what they give: the table behind training.import_onnx --like."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Colours = tuple[float, float, float]  # red, green, blue
IMAGENET: tuple[Colours, Colours] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
PLAIN: tuple[Colours, Colours] = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
ORDERS = ("rgb", "bgr")
GIVES = ("inverse", "depth")
METRES = (0.1, 80.0)  # least and largest depth where nothing else is known
UNITLESS = (1e-6, 1e6)  # of depth without a unit: all that is positive is in range


@dataclass(frozen=True)
class Interface:
    """What a network wants its colours to be, and what its output means.

    A colour is (levels * byte / 255 - mean) / std, mean and std in red, green, blue whatever the order.
    """

    gives: str  # of GIVES
    kind: str  # of depth_ros.bundle.KINDS
    mean: Colours = PLAIN[0]
    std: Colours = PLAIN[1]
    levels: float = 1.0  # white, before mean and std: 1 or 255
    order: str = "rgb"  # of ORDERS
    outputs: tuple[str, ...] = ()  # names of the depth, where a network has several outputs
    channel: int = 0  # of that output, where it has several
    factor: float = 1.0  # metres, or 1 / metres of inverse depth, of one unit of the output
    canonical: float = 0.0  # [px] focal length at the network's size that its metres are of, whatever the camera; 0: none
    range: tuple[float, float] = METRES  # min_depth, max_depth of the bundle, in the unit of its depth


PRESETS: Mapping[str, Interface] = {
    # Ranftl et al., TPAMI 2022: relative inverse depth, made positive by a ReLU.
    "midas": Interface("inverse", "affine_invariant", *IMAGENET, range=UNITLESS),
    # Yang et al., CVPR and NeurIPS 2024: the same; their fine-tuned metric models are --gives depth --kind metric.
    "depth_anything": Interface("inverse", "affine_invariant", *IMAGENET, outputs=("depth", "predicted_depth"), range=UNITLESS),
    # Hu et al., TPAMI 2024: metres of a camera of 1000 px; colours to 255.
    "metric3d": Interface(
        "depth", "metric", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), 255.0,
        outputs=("pred_depth", "predicted_depth"), canonical=1000.0, range=(0.1, 200.0),
    ),
    # Piccinelli et al., CVPR 2024: metres, with the intrinsics as an input or not.
    "unidepth": Interface("depth", "metric", *IMAGENET, outputs=("depth",), range=(0.1, 100.0)),
    # Any network of disparity that is true up to a factor (stereo, self-supervised), which --factor and --kind metric state.
    "disparity": Interface("inverse", "scale_invariant", outputs=("disparity", "disp"), range=UNITLESS),
    # Any network of metres.
    "depth": Interface("depth", "metric", outputs=("depth",)),
}  # fmt: skip
