"""The low-texture system (Xu et al., "Self-Supervised Monocular Depth Learning in Low-Texture Areas", Remote Sensing 2021)."""

from __future__ import annotations

from torch import Tensor

from training.batch import Batch
from training.losses import absolute_error
from training.methods.featdepth import FeatDepth


class LowTexture(FeatDepth):
    """Views are compared by the lowest features of a FeatureNet in place of pixels, each level at its own stride.

    The rest are settings: both orders of smoothness, and the changed network (config/train/low_texture.yaml). The paper has no
    code; what it leaves open is decided here: the error is L1, levels weigh alike, and the FeatureNet is FeatDepth's.
    """

    def view_losses(self, batch: Batch, depths: list[Tensor], extras: list[Tensor], poses: list[Tensor]) -> dict[str, Tensor]:
        """Mean over levels and scales of the least error over the views; and a joint FeatureNet's own terms."""
        target, sources, terms = self.features(batch)
        levels, weight = self.config.feature.levels, self.config.feature.weight
        for level in levels:
            maps = [source[level] for source in sources]
            for name, value in self.compare_views("feature", batch, target[level], maps, depths, extras, poses).items():
                terms[name] = terms.get(name, 0.0) + weight * value / len(levels)
        return terms

    def error(self, source: Tensor, target: Tensor) -> Tensor:
        """See Monodepth2."""
        return absolute_error(source, target, self.config.method.charbonnier)
