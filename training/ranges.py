"""What the values of a training configuration have to be besides their type."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any


def _same_order(offsets: Sequence[Sequence[int]]) -> bool:
    """Whether view i lies before (or after) the target in every set: a learned pose needs the order of time."""
    return len({tuple(offset > 0 for offset in group) for group in offsets}) == 1 and all(all(group) for group in offsets)


def _is_pattern(text: str) -> bool:
    try:
        re.compile(text)
    except re.error:
        return False
    return True


# Keys, whether a value fits, and what was expected.
RANGES: tuple[tuple[tuple[str, ...], Callable[[Any], bool], str], ...] = (
    (("data.width", "data.height"), lambda value: value > 0 and value % 32 == 0, "a multiple of 32"),
    (("data.offsets",), _same_order, "sets that agree in how many neighbours come before and after, none 0"),
    (("data.subset",), lambda value: 0 < value <= 1, "a share above 0, to 1"),
    (("data.street_share", "data.street_plain", "data.colour_jitter"), lambda value: 0 <= value <= 1, "a share from 0 to 1"),
    (("method.camera_height", "method.ground", "method.velocity"), lambda value: value >= 0, "0 or more"),
    (("method.smoothness_order",), lambda value: value in ("first", "second", "both"), "first, second or both"),
    (("method.smoothness_edges",), lambda value: value >= 0, "0 or more"),
    (("feature.weight", "feature.discriminative", "feature.convergent"), lambda value: value >= 0, "0 or more"),
    (("feature.levels",), lambda value: 0 < len(value) == len(set(value)) and set(value) <= set(range(5)), "some of 0 to 4"),
    (("feature.reconstruction_scales",), lambda value: value in range(1, 5), "1 to 4"),
    (("diffusion.train_steps",), lambda value: value and all(2 <= n <= 1280 for n in value), "2 to 1280, one for each scale"),
    (("diffusion.steps",), lambda value: value and all(n >= 1 for n in value), "1 or more, one for each scale"),
    (("diffusion.spacing",), lambda value: value in ("leading", "trailing"), "leading or trailing"),
    (("diffusion.prediction",), lambda value: value in ("epsilon", "v", "direct"), "epsilon, v or direct"),
    (("diffusion.filter",), lambda value: value in ("both", "depth", "strict", "none"), "both, depth, strict or none"),
    (("diffusion.denoising", "diffusion.distillation", "diffusion.masked"), lambda value: value >= 0, "0 or more"),
    (("diffusion.mask_share",), lambda value: 0 <= value < 1, "a share from 0, below 1"),
    (("diffusion.samples", "diffusion.mask_block"), lambda value: value >= 1, "1 or more"),
    (
        ("midas.loss",),
        lambda value: value in ("ssitrim", "ssimae", "ssimse", "simse", "silog", "ordinal", "nmg"),
        "ssitrim, ssimae, ssimse, simse, silog, ordinal or nmg",
    ),
    (("midas.trimmed",), lambda value: 0 <= value < 1, "a share from 0, below 1"),
    (("midas.pairs",), lambda value: value >= 1, "1 or more"),
    (("midas.gradient",), lambda value: value >= 0, "0 or more"),
    (("midas.gradient_scales",), lambda value: value in range(1, 7), "1 to 6"),
    (("data.val_share", "data.min_motion"), lambda value: 0 < value < 1, "a share above 0, below 1"),
    (("data.max_gap_s",), lambda value: value > 0, "above 0"),
    (("data.mixing",), lambda value: value in ("equal", "proportional"), "equal or proportional"),
    (("data.max_zoom",), lambda value: value >= 1, "1 (no zoom) or more"),
    (("data.street_samples", "method.scales", "optim.batch_size"), lambda value: value >= 1, "1 or more"),
    (("run.max_steps", "run.log_every", "run.validate_every"), lambda value: value >= 1, "1 or more"),
    (("optim.ema",), lambda value: 0 <= value < 1, "from 0 (no average) to below 1"),
    (("optim.learning_rate", "optim.pretrained_rate", "optim.clip_norm"), lambda value: value > 0, "above 0"),
    (("optim.pose_learning_rate", "optim.weight_decay"), lambda value: 0 <= value < float("inf"), "0 or more"),
    (("optim.warmup_steps", "run.seed"), lambda value: value >= 0, "0 or more"),
    (("optim.mixing",), lambda value: value in ("sum", "pareto"), "sum or pareto"),
    (("optim.pareto_parameters",), _is_pattern, "a regular expression"),
    (("optim.pareto_normalisation",), lambda value: value in ("none", "l2", "loss", "loss+"), "none, l2, loss or loss+"),
    (("optim.schedule",), lambda value: value in ("cosine", "step", "cyclic"), "cosine, step or cyclic"),
    (("optim.drop_steps",), lambda value: all(a < b for a, b in pairwise((0, *value))), "growing steps above 0"),
    (("optim.drop_factor",), lambda value: 0 < value <= 1, "above 0, to 1"),
    (("run.cycles", "run.keep", "run.devices"), lambda value: value >= 1, "1 or more"),
    (("run.precision",), lambda value: value in ("32-true", "bf16-mixed", "16-mixed"), "32-true, bf16-mixed or 16-mixed"),
)
