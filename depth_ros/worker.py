"""A thread that works on the newest items only: at most one of each source."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Mapping
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")

ALIVE_S = 1.0  # a source that was silent for longer is not waited for


class LatestWorker(Generic[K, T]):
    """Calls `work({source: item})` on its own thread with the newest item of every source that has a new one.

    An item not yet taken is replaced by a newer one of its source and counted in `dropped`; so a fast source takes nothing
    from a slow one. The first item waits up to `window_s` for those of other sources that have sent lately. An exception in
    `work` goes to `on_error(items, exception)`, on the same thread, and the worker carries on.
    """

    def __init__(
        self,
        work: Callable[[Mapping[K, T]], None],
        on_error: Callable[[Mapping[K, T], Exception], None],
        window_s: float = 0.0,
    ) -> None:
        self._work = work
        self._on_error = on_error
        self._window_s = window_s
        self._changed = threading.Condition()
        self._pending: dict[K, T] = {}
        self._put_s: dict[K, float] = {}  # when a source's last item came
        self._first_s = 0.0  # when the oldest pending one did
        self._closed = False
        self._dropped: Counter[K] = Counter()
        # A daemon: work that hangs (a driver, a device) must not keep the process from ending.
        self._thread = threading.Thread(target=self._run, name="latest-worker", daemon=True)
        self._thread.start()

    def dropped(self, source: K) -> int:
        """Return the number of items of a source that were put but never worked on."""
        return self._dropped[source]

    def put(self, source: K, item: T) -> None:
        """Hand over a source's newest item and return at once; after close() it only counts as dropped."""
        with self._changed:
            if self._closed:
                self._dropped[source] += 1
                return
            now = time.monotonic()
            self._dropped[source] += source in self._pending
            self._first_s = self._first_s if self._pending else now
            self._put_s[source] = now
            self._pending[source] = item
            self._changed.notify()

    def close(self, timeout_s: float) -> bool:
        """Stop after the items in work, dropping what waits; return whether the thread ended within `timeout_s`.

        May be called twice, and from `work` itself (where it returns False at once: the thread ends when work returns).
        """
        with self._changed:
            self._closed = True
            self._dropped.update(self._pending.keys())
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
                self._changed.wait_for(self._complete, self._first_s + self._window_s - time.monotonic())
                if self._closed:
                    return
                items, self._pending = self._pending, {}
            try:
                self._work(items)
            except Exception as error:
                self._on_error(items, error)

    def _complete(self) -> bool:
        """Whether there is nothing to wait for: every source that is alive has an item here."""
        now = time.monotonic()
        return self._closed or all(s in self._pending for s, put_s in self._put_s.items() if now - put_s < ALIVE_S)
