"""Checkpoints that a benchmark's command line names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from training.config import ConfigError

T = TypeVar("T")


def open_named(texts: Sequence[str], open_one: Callable[[str], T], option: str = "") -> dict[str, T]:
    """What `open_one` makes of every CHECKPOINT of NAME=CHECKPOINT, by its name. Raises ConfigError, which says the `option`."""
    found = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if not equals:
            raise ConfigError(f"{option}{text}; expected NAME=CHECKPOINT")
        found[name] = open_one(path)
    return found
