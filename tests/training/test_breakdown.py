"""Groups of pixels by hand, and a step edge whose sharpness and flying pixels follow on paper."""

from __future__ import annotations

import numpy as np
import pytest

from training.judging.breakdown import (
    Breakdown,
    Tally,
    depth_edges,
    edge_sharpness,
    flying_pixels,
    groups,
    image_gradient,
    near,
    texture,
)

NEAR_M, FAR_M = 4.0, 20.0
WIDTH, HEIGHT, EDGE = 24, 6, 12  # [px]; columns below EDGE are near


def step(at: int = EDGE) -> np.ndarray:
    columns = np.where(np.arange(WIDTH) < at, NEAR_M, FAR_M)
    return np.tile(columns, (HEIGHT, 1)).astype(np.float32)


def log_ramp(pixels: int) -> np.ndarray:
    """The step of log depth spread evenly over so many px, in the middle of the edge."""
    share = np.clip((np.arange(WIDTH) - (EDGE - 0.5) + pixels / 2) / pixels, 0, 1)
    return np.tile(NEAR_M * (FAR_M / NEAR_M) ** share, (HEIGHT, 1)).astype(np.float32)


def sharpness(depth: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return edge_sharpness(depth, truth, depth_edges(truth, truth > 0))


def flying(depth: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    edges = near(depth_edges(truth, truth > 0), truth.shape)
    return flying_pixels(depth, truth, truth > 0, edges)


def test_an_edge_lies_between_two_adjacent_pixels() -> None:
    truth = step()
    (near_pixels, far_pixels), (up, down) = depth_edges(truth, truth > 0)
    assert sorted(zip(*near_pixels, strict=True)) == [(row, EDGE - 1) for row in range(HEIGHT)]
    assert sorted(zip(*far_pixels, strict=True)) == [(row, EDGE) for row in range(HEIGHT)]
    assert up[0].size == down[0].size == 0
    flipped = depth_edges(truth[:, ::-1].T, truth.T > 0)[1]  # down a column, far side first
    assert set(flipped[0][0]) == {WIDTH - EDGE}
    assert set(flipped[1][0]) == {WIDTH - EDGE - 1}


def test_a_gentle_slope_and_a_gap_are_no_edge() -> None:
    slope = (4 * 1.2 ** np.arange(WIDTH))[None].repeat(HEIGHT, axis=0).astype(np.float32)
    assert all(pixels[0][0].size == 0 for pixels in depth_edges(slope, slope > 0))
    gap = step()
    gap[:, EDGE] = 0
    assert all(pixels[0][0].size == 0 for pixels in depth_edges(gap, gap > 0))


@pytest.mark.parametrize("reach", [1, 2, 4])
def test_near_an_edge_is_within_so_many_pixels_of_it(reach: int) -> None:
    truth = step()
    mask = near(depth_edges(truth, truth > 0), truth.shape, reach)
    assert (np.flatnonzero(mask[3]) - EDGE).tolist() == list(range(-reach, reach))


def test_the_truth_and_its_multiples_are_perfectly_sharp_and_have_no_flying_pixel() -> None:
    truth = step()
    for factor in (1.0, 3.0):
        np.testing.assert_allclose(sharpness(factor * truth, truth), np.ones(HEIGHT), rtol=1e-6)
    mask, candidates = flying(truth, truth)
    assert (mask.sum(), candidates.sum()) == (0, 4 * HEIGHT)  # two pixels on each side


@pytest.mark.parametrize("pixels", [2, 3, 4, 8])
def test_a_step_spread_over_w_pixels_scores_one_in_w(pixels: int) -> None:
    np.testing.assert_allclose(sharpness(log_ramp(pixels), step()), np.full(HEIGHT, 1 / pixels), rtol=1e-4)


def test_a_flat_or_inverted_prediction_has_no_sharpness() -> None:
    truth = step()
    assert sharpness(np.full_like(truth, 9), truth).tolist() == [0.0] * HEIGHT
    assert sharpness(80 / truth, truth).tolist() == [0.0] * HEIGHT


@pytest.mark.parametrize(("shift", "expected"), [(1, 1.0), (-2, 1.0), (3, 0.0)])
def test_an_edge_may_be_displaced_by_two_pixels(shift: int, expected: float) -> None:
    np.testing.assert_allclose(sharpness(step(EDGE + shift), step()), np.full(HEIGHT, expected), rtol=1e-6)


def test_an_edge_at_the_border_and_missing_depth() -> None:
    truth = step(1)
    np.testing.assert_allclose(sharpness(truth, truth), np.ones(HEIGHT), rtol=1e-6)
    blind = truth.copy()
    blind[0] = np.nan
    assert sharpness(blind, truth).size == HEIGHT - 1


def test_flying_pixels_of_a_ramp_by_hand() -> None:
    """The two columns on each side of the edge hold 4, 5, 15 and 19 m: only 5 and 15 lie between 4.4 and 18 m."""
    depth = step()
    depth[:, EDGE - 2 : EDGE + 2] = 4, 5, 15, 19
    mask, candidates = flying(depth, step())
    assert np.flatnonzero(mask[2]).tolist() == [EDGE - 1, EDGE]
    assert (mask.sum(), candidates.sum()) == (2 * HEIGHT, 4 * HEIGHT)


def test_a_real_surface_between_two_others_does_not_fly() -> None:
    truth = step()
    truth[:, EDGE] = 9  # a post in front of the wall
    mask, candidates = flying(truth, truth)
    assert not mask.any()
    assert not candidates[:, EDGE].any()


def test_a_tally_by_hand() -> None:
    tally = Tally()
    tally.add(np.array([12.0, 5.0]), np.array([10.0, 10.0]))
    tally.add(np.array([20.0]), np.array([20.0]))
    squares = {"sq_rel": (4 / 10 + 25 / 10) / 3, "rmse": np.sqrt(29 / 3)}
    expected = {"pixels": 3, "abs_rel": 0.7 / 3, "bias": -0.3 / 3, **squares, "delta1": 2 / 3}
    assert tally.scores() == pytest.approx(expected)


def test_the_gradient_of_a_ramp_and_of_a_checkerboard() -> None:
    ramp = np.tile(np.arange(0, 60, 3, dtype=np.uint8), (10, 1))[..., None].repeat(3, axis=2)
    np.testing.assert_allclose(image_gradient(ramp)[:, 1:-1], 3.0)
    np.testing.assert_allclose(image_gradient(ramp.transpose(1, 0, 2))[1:-1], 3.0)
    np.testing.assert_allclose(image_gradient(ramp)[:, 0], 1.5)  # one-sided: the border is repeated
    np.testing.assert_allclose(texture(image_gradient(ramp))[:, 4:-4], 3.0, rtol=1e-6)


def test_groups_share_out_the_valid_pixels() -> None:
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[:, :EDGE:3] = 200  # stripes on the near half
    truth, moving = step(), np.zeros((HEIGHT, WIDTH), bool)
    moving[2, :3] = True
    valid = np.ones(truth.shape, bool)
    valid[0] = False
    edges = near(depth_edges(truth, valid), truth.shape)
    found = groups(truth, valid, image_gradient(image), edges, moving)
    counts = {name: int(mask.sum()) for name, mask in found.items()}
    assert (counts["3-5 m"], counts["20-30 m"], counts["10-20 m"]) == (60, 60, 0)
    assert (counts["moving objects"], counts["what stands still"]) == (3, 117)
    assert (counts["within 2 px of a depth edge"], counts["away from depth edges"]) == (20, 100)
    assert found["textured"][1, : EDGE - 1].all()
    assert found["texture-less"][1, EDGE + 3 :].all()
    assert counts["textured"] + counts["texture-less"] == 120
    assert "moving objects" not in groups(truth, valid, image_gradient(image), edges, None)


def test_errors_of_a_set_by_group() -> None:
    """Near 10 % too far, far 20 % too near, in two images; the second has no far part."""
    breakdown, truth = Breakdown(), step()
    gradient = np.zeros(truth.shape, np.float32)
    depth = np.where(truth == NEAR_M, 1.1 * truth, 0.8 * truth).astype(np.float32)
    breakdown.add(depth, truth, truth > 0, gradient)
    near_only = np.where(truth == NEAR_M, truth, 0)
    breakdown.add(depth, near_only, near_only > 0, gradient)
    scores = breakdown.scores()
    assert list(scores) == ["3-5 m", "20-30 m", "texture-less", "within 2 px of a depth edge", "away from depth edges"]
    assert scores["3-5 m"]["bias"] == pytest.approx(0.1, rel=1e-5)
    assert scores["20-30 m"]["bias"] == pytest.approx(-0.2, rel=1e-5)
    assert (scores["3-5 m"]["pixels"], scores["20-30 m"]["pixels"]) == (2 * HEIGHT * EDGE, HEIGHT * (WIDTH - EDGE))
    edges = breakdown.edge_scores()
    assert edges["edge_sharpness"] == pytest.approx(np.log(16 / 4.4) / np.log(5), rel=1e-5)
    # 16 m hangs before the wall at 20 m by more than a tenth, 4.4 m does not lie behind the near surface by more.
    assert edges["flying_pixel_rate"] == pytest.approx(0.5)


def test_no_edge_no_score() -> None:
    breakdown, flat = Breakdown(), np.full((HEIGHT, WIDTH), 7.0, np.float32)
    assert breakdown.edge_scores() == {}
    breakdown.add(flat, flat, flat > 0, np.zeros_like(flat))
    assert breakdown.edge_scores() == {}
