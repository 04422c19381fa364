"""Losses up to scale and shift: invariances, plain loops over pixels, and images that nothing can be learned from."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from training import alignment
from training.relative_losses import LOSSES, gradient_matching, ordinal, silog, ssimae, ssimse, ssitrim, trimmed_mean

SEEDED = ("ordinal",)  # draws its pairs
DETERMINISTIC = [name for name in LOSSES if name not in SEEDED]
# What each is invariant to: scale and shift of the prediction, scale and shift of the truth.
INVARIANT = {
    "ssitrim": (True, True, True, True),
    "ssimae": (True, True, True, True),
    "ssimse": (True, True, False, True),
    "simse": (True, False, False, False),
    "silog": (True, False, True, False),
    "ordinal": (False, True, True, True),
    "nmg": (True, True, False, True),
}


def maps(batch: int = 3, height: int = 9, width: int = 11) -> tuple[Tensor, Tensor, Tensor]:
    """Positive inverse depths that are related, with half of the pixels known."""
    truth = torch.rand(batch, 1, height, width, dtype=torch.float64) + 0.1
    return truth + 0.3 * torch.rand_like(truth), truth, torch.rand_like(truth) < 0.5


def per_image(low: float, high: float) -> Tensor:
    return low + (high - low) * torch.rand(3, 1, 1, 1, dtype=torch.float64)


def values(name: str, prediction: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    torch.manual_seed(5)
    return LOSSES[name].errors(prediction, truth, valid).values


@pytest.mark.parametrize("name", LOSSES)
def test_each_loss_is_invariant_to_what_it_says_and_to_nothing_else(name: str) -> None:
    """Every image has a scale and a shift of its own."""
    prediction, truth, valid = maps()
    before = values(name, prediction, truth, valid)
    scale, shift = per_image(0.5, 3.0), per_image(0.2, 2.0)
    changed = (
        values(name, scale * prediction, truth, valid),
        values(name, prediction + shift, truth, valid),
        values(name, prediction, scale * truth, valid),
        values(name, prediction, truth + shift, valid),
    )
    for after, invariant in zip(changed, INVARIANT[name], strict=True):
        assert torch.allclose(after, before, rtol=1e-9) if invariant else (after - before).abs().min() > 1e-6, INVARIANT[name]


def test_least_squares_grow_with_the_square_of_the_truths_scale() -> None:
    prediction, truth, valid = maps()
    assert torch.allclose(ssimse(prediction, 3 * truth, valid).values, 9 * ssimse(prediction, truth, valid).values)
    assert torch.equal(torch.tensor([entry.unit_truth for entry in LOSSES.values()]), torch.tensor(
        [not torch.allclose(values(n, prediction, 3 * truth, valid), values(n, prediction, truth, valid)) for n in LOSSES]
    ))  # fmt: skip


def test_alignment_finds_a_known_scale_and_shift() -> None:
    truth, valid = maps()[1:]
    scale, shift = per_image(0.5, 3.0), per_image(-2.0, 2.0)
    found_scale, found_shift, usable = alignment.least_squares(truth, scale * truth + shift, valid)
    assert usable.all()
    torch.testing.assert_close(found_scale, scale, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found_shift, shift, rtol=1e-6, atol=1e-6)


def test_an_affine_copy_has_no_error_and_a_copy_turned_over_costs() -> None:
    truth, valid = maps()[1:]
    for name in ("ssitrim", "ssimae", "ssimse", "nmg"):
        errors = LOSSES[name].errors(2 * truth - 5, truth, valid)
        assert errors.counted.all()
        assert errors.values.abs().max() < 1e-12
        assert gradient_matching(errors.residual, valid).max() < 1e-12
        assert (LOSSES[name].errors(-truth, truth, valid).values > 0.1 * truth.std()).all()


def test_least_squares_lead_a_map_that_is_upside_down_to_the_truth() -> None:
    """By the correlation r, half the truth's variance times 1 - r^2 where r > 0 and 1 + 3 r^2 where it is not."""
    inverted, truth, valid = maps()
    inverted = 2 - inverted
    known = [(p[v].numpy(), t[v].numpy()) for p, t, v in zip(inverted, truth, valid, strict=True)]
    expected = [t.var() * (1 + 3 * np.corrcoef(p, t)[0, 1] ** 2) / 2 for p, t in known]
    torch.testing.assert_close(ssimse(inverted, truth, valid).values, torch.tensor(expected))
    prediction = inverted.clone().requires_grad_()
    optimizer = torch.optim.Adam([prediction], lr=0.02)
    for _ in range(200):
        optimizer.zero_grad()
        ssimse(prediction, truth, valid).values.sum().backward()
        optimizer.step()
    assert (alignment.correlation(prediction.detach(), truth, valid) > 0.99).all()


