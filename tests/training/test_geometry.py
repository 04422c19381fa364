"""Pinhole geometry against hand-computed points and a scene with a known answer."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from training import geometry
from training.batch import Batch
from training.data.street import CAMERA_HEIGHT
from training.losses import photometric_error

K = torch.tensor([[[100.0, 0.0, 30.0], [0.0, 120.0, 20.0], [0.0, 0.0, 1.0]]])


def shift(x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Tensor:
    pose = torch.eye(4)[None].clone()
    pose[0, :3, 3] = torch.tensor([x, y, z])
    return pose


def texture(height: int = 40, width: int = 60) -> Tensor:
    return torch.rand(1, 3, height, width)


def test_disparity_is_linear_in_inverse_depth() -> None:
    depth = geometry.disparity_to_depth(torch.tensor([0.0, 0.5, 1.0]), 1.0, 100.0)
    assert depth.tolist() == pytest.approx([100.0, 2 / (1 / 1.0 + 1 / 100.0), 1.0], rel=1e-6)


def test_points_lie_where_the_pinhole_puts_them() -> None:
    points = geometry.backproject(torch.full((1, 1, 40, 60), 4.0), K)
    assert points[0, :, 10, 50].tolist() == pytest.approx([(50 - 30) / 100 * 4, (10 - 20) / 120 * 4, 4.0], rel=1e-5)
    assert points[0, :, 20, 30].tolist() == pytest.approx([0.0, 0.0, 4.0], abs=1e-5)


def test_projection_undoes_backprojection() -> None:
    depth = 1 + 50 * torch.rand(1, 1, 40, 60)
    pixels, back = geometry.project(geometry.backproject(depth, K), K)
    assert torch.allclose(pixels[0], geometry.pixel_grid(40, 60, depth.device)[:2], atol=1e-4)
    assert torch.allclose(back, depth)


def test_sampling_is_bilinear_between_pixel_centres() -> None:
    image = torch.tensor([[[[0.0, 1.0], [2.0, 3.0]]]])
    pixels = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.5, 0.0], [0.5, 0.5], [1.2, 0.0], [0.0, -0.2]]).T[None, :, None, :]
    values = geometry.sample(image, pixels)
    assert values[0, 0, 0].tolist() == pytest.approx([0.0, 3.0, 0.5, 1.5, 1.0, 0.0])  # the last two lie outside


def test_the_identity_warp_returns_the_image() -> None:
    image = texture()
    warped = geometry.warp(image, 1 + 50 * torch.rand(1, 1, 40, 60), K, K, torch.eye(4)[None])
    assert torch.allclose(warped, image, atol=1e-4)


def test_driving_forward_brings_points_closer() -> None:
    """1 m forward: what was 10 m ahead is 9 m ahead, and moves away from the principal point by 10 / 9."""
    points = geometry.transform(torch.tensor([1.0, 0.5, 10.0]).reshape(1, 3, 1, 1), shift(z=-1.0))
    pixels, depth = geometry.project(points, K)
    assert depth.item() == pytest.approx(9.0)
    assert pixels.flatten().tolist() == pytest.approx([30 + 100 * 1.0 / 9, 20 + 120 * 0.5 / 9], rel=1e-5)


def test_what_falls_behind_the_source_camera_does_no_harm() -> None:
    """The left half lies 0.5 m ahead of the target and behind the source: it has no place in the picture, nor a NaN."""
    source, depth = texture(), torch.full((1, 1, 40, 60), 5.0)
    depth[..., :30] = 0.5
    depth.requires_grad_()
    warped = geometry.warp(source, depth, K, K, shift(z=-1.0))
    warped.sum().backward()
    assert torch.isfinite(warped).all()
    assert torch.isfinite(depth.grad).all()
    assert torch.allclose(warped[..., 20, 30], source[..., 20, 30], atol=1e-4)  # straight ahead stays straight ahead


def test_the_photometric_error_of_a_plane_is_least_at_its_depth() -> None:
    """A plane at 2 m seen from 0.04 m further right through fx 100 moves 2 px to the left."""
    target = texture(40, 64)
    source = target.roll(-2, dims=3)
    depths = torch.linspace(1.2, 3.2, 41)

    def error(depth: float) -> float:
        warped = geometry.warp(source, torch.full((1, 1, 40, 64), depth), K, K, shift(x=-0.04))
        return float(photometric_error(warped, target)[..., 6:].mean())  # without what the source does not see

    errors = [error(float(d)) for d in depths]
    assert float(depths[int(np.argmin(errors))]) == pytest.approx(2.0, abs=0.01)
    assert min(errors) < 0.05 * errors[0]


@pytest.mark.parametrize(
    ("axis_angle", "moved"),
    [
        ([math.pi / 2, 0.0, 0.0], [1.0, -3.0, 2.0]),
        ([0.0, math.pi / 2, 0.0], [3.0, 2.0, -1.0]),
        ([0.0, 0.0, math.pi / 2], [-2.0, 1.0, 3.0]),
    ],
)
def test_quarter_turns(axis_angle: list[float], moved: list[float]) -> None:
    pose = geometry.pose_matrix(torch.tensor([axis_angle]), torch.tensor([[10.0, 20.0, 30.0]]))
    point = pose[0] @ torch.tensor([1.0, 2.0, 3.0, 1.0])
    assert point.tolist() == pytest.approx([m + t for m, t in zip(moved, (10, 20, 30), strict=True)] + [1.0], abs=1e-5)


def test_rotation_vectors_agree_with_rodrigues() -> None:
    vectors = torch.randn(20, 3) * torch.logspace(-6, 0, 20)[:, None]
    poses = geometry.pose_matrix(vectors, torch.zeros(20, 3))
    for vector, pose in zip(vectors.numpy(), poses.numpy(), strict=True):
        assert pose[:3, :3] == pytest.approx(cv2.Rodrigues(vector.astype(np.float64))[0], abs=1e-5)


def test_a_pose_of_zero_has_a_finite_gradient() -> None:
    """Learned poses start near zero, where formulas with sin(x) / x break."""
    vector = torch.zeros(1, 3, requires_grad=True)
    geometry.pose_matrix(vector, torch.zeros(1, 3)).square().sum().backward()
    assert torch.isfinite(vector.grad).all()


def test_the_inverse_pose_undoes_the_pose() -> None:
    pose = geometry.pose_matrix(torch.randn(5, 3), torch.randn(5, 3))
    assert torch.allclose(geometry.invert_pose(pose) @ pose, torch.eye(4).expand(5, 4, 4), atol=1e-5)


def tilted_plane(slope_deg: float, distance: float) -> tuple[Tensor, Tensor]:
    """Depth (1, 1, 40, 60) of a plane below the camera whose normal leans by slope_deg from the vertical, and that normal."""
    slope = math.radians(slope_deg)
    normal = torch.tensor([0.0, math.cos(slope), math.sin(slope)])
    rays = geometry.backproject(torch.ones(1, 1, 40, 60), K)
    along = torch.einsum("i,bihw->bhw", normal, rays)[:, None]
    return distance / along.clamp(min=1e-3), normal


@pytest.mark.parametrize("slope_deg", [-3.0, 0.0, 40.0])
def test_normals_of_a_plane(slope_deg: float) -> None:
    depth, normal = tilted_plane(slope_deg, 1.7)
    found = geometry.surface_normals(geometry.backproject(depth, K))[..., 30:, :]
    assert torch.allclose(found.abs(), normal[None, :, None, None].abs().expand_as(found), atol=1e-3)
    assert (torch.sign(found[:, 1]) == torch.sign(found[0, 1, 0, 0])).all()


@pytest.mark.parametrize(("slope_deg", "is_ground"), [(0.0, True), (4.0, True), (-4.0, True), (7.0, False), (-7.0, False)])
def test_ground_is_level_within_five_degrees(slope_deg: float, is_ground: bool) -> None:
    height = geometry.height_above_ground(tilted_plane(slope_deg, 1.7)[0], K)
    if is_ground:
        assert height.item() == pytest.approx(1.7, rel=1e-3)
    else:
        assert math.isnan(height.item())


def test_a_ceiling_is_no_ground() -> None:
    depth, _ = tilted_plane(0.0, 1.7)
    assert math.isnan(geometry.height_above_ground(depth.flip(2), K).item())


def test_the_camera_of_a_street_stands_as_high_as_it_was_put(street_batch: Batch) -> None:
    """1.65 m, up to 0.015 m of sway: the median finds the road among cars, kerbs and houses."""
    height = geometry.height_above_ground(torch.where(street_batch.valid, street_batch.depth, 100.0), street_batch.K)
    assert height.numpy() == pytest.approx(np.full(4, CAMERA_HEIGHT), rel=0.02)
