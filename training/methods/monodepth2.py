"""Monodepth2 (Godard et al., ICCV 2019): depth from video or stereo by view synthesis."""

from __future__ import annotations

import torch
from torch import Tensor

from training.batch import Batch, View
from training.config import ConfigError, TrainConfig
from training.geometry import invert_pose, warp
from training.losses import auto_mask, camera_height, masked_mean, min_reprojection, photometric_error, smoothness, velocity
from training.methods.method import Method
from training.networks import build_pose_net


class Monodepth2(Method):
    """Minimum reprojection, auto-masking and edge-aware smoothness; poses known (metric) or learned, view by view."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self.pose_net = build_pose_net(config.network, config.data.width) if config.data.learns_pose else None

    @property
    def kind(self) -> str:
        """See Predictor."""
        return "metric" if self.learns_metres else "scale_invariant"

    @property
    def learns_metres(self) -> bool:
        """Whether the losses know a length."""
        config = self.config.method
        known_length = self.pose_net is None or self.config.data.stereo or config.velocity > 0
        return config.camera_height > 0 or (known_length and not config.normalise_disparity)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """See map_losses(). Raises ConfigError where nothing tells depth."""
        config = self.config.method
        if not batch.views and batch.depth is None and config.camera_height == 0:
            raise ConfigError(
                f"method {config.name} learns from neighbouring frames, a second camera, true depth or method.camera_height, and "
                "a batch has none of them; data.source: mixed is for method.name: midas"
            )
        return self.map_losses(batch, self.depth_net(batch.input), self.poses(batch))

    def map_losses(self, batch: Batch, maps: list[Tensor], poses: list[Tensor]) -> dict[str, Tensor]:
        """Photometric and smoothness terms, mean over scales; with truth, the supervised term; the scale where asked for.

        `maps` are the network's (B, 1 + extras, H, W), finest first.
        """
        config = self.config.method
        maps = maps[: config.scales]
        ratio = self.focal_ratio(batch.K)
        depths = [self.training_depth(m[:, :1]) * ratio for m in maps]
        terms = self.view_losses(batch, depths, [m[:, 1:] for m in maps], poses)
        terms["smoothness"] = self._smoothness(batch, depths)
        depth = self.to_depth(maps[0][:, :1]) * ratio
        if batch.depth is not None:
            log_error = (torch.log(depth) - torch.log(batch.depth)).abs()
            terms["supervised"] = config.supervised * masked_mean(log_error, batch.valid)
        if config.velocity > 0 and batch.views:
            terms["velocity"] = config.velocity * _velocity(batch.views, poses)
        if config.camera_height > 0:
            terms["camera_height"] = config.ground * camera_height(depth, batch.K, config.camera_height)
        return terms

    def view_losses(self, batch: Batch, depths: list[Tensor], extras: list[Tensor], poses: list[Tensor]) -> dict[str, Tensor]:
        """Terms of what the views show. `depths` [m] and `extras`, the maps beside them, are one per scale."""
        images = [view.image for view in batch.views]
        return self.compare_views("photometric", batch, batch.image, images, depths, extras, poses)

    def compare_views(
        self,
        name: str,
        batch: Batch,
        target: Tensor,
        sources: list[Tensor],
        depths: list[Tensor],
        extras: list[Tensor],
        poses: list[Tensor],
    ) -> dict[str, Tensor]:
        """Least error over the views, auto-masked, mean over scales and pixels: `name`, or what the part of sigma makes of it.

        The target and its views are images or features (B, C, h, w), of any stride. No terms without views.
        """
        if not sources:
            return {}
        masked = self.config.method.auto_masking and (self.config.method.auto_mask_stereo or not _has_pair(batch))
        identity = [self.error(source, target) for source in sources] if masked else []
        stride = batch.image.shape[-1] // target.shape[-1]
        terms: dict[str, Tensor] = {}
        for depth, extra in zip(depths, extras, strict=True):
            views = zip(sources, batch.views, poses, strict=True)
            warped = [warp(source, depth, batch.K, view.K, pose) for source, view, pose in views]
            reprojection = min_reprojection([self.error(source, target) for source in warped])
            everywhere = torch.ones_like(reprojection, dtype=torch.bool)
            error, extra = auto_mask(reprojection, identity), extra[..., ::stride, ::stride]
            for term, value in self.uncertainty.losses(name, error, extra, everywhere, reprojection).items():
                terms[term] = terms.get(term, 0.0) + value / len(depths)
        return terms

    def error(self, source: Tensor, target: Tensor) -> Tensor:
        """Error (B, 1, h, w) of a view, warped or as it is, where it should show the target."""
        return photometric_error(source, target, self.config.method.charbonnier)

    def _smoothness(self, batch: Batch, depths: list[Tensor]) -> Tensor:
        """Scale i counts 1 / 2^i."""
        config = self.config.method
        normalised = config.smoothness_stereo_mean or not _has_pair(batch)
        terms = [
            smoothness(1 / depth, batch.image, config.smoothness_order, config.smoothness_edges, normalised) / 2**scale
            for scale, depth in enumerate(depths)
        ]
        return config.smoothness * torch.stack(terms).mean()

    def health(self, batch: Batch) -> dict[str, Tensor]:
        """Also parallax: how far learned translations move the image [px], at its mean inverse depth."""
        figures = super().health(batch)
        learned = [view for view in batch.views if view.source_T_target is None]
        if learned:
            inverse = (1 / self.training_depth(self.depth_net(batch.image)[0][:, :1])).mean(dim=(1, 2, 3))
            lengths = torch.stack([self.pose(batch, view)[:, :3, 3].norm(dim=1) for view in learned])
            figures["parallax"] = (batch.K[:, 0, 0] * lengths * inverse).mean()
        return figures

    def training_depth(self, logits: Tensor) -> Tensor:
        """Depth that is warped with; divided by its mean disparity if the config says so (Wang et al., CVPR 2018)."""
        depth = self.to_depth(logits)
        if not self.config.method.normalise_disparity:
            return depth
        return depth * (1 / depth).mean(dim=(2, 3), keepdim=True)

    def poses(self, batch: Batch) -> list[Tensor]:
        """pose() of every view."""
        return [self.pose(batch, view) for view in batch.views]

    def pose(self, batch: Batch, view: View) -> Tensor:
        """source_T_target (B, 4, 4) of a view: the known one, or the learned one with the two frames in temporal order."""
        if view.source_T_target is not None:
            return view.source_T_target
        if self.pose_net is None or view.order == 0:
            raise ConfigError("a view has no pose and the method learns none; give data.poses, or set data.known_poses: false")
        if view.order < 0:
            return invert_pose(self.pose_net(view.input, batch.input))
        return self.pose_net(batch.input, view.input)


def _has_pair(batch: Batch) -> bool:
    """Whether one of the views is the other camera of a stereo pair."""
    return any(view.order == 0 for view in batch.views)


def _velocity(views: tuple[View, ...], poses: list[Tensor]) -> Tensor:
    """Mean over the views whose pose is learned; a known one, as of a stereo pair, has its length already."""
    learned = [(v, p) for v, p in zip(views, poses, strict=True) if v.source_T_target is None]
    if any(v.speed is None for v, _ in learned):
        raise ConfigError("method.velocity needs the distance between frames; give data.poses or set it to 0")
    return torch.stack([velocity(p[:, :3, 3], v.speed) for v, p in learned] or [views[0].image.new_zeros(())]).mean()
