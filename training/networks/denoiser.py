"""MonoDiffusion's noise predictor: two convolutions over a condition, a step and a noisy map."""

from __future__ import annotations

from torch import Tensor, nn

WIDTH = 16  # channels of the condition
GROUPS = 4
STEPS = 1280  # that the embedding knows; no schedule is longer


class Denoiser(nn.Module):
    """All there is to it, 23,137 weights: no U-Net, no attention."""

    def __init__(self) -> None:
        super().__init__()
        self.step = nn.Embedding(STEPS, WIDTH)
        self.state = nn.Conv2d(1, WIDTH, 3, padding=1)
        self.body = nn.Sequential(
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1),
            nn.GroupNorm(GROUPS, WIDTH),
            nn.ReLU(inplace=True),
            nn.Conv2d(WIDTH, 1, 3, padding=1),
        )

    def forward(self, noisy: Tensor, step: int | Tensor, condition: Tensor) -> Tensor:
        """Noisy maps (B, 1, H, W), their steps (B,) or one for all, and conditions (B, WIDTH, H, W) -> (B, 1, H, W)."""
        embedded = self.step.weight[step]  # (WIDTH,) or (B, WIDTH)
        return self.body(condition + embedded[..., None, None] + self.state(noisy))
