"""Diffusion against its definition: the chain of small steps, perfect predictors, and DDIM written again in NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from training.diffusion import add_noise, alpha_bars, clean_and_noise, ddim, prediction_target, visited_steps

# Steps of the noise schedule, of sampling, those visited and the clean signal's share at them, of the published code.
PUBLISHED = (
    (250, 5, (200, 150, 100, 50, 0), (0.195, 0.397, 0.661, 0.898, 0.9999)),
    (200, 4, (150, 100, 50, 0), (0.316, 0.596, 0.876, 0.9999)),
    (150, 3, (100, 50, 0), (0.503, 0.839, 0.9999)),
)
KINDS = ("epsilon", "v")
COUNT = 40_000  # of samples, where something holds on average


def betas(count: int) -> list[float]:
    """Of the published code: `count` values from 1e-4 to 0.02, equally far apart."""
    return [1e-4 + (0.02 - 1e-4) * step / (count - 1) for step in range(count)]


def perfect(kind: str, clean: Tensor, schedule: Tensor) -> Callable[[Tensor, int], Tensor]:
    """A predictor that knows the clean signal, and finds the noise by solving x = sqrt(a) clean + sqrt(1 - a) noise."""

    def predict(noisy: Tensor, step: int) -> Tensor:
        share = float(schedule[step])
        noise = (noisy - math.sqrt(share) * clean) / math.sqrt(1 - share)
        return noise if kind == "epsilon" else math.sqrt(share) * noise - math.sqrt(1 - share) * clean

    return predict


@pytest.mark.parametrize(("count", "visits", "steps", "shares"), PUBLISHED)
def test_the_visited_steps_and_their_shares_are_the_published_ones(
    count: int, visits: int, steps: Sequence[int], shares: Sequence[float]
) -> None:
    assert visited_steps(count, visits) == steps
    found = alpha_bars(count)
    assert found.shape == (count,)
    assert [float(found[step]) for step in steps] == pytest.approx(shares, abs=6e-4)


@pytest.mark.parametrize(("count", "last"), [(250, 0.080), (200, 0.132), (150, 0.219)])
def test_a_short_schedule_ends_far_from_pure_noise(count: int, last: float) -> None:
    assert float(alpha_bars(count)[-1]) == pytest.approx(last, abs=6e-4)


def test_a_share_is_the_product_of_what_each_step_keeps() -> None:
    kept, expected = 1.0, []
    for beta in betas(150):
        kept *= 1 - beta
        expected.append(kept)
    assert alpha_bars(150).tolist() == pytest.approx(expected, rel=1e-6)


def test_trailing_steps_start_at_the_schedules_last() -> None:
    assert visited_steps(150, 3, "trailing") == (149, 99, 49)
    assert visited_steps(250, 1, "trailing") == (249,)
    assert visited_steps(250, 1) == (0,)


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize(("count", "visits"), [(7, 3), (5, 5), (150, 4), (1280, 20)])
def test_steps_fall_by_equal_strides_within_the_schedule(count: int, visits: int, spacing: str) -> None:
    steps = visited_steps(count, visits, spacing)
    assert len(steps) == visits
    assert set(np.diff(steps)) == {-(count // visits)}
    assert 0 <= steps[-1] <= steps[0] <= count - 1


@pytest.mark.parametrize("step", [0, 24, 149])
def test_the_closed_form_is_the_chain_of_steps_in_distribution(step: int) -> None:
    """q(x_t | x_t-1) = N(sqrt(1 - beta_t) x_t-1, beta_t), from one clean value, t + 1 times over, against the jump to t."""
    rng, clean = np.random.default_rng(step), 1.7
    chain = np.full(COUNT, clean)
    for beta in betas(150)[: step + 1]:
        chain = math.sqrt(1 - beta) * chain + math.sqrt(beta) * rng.standard_normal(COUNT)
    jump = add_noise(torch.full((COUNT,), clean), torch.randn(COUNT), alpha_bars(150)[step]).numpy()
    spread = chain.std()
    # Standard errors of a difference of two means, and of two variances, of normal samples; five of each.
    assert jump.mean() == pytest.approx(chain.mean(), abs=5 * spread * math.sqrt(2 / COUNT))
    assert jump.var() == pytest.approx(chain.var(), rel=5 * math.sqrt(2 * 2 / COUNT))


def test_each_of_a_batch_has_a_share_of_its_own() -> None:
    clean, noise, shares = torch.full((3, 1, 2, 2), 2.0), torch.full((3, 1, 2, 2), -1.0), torch.tensor([1.0, 0.64, 0.0])
    noisy = add_noise(clean, noise, shares[:, None, None, None])
    assert noisy[:, 0, 0, 0].tolist() == pytest.approx([2.0, 0.8 * 2 - 0.6, -1.0])
    assert (noisy == noisy[:, :, :1, :1]).all()


@pytest.mark.parametrize("share", [0.9999, 0.5, 0.08, 0.0])
@pytest.mark.parametrize("kind", KINDS)
def test_the_target_tells_the_clean_signal_and_the_noise(kind: str, share: float) -> None:
    clean, noise, share_of = (
        torch.randn(2, 50, dtype=torch.float64) * 3,
        torch.randn(2, 50).double(),
        torch.tensor(share).double(),
    )
    noisy = add_noise(clean, noise, share_of)
    found = clean_and_noise(kind, prediction_target(kind, clean, noise, share_of), noisy, share_of)
    if kind == "epsilon" and share == 0:
        assert not torch.isfinite(found[0]).any()  # pure noise says nothing of what it hides
        assert torch.equal(found[1], noise)
    else:
        assert torch.allclose(found[0], clean, atol=1e-10)
        assert torch.allclose(found[1], noise, atol=1e-10)


def test_v_turns_from_the_noise_to_the_negative_clean_signal() -> None:
    clean, noise = torch.tensor([3.0]), torch.tensor([-2.0])
    v = [prediction_target("v", clean, noise, torch.tensor(share)).item() for share in (1.0, 0.36, 0.0)]
    assert v == pytest.approx([-2.0, 0.6 * -2 - 0.8 * 3, -3.0])


def test_a_schedule_that_ends_in_pure_noise_keeps_its_first_share_and_its_shape() -> None:
    plain, ending = alpha_bars(250).double(), alpha_bars(250, zero_terminal=True).double()
    assert ending[-1] == 0
    assert float(ending[0]) == pytest.approx(float(plain[0]), rel=1e-6)
    assert (ending.diff() < 0).all()
    # Square roots are shifted and scaled alike, so their differences keep their ratio.
    ratios = ending.sqrt().diff() / plain.sqrt().diff()
    assert ratios.numpy() == pytest.approx(float(1 / (1 - plain[-1].sqrt() / plain[0].sqrt())), rel=1e-3)


@pytest.mark.parametrize("start", ["noise", "clean", "far"])
@pytest.mark.parametrize(
    ("count", "visits", "spacing"), [(250, 5, "leading"), (150, 4, "trailing"), (20, 20, "leading"), (60, 1, "trailing")]
)
@pytest.mark.parametrize("kind", KINDS)
def test_a_perfect_predictor_leads_to_the_clean_signal_from_anywhere(
    kind: str, count: int, visits: int, spacing: str, start: str
) -> None:
    """From true noise, from the answer itself, and from 50 deviations away: the last step returns the clean signal."""
    schedule, clean = alpha_bars(count).double(), torch.randn(2, 1, 5, 7, dtype=torch.float64) - 2.5
    begin = {"noise": torch.randn_like(clean), "clean": clean, "far": torch.full_like(clean, 50.0)}[start]
    states = ddim(perfect(kind, clean, schedule), begin, schedule, visited_steps(count, visits, spacing), kind)
    assert len(states) == visits
    assert torch.allclose(states[-1], clean, atol=1e-9)


@pytest.mark.parametrize("visits", [1, 2, 5])
def test_a_perfect_v_starts_from_pure_noise(visits: int) -> None:
    schedule, clean = alpha_bars(250, zero_terminal=True).double(), torch.randn(1, 1, 4, 6, dtype=torch.float64)
    steps = visited_steps(250, visits, "trailing")
    assert schedule[steps[0]] == 0
    states = ddim(perfect("v", clean, schedule), torch.randn_like(clean), schedule, steps, "v")
    assert torch.allclose(states[-1], clean, atol=1e-9)


def test_a_path_keeps_the_noise_that_it_started_with() -> None:
    """Without error every state is the same clean signal under the same noise, at the share of the step it leads to."""
    schedule, steps = alpha_bars(150).double(), visited_steps(150, 3)
    clean, noise = torch.randn(2, 40, dtype=torch.float64).unbind()
    start = math.sqrt(schedule[steps[0]]) * clean + math.sqrt(1 - schedule[steps[0]]) * noise
    states = ddim(perfect("epsilon", clean, schedule), start, schedule, steps, "epsilon")
    for state, share in zip(states, (*schedule[list(steps[1:])].tolist(), 1.0), strict=True):
        assert torch.allclose(state, math.sqrt(share) * clean + math.sqrt(1 - share) * noise, atol=1e-12)


def answer(x: Any, step: int) -> Any:
    """A predictor that no formula simplifies, of NumPy arrays or tensors alike."""
    return 0.4 * x**2 / (1 + abs(x)) - 0.3 * x + 0.002 * step


@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("kind", KINDS)
def test_states_are_those_of_another_implementation(kind: str, spacing: str) -> None:
    """Song et al., equation 12 with sigma 0, for epsilon; for v through the angle of Salimans and Ho, appendix D."""
    steps = visited_steps(150, 5, spacing)
    start = np.random.default_rng(1).standard_normal((3, 4))
    kept = np.cumprod(1 - np.array(betas(150)))
    x, expected = start, []
    for i, step in enumerate(steps):
        share, following = kept[step], kept[steps[i + 1]] if i + 1 < len(steps) else 1.0
        if kind == "epsilon":
            clean = (x - np.sqrt(1 - share) * answer(x, step)) / np.sqrt(share)
            x = np.sqrt(following) * clean + np.sqrt(1 - following) * answer(x, step)
        else:  # state and v turn together, by the difference of the angles whose cosine is the root of the share
            turn = np.arccos(np.sqrt(share)) - np.arccos(np.sqrt(following))
            x = np.cos(turn) * x - np.sin(turn) * answer(x, step)
        expected.append(x)
    states = ddim(answer, torch.from_numpy(start), alpha_bars(150), steps, kind)
    for state, other in zip(states, expected, strict=True):
        assert state.numpy() == pytest.approx(other, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_all_steps_are_right(kind: str) -> None:
    """Of the clean signal with respect to the start and to a weight that every step uses, against finite differences."""
    schedule, steps = alpha_bars(20).double(), visited_steps(20, 4)

    def sampled(start: Tensor, weight: Tensor) -> Tensor:
        return ddim(lambda x, step: torch.tanh(weight * x + 0.05 * step), start, schedule, steps, kind)[-1]

    start, weight = torch.randn(5, dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64)
    assert torch.autograd.gradcheck(sampled, (start.requires_grad_(), weight.requires_grad_()))


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_the_denoising_error_is_right(kind: str) -> None:
    share = torch.tensor([0.9, 0.2], dtype=torch.float64)[:, None]
    noise = torch.randn(2, 3, dtype=torch.float64)

    def error(clean: Tensor, weight: Tensor) -> Tensor:
        predicted = torch.tanh(weight * add_noise(clean, noise, share))
        return (predicted - prediction_target(kind, clean, noise, share)).square().mean()

    clean, weight = torch.randn(2, 3, dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64)
    assert torch.autograd.gradcheck(error, (clean.requires_grad_(), weight.requires_grad_()))


def test_sampling_edits_nothing_that_it_is_given() -> None:
    start, schedule = torch.randn(3), alpha_bars(10)
    before = start.clone(), schedule.clone()
    ddim(lambda x, step: 0.1 * x, start, schedule, visited_steps(10, 2), "epsilon")
    assert torch.equal(start, before[0])
    assert torch.equal(schedule, before[1])
