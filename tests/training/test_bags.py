"""A robot's bag to training images: what is kept, how far it drove, what is left out and said, and the whole way to a bundle."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from bag_writing import (
    INFO,
    ODOMETRY,
    START_S,
    TOPIC,
    Written,
    compressed,
    info,
    odometry,
    raw,
    twist_stamped,
    write_bag,
)  # fmt: skip

from depth_ros import bundle as bundles
from depth_ros.calibration import save_calibration
from depth_ros.engines import EngineOptions, load_engine
from depth_ros.estimator import Estimator
from depth_ros.types import CameraModel, Frame, InputError
from training import export, train
from training.checkpoint import load_method
from training.config import ConfigError, DataConfig
from training.data.bags import extraction as bag_extraction
from training.data.bags.recording import VAL_GAP, BagFolder, extract, open_bag
from training.data.clips import Clips
from training.data.street import Street, StreetConfig, kitti_camera
from training.evaluate import describe_method

RECIPE = Path(__file__).resolve().parents[2] / "config" / "train" / "from_bag.yaml"

FRAMES, PERIOD_S, SIZE = 40, 0.1, (192, 64)
RENDERED_S = 0.2  # of the street's time: the camera drives twice as fast as its stamps say, so that every image moves


@dataclass(frozen=True)
class Shot:
    """A rendered image, when and where it was taken."""

    image: np.ndarray
    time_s: float
    position: np.ndarray


@pytest.fixture(scope="session")
def drive(camera: CameraModel) -> list[Shot]:
    return shots(camera, seed=3, count=FRAMES)


def shots(camera: CameraModel, seed: int, count: int) -> list[Shot]:
    street, result = Street(seed, StreetConfig(sway=0.0)), []
    for index in range(count):
        t_s = 2.0 + RENDERED_S * index
        pose = street.pose(t_s)
        result.append(Shot(street.render(camera, pose, t_s).image, START_S + PERIOD_S * index, pose[:3, 3]))
    return result


def recorded(drive: list[Shot], show: Callable[..., Written] = raw, **options: str) -> list[Written]:
    """Image, camera_info and odometry of each shot."""
    camera = kitti_camera(*SIZE)
    return [
        message
        for shot in drive
        for message in (
            show(shot.image, shot.time_s, **options), info(camera, shot.time_s), odometry(shot.position, shot.time_s)
        )
    ]  # fmt: skip


@pytest.fixture
def config(tmp_path: Path) -> DataConfig:
    return DataConfig(
        source="bag", bag=str(tmp_path / "bag"), cache=str(tmp_path / "cache"), width=SIZE[0], height=SIZE[1], known_poses=False,
        min_motion=0.003,
    )  # fmt: skip


def kept(config: DataConfig) -> BagFolder:
    return BagFolder(extract(config))


def picture(recording: BagFolder, index: int) -> np.ndarray:
    return recording.image(index)[0].astype(float)


@pytest.mark.parametrize(
    ("storage", "show", "options"),
    [
        ("mcap", raw, {"encoding": "bgr8"}),
        ("sqlite3", raw, {"encoding": "rgb8"}),
        ("mcap", compressed, {"kind": "jpeg"}),
        ("sqlite3", compressed, {"kind": "png"}),
    ],
)
def test_what_was_recorded_comes_out(drive, config, tmp_path, storage, show, options) -> None:
    """Pictures, camera and distances; the end of the drive validates, with a gap and no neighbour across it."""
    write_bag(tmp_path / "bag", recorded(drive, show, **options), storage)
    train, val = (open_bag(config, part) for part in ("train", "val"))
    recording = kept(config)
    assert len(recording) == FRAMES
    assert recording.camera(0) == kitti_camera(*SIZE)
    for index in (0, 17, FRAMES - 1):
        assert np.abs(picture(recording, index) - drive[index].image).mean() < 4
    steps = [np.linalg.norm(b.position - a.position) for a, b in pairwise(drive)]
    assert np.diff(recording.travelled_m) == pytest.approx(steps, abs=1e-6)
    assert (len(train), len(val)) == (FRAMES - 6 - VAL_GAP, 6)  # 15 % of 40
    assert train[-1].recording.image_name(train[-1].index) == recording.image_name(FRAMES - 6 - VAL_GAP - 1)
    assert [t.recording.image_name(t.index) for t in val] == [recording.image_name(FRAMES - 6 + i) for i in range(6)]
    assert train[-1].recording.neighbour(train[-1].index, 1) is None
    sample = Clips(train, SIZE, known_poses=False)[0]
    assert [view.speed for view in sample.views] == pytest.approx(steps[:2], abs=1e-6)


def test_a_standing_camera_is_left_out(drive, config, tmp_path, capsys) -> None:
    """Ten noisy repetitions of one view are one image; its neighbours are those before and after the stop."""
    noise, stop = np.random.default_rng(0), 20
    wait = [
        Shot(np.clip(drive[stop].image + noise.normal(0, 3, drive[stop].image.shape), 0, 255).astype(np.uint8),
             drive[stop].time_s + PERIOD_S * k, drive[stop].position)
        for k in range(1, 11)
    ]  # fmt: skip
    later = [replace(shot, time_s=shot.time_s + 10 * PERIOD_S) for shot in drive[stop + 1 :]]
    write_bag(tmp_path / "bag", recorded([*drive[: stop + 1], *wait, *later]))
    recording = open_bag(config, "train")[0].recording
    assert recording.neighbour(stop, 1) == stop + 1
    assert "40 of 50 images of /camera/image_raw kept (10 still)" in capsys.readouterr().err
    assert np.abs(picture(kept(config), stop + 1) - drive[stop + 1].image).mean() < 4


def test_passing_traffic_is_no_motion_where_odometry_says_so(drive, config, tmp_path) -> None:
    """The picture moves, the robot does not: nothing can be learned from these."""
    standing = [replace(shot, position=drive[30].position) if 30 < i < 36 else shot for i, shot in enumerate(drive)]
    write_bag(tmp_path / "bag", recorded(standing))
    assert kept(config).report["skipped"] == {"standing by odometry": 5}


@pytest.mark.parametrize("fault", ["gap", "cut"])
def test_images_across_a_gap_or_a_cut_are_no_neighbours(drive, config, tmp_path, camera, fault) -> None:
    if fault == "gap":
        rest = [replace(shot, time_s=shot.time_s + 5.0) for shot in drive[25:]]
    else:
        rest = [replace(shot, time_s=shot.time_s + 2.5) for shot in shots(camera, seed=9, count=15)]
    write_bag(tmp_path / "bag", recorded([*drive[:25], *rest]))
    recording = kept(config)
    assert recording.report["pieces"] == 2
    assert (recording.neighbour(23, 1), recording.neighbour(24, 1), recording.neighbour(25, -1)) == (24, None, None)


def test_a_clock_that_is_set_back_breaks_the_drive_and_a_late_image_is_counted(drive, config, tmp_path) -> None:
    """Recorded in this order; one image comes 0.25 s late, then the clock goes back to the start of the drive."""
    back = [replace(shot, time_s=shot.time_s - 30 * PERIOD_S) for shot in drive[30:]]
    order = [*drive[:11], replace(drive[11], time_s=drive[8].time_s + 0.05), *drive[12:30], *back]
    messages = recorded(order)
    write_bag(tmp_path / "bag", messages, recorded=[START_S + 0.01 * k for k in range(len(messages))])
    recording = kept(config)
    assert recording.report["skipped"] == {"late or repeated": 1}
    assert recording.neighbour(28, 1) is None
    assert recording.neighbour(27, 1) == 28
    steps = np.diff(recording.travelled_m)
    assert steps[20] == pytest.approx(np.linalg.norm(drive[22].position - drive[21].position), abs=1e-6)
    assert steps[35] == pytest.approx(np.linalg.norm(drive[37].position - drive[36].position), abs=1e-6)


def test_a_lens_is_undone_once(drive, config, tmp_path, camera) -> None:
    """Images bent by k1 = -0.25 come out as the pinhole sees them; only what is resampled twice differs."""
    D = np.array([-0.25, 0.0, 0.0, 0.0, 0.0])
    u, v = np.meshgrid(np.arange(SIZE[0]), np.arange(SIZE[1]))
    seen = cv2.undistortPoints(np.dstack([u, v]).reshape(-1, 1, 2).astype(np.float64), camera.K, D, P=camera.K)
    maps = seen.reshape(SIZE[1], SIZE[0], 2).astype(np.float32)
    bent = [cv2.remap(shot.image, maps, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE) for shot in drive]
    write_bag(tmp_path / "bag", [m for shot, image in zip(drive, bent, strict=True)
                                 for m in (raw(image, shot.time_s), info(camera, shot.time_s, D.tolist()))])  # fmt: skip
    recording = kept(config)
    assert recording.camera(0) == camera
    inner = np.s_[12:-12, 30:-30]
    error, unrectified = (np.abs(x[inner] - drive[5].image[inner]).mean() for x in (picture(recording, 5), bent[5].astype(float)))
    assert error < 0.6 * unrectified


def test_images_are_stored_little_larger_than_the_network_needs(drive, config, tmp_path, camera) -> None:
    write_bag(tmp_path / "bag", recorded(drive))
    small = kept(replace(config, width=96, height=32))
    assert small.camera(0) == camera.resized(120, 40)
    assert small.image(0)[0].shape == (40, 120, 3)


def test_speed_is_integrated_where_there_are_no_positions(drive, config, tmp_path, camera) -> None:
    """v = 2 + t: s = 2 t + t^2 / 2, which the trapezoidal rule meets exactly; a command to drive is not believed."""
    images = [m for shot in drive for m in (raw(shot.image, shot.time_s), info(camera, shot.time_s))]
    speeds = [twist_stamped(2 + 0.02 * k, START_S + 0.02 * k) for k in range(250)]
    commands = [twist_stamped(9.0, START_S + 0.1 * k, topic="/cmd_vel") for k in range(50)]
    write_bag(tmp_path / "bag", sorted(images + speeds + commands, key=lambda m: m[1]))
    recording = kept(config)
    t = PERIOD_S * np.arange(FRAMES)
    assert recording.report["odometry"] == "/wheels"
    assert recording.travelled_m == pytest.approx(2 * t + t**2 / 2, abs=1e-6)


def test_images_without_odometry_around_them_are_left_out(drive, config, tmp_path) -> None:
    """It begins late and drops out for 1.4 s: nobody knows how far those images are apart."""
    messages = [m for m in recorded(drive) if m[0] != ODOMETRY or (m[1] > START_S + 0.45 and not 2.05 < m[1] - START_S < 3.35)]
    write_bag(tmp_path / "bag", messages)
    recording = kept(config)
    assert recording.report["skipped"] == {"without odometry": 5 + 13}
    assert recording.neighbour(15, 1) is None  # image 20, at 2.0 s; the next is at 3.4 s
    assert "/odom has nothing around that time" in recording.report["faults"]["without odometry"]


def without(topic: str) -> Callable[[list[Written]], list[Written]]:
    return lambda messages: [m for m in messages if m[0] != topic]


def with_instead(topic: str, other: Callable[[float], Written]) -> Callable[[list[Written]], list[Written]]:
    return lambda messages: [other(m[1]) if m[0] == topic else m for m in messages]


def and_also(*extra: Written) -> Callable[[list[Written]], list[Written]]:
    return lambda messages: [*messages, *extra]


BLANK = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
UNUSABLE = (
    (without(INFO), {}, r"no /camera/camera_info for /camera/image_raw \(camera_info found: none\)"),
    (without(TOPIC), {}, r"no image topic at all in this bag; found: none among /camera/camera_info, /odom"),
    (
        and_also(raw(BLANK, START_S, topic="/b/image_raw")),
        {},
        r"several image topics \(/b/image_raw, /camera/image_raw\); choose",
    ),
    (and_also(), {"topic": "/front"}, r"no image topic /front in this bag; found: /camera/image_raw"),
    (and_also(), {"odometry": "/o"}, r"no odometry topic /o; found: /odom"),
    (
        and_also(odometry((0, 0, 0), START_S, topic="/o2")),
        {},
        r"several odometry topics \(/o2, /odom\); choose one with data.odometry",
    ),
    (with_instead(ODOMETRY, lambda t: odometry((1, 2, 3), t)), {}, r"/odom: says that the robot never moves in 40 messages"),
    (with_instead(INFO, lambda t: info(kitti_camera(96, 32), t)), {}, r"is 192x64, but its camera_info says 96x32"),
    (with_instead(INFO, lambda t: info(kitti_camera(*SIZE), t, binning=2)), {}, r"camera_info states binning"),
    (
        with_instead(TOPIC, lambda t: raw(BLANK, t)),
        {},
        r"\(40 without texture\).*; expected at least 20 images of a camera that moves",
    ),
)


@pytest.mark.parametrize(("change", "options", "text"), UNUSABLE)
def test_a_bag_that_cannot_be_used_says_why(drive, config, tmp_path, change, options, text) -> None:
    write_bag(tmp_path / "bag", change(recorded(drive)))
    with pytest.raises(InputError, match=text):
        extract(replace(config, **options))
    assert not [folder for folder in Path(config.cache).glob("*") if folder.is_dir()]


def test_a_bag_is_asked_for(config) -> None:
    with pytest.raises(ConfigError, match=r"data.bag is empty; name a ROS 2 bag: --set data.bag=my.mcap"):
        extract(replace(config, bag=""))
    with pytest.raises(InputError, match=r"bag: no such file or folder"):
        extract(config)


def test_a_calibration_file_stands_in_for_camera_info(drive, config, tmp_path, camera) -> None:
    save_calibration(camera, tmp_path / "camera.yaml")
    write_bag(tmp_path / "bag", [m for m in recorded(drive) if m[0] != INFO])
    assert kept(replace(config, calibration=str(tmp_path / "camera.yaml"))).camera(0) == camera


def test_corrupt_and_wrong_images_are_counted_and_told(drive, config, tmp_path) -> None:
    messages = recorded(drive, compressed)
    for index, cut in ((4, 0.0), (10, 0.5), (20, 0.9)):
        messages[3 * index] = compressed(drive[index].image, drive[index].time_s, cut=cut)
    messages[3 * 30] = compressed(drive[30].image[:32], drive[30].time_s)
    write_bag(tmp_path / "bag", messages)
    with pytest.warns(
        UserWarning, match=r"4 image\(s\) left out: unreadable, the first at 1700000000.400 s: compressed image .* is empty"
    ):
        open_bag(config, "train")
    assert kept(config).report["skipped"] == {"unreadable": 4}


@pytest.mark.parametrize("with_metadata", [True, False])
def test_of_a_cut_off_recording_the_rest_is_used(drive, config, tmp_path, with_metadata) -> None:
    """The last fifth of the file is gone, as after a power failure; its folder may lack metadata.yaml then."""
    bag = write_bag(tmp_path / "bag", recorded(drive, raw, encoding="rgb8"))
    file = bag / "bag.mcap"
    file.write_bytes(file.read_bytes()[: int(0.8 * file.stat().st_size)])
    if not with_metadata:
        (bag / "metadata.yaml").unlink()
    with pytest.warns(UserWarning, match=r"bag.mcap was cut off .*its last messages are missing; what could be read is used"):
        open_bag(config, "train")
    assert FRAMES / 2 < kept(config).report["kept"] <= 0.8 * FRAMES


@pytest.mark.parametrize(
    ("name", "content"), [("a.mcap", b""), ("a.mcap", b"\x89MCAP0\r\n"), ("a.db3", b"SQLite"), ("a.txt", b"x")]
)
def test_what_is_no_bag_is_refused(config, tmp_path, name, content) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}: (not a bag that can be read|no image topic)"):
        extract(replace(config, bag=str(tmp_path / name)))


def test_an_interrupted_extraction_leaves_nothing_that_looks_whole(drive, config, tmp_path, monkeypatch) -> None:
    write_bag(tmp_path / "bag", recorded(drive))
    with monkeypatch.context() as patch:
        patch.setattr(bag_extraction, "MotionFilter", lambda *_: lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            extract(config)
    assert list(Path(config.cache).iterdir()) == []
    assert len(kept(config)) == FRAMES


def test_a_bag_is_read_once_until_it_or_the_options_change(drive, config, tmp_path) -> None:
    bag = write_bag(tmp_path / "bag", recorded(drive))
    first = extract(config)
    written = (first / "report.json").stat().st_mtime_ns
    assert extract(replace(config, val_share=0.3)) == first
    assert (first / "report.json").stat().st_mtime_ns == written
    assert extract(replace(config, min_motion=0.004)) != first
    (bag / "bag.mcap").touch()
    assert extract(config) != first


def test_the_bag_holds_no_truth(config) -> None:
    with pytest.raises(InputError, match=r"a bag holds no true depth to judge with; expected a folder with truth"):
        open_bag(config, "test")


def test_the_report_says_what_was_done(drive, config, tmp_path) -> None:
    write_bag(tmp_path / "bag", recorded(drive))
    report = json.loads((extract(config) / "report.json").read_text())
    driven = sum(np.linalg.norm(b.position - a.position) for a, b in pairwise(drive))
    assert report["travelled_m"] == pytest.approx(driven, abs=0.01)
    assert {key: report[key] for key in ("topic", "odometry", "images", "kept", "pieces", "damage")} == {
        "topic": TOPIC, "odometry": ODOMETRY, "images": FRAMES, "kept": FRAMES, "pieces": 1, "damage": [],
    }  # fmt: skip


def shipped(tmp_path: Path, *overrides: str) -> list[str]:
    """The documented command, two steps of it on small pictures."""
    small = (
        f"data.bag={tmp_path / 'bag' / 'bag.mcap'}", f"data.cache={tmp_path / 'cache'}", f"run.dir={tmp_path / 'run'}",
        "data.width=192", "data.height=64", "data.min_motion=0.003", "data.workers=0", "data.street_samples=2",
        "network.encoder=resnet18", "network.pretrained=none", "optim.batch_size=2", "run.max_steps=2",
    )  # fmt: skip
    return [str(RECIPE), *(word for override in (*small, *overrides) for word in ("--set", override))]


def test_from_a_bag_to_a_bundle_that_predicts_metres(drive, tmp_path, capsys) -> None:
    write_bag(tmp_path / "bag", recorded(drive, compressed))
    assert train.main(shipped(tmp_path)) == 0
    assert export.main([str(tmp_path / "run" / "best.ckpt"), str(tmp_path / "mine")]) == 0
    bundle = bundles.load(tmp_path / "mine")
    assert (bundle.kind, bundle.width, bundle.height) == ("metric", *SIZE)
    camera = kitti_camera(*SIZE)
    assert (bundle.fx, bundle.fy) == pytest.approx((camera.fx, camera.fy))
    frame = Frame(drive[5].image, camera, 0, "camera")
    with closing(load_engine(bundle, options=EngineOptions(threads=1))) as engine:
        prediction = Estimator(bundle, engine).predict([frame])[0]
    assert np.isfinite(prediction.depth).any()
    assert prediction.depth.shape == drive[5].image.shape[:2]


def test_without_odometry_the_choice_is_the_users(drive, tmp_path, capsys) -> None:
    """Nothing gives metres: the recipe stops and says what can be done; told so, it trains depth up to one factor."""
    write_bag(tmp_path / "bag", [m for m in recorded(drive) if m[0] != ODOMETRY])
    with pytest.warns(
        UserWarning, match="without odometry nothing in this bag says how long a metre is: --set method.velocity=0 "
    ):
        assert train.main(shipped(tmp_path)) == 1
    assert "method.velocity needs the distance between frames" in capsys.readouterr().err
    with pytest.warns(UserWarning, match="without odometry"):
        assert train.main(shipped(tmp_path, "method.velocity=0", "method.normalise_disparity=true")) == 0
    assert describe_method(load_method(tmp_path / "run" / "best.ckpt"), "mine").kind == "scale_invariant"
