"""FeatDepth (Shu et al., ECCV 2020): views are also compared by learned features, whose slopes reach into flat regions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from training.batch import Batch
from training.config import ConfigError, FeatureConfig, TrainConfig
from training.feature_losses import convergent, discriminative, feature_metric_error, reconstruction
from training.losses import min_reprojection
from training.methods.method import Learner, Predictor
from training.methods.monodepth2 import Monodepth2
from training.networks.feature_net import FeatureNet, build_feature_net


class FeatureNetAlone(Learner):
    """Trains the auto-encoder by itself, for feature.checkpoint. It predicts no depth."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self.feature_net = build_feature_net(config)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """See feature_net_losses()."""
        (features,) = self.feature_net.features([batch.image])
        return feature_net_losses(self.feature_net, features, batch.image, self.config.feature, self.config.method.charbonnier)

    def predict_relative(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Raises ConfigError: there is no depth."""
        raise ConfigError(
            "method feature_net predicts no depth; give its checkpoint to config/train/featdepth.yaml as feature.checkpoint"
        )


class FeatDepth(Monodepth2):
    """Monodepth2 with the feature-metric error, its minimum over the views taken apart from the photometric one and unmasked.

    The FeatureNet is trained jointly, or comes trained and frozen from feature.checkpoint.
    """

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self.feature_net = None if config.feature.checkpoint else build_feature_net(config)
        # A plain list keeps a frozen one out of the state_dict, the optimiser and the averaged weights.
        self.frozen: list[FeatureNet] = []

    def prepare(self, load: Callable[[str], Predictor]) -> None:
        """Load the frozen FeatureNet that the configuration names. Raises ConfigError."""
        path = self.config.feature.checkpoint
        if path:
            loaded = load(path)
            if not isinstance(loaded, FeatureNetAlone):
                raise ConfigError(
                    f"feature.checkpoint: {path} is of method {loaded.config.method.name}; expected one of feature_net: "
                    "first train config/train/feature_net.yaml"
                )
            self.frozen = [loaded.feature_net.eval().requires_grad_(False)]

    def view_losses(self, batch: Batch, depths: list[Tensor], extras: list[Tensor], poses: list[Tensor]) -> dict[str, Tensor]:
        """Also the feature-metric error of the finest depth, and where the FeatureNet is trained jointly its own terms."""
        target, sources, terms = self.features(batch)
        terms |= super().view_losses(batch, depths, extras, poses)
        if batch.views:
            terms["feature"] = self.config.feature.weight * self._feature_metric(batch, depths[0], poses, target, sources)
        return terms

    def features(self, batch: Batch) -> tuple[list[Tensor], list[list[Tensor]], dict[str, Tensor]]:
        """Levels (B, C, h, w) of the target and of each view, to compare; the terms of a FeatureNet that is trained jointly."""
        config = self.config.feature
        net = self.feature_net or self.frozen[0].to(batch.image.device)
        target, *sources = net.features([batch.image, *(view.image for view in batch.views)])
        terms = {}
        if self.feature_net is not None:
            terms = feature_net_losses(net, target, batch.image, config, self.config.method.charbonnier)
        if config.detach:
            target, *sources = ([level.detach() for level in levels] for levels in (target, *sources))
        return target, sources, terms

    def _feature_metric(
        self, batch: Batch, depth: Tensor, poses: list[Tensor], target: list[Tensor], sources: list[list[Tensor]]
    ) -> Tensor:
        """Mean over levels and pixels of the least error over the views."""
        means = []
        for level in self.config.feature.levels:
            errors = [
                feature_metric_error(target[level], source[level], depth, batch.K, view.K, pose, self.config.method.charbonnier)
                for view, pose, source in zip(batch.views, poses, sources, strict=True)
            ]
            means.append(min_reprojection(errors).mean())
        return torch.stack(means).mean()


def feature_net_losses(
    net: FeatureNet, features: list[Tensor], image: Tensor, config: FeatureConfig, charbonnier: bool
) -> dict[str, Tensor]:
    """L_s = L_rec + alpha L_dis + beta L_cvt of an image's features (FeatDepth, section 3.3), term by term."""
    maps = net.decoder(features[-1])[: config.reconstruction_scales]
    return {
        "reconstruction": reconstruction(image, maps, config.photometric_reconstruction, charbonnier),
        "discriminative": config.discriminative * discriminative(features, image),
        "convergent": config.convergent * convergent(features, image, config.edge_weighted_convergence),
    }
