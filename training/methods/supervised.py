"""Supervised depth: the absolute error of log depth, by default in the likelihood of a Laplace distribution."""

from __future__ import annotations

import torch
from torch import Tensor

from training.batch import Batch
from training.config import ConfigError
from training.methods.method import Method


class Supervised(Method):
    """Learns the true depth wherever it is known (Kendall and Gal 2017, with a Laplace distribution over log depth)."""

    default_sigma = "log"

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Error of the log depth, as the part that gives sigma wants it, mean over scales."""
        if batch.depth is None:
            raise ConfigError("method supervised needs true depth in every batch; use data.source: street or another method")
        target = torch.log(batch.depth / self.focal_ratio(batch.K))
        return self.log_depth_losses(batch.input, target, batch.valid)

    def log_depth_losses(self, image: Tensor, target: Tensor, valid: Tensor) -> dict[str, Tensor]:
        """Terms for the log depth (B, 1, H, W) of a camera with `focal`, mean over scales."""
        maps = self.depth_net(image)[: self.config.method.scales]
        terms: dict[str, Tensor] = {}
        for scale_map in maps:
            error = (torch.log(self.to_depth(scale_map[:, :1])) - target).abs()
            for name, value in self.uncertainty.losses("supervised", error, scale_map[:, 1:], valid).items():
                terms[name] = terms.get(name, 0.0) + value / len(maps)
        return terms
