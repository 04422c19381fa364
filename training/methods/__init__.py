"""The table of methods. A method is losses over shared parts; every method states a sigma."""

from __future__ import annotations

from training.config import ConfigError, TrainConfig
from training.methods.method import Method
from training.methods.monodepth2 import Monodepth2
from training.methods.self_teaching import SelfTeaching
from training.methods.supervised import Supervised

METHODS: dict[str, type[Method]] = {
    "monodepth2": Monodepth2,
    "supervised": Supervised,
    "self_teaching": SelfTeaching,
}


def build_method(config: TrainConfig) -> Method:
    """Build the method named in the config. Raises ConfigError."""
    if config.method.name not in METHODS:
        raise ConfigError(f"method.name is '{config.method.name}'; expected one of {', '.join(METHODS)}")
    return METHODS[config.method.name](config)
