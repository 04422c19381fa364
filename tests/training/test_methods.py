"""The contract of every method in the table: what the trainer, the evaluation and the export rely on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from training.batch import Batch
from training.config import ConfigError
from training.methods import METHODS, Method

Build = Callable[..., Method]


@pytest.mark.parametrize("name", METHODS)
def test_losses_are_finite_and_teach_the_whole_depth_net(name: str, build: Build, street_batch: Batch) -> None:
    method = build(name).train()
    terms = method.losses(street_batch)
    assert all(torch.isfinite(value) and value.shape == () for value in terms.values())
    sum(terms.values()).backward()
    gradients = {n: p.grad for n, p in method.depth_net.named_parameters()}
    assert [n for n, g in gradients.items() if g is None or not torch.isfinite(g).all()] == []
    assert sum(float(g.abs().sum()) > 0 for g in gradients.values()) > 0.95 * len(gradients)


@pytest.mark.parametrize("name", METHODS)
def test_losses_edit_nothing(name: str, build: Build, street_batch: Batch) -> None:
    before = [t.clone() for t in (street_batch.image, street_batch.input, street_batch.depth, street_batch.K)]
    build(name).losses(street_batch)
    after = (street_batch.image, street_batch.input, street_batch.depth, street_batch.K)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("name", METHODS)
def test_predictions_are_metres_within_range_with_a_sigma(name: str, build: Build, street_batch: Batch) -> None:
    method = build(name, network={"min_depth": 2.0, "max_depth": 50.0}).eval()
    with torch.no_grad():
        depth, sigma = method.predict(street_batch.image)
        assert depth.shape == sigma.shape == (4, 1, 64, 192)
        assert 2.0 <= depth.min() <= depth.max() <= 50.0
        assert sigma.min() > 0
        alone = method.predict(street_batch.image[2:3])
        assert torch.allclose(alone[0], depth[2:3], rtol=1e-4)
        method.sigma_calibration.mul_(2)
        again, doubled = method.predict(street_batch.image)
    assert torch.equal(again, depth)
    assert torch.allclose(doubled, 2 * sigma)


@pytest.mark.parametrize("name", METHODS)
def test_through_twice_the_focal_length_the_same_picture_is_twice_as_far(name: str, build: Build, street_batch: Batch) -> None:
    """The supervised terms cannot tell a picture from the same picture through a longer lens of a scene as much farther."""
    method = build(name).eval()
    longer = street_batch.K * torch.tensor([2.0, 2.0, 1.0])[:, None]
    torch.testing.assert_close(method.focal_ratio(street_batch.K).flatten(), torch.ones(4))
    torch.testing.assert_close(method.focal_ratio(longer).flatten(), torch.full((4,), 2.0))
    near, far = replace(street_batch, views=()), replace(street_batch, views=(), K=longer, depth=2 * street_batch.depth)
    terms, same = method.losses(near), method.losses(far)
    (term,) = {"supervised", "likelihood", "relative"} & terms.keys()
    torch.testing.assert_close(terms[term], same[term])


def test_an_unknown_method_is_refused(build: Build) -> None:
    with pytest.raises(ConfigError, match=r"method.name is 'monodepth3'; expected one of monodepth2, supervised, self_teaching"):
        build("monodepth3")
