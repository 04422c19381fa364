"""A thread that works on the newest item only."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class LatestWorker(Generic[T]):
    """Calls `work(item)` on its own thread; an item not yet taken is replaced by a newer one and counted in `dropped`.

    An exception in `work` goes to `on_error(item, exception)`, on the same thread, and the worker carries on.
    """

    def __init__(self, work: Callable[[T], None], on_error: Callable[[T, Exception], None]) -> None:
        self._work = work
        self._on_error = on_error
        self._changed = threading.Condition()
        self._pending: list[T] = []  # at most one
        self._closed = False
        self._dropped = 0
        # A daemon: work that hangs (a driver, a device) must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="latest-worker", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Number of items that were put but never worked on."""
        return self._dropped

    def put(self, item: T) -> None:
        """Hand over the newest item and return at once; after close() it only counts as dropped."""
        with self._changed:
            if self._closed:
                self._dropped += 1
                return
            self._dropped += len(self._pending)
            self._pending[:] = [item]
            self._changed.notify()

    def close(self, timeout_s: float) -> bool:
        """Stop after the item in work, dropping one that waits; return whether the thread ended within `timeout_s`.

        May be called twice, and from `work` itself (where it returns False at once: the thread ends when work returns).
        """
        with self._changed:
            self._closed = True
            self._dropped += len(self._pending)
            self._pending.clear()
            self._changed.notify()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout_s)
            return not self._thread.is_alive()
        return False

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._pending)
                if self._closed:
                    return
                item = self._pending.pop()
            try:
                self._work(item)
            except Exception as error:
                self._on_error(item, error)
