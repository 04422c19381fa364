"""How the ray-caster's functions are compiled: once per version of this folder, for all processes to come."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numba

# No nnan/ninf: the kernels rely on infinities being ordinary numbers.
_FAST = {"contract", "reassoc", "arcp", "nsz", "afn"}


def _cache_folder() -> Path:
    """A folder of compiled code for this version of the sources.

    numba itself compiles a function again when its own file has changed, but not when a function has that it calls.
    """
    sources = hashlib.sha256(b"".join(file.read_bytes() for file in sorted(Path(__file__).parent.glob("*.py"))))
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "depth_ros" / "street" / sources.hexdigest()[:16]


if not os.environ.get("NUMBA_CACHE_DIR"):
    numba.config.CACHE_DIR = str(_cache_folder())

kernel = numba.njit(cache=True, nogil=True, fastmath=_FAST)
exact_kernel = numba.njit(cache=True, nogil=True)  # where the order of operations decides, as in a hash
