"""The torch twin against the compiled renderer: the same hits, the same depth, the same picture but for roundings."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from depth_ros.types import CameraModel, InputError
from training.data.street import Street, StreetConfig, kitti_camera
from training.data.street.cast import cast
from training.data.street.twin import renderer as twin
from training.data.street.twin.cast import cast as torch_cast
from training.data.street.twin.cast import gather_views
from training.data.street.twin.renderer import TorchRenderer
from training.data.street.world import pinhole

TIMES = (3.0, 4.5)
INDOORS = CameraModel(72, 48, 50.0, 50.0, 35.5, 23.5)
WORLDS = [
    (0, StreetConfig(movers=1.0)),
    (1, StreetConfig(textures="test", light=0.1, rain=0.8)),
    (2, StreetConfig(snow=0.6, plain=0.6)),
    (3, StreetConfig(scene="room")),
    (4, StreetConfig(scene="room", textures="test", plain=0.4)),
    (5, StreetConfig(scene="ground")),
]


def view_of(seed: int, config: StreetConfig) -> tuple[Street, CameraModel, np.ndarray]:
    world = Street(seed, config)
    camera = INDOORS if config.scene == "room" else kitti_camera(104, 32)
    return world, camera, np.stack([world.pose(t_s) for t_s in TIMES])


@pytest.mark.parametrize(("seed", "config"), WORLDS)
def test_rays_meet_the_same_parts_at_the_same_depth(seed: int, config: StreetConfig) -> None:
    world, camera, poses = view_of(seed, config)
    parts = [world.parts_at(t_s, pose) for t_s, pose in zip(TIMES, poses, strict=True)]
    depths, hits = torch_cast(gather_views(camera, torch.from_numpy(poses), parts))
    for view, before in enumerate((0, len(parts[0]))):  # the views' parts follow each other
        depth, hit = cast(*pinhole(camera), poses[view], parts[view])
        found = hits[view].numpy()
        same = np.where(found >= 0, found - before, found) == hit
        assert same.mean() >= 0.999
        near = same & (depth < 200.0)
        assert np.abs(depths[view].numpy()[near] - depth[near]).max() < 1e-6


@pytest.mark.parametrize(("seed", "config"), WORLDS)
def test_the_pictures_and_masks_are_the_same(seed: int, config: StreetConfig) -> None:
    world, camera, poses = view_of(seed, config)
    views = TorchRenderer("cpu").render(world, camera, torch.from_numpy(poses), TIMES)
    assert views.images.shape == (2, 3, camera.height, camera.width)
    assert views.depth.shape == views.moving.shape == views.plain.shape == (2, 1, camera.height, camera.width)
    for i, (t_s, pose) in enumerate(zip(TIMES, poses, strict=True)):
        expected = world.render(camera, pose, t_s)
        image = 255.0 * views.images[i].permute(1, 2, 0).numpy()
        assert np.abs(image - expected.image).mean() < 0.5  # 0.25 is what rounding to 8 bits costs
        near = expected.depth < 200.0  # the ground runs on to the horizon
        assert np.abs(views.depth[i, 0].numpy()[near] - expected.depth[near]).max() < 1e-3
        assert np.mean(np.isinf(views.depth[i, 0].numpy()) == np.isinf(expected.depth)) >= 0.999
        assert np.array_equal(views.moving[i, 0], expected.moving)
        assert np.array_equal(views.plain[i, 0], expected.plain)


def test_many_views_at_once_are_each_as_if_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twin, "VIEWS_AT_ONCE", 2)
    world, camera = Street(6, StreetConfig(movers=1.0)), kitti_camera(52, 16)
    times = (1.0, 4.0, 20.0)
    poses, renderer = torch.from_numpy(np.stack([world.pose(t_s) for t_s in times])), TorchRenderer("cpu")
    together = renderer.render(world, camera, poses, times)
    for i in range(3):
        alone = renderer.render(world, camera, poses[i : i + 1], times[i : i + 1])
        for name in ("images", "depth", "moving", "plain"):
            assert torch.equal(getattr(alone, name)[0], getattr(together, name)[i])


@pytest.mark.parametrize(("seed", "config"), [WORLDS[1], WORLDS[4]])
def test_every_tensor_is_made_on_the_renderers_device(seed: int, config: StreetConfig) -> None:
    """One that is made on the default device instead, here one that holds no numbers, cannot be mixed with the others."""
    world, _, poses = view_of(seed, config)
    with torch.device("meta"):
        views = TorchRenderer("cpu").render(world, kitti_camera(52, 16), torch.from_numpy(poses), TIMES)
    assert all(tensor.device.type == "cpu" for tensor in views)


def test_it_refuses_what_the_compiled_renderer_refuses() -> None:
    with pytest.raises(InputError, match="above the ground"):
        TorchRenderer("cpu").render(Street(0), kitti_camera(52, 16), torch.eye(4)[None], [1.0])