def robust(values: np.ndarray) -> np.ndarray:
    centre = np.median(values)
    return (values - centre) / np.abs(values - centre).mean()


def by_loops(name: str, p: np.ndarray, t: np.ndarray, valid: np.ndarray) -> float:
    """One image (H, W), from the papers' formulas, over its list of valid pixels."""
    a, b = p[valid], t[valid]
    if name in ("ssimae", "ssitrim"):
        errors = sorted(np.abs(robust(a) - robust(b)))
        kept = len(errors) - int((0.2 if name == "ssitrim" else 0) * len(errors))
        return float(sum(errors[:kept])) / (2 * len(errors))
    if name == "ssimse":
        system = np.array([[(a * a).sum(), a.sum()], [a.sum(), len(a)]])
        s, shift = np.linalg.solve(system, [(a * b).sum(), b.sum()])
        return float(((s * a + shift - b) ** 2).mean() / 2)
    if name == "simse":
        return float((((a * b).sum() / (a * a).sum() * a - b) ** 2).mean() / 2)
    if name == "silog":
        return float(np.var(np.log(a) - np.log(b)) / 2)
    assert name == "nmg"
    s = gradients_by_loops(t, valid, 4) / gradients_by_loops(p, valid, 4)
    return gradients_by_loops(s * p - t, valid, 4)


def gradients_by_loops(r: np.ndarray, valid: np.ndarray, scales: int) -> float:
    total = 0.0
    for stride in [2**level for level in range(scales)]:
        level, known = r[::stride, ::stride], valid[::stride, ::stride]
        for y, x in np.ndindex(*level.shape):
            for dy, dx in ((0, 1), (1, 0)):
                inside = y + dy < level.shape[0] and x + dx < level.shape[1]
                if inside and known[y, x] and known[y + dy, x + dx]:
                    total += abs(level[y + dy, x + dx] - level[y, x])
    return total / valid.sum()


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_losses_agree_with_loops_over_pixels(name: str) -> None:
    prediction, truth, valid = maps(height=17, width=20)
    expected = [
        by_loops(name, p[0].numpy(), t[0].numpy(), v[0].numpy()) for p, t, v in zip(prediction, truth, valid, strict=True)
    ]
    assert values(name, prediction, truth, valid).tolist() == pytest.approx(expected, rel=1e-9)


def test_gradient_matching_agrees_with_loops_over_pixels() -> None:
    residual, _, valid = maps(height=17, width=20)
    for scales in (1, 2, 4):
        expected = [gradients_by_loops(r[0].numpy(), v[0].numpy(), scales) for r, v in zip(residual, valid, strict=True)]
        assert gradient_matching(residual, valid, scales).tolist() == pytest.approx(expected, rel=1e-9)


def test_gradient_matching_of_a_ramp_by_hand() -> None:
    """8 x 8, one more per column: 56 differences of 1, then 4 rows of 3 of 2, 2 rows of 1 of 4, and none of one pixel."""
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)
    everywhere = torch.ones_like(ramp, dtype=torch.bool)
    assert gradient_matching(ramp, everywhere).item() == pytest.approx((56 * 1 + 12 * 2 + 2 * 4) / 64)


