"""Supervised depth with a learned sigma: the likelihood of log depth under a Laplace distribution."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from training.batch import Batch
from training.config import ConfigError, TrainConfig
from training.losses import laplace_nll
from training.methods.method import Method

LOG_SCALE_RANGE = (-5.0, 1.5)  # relative errors of 0.7 % to 450 %: keeps the likelihood bounded


class Supervised(Method):
    """One network, two maps: the disparity logit and the log scale of the error of log depth (Kendall and Gal 2017)."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config, outputs=2)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Negative log-likelihood of the true log depth, mean over scales."""
        if batch.depth is None:
            raise ConfigError("method supervised needs true depth in every batch; use data.street_share: 1 or another method")
        target = torch.log(batch.depth / self.focal_ratio(batch.K))
        return {"likelihood": self._likelihood(batch.input, target, batch.valid)}

    def predict(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Depth, and sigma = depth x standard deviation of log depth (a Laplace scale b has the deviation b sqrt 2)."""
        finest = self.depth_net(image)[0]
        depth = self.to_depth(finest[:, :1])
        relative = math.sqrt(2) * torch.exp(finest[:, 1:].clamp(*LOG_SCALE_RANGE))
        return depth, self.sigma_calibration * relative * depth

    def _likelihood(self, image: Tensor, target: Tensor, valid: Tensor) -> Tensor:
        maps = self.depth_net(image)[: self.config.method.scales]
        nll = [laplace_nll(torch.log(self.to_depth(m[:, :1])), m[:, 1:].clamp(*LOG_SCALE_RANGE), target, valid) for m in maps]
        return torch.stack(nll).mean()
