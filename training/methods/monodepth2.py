"""Monodepth2 (Godard et al., ICCV 2019): depth from video or stereo by view synthesis."""

from __future__ import annotations

import torch
from torch import Tensor

from training.batch import Batch, View
from training.config import ConfigError, TrainConfig
from training.geometry import invert_pose, warp
from training.losses import masked_mean, min_reprojection, photometric_error, smoothness, velocity
from training.methods.method import Method
from training.networks import build_pose_net


class Monodepth2(Method):
    """Minimum reprojection, auto-masking and edge-aware smoothness; poses known (metric), or learned.

    Views are in temporal order for a learned pose: those before the target come first, those after it last.
    """

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config, outputs=1)
        learns_pose = bool(config.data.images) and not (config.data.poses and config.data.known_poses)
        self.pose_net = build_pose_net(config.network) if learns_pose else None
        self.metric = not config.method.normalise_disparity and (not learns_pose or config.method.velocity > 0)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Photometric and smoothness terms, mean over scales; with truth, the supervised term; velocity where asked for."""
        maps = self.depth_net(batch.input)[: self.config.method.scales]
        ratio = self.focal_ratio(batch.K)
        poses = [self.pose(batch, i) for i in range(len(batch.views))]
        identity = [photometric_error(v.image, batch.image) for v in batch.views] if self.config.method.auto_masking else []
        terms = {"photometric": batch.image.new_zeros(()), "smoothness": batch.image.new_zeros(())}
        for scale, logits in enumerate(maps):
            depth = self.training_depth(logits) * ratio
            if batch.views:
                errors = [self._reprojection_error(batch, v, depth, p) for v, p in zip(batch.views, poses, strict=True)]
                terms["photometric"] += min_reprojection(errors, identity) / len(maps)
            weight = self.config.method.smoothness / 2**scale / len(maps)
            terms["smoothness"] += weight * smoothness(1 / depth, batch.image)
        if batch.depth is not None:
            log_error = (torch.log(self.to_depth(maps[0]) * ratio) - torch.log(batch.depth)).abs()
            terms["supervised"] = self.config.method.supervised * masked_mean(log_error, batch.valid)
        if self.config.method.velocity > 0 and batch.views:
            terms["velocity"] = self.config.method.velocity * self._velocity(batch.views, poses)
        return terms

    def training_depth(self, logits: Tensor) -> Tensor:
        """Depth that is warped with; divided by its mean disparity if the config says so (Wang et al., CVPR 2018)."""
        depth = self.to_depth(logits)
        if not self.config.method.normalise_disparity:
            return depth
        return depth * (1 / depth).mean(dim=(2, 3), keepdim=True)

    def pose(self, batch: Batch, index: int) -> Tensor:
        """source_T_target (B, 4, 4) of view `index`: the known one, or the learned one with frames in temporal order."""
        view = batch.views[index]
        if view.source_T_target is not None:
            return view.source_T_target
        if self.pose_net is None:
            raise ConfigError("a view has no pose and the method learns none; set data.known_poses or give data.poses")
        if index < len(batch.views) / 2:
            return invert_pose(self.pose_net(view.input, batch.input))
        return self.pose_net(batch.input, view.input)

    def predict(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Flip post-processing: mean of the inverse depths of the image and its mirror; sigma from half their difference."""
        inverse = 1 / self.to_depth(self.depth_net(image)[0])
        mirrored = 1 / self.to_depth(self.depth_net(image.flip(3))[0]).flip(3)
        mean = (inverse + mirrored) / 2
        relative = ((inverse - mirrored).abs() / (2 * mean)).clamp(min=1e-3)
        return 1 / mean, self.sigma_calibration * relative / mean

    @staticmethod
    def _reprojection_error(batch: Batch, view: View, depth: Tensor, source_T_target: Tensor) -> Tensor:
        warped = warp(view.image, depth, batch.K, view.K, source_T_target)
        return photometric_error(warped, batch.image)

    @staticmethod
    def _velocity(views: tuple[View, ...], poses: list[Tensor]) -> Tensor:
        if any(v.speed is None for v in views):
            raise ConfigError("method.velocity needs the distance between frames; give data.poses or set it to 0")
        return torch.stack([velocity(p[:, :3, 3], v.speed) for v, p in zip(views, poses, strict=True)]).mean()
