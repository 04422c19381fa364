"""The count of a training's operations grows with the image and its losses; the full trainings load."""

from __future__ import annotations

import pytest

from benchmarks.training_cost import IMAGES, SUSTAINED_TFLOPS, TRAININGS, count, example
from training.config import load_config

SMALL = ("data.width=96", "data.height=64", "network.pretrained=none")


@pytest.mark.parametrize("name", TRAININGS)
def test_every_full_training_loads_and_has_the_views_it_trains_with(name: str) -> None:
    recipe, overrides, _ = TRAININGS[name]
    config = load_config(recipe, overrides)
    views = example(config).views
    assert len(views) == (2 if config.data.learns_pose else 1)
    assert all((view.source_T_target is None) == config.data.learns_pose for view in views)


def test_hours_follow_from_operations() -> None:
    found = count("config/train/low_texture.yaml", SMALL, epochs=20)
    assert found["hours"] == pytest.approx(found["tflop_per_image"] * IMAGES * 20 / SUSTAINED_TFLOPS / 3600, abs=0.05)


def test_the_features_cost_something_and_operations_grow_with_the_image() -> None:
    recipe = "config/train/low_texture.yaml"
    small = count(recipe, SMALL, epochs=1)["tflop_per_image"]
    assert count(recipe, (*SMALL, "method.name=monodepth2"), epochs=1)["tflop_per_image"] < small
    assert count(recipe, (*SMALL, "data.width=192"), epochs=1)["tflop_per_image"] == pytest.approx(2 * small, rel=0.02)