def test_gradient_matching_sees_what_is_blurred_and_not_what_is_scaled() -> None:
    truth = (torch.rand(2, 1, 16, 16, dtype=torch.float64) > 0.5).double()
    everywhere = torch.ones_like(truth, dtype=torch.bool)
    blurred = F.avg_pool2d(truth, 3, 1, 1, count_include_pad=False)
    assert gradient_matching(ssimae(3 * truth + 1, truth, everywhere).residual, everywhere).max() < 1e-9
    assert gradient_matching(ssimae(blurred, truth, everywhere).residual, everywhere).min() > 0.1


def test_trimming_drops_the_largest_fifth_of_each_image_by_itself() -> None:
    residual = torch.tensor([1.0, -2.0, 3.0, -4.0, 5.0, 6.0, 7.0, -8.0, 9.0, 10.0]).double().view(1, 1, 2, 5)
    everywhere = torch.ones_like(residual, dtype=torch.bool)
    assert trimmed_mean(residual, everywhere, 0.2).item() == pytest.approx(36 / 10)  # 9 and 10 are gone; M stays 10
    outlier = torch.where(residual == 10, 1e6, residual).requires_grad_()
    found = trimmed_mean(outlier, everywhere, 0.2)
    assert found.item() == pytest.approx(36 / 10)
    (gradient,) = torch.autograd.grad(found.sum(), outlier)
    assert torch.equal(gradient.flatten(), torch.tensor([1.0, -1, 1, -1, 1, 1, 1, -1, 0, 0]).double() / 10)
    # Beside an image whose errors are all larger, the small one's own largest go too, and the large one keeps its others.
    together = trimmed_mean(torch.cat([residual, 1000 * residual]), everywhere.expand(2, -1, -1, -1), 0.2)
    assert together.tolist() == pytest.approx([3.6, 3600])


def test_what_is_not_known_has_no_say_whatever_stands_there() -> None:
    """Not in medians, fits, trimming or gradients: the median of few pixels is not drawn to what fills the others."""
    prediction, truth, valid = maps()
    for filling in (0.0, 1e9, math.nan):
        for name in LOSSES:
            p = torch.where(valid, prediction, filling).requires_grad_()
            found = values(name, p, torch.where(valid, truth, filling), valid)
            assert torch.equal(found, values(name, prediction, truth, valid)), (name, filling)
            (gradient,) = torch.autograd.grad(found.sum(), p)
            assert torch.isfinite(gradient).all(), (name, filling)
            assert (gradient[~valid] == 0).all()


def test_the_median_is_that_of_the_valid_pixels() -> None:
    numbers = torch.randn(40, 1, 5, 5, dtype=torch.float64)
    valid = torch.rand(40, 1, 5, 5) < 0.2
    found = alignment.median(numbers, valid).flatten().tolist()
    expected = [np.median(n[v].numpy()) if v.any() else 0.0 for n, v in zip(numbers, valid, strict=True)]
    assert found == pytest.approx(expected)
    assert {int(v.sum()) % 2 for v in valid} == {0, 1}  # even and odd


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_gradients_are_those_of_the_values(name: str) -> None:
    prediction, truth, valid = maps(2, 4, 5)

    def loss(p: Tensor) -> Tensor:
        errors = LOSSES[name].errors(p, truth, valid)
        return errors.values + 0.5 * gradient_matching(errors.residual, valid)

    assert torch.autograd.gradcheck(loss, (prediction.requires_grad_(),))


def test_gradients_of_ordinal_are_those_of_the_values() -> None:
    prediction, truth, valid = maps(2, 4, 5)

    def loss(p: Tensor) -> Tensor:
        torch.manual_seed(0)
        return ordinal(p, truth, valid, pairs=20).values

    assert torch.autograd.gradcheck(loss, (prediction.requires_grad_(),))


