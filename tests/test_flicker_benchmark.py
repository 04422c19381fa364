"""The flicker benchmark measures what it says, on clips whose flicker is known."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from benchmarks import flicker
from depth_ros.engines import EngineOptions, load_engine
from depth_ros.estimator import Estimator
from depth_ros.temporal import TemporalOptions
from depth_ros.types import CameraModel

CAMERA = CameraModel(64, 32, 50.0, 50.0, 31.5, 15.5)


@pytest.fixture
def estimator(make_bundle):
    """depth = red / 10, sigma = green / 100."""
    model = make_bundle()
    return Estimator(model, load_engine(model, options=EngineOptions(threads=1)))


def images(reds):
    for number, red in enumerate(reds, 1):
        yield f"{number:06d}", number * 100_000_000, np.full((32, 64, 3), (red, 200, 0), np.uint8)


def test_flicker_is_the_relative_change_from_image_to_image(estimator):
    clip = flicker.Clip("two depths in turn", CAMERA, lambda: images([100, 102] * 20))
    wide = TemporalOptions(noise_share=1.0, motion=0.0)
    found = flicker.measure(clip, estimator, wide)
    assert found["plain"] == pytest.approx(dict.fromkeys(("change_mean", "change_median", "change_p95"), np.log(1.02)), abs=1e-4)
    assert found["filtered"]["change_median"] < 0.1 * np.log(1.02)
    assert found["counts"] == {"images": 40}


def test_resets_are_told(estimator):
    clip = flicker.Clip("a jump", CAMERA, lambda: images([50] * 3 + [200] * 3))
    assert flicker.measure(clip, estimator)["counts"] == {"images": 6, "cut": 1}


def test_the_noisy_still_has_the_noise_it_says():
    image = np.zeros((200, 300, 3), np.uint8)
    image[:, 150:] = 128
    seen = np.stack([shown for _, _, shown in islice(flicker.noisy(image), 8)]).astype(float)
    assert seen[:, :, 150:].std(axis=0).mean() * np.sqrt(8 / 7) == pytest.approx(np.sqrt(4 + 12 * 128 / 255), rel=0.05)
    assert (seen[0] != seen[1]).any()


def test_the_command_writes_every_clip_that_ships(make_bundle, tmp_path, monkeypatch, capsys):
    model = make_bundle(416, 128, fx=241.0, fy=246.0)
    known = flicker.clips

    def short(data):
        return {name: replace(clip, images=lambda clip=clip: islice(clip.images(), 6)) for name, clip in known(data).items()}

    monkeypatch.setattr(flicker, "clips", short)
    out = tmp_path / "flicker.json"
    assert flicker.main(["--model", str(model.path), "--data", str(tmp_path / "nothing"), "--out", str(out)]) == 0
    report = json.loads(out.read_text())
    assert report["sha256"] == model.sha256
    assert set(report["clips"]) == {"street_still", "street"}
    assert {"abs_rel", "coverage_1sigma"} < set(report["clips"]["street"]["filtered"])
    assert "abs_rel" not in report["clips"]["street_still"]["plain"]
    assert "street_still" in capsys.readouterr().out
    assert flicker.main(["--model", "no/such/bundle", "--out", str(out)]) == 1
    assert "expected a model bundle" in capsys.readouterr().err
