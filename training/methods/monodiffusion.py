"""MonoDiffusion (Shao et al., IEEE TCSVT 2024): a student denoises its way to a teacher's disparity."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.nn import functional as F

from training.batch import Batch
from training.config import ConfigError, TrainConfig
from training.diffusion import add_noise, prediction_target
from training.methods.method import Method, Predictor
from training.methods.monodepth2 import Monodepth2
from training.methods.taught import TaughtDepth
from training.multi_view import consistent, round_trip_errors
from training.networks import resize
from training.networks.diffusion_net import DiffusionNet


class MonoDiffusion(TaughtDepth, Monodepth2):
    """Monodepth2's losses on the denoised disparity, beside the denoiser's own and the distance to the teacher.

    The diffused variable is the teacher's disparity logit at each scale. Sampling is part of training: gradients flow through
    all of its steps. A second pass, with an optimiser step of its own, hides features and asks for the same disparity.
    """

    default_sigma = "trajectory"
    choices = (*Monodepth2.choices, "diffusion.steps", "diffusion.spacing", "diffusion.samples")
    depth_net: DiffusionNet

    def __init__(self, config: TrainConfig) -> None:
        super().__init__(config)
        self.unmasked: list[Tensor] = []  # disparities of the batch's first pass

    def _build_net(self) -> DiffusionNet:
        part, own, name = self.uncertainty, self.config.diffusion, self.config.method.sigma or self.default_sigma
        deterministic = own.prediction == "direct" or (name, own.steps[0]) == ("trajectory", 1)
        if part.outputs or part.dropout or (part.diffusion and deterministic):
            raise ConfigError(
                f"method.sigma is '{name}'; of monodiffusion expected flip, samples, or trajectory where the finest scale takes "
                "several steps; flip alone with diffusion.prediction: direct"
            )
        return DiffusionNet(self.config)

    @classmethod
    def idle_choices(cls, config: TrainConfig) -> dict[str, str]:
        """See Learner."""
        if config.diffusion.prediction == "direct":
            return {key: "it was trained without diffusion" for key in cls.choices if key.startswith("diffusion.")}
        return {} if config.method.sigma == "samples" else {"diffusion.samples": "method.sigma is not samples"}

    @property
    def passes(self) -> tuple[str, ...]:
        """See Learner."""
        return ("losses", "masked_losses") if self.config.diffusion.masked > 0 else ("losses",)

    def set_teachers(self, teachers: list[Predictor]) -> None:
        """See TaughtDepth. Raises ConfigError."""
        super().set_teachers(teachers)
        for teacher in teachers:
            if not isinstance(teacher, Method):
                raise ConfigError(
                    f"a teacher is of method {teacher.config.method.name}; expected a checkpoint with a depth network"
                )
        if self.learns_metres and not self.metric:
            raise ConfigError(
                "the teacher's depth is true up to one factor, but the lengths between this run's views are known, and the two "
                "would disagree; expected a metric teacher, or data.known_poses: false and no pairs"
            )

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """Monodepth2's terms; `denoising` and `distillation`, means over scales."""
        own, net = self.config.diffusion, self.depth_net
        conditions = net.conditions(net.features(batch.input))
        logits = [states[-1] for states in net.denoise(conditions, net.noises(len(batch.image)))]
        self.unmasked = [torch.sigmoid(logit).detach() for logit in logits]
        poses = self.poses(batch)
        terms = self.map_losses(batch, [resize(logit, batch.image.shape[-2:]) for logit in logits], poses)
        teacher = self.teacher()
        taught = self.teacher_logits(teacher, batch.image)
        if own.distillation > 0:
            kept = self.kept(teacher, batch, poses)
            terms["distillation"] = own.distillation * _distance(logits, [torch.sigmoid(t) for t in taught], kept)
        if own.denoising > 0 and own.prediction != "direct":
            terms["denoising"] = own.denoising * self._denoising(conditions, logits, taught)
        return terms

    def masked_losses(self, batch: Batch) -> dict[str, Tensor]:
        """The distance between the disparity of partly hidden features and that of the batch's first pass."""
        own, net = self.config.diffusion, self.depth_net
        features = hide(net.features(batch.input), own.mask_share, own.mask_block)
        states = net.denoise(net.conditions(features), net.noises(len(batch.image)))
        return {"masked": own.masked * _distance([s[-1] for s in states], self.unmasked)}

    def health(self, batch: Batch) -> dict[str, Tensor]:
        """Also kept: the share of the teacher's pixels that pass the multi-view check."""
        figures = super().health(batch)
        return figures | {"kept": self.kept(self.teacher(), batch, self.poses(batch)).float().mean()}

    @torch.no_grad()
    def teacher_logits(self, teacher: Predictor, image: Tensor) -> list[Tensor]:
        """The teacher's disparity logits (B, 1, H / 2^i, W / 2^i), in this student's range and for its focal length.

        Raises ConfigError for a teacher of fewer scales.
        """
        teacher, ratio = cast(Method, teacher), torch.sqrt(self.focal.prod() / teacher.focal.prod())
        maps, scales = teacher.depth_net.pyramid(image), len(self.config.diffusion.steps)
        if len(maps) < scales:
            raise ConfigError(f"a teacher has {len(maps)} of the {scales} scales of diffusion.steps; expected one with as many")
        return [self.to_logit(teacher.to_depth(m[:, :1]) * ratio) for m in maps[:scales]]

    @torch.no_grad()
    def kept(self, teacher: Predictor, batch: Batch, poses: list[Tensor]) -> Tensor:
        """The pixels (B, 1, H, W; bool) whose teacher's depth at least one view agrees with; all where there is none to ask.

        `poses` are those of the batch's views.
        """
        rule, ratio = self.config.diffusion.filter, self.focal_ratio(batch.K)
        kept = torch.zeros_like(batch.image[:, :1], dtype=torch.bool)
        if rule == "none" or not batch.views:
            return ~kept
        depth, scale = _depth(teacher, batch.image), torch.sqrt(self.focal.prod() / teacher.focal.prod())
        if self.config.method.normalise_disparity:  # the unit of learned poses: see training_depth()
            scale = (1 / depth).mean(dim=(2, 3), keepdim=True)
        scale = scale * ratio
        depth = depth * scale
        for view, pose in zip(batch.views, poses, strict=True):
            errors = round_trip_errors(depth, _depth(teacher, view.image) * scale, batch.K, view.K, pose)
            kept = kept | consistent(*errors, rule)
        return kept

    def _denoising(self, conditions: list[Tensor], logits: list[Tensor], taught: list[Tensor]) -> Tensor:
        """Mean squared error of each scale's denoiser at a random step per image."""
        own, net = self.config.diffusion, self.depth_net
        errors = []
        for scale, (condition, logit) in enumerate(zip(conditions, taught, strict=True)):
            schedule, clean = net.schedule(scale), logit - own.centre
            step = torch.randint(len(schedule), (len(clean),), device=clean.device)
            share, noise = schedule[step][:, None, None, None], torch.randn_like(clean)
            told = net.with_cue(condition, scale, logits[scale + 1] if scale + 1 < len(logits) else None)
            predicted = net.predict(scale, add_noise(clean, noise, share), step, told)
            errors.append(F.mse_loss(predicted, prediction_target(own.prediction, clean, noise, share)))
        return torch.stack(errors).mean()


