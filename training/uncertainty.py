"""Where sigma comes from: exchangeable parts that every method can use, all of them inside the exported graph.

A part says which maps the network needs beside the disparity, which loss it makes of a method's error per pixel, and how depth
and its relative deviation come out. The names are those of Poggi et al., "On the uncertainty of self-supervised monocular
depth estimation", CVPR 2020. Ensembles are made of trained methods: training/methods/ensemble.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from training.config import ConfigError
from training.losses import laplace_nll, masked_mean
from training.networks import DepthNet

LOG_SCALE_RANGE = (-5.0, 1.5)  # errors of 0.7 % to 450 %: keeps the likelihood bounded
REPROJECTION_WEIGHT = 0.1  # of the loss that teaches the reprojection error
STATES = 3  # of a diffusion's trajectory, the last ones
ToDepth = Callable[[Tensor], Tensor]  # disparity logits -> depth [m]


class Uncertainty:
    """No sigma of its own: one pass, deviation 0. A member of an ensemble needs no more."""

    outputs = 0  # maps of the network beside the disparity
    dropout = False  # whether the decoder drops channels
    diffusion = False  # whether the network has to be a DiffusionNet

    def serves(self, trained: Uncertainty) -> bool:
        """Whether this part can take the place of the one that a network was trained with: both ask for the same network."""
        return type(self) is type(trained) or not (self.outputs or self.dropout or trained.outputs or trained.dropout)

    def losses(self, name: str, error: Tensor, extra: Tensor, valid: Tensor, observed: Tensor | None = None) -> dict[str, Tensor]:
        """Terms to minimise, `name` being the method's own.

        `error` (B, 1, H, W) is what the method minimises; `observed` the same without a mask that hides errors from the
        depth (auto-masking), so that sigma is not told that a hidden pixel is right. `extra` are the maps beside the
        disparity (B, outputs, H, W), `valid` (bool) where there is an error at all.
        """
        return {name: masked_mean(error, valid)}

    def predict(self, net: DepthNet, to_depth: ToDepth, image: Tensor) -> tuple[Tensor, Tensor]:
        """RGB (B, 3, H, W) -> depth [m] and its relative deviation (not negative), each (B, 1, H, W)."""
        depth = to_depth(net(image)[0][:, :1])
        return depth, torch.zeros_like(depth)


class Flip(Uncertainty):
    """Post: the mean inverse depth of the image and its mirror; half their difference. Two passes."""

    def predict(self, net: DepthNet, to_depth: ToDepth, image: Tensor) -> tuple[Tensor, Tensor]:
        """See Uncertainty."""
        inverse = 1 / to_depth(net(image)[0][:, :1])
        mirrored = 1 / to_depth(net(image.flip(3))[0][:, :1]).flip(3)
        return mean_and_deviation(torch.cat([inverse, mirrored], dim=1))


class Dropout(Uncertainty):
    """Drop: mean and deviation of the inverse depth over decoder passes with dropped channels; one pass of the encoder."""

    dropout = True

    def predict(self, net: DepthNet, to_depth: ToDepth, image: Tensor) -> tuple[Tensor, Tensor]:
        """See Uncertainty."""
        return mean_and_deviation(1 / to_depth(net.passes(image)[:, :, 0]))


class Samples(Dropout):
    """Mean and deviation of the inverse depth over samples of a diffusion from different noises; one pass of the encoder."""

    dropout = False
    diffusion = True


class Trajectory(Uncertainty):
    """How far the last states of one sample's diffusion are spread (MonoDiffusion's code). One pass."""

    diffusion = True

    def predict(self, net: DepthNet, to_depth: ToDepth, image: Tensor) -> tuple[Tensor, Tensor]:
        """See Uncertainty."""
        inverse = 1 / to_depth(net.trajectory(image)[:, -STATES:, 0])
        last = inverse[:, -1:]
        return 1 / last, (inverse - inverse.mean(dim=1, keepdim=True)).square().mean(dim=1, keepdim=True).sqrt() / last


class ReprojectionError(Uncertainty):
    """Repr: one more map learns the error itself, which teaches depth nothing. One pass."""

    outputs = 1

    def losses(self, name: str, error: Tensor, extra: Tensor, valid: Tensor, observed: Tensor | None = None) -> dict[str, Tensor]:
        """See Uncertainty."""
        target = (error if observed is None else observed).detach()
        learned = REPROJECTION_WEIGHT * masked_mean((extra - target).abs(), valid)
        return {name: masked_mean(error, valid), "reprojection": learned}

    def predict(self, net: DepthNet, to_depth: ToDepth, image: Tensor) -> tuple[Tensor, Tensor]:
        """See Uncertainty. The error counts as the relative deviation; calibration gives it its size."""
        finest = net(image)[0]
        return to_depth(finest[:, :1]), finest[:, 1:].clamp(min=0)


class LogLikelihood(Uncertainty):
    """Log: one more map is the log scale b of a Laplace distribution of the error (Kendall and Gal 2017). One pass."""

    outputs = 1

    def losses(self, name: str, error: Tensor, extra: Tensor, valid: Tensor, observed: Tensor | None = None) -> dict[str, Tensor]:
        """See Uncertainty. The likelihood replaces the method's own term."""
        if observed is not None:
            error = observed.detach() + error - error.detach()  # seen by sigma as observed, by depth as masked
        return {"likelihood": masked_mean(laplace_nll(error, extra.clamp(*LOG_SCALE_RANGE)), valid)}

    def predict(self, net: DepthNet, to_depth: ToDepth, image: Tensor) -> tuple[Tensor, Tensor]:
        """See Uncertainty. The deviation of a Laplace distribution is b sqrt 2."""
        finest = net(image)[0]
        return to_depth(finest[:, :1]), math.sqrt(2) * torch.exp(finest[:, 1:].clamp(*LOG_SCALE_RANGE))


UNCERTAINTIES: dict[str, type[Uncertainty]] = {
    "flip": Flip,
    "dropout": Dropout,
    "samples": Samples,
    "trajectory": Trajectory,
    "repr": ReprojectionError,
    "log": LogLikelihood,
}


def build_uncertainty(name: str) -> Uncertainty:
    """Build the part that method.sigma names. Raises ConfigError."""
    if name not in UNCERTAINTIES:
        raise ConfigError(f"method.sigma is '{name}'; expected one of {', '.join(UNCERTAINTIES)}")
    return UNCERTAINTIES[name]()


def mean_and_deviation(inverse: Tensor, own: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Depth [m] and relative deviation (B, 1, H, W) of inverse depths (B, N, H, W) [1/m] that share a pixel.

    The variance is that of the inverse depths plus, where each has a deviation of its `own` (same shape and unit), the mean
    of theirs: the variance of a mixture, as in the paper of Poggi et al. (whose code adds the sum). To first order, the relative
    deviation of a depth is that of its inverse.
    """
    mean = inverse.mean(dim=1, keepdim=True)
    variance = (inverse - mean).square().mean(dim=1, keepdim=True)
    if own is not None:
        variance = variance + own.square().mean(dim=1, keepdim=True)
    return 1 / mean, variance.sqrt() / mean
