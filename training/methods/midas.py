"""MiDaS (Ranftl et al., TPAMI 2022): relative inverse depth from truths of any scale and shift, of several datasets at once."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from training.alignment import correlation, to_unit
from training.batch import Batch, with_inverse
from training.config import ConfigError, TrainConfig
from training.methods.taught import Taught
from training.networks import DepthNet
from training.relative_losses import LOSSES, gradient_matching


class Midas(Taught):
    """Learns inverse depth up to a scale and a shift per image, from whatever truth is known as well as that, or from teachers.

    The prediction is 1 / to_depth(): a sigmoid between 1 / max_depth and 1 / min_depth, in no unit, where the paper has a ReLU.
    The losses leave its scale and shift open. So a ReLU can drift to where all pixels are 0 and nothing is learned any more, and
    its size to where 1 / r has no use of a fixed range; a sigmoid does neither.
    """

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self.datasets = tuple(entry.name for entry in config.data.mix) or ("relative",)

    def _build_net(self) -> DepthNet:
        if self.uncertainty.outputs:
            raise ConfigError(
                f"method.sigma is '{self.config.method.sigma}', which learns the size of an error; midas learns no sizes: "
                "expected flip or dropout"
            )
        return super()._build_net()

    @property
    def kind(self) -> str:
        """See Predictor."""
        return "affine_invariant"

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """A term per dataset: the sum over its samples, divided by the size of the batch.

        Of as many samples of each, as the paper mixes them, the terms' sum is the mean over datasets; and the processes that
        share a batch have the sums of one process. A dataset without samples in the batch has a term of 0.
        """
        batch = self._with_truth(batch)
        maps = self.depth_net(batch.input)[: self.config.method.scales]
        values = torch.stack([self.sample_losses(1 / self.to_depth(m), batch)[0] for m in maps]).mean(dim=0)
        return {name: (values * (batch.dataset == i)).sum() / len(values) for i, name in enumerate(self.datasets)}

    def sample_losses(self, prediction: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Loss (B,) of inverse depth (B, 1, H, W) with its gradient term; and which samples (B,) count, the others having 0."""
        own = self.config.midas
        loss = LOSSES[own.loss]
        truth = to_unit(batch.inverse, batch.valid) if loss.unit_truth else batch.inverse
        options = {name: getattr(own, name) for name in loss.options}
        errors = partial(loss.errors, **options)(prediction, truth, batch.valid)
        edges = gradient_matching(errors.residual, batch.valid, own.gradient_scales)
        return errors.values + own.gradient * edges, errors.counted

    def health(self, batch: Batch) -> dict[str, Tensor]:
        """Also correlation, of predicted inverse depth and the true or taught one, mean over images; and skipped.

        The latter is the share of images that teach nothing.
        """
        figures, batch = super().health(batch), self._with_truth(batch)
        prediction = 1 / self.to_depth(self.depth_net(batch.image)[0])
        counted = self.sample_losses(prediction, batch)[1]
        figures["correlation"] = correlation(prediction, batch.inverse, batch.valid).mean()
        return figures | {"skipped": 1 - counted.float().mean()}

    @torch.no_grad()
    def _with_truth(self, batch: Batch) -> Batch:
        """The batch with inverse depth: a teacher's of the plain image, of any kind, or the true one. Raises ConfigError."""
        if self.teachers:
            depth = self.teacher().predict(batch.image)[0]
            valid = torch.isfinite(1 / depth)  # a bundle's teacher leaves pixels out
            batch = replace(batch, depth=torch.where(valid, depth, 1.0), inverse=None, valid=valid)
        batch = with_inverse(batch)
        if batch.inverse is None:
            raise ConfigError(
                "method midas needs truth in every batch, up to a scale and a shift: data.depth: true, data.source: street or a "
                "mix; or method.teachers, which state it for any image"
            )
        return batch
