"""MonoDiffusion's network: an image becomes conditions, under which noise becomes disparity logits, from coarse to fine."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from training.config import ConfigError, DiffusionConfig, TrainConfig
from training.diffusion import alpha_bars, ddim, visited_steps
from training.networks import DISPARITY_BIAS, DepthNet, resize
from training.networks.denoiser import WIDTH, Denoiser
from training.networks.depth_decoder import conv_elu

NOISE_SEED = 0


class DiffusionNet(DepthNet):
    """A DepthNet whose heads are conditions. Scale i has 1 / 2^i of the image's size; diffusion.steps says how many.

    Noise is drawn at the coarsest scale, and finer ones start from the same, enlarged (or from their own: fresh_noise). In
    training it is drawn anew; in prediction each sample's is always the same, so that a graph is deterministic.
    """

    def __init__(self, config: TrainConfig) -> None:
        _check(config.diffusion)
        super().__init__(config.network, WIDTH, width=config.data.width)
        own = self.own = config.diffusion
        scales = len(own.steps)
        for head in self.decoder.heads.values():
            nn.init.zeros_(head.bias)
        if len(self.decoder.heads) < scales:
            raise ConfigError(f"diffusion.steps has {scales} scales; expected at most the decoder's {len(self.decoder.heads)}")
        self.denoisers = nn.ModuleList(Denoiser() for _ in range(1 if own.shared_denoiser else scales))
        self.cues = nn.ModuleList(conv_elu(1, WIDTH) for _ in range(scales - 1 if own.geometric_cue else 0))
        if own.prediction == "direct":
            for denoiser in self.denoisers:
                nn.init.constant_(denoiser.body[-1].bias, DISPARITY_BIAS)
        self.visits = [visited_steps(*pair, own.spacing) for pair in zip(own.train_steps, own.steps, strict=True)]
        self.sizes = [(config.data.height >> scale, config.data.width >> scale) for scale in range(scales)]
        for scale, count in enumerate(own.train_steps):
            self.register_buffer(f"schedule{scale}", alpha_bars(count, own.zero_terminal), persistent=False)
        generator = Generator().manual_seed(NOISE_SEED)
        samples = [self._draw(1, generator) for _ in range(own.samples)]  # one by one: the first are the same however many
        for index, noises in enumerate(zip(*samples, strict=True)):
            self.register_buffer(f"noise{index}", torch.cat(noises), persistent=False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """RGB in [0, 1] (B, 3, H, W) -> disparity logits (B, 1, H, W), finest first, enlarged bilinearly to the image's size."""
        return [resize(logit, image.shape[-2:]) for logit in self.pyramid(image)]

    def pyramid(self, image: Tensor) -> list[Tensor]:
        """As forward(), at their own sizes (B, 1, H / 2^i, W / 2^i)."""
        return [states[-1] for states in self.denoise(self.conditions(self.features(image)), self.noises(image.shape[0]))]

    def passes(self, image: Tensor) -> Tensor:
        """Finest logits (B, samples, 1, H, W) from different, but always the same, noises; the image is encoded once."""
        count = self.own.samples
        conditions = [c.repeat_interleave(count, dim=0) for c in self.conditions(self.features(image))]
        noises = [noise.repeat(image.shape[0], 1, 1, 1) for noise in self._fixed()]
        return self.denoise(conditions, noises)[0][-1].unflatten(0, (-1, count))

    def trajectory(self, image: Tensor) -> Tensor:
        """Finest logits (B, steps, 1, H, W) after each step of sampling, the last being the one that forward() returns."""
        return torch.stack(self.denoise(self.conditions(self.features(image)), self.noises(image.shape[0]))[0], dim=1)

    def conditions(self, features: Sequence[Tensor]) -> list[Tensor]:
        """What denoising is told of the image, from its features: (B, WIDTH, H / 2^i, W / 2^i)."""
        maps = self.decoder(features).values()
        return [resize(F.elu(m), size) for m, size in zip(maps, self.sizes, strict=False)]

    def noises(self, batch: int) -> list[Tensor]:
        """What sampling starts from: per scale, or one for all, (B, 1, h, w)."""
        if self.training:
            return [noise.to(self.schedule0.device) for noise in self._draw(batch)]
        return [noise[:1].expand(batch, -1, -1, -1) for noise in self._fixed()]

    def denoise(self, conditions: Sequence[Tensor], noises: Sequence[Tensor]) -> list[list[Tensor]]:
        """The states that sampling goes through at each scale, (B, 1, H / 2^i, W / 2^i), finest scale first.

        The last of a scale is its disparity logit, which the next finer scale gets as a cue; gradients flow through all.
        """
        found: list[list[Tensor]] = []
        for scale in reversed(range(len(self.sizes))):
            condition = self.with_cue(conditions[scale], scale, found[0][-1] if found else None)
            start = resize(noises[min(scale, len(noises) - 1)], self.sizes[scale])
            found.insert(0, self._sample(scale, condition, start))
        return found

    def with_cue(self, condition: Tensor, scale: int, coarser: Tensor | None) -> Tensor:
        """The condition with the coarser scale's logit added to it."""
        if coarser is None or not self.cues:
            return condition
        return condition + resize(self.cues[scale](coarser), self.sizes[scale])

    def predict(self, scale: int, noisy: Tensor, step: int | Tensor, condition: Tensor) -> Tensor:
        """What this scale's denoiser sees in a noisy logit."""
        return self.denoisers[min(scale, len(self.denoisers) - 1)](noisy, step, condition)

    def schedule(self, scale: int) -> Tensor:
        """alpha_bars() of a scale."""
        return getattr(self, f"schedule{scale}")

    def _sample(self, scale: int, condition: Tensor, start: Tensor) -> list[Tensor]:
        def predict(noisy: Tensor, step: int) -> Tensor:
            return self.predict(scale, noisy, step, condition)

        if self.own.prediction == "direct":  # the control: as many weights, but no noise and one step
            return [predict(torch.zeros_like(start), 0)]
        states = ddim(predict, start, self.schedule(scale), self.visits[scale], self.own.prediction)
        return [state + self.own.centre for state in states]

    def _draw(self, count: int, generator: Generator | None = None) -> list[Tensor]:
        sizes = self.sizes if self.own.fresh_noise else self.sizes[-1:]
        return [torch.randn(count, 1, *size, generator=generator) for size in sizes]

    def _fixed(self) -> list[Tensor]:
        return [getattr(self, f"noise{index}") for index in range(len(self.sizes) if self.own.fresh_noise else 1)]


def _check(own: DiffusionConfig) -> None:
    """Raise ConfigError where values do not go together."""
    if len(own.steps) != len(own.train_steps) or any(n > count for n, count in zip(own.steps, own.train_steps, strict=False)):
        raise ConfigError(
            f"diffusion.steps is {own.steps} and diffusion.train_steps {own.train_steps}; expected one of each per scale, "
            "and no more steps than the schedule has"
        )
    if own.zero_terminal and (own.prediction, own.spacing) != ("v", "trailing"):
        raise ConfigError(
            "diffusion.zero_terminal ends in pure noise, of which epsilon says nothing and where leading steps never are; "
            "expected diffusion.prediction: v and diffusion.spacing: trailing"
        )
