"""Several trained networks as one: snapshots of a run (Snap) or runs on parts of the data (Boot); Poggi et al., CVPR 2020."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from training.config import ConfigError
from training.methods.method import Learner, Method, Predictor
from training.uncertainty import Flip, Uncertainty, mean_and_deviation


class Ensemble(Predictor):
    """Mean inverse depth of the members; sigma from how far they differ, and from their own sigmas where they learned one.

    A member whose sigma would come from its mirror image runs once, as in the paper. Members whose depth is true up to one
    factor differ in it, which is no uncertainty: each is brought to the first one's mean inverse depth. Raises ConfigError
    for members that cannot share a graph.
    """

    def __init__(self, members: Sequence[Learner]) -> None:
        first = members[0]
        super().__init__(first.config)
        for member in members:
            if not isinstance(member, Method):
                raise ConfigError(
                    f"an ensemble's checkpoint is of method {member.config.method.name}, which predicts no depth; "
                    "expected methods that do"
                )
        for member in members[1:]:
            _check_alike(first, member)
        for member in members:
            if isinstance(member.uncertainty, Flip):
                member.uncertainty = Uncertainty()
        self.focal.copy_(first.focal)
        self.members = nn.ModuleList(members)

    @property
    def kind(self) -> str:
        """See Predictor; all members are alike in it."""
        return str(self.members[0].kind)

    @property
    def refined(self) -> bool:
        """See Predictor; one such member is enough."""
        return any(member.refined for member in self.members)

    def predict_relative(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """See Predictor."""
        depths, relatives = zip(*(member.predict_relative(image) for member in self.members), strict=True)
        inverse = 1 / torch.cat(depths, dim=1)
        if not self.metric:
            level = inverse.mean(dim=(2, 3), keepdim=True)
            inverse = inverse * level[:, :1] / level
        return mean_and_deviation(inverse, torch.cat(relatives, dim=1) * inverse)


def _check_alike(first: Learner, other: Learner) -> None:
    """Members have the same input, camera and kind of depth."""
    for name in ("width", "height"):
        ours, theirs = (getattr(m.config.data, name) for m in (first, other))
        if ours != theirs:
            raise ConfigError(f"an ensemble's checkpoints have data.{name} {ours} and {theirs}; expected the same")
    for name in ("min_depth", "max_depth"):
        ours, theirs = (getattr(m.config.network, name) for m in (first, other))
        if ours != theirs:
            raise ConfigError(f"an ensemble's checkpoints have network.{name} {ours:g} and {theirs:g}; expected the same")
    if not torch.allclose(first.focal, other.focal, rtol=1e-3):
        raise ConfigError(
            f"an ensemble's checkpoints were trained with focal lengths {first.focal.tolist()} and {other.focal.tolist()} px; "
            "expected the same camera"
        )
    if first.kind != other.kind:
        raise ConfigError(f"an ensemble's checkpoints are partly {first.kind}, partly {other.kind}; expected one kind")
    if first.kind == "affine_invariant":
        raise ConfigError(
            "an ensemble's checkpoints are affine_invariant: each has a scale and a shift of its own in every image; "
            "expected metric or scale_invariant ones, or a single checkpoint"
        )
