"""DEE, CE and RR against RoboDepth's published table, and the evaluation against a predictor known in closed form."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from depth_ros.bundle import ModelBundle
from depth_ros.types import CameraModel, InputError
from training.data.corruptions.table import CORRUPTIONS, corrupt
from training.data.truth import open_evaluation_set
from training.evaluate import open_model
from training.robustness import (
    corruption_errors,
    depth_estimation_error,
    evaluate_corrupted,
    main,
    mean,
    resilience_rates,
    summarise,
)

MakeBundle = Callable[..., ModelBundle]
WriteSet = Callable[..., Path]

CAMERA = CameraModel(64, 32, 50.0, 50.0, 31.5, 15.5)  # the probe bundle's: depth = red / 10, sigma = green / 100
CROP = (slice(int(0.40810811 * 32), int(0.99189189 * 32)), slice(int(0.03594771 * 64), int(0.96405229 * 64)))  # Garg's

# RoboDepth's table for 640x192, self-supervised by video: mCE [%], mRR [%], DEE clean and of the 18 corruptions.
MONODEPTH2 = (
    100, 84.46, .119, .130, .280, .155, .277, .511, .187, .244, .242, .216, .201, .129, .193, .384, .389, .340, .388, .145, .196
)  # fmt: skip
PUBLISHED = {
    "Monodepth2 R18": MONODEPTH2,
    "Lite-Mono tiny": (
        92.92, 86.69, .115,
        .127, .257, .157, .225, .354, .191, .257, .248, .198, .186, .127, .159, .358, .342, .336, .360, .147, .161
    ),
    "Lite-Mono base": (
        93.16, 85.99, .110,
        .119, .259, .144, .245, .384, .177, .224, .237, .221, .196, .129, .175, .361, .340, .334, .363, .151, .165
    ),
    "MonoViT": (
        79.33, 89.15, .099,
        .106, .243, .116, .213, .275, .119, .180, .204, .163, .179, .118, .146, .310, .293, .271, .290, .162, .154
    ),
}  # fmt: skip


def dees(row: tuple[float, ...]) -> dict[str, float]:
    return dict(zip(CORRUPTIONS, row[3:], strict=True))


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_means_follow_from_the_published_errors(name: str) -> None:
    """To what three decimals of the table leave open."""
    mce, mrr, clean = PUBLISHED[name][:3]
    assert 100 * mean(corruption_errors(dees(PUBLISHED[name]), dees(MONODEPTH2))) == pytest.approx(mce, abs=0.1)
    assert 100 * mean(resilience_rates(dees(PUBLISHED[name]), clean)) == pytest.approx(mrr, abs=0.1)


def test_dee_of_monodepth2() -> None:
    """AbsRel .115 and d1 .877 (Godard et al., ICCV 2019, table 1) are the clean DEE of RoboDepth's table."""
    assert depth_estimation_error(0.115, 0.877) == pytest.approx(0.119)
    assert depth_estimation_error(0.0, 1.0) == 0


def test_what_has_no_meaning_is_told() -> None:
    with pytest.raises(InputError, match="the reference has no DEE above 0 for fog, snow; expected one"):
        corruption_errors({"dark": 0.2, "fog": 0.2, "snow": 0.2}, {"dark": 0.1, "snow": 0.0})
    with pytest.raises(InputError, match=r"DEE on the clean images is 1\.000; expected below 1"):
        resilience_rates({"fog": 1.0}, 1.0)


