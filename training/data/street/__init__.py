"""Procedural worlds with exact truth: image, depth, pose, moving objects and plain surfaces, for training, tests and demo.

python -m training.data.street --preview                    a sheet of all scenes in out/street.png
python -m training.data.street --clip assets/street         the clip that ships with the demo
"""

from __future__ import annotations

from training.data.street.config import StreetConfig
from training.data.street.world import CAMERA_HEIGHT, Rendering, Street, kitti_camera

__all__ = ["CAMERA_HEIGHT", "Rendering", "Street", "StreetConfig", "kitti_camera"]
