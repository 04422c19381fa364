"""Shared fixtures: small settings, and streets rendered once as a batch, as a recorded video and as an evaluation set."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from depth_ros.calibration import save_calibration
from depth_ros.types import CameraModel
from training.batch import Batch, collate
from training.config import TrainConfig, merge
from training.data.street import Street, StreetConfig, kitti_camera
from training.data.street.samples import StreetSamples
from training.methods import METHODS, Method, build_method
from training.methods.taught import TaughtDepth
from training.networks import ENCODERS

SMALL = {
    "data": {"width": 192, "height": 64, "workers": 0},
    "network": {"pretrained": "none"},
    "optim": {"batch_size": 2},
}
FRAMES = 14

ConfigMaker = Callable[..., TrainConfig]
SetWriter = Callable[..., Path]
MethodBuilder = Callable[..., Method]


class TinyEncoder(nn.Module):
    """Five feature maps at strides 2 to 32: enough for what decoders and methods do with them, and quick to export."""

    channels = (8, 8, 8, 8, 8)

    def __init__(self, images: int = 1) -> None:
        super().__init__()
        self.steps = nn.ModuleList(nn.Conv2d(inputs, 8, 3, 2, 1) for inputs in (3 * images, 8, 8, 8, 8))

    def forward(self, image: Tensor) -> list[Tensor]:
        features = [image]
        for step in self.steps:
            features.append(F.elu(step(features[-1])))
        return features[1:]


@pytest.fixture
def tiny_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """network.encoder may be tiny."""
    monkeypatch.setitem(ENCODERS, "tiny", TinyEncoder)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def camera() -> CameraModel:
    """KITTI's camera at the size the tests train at."""
    return kitti_camera(192, 64)


@pytest.fixture(scope="session")
def make_config() -> ConfigMaker:
    """Small settings without pretrained weights; sections of differences as keyword arguments."""

    def make(**sections: Any) -> TrainConfig:
        config: TrainConfig = merge(merge(TrainConfig(), SMALL, "small"), sections, "test")
        return config

    return make


@pytest.fixture(scope="session")
def street_batch(camera: CameraModel) -> Batch:
    """Four targets, each with the frames before and after, poses and exact depth."""
    samples = StreetSamples(camera, 4, views=("before", "after"), seed=11)
    return collate([samples[i] for i in range(4)])


@pytest.fixture(scope="session")
def street_video(tmp_path_factory: pytest.TempPathFactory, camera: CameraModel) -> Path:
    """A drive at 10 Hz as a user records it: image/*.png, camera.yaml and poses.txt."""
    folder, street = tmp_path_factory.mktemp("video"), Street(3, StreetConfig(sway=0.0))
    (folder / "image").mkdir()
    times = 2.0 + 0.1 * np.arange(FRAMES)
    for index, t_s in enumerate(times):
        image = street.render(camera, street.pose(t_s), t_s).image
        cv2.imwrite(str(folder / "image" / f"{index:06d}.png"), image[..., ::-1])
    save_calibration(camera, folder / "camera.yaml")
    np.savetxt(folder / "poses.txt", [street.pose(t_s)[:3].ravel() for t_s in times])
    return folder


@pytest.fixture(scope="session")
def write_set() -> SetWriter:
    """Write an evaluation set: images (N, H, W, 3) RGB and truths (N, H, W) [m], as depth or as disparity."""

    def write(folder: Path, camera: CameraModel, images: Any, truths: Any, baseline_m: float | None = None) -> Path:
        truth_folder, values = ("disp", camera.fx * (baseline_m or 0)) if baseline_m else ("depth", None)
        for name in ("image", truth_folder):
            (folder / name).mkdir(parents=True)
        K = [[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1]]
        meta = {"K": K, "width": camera.width, "height": camera.height, "depth_scale": 256, "disp_scale": 256}
        (folder / "meta.json").write_text(json.dumps(meta | {"baseline_m": baseline_m}))
        for index, (image, truth) in enumerate(zip(images, truths, strict=True)):
            stored = np.where(truth > 0, values / np.maximum(truth, 1e-9), 0) if values else truth
            cv2.imwrite(str(folder / "image" / f"{index:06d}.png"), image[..., ::-1])
            cv2.imwrite(str(folder / truth_folder / f"{index:06d}.png"), np.round(stored * 256).astype(np.uint16))
        return folder

    return write


@pytest.fixture(scope="session")
def street_set(tmp_path_factory: pytest.TempPathFactory, camera: CameraModel, write_set: SetWriter) -> Path:
    """Eight views of streets that no other fixture shows, with exact depth."""
    samples = StreetSamples(camera, 8, seed=500)
    folder = tmp_path_factory.mktemp("sets") / "streets"
    return write_set(folder, camera, [samples[i].image for i in range(8)], [samples[i].depth for i in range(8)])


@pytest.fixture(scope="session")
def build(make_config: ConfigMaker, camera: CameraModel) -> MethodBuilder:
    """Build a method for the streets' camera; a student is taught by an untrained Monodepth2."""

    def make(name: str, **sections: Any) -> Method:
        teachers = {"teachers": ["teacher.ckpt"]} if issubclass(METHODS.get(name, Method), TaughtDepth) else {}
        sections["method"] = {"name": name, **teachers, **sections.get("method", {})}
        method = build_method(make_config(**sections))
        method.focal.copy_(torch.tensor([camera.fx, camera.fy]))
        if isinstance(method, TaughtDepth):
            method.set_teachers([make("monodepth2")])
        return method

    return make