def scenes(count: int = 3, height: int = 32, width: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Images that the probe reads as noisy depth of 4 to 20 m with a sigma of 1 m, and the truths without the noise."""
    rng = np.random.default_rng(5)
    truths = np.broadcast_to(np.linspace(20, 4, height)[:, None], (count, height, width))
    images = np.zeros((count, height, width, 3), np.uint8)
    images[..., 0] = np.round(10 * truths * rng.uniform(0.7, 1.3, truths.shape)).clip(1, 250)
    images[..., 1] = 100
    return images, np.round(truths * 256) / 256


def expected_errors(depth: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """AbsRel and d1 of median-scaled depth in the crop, by their plain formulas."""
    p, g = depth[CROP].ravel(), truth[CROP].ravel()
    p = np.clip(p * np.median(g) / np.median(p), 1e-3, 80)
    return float(np.mean(np.abs(p - g) / g)), float(np.mean(np.maximum(p / g, g / p) < 1.25))


@pytest.fixture
def street(tmp_path: Path, write_set: WriteSet) -> Path:
    images, truths = scenes()
    return write_set(tmp_path / "set", CAMERA, images, truths)


def test_image_i_is_corrupted_with_seed_i_and_scaled_by_its_median(street: Path, make_bundle: MakeBundle) -> None:
    """Of 0.1 m to 25 m, the probe answers everything else with nothing in range or NaN: pixelation stays inside."""
    images, truths = scenes()
    scores = evaluate_corrupted(open_model(make_bundle().path), open_evaluation_set(street), ["glass_blur", "pixelate"], [2, 4])
    for name, found in scores.items():
        for index, severity in enumerate([0] if name == "clean" else [2, 4]):
            seen = [corrupt(image, name, severity, i) if severity else image for i, image in enumerate(images)]
            expected = [expected_errors(image[..., 0] / 10.0, truth) for image, truth in zip(seen, truths, strict=True)]
            assert (found[index].abs_rel, found[index].delta1) == pytest.approx(np.mean(expected, axis=0), abs=2e-3), name
            assert found[index].answered == 1


def test_the_network_sees_the_corruption_at_its_own_resolution(
    tmp_path: Path, write_set: WriteSet, make_bundle: MakeBundle
) -> None:
    """Noise of 0.08 (255 levels) on a flat depth of 100 levels: E|error| = 0.204 sqrt(2 / pi), of which bilinear enlarging
    leaves 2/3 (its weights' mean square is 2/3 per axis). Noise on the large image would be averaged over 4x4 to a quarter.
    """
    images, truths = np.full((2, 128, 256, 3), 100, np.uint8), np.full((2, 128, 256), 10.0)
    folder = write_set(tmp_path / "set", CAMERA.resized(256, 128), images, truths)
    scores = evaluate_corrupted(open_model(make_bundle().path), open_evaluation_set(folder), ["gaussian_noise"], [1])
    assert scores["gaussian_noise"][0].abs_rel == pytest.approx(0.204 * np.sqrt(2 / np.pi) * 2 / 3, rel=0.1)


def test_an_image_without_any_answer_counts_as_wrong(tmp_path: Path, write_set: WriteSet, make_bundle: MakeBundle) -> None:
    """Without green, sigma is 0, which is no answer: one image of two."""
    images, truths = scenes(2)
    images[..., 0] = np.round(10 * truths)
    images[1, ..., 1] = 0
    folder = write_set(tmp_path / "set", CAMERA, images, truths)
    (clean,) = evaluate_corrupted(open_model(make_bundle().path), open_evaluation_set(folder), [], [])["clean"]
    assert clean.answered == 0.5
    assert clean.dee == pytest.approx((0 + 1) / 2, abs=0.005)


@pytest.mark.parametrize(("kind", "perfect"), [("metric", False), ("affine_invariant", True)])
def test_the_mean_map_is_aligned_as_the_model_is(
    tmp_path: Path, write_set: WriteSet, make_bundle: MakeBundle, kind: str, perfect: bool
) -> None:
    """Of two images whose inverse depths differ in scale and shift, each is the other's mean map: exact after a fit of both."""
    truths = np.linspace(4, 20, 64)[None, None].repeat(32, axis=1).repeat(2, axis=0)
    images = np.full((2, 32, 64, 3), 100, np.uint8)
    images[..., 0] = np.round(10 * truths)
    truths[1] = 1 / (2 / truths[0] + 0.1)
    folder, file = write_set(tmp_path / "set", CAMERA, images, truths), tmp_path / "scores.json"
    options = ["--corruptions", "pixelate", "--severities", "1", "--json", str(file)]
    assert main([str(make_bundle(kind=kind).path), str(folder), *options]) == 0
    assert (json.loads(file.read_text())["baseline"]["dee"] < 0.01) is perfect


def test_the_command_prints_and_writes_what_it_found(
    tmp_path: Path, street: Path, make_bundle: MakeBundle, capsys: pytest.CaptureFixture[str]
) -> None:
    model, file = str(make_bundle().path), tmp_path / "scores.json"
    some = ["--corruptions", "pixelate,glass_blur", "--severities", "5,1"]
    assert main([model, str(street), *some, "--json", str(file)]) == 0
    out = capsys.readouterr().out
    assert "3 images, 2 of 18 corruptions" in out
    assert "KITTI-C-like" in out
    assert "protocol eigen" in out
    assert "median(truth) / median(depth)" in out
    assert "mCE" not in out  # there is no reference

    report = json.loads(file.read_text())
    found = report["model"]["corruptions"]["pixelate"]
    assert report["severities"] == [1, 5]
    assert found["dee_by_severity"] == pytest.approx(
        [(a - d + 1) / 2 for a, d in zip(found["abs_rel"], found["delta1"], strict=True)]
    )
    assert found["dee"] == pytest.approx(sum(found["dee_by_severity"]) / 2)
    assert report["model"]["mrr_percent"] == pytest.approx(
        50 * sum((1 - c["dee"]) / (1 - report["model"]["clean"]["dee"]) for c in report["model"]["corruptions"].values())
    )
    assert report["baseline"]["dee"] == pytest.approx(0, abs=0.01)  # all truths are alike: the mean map is perfect here
    row = next(line for line in out.splitlines() if line.startswith("pixelate"))
    assert row.split()[1:4] == [f"{dee:.3f}" for dee in [*found["dee_by_severity"], found["dee"]]]

    for reference in (["--reference", model], ["--reference-json", str(file)]):
        assert main([model, str(street), *some, *reference]) == 0
        assert f"mCE 100.00 % relative to {reference[1]}" in capsys.readouterr().out


def test_a_reference_from_other_conditions_is_refused(
    tmp_path: Path, street: Path, make_bundle: MakeBundle, capsys: pytest.CaptureFixture[str]
) -> None:
    model, file = str(make_bundle().path), tmp_path / "scores.json"
    assert main([model, str(street), "--corruptions", "pixelate", "--severities", "1", "--json", str(file)]) == 0
    (tmp_path / "empty.json").write_text("[]")
    from_file = ["--reference-json", str(file), "--corruptions"]
    for arguments, message in (
        ([*from_file, "pixelate", "--severities", "2"], "scores.json: severities is [1]; expected [2]"),
        ([*from_file, "pixelate,jpeg_compression", "--severities", "1"], "no DEE above 0 for jpeg_compression"),
        (["--reference-json", str(tmp_path / "empty.json")], "empty.json: TypeError"),
        (["--reference-json", str(tmp_path / "nothing.json")], "nothing.json"),
        (["--reference", str(tmp_path / "nothing.ckpt")], "nothing.ckpt: no such checkpoint"),
    ):
        capsys.readouterr()
        assert main([model, str(street), *arguments]) == 1
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert line.startswith("error: ")
        assert message in line


@pytest.mark.parametrize("option", [["--corruptions", "fog,smog"], ["--severities", "0,1"]])
def test_unknown_corruptions_and_severities(street: Path, option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["models/default", str(street), *option])
    assert "expected some of" in capsys.readouterr().err


def test_summaries_have_no_ce_without_a_reference(street: Path, make_bundle: MakeBundle) -> None:
    scores = evaluate_corrupted(open_model(make_bundle().path), open_evaluation_set(street), ["pixelate"], [1])
    alone, beside = (
        summarise(scores, None),
        summarise(scores, {"pixelate": 2 * summarise(scores, None)["corruptions"]["pixelate"]["dee"]}),
    )
    assert "mce_percent" not in alone
    assert beside["mce_percent"] == pytest.approx(50)
    assert beside["corruptions"]["pixelate"]["ce_percent"] == pytest.approx(50)
