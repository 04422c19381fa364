"""The filter against the scalar Kalman filter's closed forms, and what must never be smoothed."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from depth_ros import bundle
from depth_ros.engines import EngineOptions, load_engine
from depth_ros.estimator import Estimator, upsample
from depth_ros.temporal import TemporalFilter, TemporalOptions
from depth_ros.truth import judge
from depth_ros.types import CameraModel, DepthPrediction, Frame, InputError

ROOT = Path(__file__).resolve().parents[2]
CAMERA = CameraModel(40, 24, 50.0, 50.0, 19.5, 11.5)
STEP_NS = 100_000_000
GREY = np.full((24, 40, 3), 90, np.uint8)


def predicted(depth, relative_sigma=0.2, camera=CAMERA):
    depth = np.broadcast_to(np.asarray(depth, np.float32), (camera.height, camera.width)).copy()
    with np.errstate(invalid="ignore"):
        sigma = np.where(np.isfinite(depth), depth * np.float32(relative_sigma), np.float32(np.nan)).astype(np.float32)
    return DepthPrediction(depth, sigma, camera)


def play(filtered, depths, images=None, start=1, **options):
    """Answers to depths at 10 Hz; `images` default to a still one."""
    images = images or [GREY] * len(depths)
    pairs = enumerate(zip(depths, images, strict=True), start)
    return [filtered.update(predicted(depth, **options), image, number * STEP_NS) for number, (depth, image) in pairs]


def steady_gain(options, relative_sigma):
    """Of a random walk seen in white noise: K^2 = w (1 - K) with w = walk variance per step / noise variance."""
    w = options.process_noise**2 * 0.1 / (options.noise_share * relative_sigma) ** 2
    return (np.sqrt(w * w + 4 * w) - w) / 2


def test_the_first_prediction_passes_unchanged():
    (answer,) = play(TemporalFilter(), [7.0])
    np.testing.assert_allclose(answer.depth, 7.0, rtol=1e-6)
    np.testing.assert_allclose(answer.sigma, 1.4, rtol=1e-5)
    assert answer.camera == CAMERA


def test_a_still_scene_stays_what_it_is():
    answers = play(TemporalFilter(), [7.0] * 30)
    np.testing.assert_allclose(answers[-1].depth, 7.0, rtol=1e-5)


def test_a_small_step_is_approached_with_the_steady_gain():
    options = TemporalOptions()
    filtered = TemporalFilter(options)
    play(filtered, [10.0] * 100)
    answers = play(filtered, [10.2] * 8, start=101)  # 2 %, within the gate
    gain = steady_gain(options, 0.2)
    assert 0.2 < gain < 0.35
    for count, answer in enumerate(answers, 1):
        left = np.log(10.2 / answer.depth[0, 0]) / np.log(10.2 / 10.0)
        assert left == pytest.approx((1 - gain) ** count, rel=0.02)


def test_white_noise_flickers_less_by_what_theory_says():
    rng = np.random.default_rng(0)
    noise = 0.02  # noise_share 0.1 of a sigma of 20 %
    depths = 8.0 * np.exp(rng.normal(0, noise, (150, 24, 40)))
    filtered = TemporalFilter(TemporalOptions(gate=10.0))  # wide: the formula knows no gate, which 3 in 1000 exceed by chance
    answers = np.stack([answer.depth for answer in play(filtered, depths)])[50:]
    gain = steady_gain(TemporalOptions(), 0.2)
    flicker = np.diff(np.log(answers), axis=0).std()
    # An average with gain K over white noise: Var(x[t] - x[t-1]) = 2 K^2 / (2 - K) of the noise's variance.
    assert flicker == pytest.approx(noise * np.sqrt(2 * gain**2 / (2 - gain)), rel=0.02)
    assert flicker < 0.3 * np.sqrt(2) * noise


def test_a_pixel_that_jumps_takes_the_new_depth_at_once_and_alone():
    filtered = TemporalFilter()
    play(filtered, [10.0] * 20)
    depth = np.full((24, 40), 10.2)
    depth[5, 6] = 8.0  # a gate of 3 standard deviations of at most 20 % x 0.1 x sqrt(2) ends at 8.5 %
    (answer,) = play(filtered, [depth], start=21)
    assert answer.depth[5, 6] == pytest.approx(8.0, rel=1e-5)
    assert answer.sigma[5, 6] == pytest.approx(1.6, rel=1e-4)
    others = np.delete(answer.depth.ravel(), 5 * 40 + 6)
    assert (others < 10.1).all()
    assert not filtered.resets


def test_the_gate_is_as_wide_as_the_sigma():
    filtered = TemporalFilter()
    sigma = np.full((24, 40), 0.05, np.float32)
    sigma[:, 20:] = 0.5
    play(filtered, [10.0] * 20, relative_sigma=sigma)
    depth = np.full((24, 40), 10.0)
    depth[:, ::4] = 11.0
    (answer,) = play(filtered, [depth], start=21, relative_sigma=sigma)
    np.testing.assert_allclose(answer.depth[:, :20:4], 11.0, rtol=1e-5)
    assert (answer.depth[:, 20::4] < 10.5).all()


def test_where_the_image_moves_the_new_depth_counts_more():
    filtered = TemporalFilter()
    rng = np.random.default_rng(0)
    play(filtered, [10.0] * 20)
    moved = GREY.copy()
    moved[:, 20:] += 60
    (answer,) = play(filtered, [10.3], [moved], start=21)
    assert (answer.depth[:, :16] < 10.11).all()
    assert (answer.depth[:, 24:] > 10.25).all()
    noisy = [np.clip(GREY + rng.normal(0, 4, GREY.shape), 0, 255).astype(np.uint8) for _ in range(20)]
    filtered.reset()
    play(filtered, [10.0] * 20, noisy)
    (answer,) = play(filtered, [10.3], noisy[:1], start=21)
    assert (answer.depth < 10.15).all()  # a sensor's noise is no motion


def test_sigma_is_never_reduced_by_more_than_the_noise_share():
    rng = np.random.default_rng(1)
    share = 0.4
    filtered = TemporalFilter(TemporalOptions(noise_share=share))
    lowest = np.inf
    for number in range(1, 60):
        relative = rng.uniform(0.05, 0.4, (24, 40)).astype(np.float32)
        new = predicted(9.0 * np.exp(rng.normal(0, 0.05, (24, 40))), relative)
        answer = filtered.update(new, GREY, number * STEP_NS)
        lowest = min(lowest, (answer.sigma / answer.depth / relative).min())
    assert np.sqrt(1 - share**2) <= lowest * (1 + 1e-5)
    assert lowest < 0.97  # and some of it is removed


def test_coverage_survives_an_error_that_all_images_share():
    """0.18 of the 0.2 are one systematic error: a filter that took images for independent would claim to know it away."""
    rng = np.random.default_rng(2)
    camera = CameraModel(200, 100, 50.0, 50.0, 99.5, 49.5)
    same = rng.normal(0, 0.2 * np.sqrt(1 - 0.1**2), (100, 200))
    image = np.full((100, 200, 3), 90, np.uint8)
    filtered = TemporalFilter()
    for number in range(1, 41):
        depth = 20.0 * np.exp(same + rng.normal(0, 0.02, same.shape))
        answer = filtered.update(predicted(depth, camera=camera), image, number * STEP_NS)
    within = np.abs(np.log(answer.depth / 20.0)) <= answer.sigma / answer.depth
    assert within.mean() == pytest.approx(0.683, abs=0.015)


@pytest.mark.parametrize("missing", [np.nan, np.inf])
def test_what_has_no_depth_is_left_as_it_is_and_spreads_nowhere(missing):
    filtered = TemporalFilter()
    play(filtered, [10.0] * 10)
    gap = np.full((24, 40), 10.1)
    gap[3, 4] = missing
    (answer,) = play(filtered, [gap], start=11)
    np.testing.assert_array_equal(answer.depth[3, 4], np.float32(missing))
    assert np.isnan(answer.sigma[3, 4])
    assert np.isfinite(answer.depth).sum() == np.isfinite(answer.sigma).sum() == 24 * 40 - 1
    (back,) = play(filtered, [10.1], start=12)
    assert back.depth[3, 4] == pytest.approx(10.1, rel=1e-5)  # nothing from before the gap
    assert back.depth[3, 5] < 10.09


def test_an_image_without_any_depth_is_no_cut_and_no_error():
    filtered = TemporalFilter()
    answers = play(filtered, [10.0, np.inf, np.inf, 10.1])
    assert np.isposinf(answers[2].depth).all()
    np.testing.assert_allclose(answers[3].depth, 10.1, rtol=1e-5)


BRIGHT = np.full_like(GREY, 200)
OTHER = CameraModel(40, 24, 60.0, 50.0, 19.5, 11.5)


@pytest.mark.parametrize(
    ("reason", "depth", "image", "camera", "stamp_ns"),
    [
        ("another camera", 10.2, GREY, OTHER, 21 * STEP_NS),
        ("time did not go on", 10.2, GREY, CAMERA, 20 * STEP_NS),
        ("time did not go on", 10.2, GREY, CAMERA, 3 * STEP_NS),
        ("time did not go on", 10.2, GREY, CAMERA, 0),
        ("pause", 10.2, GREY, CAMERA, 26 * STEP_NS),
        ("cut", 10.2, BRIGHT, CAMERA, 21 * STEP_NS),
        ("cut", np.where(np.arange(40) < 24, 15.0, 10.2), GREY, CAMERA, 21 * STEP_NS),
    ],
)
def test_discontinuities_start_afresh_and_are_counted(reason, depth, image, camera, stamp_ns):
    filtered = TemporalFilter()
    play(filtered, [10.0] * 20)
    new = predicted(depth, camera=camera)
    answer = filtered.update(new, image, stamp_ns)
    np.testing.assert_allclose(answer.depth, new.depth, rtol=1e-5)
    np.testing.assert_allclose(answer.sigma, new.sigma, rtol=1e-4)
    assert filtered.resets == {reason: 1}
    next_one = filtered.update(new, image, stamp_ns + STEP_NS)
    assert filtered.resets == {reason: 1}
    np.testing.assert_allclose(next_one.depth, new.depth, rtol=1e-5)


def test_input_is_left_alone():
    filtered = TemporalFilter()
    new, image = predicted(10.0), GREY.copy()
    play(filtered, [10.1] * 3)
    filtered.update(new, image, 4 * STEP_NS)
    np.testing.assert_array_equal(new.depth, predicted(10.0).depth)
    np.testing.assert_array_equal(new.sigma, predicted(10.0).sigma)
    np.testing.assert_array_equal(image, GREY)


def test_mistakes_are_named():
    with pytest.raises(InputError, match="one size"):
        TemporalFilter().update(predicted(10.0), GREY[:10], 1)
    for wrong in ({"noise_share": 1.5}, {"noise_share": 0.0}, {"gate": np.nan}, {"max_gap_s": -1.0}, {"motion": -0.1}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            TemporalOptions(**wrong)


def test_on_real_traffic_depth_flickers_less_and_stays_as_exact_and_honest(shared_data):
    folder = shared_data / "kitti_raw_0926_traffic"
    K = np.array(json.loads((folder / "meta.json").read_text())["K"])
    camera = CameraModel(1242, 375, K[0, 0], K[1, 1], K[0, 2], K[1, 2])
    model = bundle.load(ROOT / "models" / "default")
    estimator = Estimator(model, load_engine(model, options=EngineOptions(threads=1)))
    filtered, pairs, scores = TemporalFilter(), [], []
    for number, file in enumerate(sorted((folder / "image").iterdir())[:16], 1):
        image = np.ascontiguousarray(cv2.imread(str(file))[..., ::-1])
        small = estimator.resize(Frame(image, camera, number * STEP_NS, "camera"))
        raw = estimator.predict([small])[0]
        pair = raw, filtered.update(raw, small.image, number * STEP_NS)
        truth = cv2.imread(str(folder / "depth" / f"{file.stem}.png"), cv2.IMREAD_UNCHANGED).astype(np.float32) / 256
        pairs.append([prediction.depth for prediction in pair])
        scores.append([judge(upsample(prediction, camera), truth) for prediction in pair])
    before, after = np.median(np.abs(np.diff(np.log(np.array(pairs)), axis=0)), axis=(0, 2, 3))
    assert after < 0.6 * before
    mean = {name: [np.mean([pair[i][name] for pair in scores]) for i in (0, 1)] for name in ("abs_rel", "coverage_1sigma")}
    assert mean["abs_rel"][1] < 1.01 * mean["abs_rel"][0]
    assert mean["coverage_1sigma"][1] > mean["coverage_1sigma"][0] - 0.005