def hide(features: list[Tensor], share: float, block: int = 1) -> list[Tensor]:
    """Features (B, C, h, w), each half the size of the one before, with a random `share` of their pixels 0 in all channels.

    What is hidden is drawn at the finest, in squares of `block` pixels, and is the same in all.
    """
    batch, _, height, width = features[0].shape
    shown = torch.rand(batch, 1, -(-height // block), -(-width // block), device=features[0].device) >= share
    mask = shown.float().repeat_interleave(block, 2).repeat_interleave(block, 3)[..., :height, :width]
    return [feature * F.interpolate(mask, size=feature.shape[-2:], mode="nearest") for feature in features]


def _depth(teacher: Predictor, image: Tensor) -> Tensor:
    """The depth [m] that is diffused: one pass, whatever the teacher's sigma takes."""
    teacher = cast(Method, teacher)
    return teacher.to_depth(teacher.depth_net(image)[0][:, :1])


def _distance(logits: list[Tensor], disparities: list[Tensor], kept: Tensor | None = None) -> Tensor:
    """Mean over scales and pixels of |sigmoid(logit) - disparity|; pixels that are not kept (B, 1, H, W) count as 0."""
    errors = []
    for logit, disparity in zip(logits, disparities, strict=True):
        error = (torch.sigmoid(logit) - disparity).abs()
        if kept is not None:
            error = error * F.interpolate(kept.float(), size=error.shape[-2:], mode="nearest")
        errors.append(error.mean())
    return torch.stack(errors).mean()
