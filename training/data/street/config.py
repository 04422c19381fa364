"""What a procedural world holds, and the weather in it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from depth_ros.types import InputError

SCENES = ("street", "room", "ground")
SHARES = ("plain", "movers", "ego_speed_cars", "rain", "snow", "light")
SCALES = ("noise", "fog", "turns", "sway", "exposure")


@dataclass(frozen=True)
class StreetConfig:
    """What a world holds. Shares are 0 to 1; the defaults are an ordinary street on a day without rain or snow.

    Rooms have no weather, and only streets have moving cars: what a scene lacks has no effect there.
    """

    scene: Literal["street", "room", "ground"] = "street"
    plain: float = 0.15  # share of walls, and indoors of floors, without any texture
    movers: float = 0.7  # density of moving cars
    ego_speed_cars: float = 0.1  # share of streets where a car leads at exactly the camera's speed
    noise: float = 2.0  # standard deviation of the sensor noise in daylight [grey levels]
    fog: float = 1.0  # scales the haze; 0 is clear air
    turns: float = 1.0  # scales the bends of the road; 0 is straight
    sway: float = 1.0  # scales the camera's sway; 0 is a perfectly level ride
    rain: float = 0.0  # 1 is a downpour
    snow: float = 0.0  # 1 is a snowfall over a white ground
    light: float = 1.0  # 1 is day, about 0.3 dusk, 0 night with street lamps and a headlight
    exposure: float = 1.0  # scales the camera's exposure
    textures: Literal["train", "test"] = "train"  # the two families share no pattern and no wall colour

    def __post_init__(self) -> None:
        for name in SHARES:
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InputError(f"StreetConfig.{name} is {getattr(self, name)}; expected a share from 0 to 1")
        for name in SCALES:
            if not 0.0 <= getattr(self, name) < math.inf:
                raise InputError(f"StreetConfig.{name} is {getattr(self, name)}; expected 0 or more")
        if self.textures not in ("train", "test"):
            raise InputError(f"StreetConfig.textures is '{self.textures}'; expected 'train' or 'test'")
        if self.scene not in SCENES:
            raise InputError(f"StreetConfig.scene is '{self.scene}'; expected one of {', '.join(SCENES)}")