def test_ordinal_is_the_mean_over_pairs_of_known_points() -> None:
    """Two known points, of which one is nearer by 1: pairs of different points have an order, pairs of one point are equal."""
    prediction = torch.tensor([0.7, 0.2, 9.0]).view(1, 1, 1, 3)
    truth, valid = torch.tensor([3.0, 2.0, 8.0]).view(1, 1, 1, 3), torch.tensor([True, True, False]).view(1, 1, 1, 3)
    found = ordinal(prediction, truth, valid, pairs=40_000).values.item()
    assert found == pytest.approx(math.log(1 + math.exp(-0.5)) / 2, rel=0.02)
    turned = ordinal(-prediction, truth, valid, pairs=40_000).values.item()
    assert turned == pytest.approx(math.log(1 + math.exp(0.5)) / 2, rel=0.02)
    near = truth + torch.tensor([0.0, 0.995, 0.0])  # 0.005 apart, but then so is all that is known: still an order
    assert ordinal(prediction, near, valid, pairs=40_000).values.item() == pytest.approx(found, rel=0.02)


def degenerate() -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    prediction, truth, valid = (t[:1] for t in maps(1))
    one = torch.zeros_like(valid)
    one[..., 3, 3] = True
    return {
        "nothing known": (prediction, truth, torch.zeros_like(valid)),
        "one pixel known": (prediction, truth, one),
        "flat prediction": (torch.full_like(prediction, 0.1), truth, valid),
        "all zero": (torch.zeros_like(prediction), torch.zeros_like(truth), valid),
        "flat truth": (prediction, torch.full_like(truth, 0.3), valid),
    }


COUNTS = {  # the degenerate images that a loss can still use, since it needs no scale of the flat map
    "ssimse": (), "ssimae": (), "ssitrim": (), "nmg": (), "simse": ("flat prediction", "flat truth"),
    "silog": ("flat prediction", "flat truth"), "ordinal": ("flat prediction", "flat truth", "all zero"),
}  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", LOSSES)
def test_images_that_cannot_be_aligned_count_as_nothing(name: str, dtype: torch.dtype) -> None:
    """Beside a good one, whose loss does not change."""
    good = tuple(t[:1].to(dtype) if t.is_floating_point() else t[:1] for t in maps())
    alone = LOSSES[name].errors(*good)
    for case, bad in degenerate().items():
        p, t, v = (torch.cat([g, b.to(g.dtype)]) for g, b in zip(good, bad, strict=True))
        p.requires_grad_()
        errors = LOSSES[name].errors(p, t, v)
        assert errors.counted.tolist() == [True, case in COUNTS[name]], case
        if name != "ordinal":
            torch.testing.assert_close(errors.values[:1], alone.values)
        (errors.values + gradient_matching(errors.residual, v)).sum().backward()
        assert torch.isfinite(p.grad).all(), case
        if case not in COUNTS[name]:
            assert errors.values[1] == 0
            assert (p.grad[1] == 0).all(), case


def test_pixels_without_a_logarithm_have_no_say() -> None:
    prediction, truth, valid = maps()
    positive = torch.rand_like(truth) < 0.7
    found = silog(prediction, torch.where(positive, truth, -1.0), valid).values
    torch.testing.assert_close(found, silog(prediction, truth, valid & positive).values)


def test_options_are_those_of_the_functions() -> None:
    prediction, truth, valid = maps()
    for name, entry in LOSSES.items():
        partial(entry.errors, **dict.fromkeys(entry.options, 0.5 if name == "ssitrim" else 7))(prediction, truth, valid)
    half = ssitrim(prediction, truth, valid, trimmed=0.5).values
    assert (half < ssitrim(prediction, truth, valid).values).all()


def test_to_unit_and_correlation() -> None:
    _, truth, valid = maps()
    unit = alignment.to_unit(5 - 3 * truth, valid)
    for u, v in zip(unit, valid, strict=True):
        assert (u[v].min(), u[v].max()) == (0, 1)
    expected = [np.corrcoef(u[v].numpy(), t[v].numpy())[0, 1] for u, t, v in zip(unit, truth.square(), valid, strict=True)]
    assert alignment.correlation(unit, truth.square(), valid).tolist() == pytest.approx(expected)
    flat = torch.full_like(truth, 0.3)
    assert (alignment.to_unit(flat, valid) == 0).all()
    assert (alignment.correlation(torch.zeros_like(truth), truth, valid) == 0).all()
