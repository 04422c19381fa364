"""Diffusion as plain functions: a noise schedule, its closed form, and DDIM sampling, each of them knowing nothing of the others.

Ho et al., "Denoising Diffusion Probabilistic Models", NeurIPS 2020; Song et al., "Denoising Diffusion Implicit Models", ICLR
2021; v-prediction: Salimans and Ho, ICLR 2022; the terminal step: Lin et al., "Common Diffusion Noise Schedules and Sample
Steps are Flawed", WACV 2024.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

FIRST_BETA, LAST_BETA = 1e-4, 0.02  # of every schedule, however short: MonoDiffusion's code


def alpha_bars(count: int, zero_terminal: bool = False) -> Tensor:
    """Share of the clean signal's variance after each of `count` steps of a linear schedule: (count,), falling.

    A short schedule ends far from pure noise. With `zero_terminal` the square roots are shifted and scaled so that the last is
    0 and the first stays (Lin et al., algorithm 1): training then ends where sampling starts.
    """
    betas = torch.linspace(FIRST_BETA, LAST_BETA, count, dtype=torch.float64)
    products = torch.cumprod(1 - betas, dim=0)
    if zero_terminal:
        roots = products.sqrt()
        products = ((roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])).square()
    return products.float()


def visited_steps(count: int, visits: int, spacing: str = "leading") -> tuple[int, ...]:
    """The steps that sampling visits, falling, count // visits apart.

    leading: down to 0, as in MonoDiffusion's code, starting well before the last. trailing: from the last on, which few steps
    and a schedule that ends in pure noise need.
    """
    stride = count // visits
    if spacing == "trailing":
        return tuple(count - 1 - stride * i for i in range(visits))
    return tuple(stride * i for i in reversed(range(visits)))


def add_noise(clean: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """The closed form of all steps at once: sqrt(alpha_bar) clean + sqrt(1 - alpha_bar) noise; shapes broadcast."""
    return alpha_bar.sqrt() * clean + (1 - alpha_bar).sqrt() * noise


def prediction_target(kind: str, clean: Tensor, noise: Tensor, alpha_bar: Tensor) -> Tensor:
    """What a denoiser learns to predict: the noise (epsilon), or v = sqrt(alpha_bar) noise - sqrt(1 - alpha_bar) clean."""
    return noise if kind == "epsilon" else alpha_bar.sqrt() * noise - (1 - alpha_bar).sqrt() * clean


def clean_and_noise(kind: str, predicted: Tensor, noisy: Tensor, alpha_bar: Tensor) -> tuple[Tensor, Tensor]:
    """The clean signal and the noise that a prediction implies. Epsilon needs alpha_bar > 0."""
    signal, spread = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    if kind == "epsilon":
        return (noisy - spread * predicted) / signal, predicted
    return signal * noisy - spread * predicted, spread * noisy + signal * predicted


def ddim(
    predict: Callable[[Tensor, int], Tensor], start: Tensor, schedule: Tensor, steps: Sequence[int], kind: str
) -> list[Tensor]:
    """Deterministic sampling (eta = 0): the state after each of `steps`, the last being the clean signal.

    `predict` takes a noisy state, shaped as `start`, and the index of its step in `schedule`, alpha_bars().
    """
    states = [start]
    for step, following in zip(steps, (*steps[1:], None), strict=True):
        clean, noise = clean_and_noise(kind, predict(states[-1], step), states[-1], schedule[step])
        states.append(clean if following is None else add_noise(clean, noise, schedule[following]))
    return states[1:]
