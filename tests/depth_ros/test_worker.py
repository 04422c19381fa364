"""The newest item wins, errors are reported, and stopping never hangs. Events order the threads; no sleeping."""

import threading
import time

import pytest

from depth_ros.worker import LatestWorker

LONG_S = 20.0  # only waited for if the worker is broken
A, B, C = "front", "left", "right"  # sources


class Gate:
    """Work that reports when it starts an item and holds it until released."""

    def __init__(self):
        self.done = []
        self.started = threading.Semaphore(0)
        self.release = threading.Semaphore(0)

    def __call__(self, items):
        self.started.release()
        assert self.release.acquire(timeout=LONG_S)
        self.done.append(dict(items))


@pytest.fixture
def gate():
    return Gate()


@pytest.fixture
def worker(gate):
    errors = []
    worker = LatestWorker(gate, lambda items, error: errors.append((items, error)))
    yield worker
    for _ in range(10):
        gate.release.release()
    assert worker.close(LONG_S)
    assert not errors


def test_newest_item_wins_and_the_others_are_counted(gate, worker):
    worker.put(A, 0)
    assert gate.started.acquire(timeout=LONG_S)  # 0 is in work
    for item in (1, 2, 3):
        worker.put(A, item)
    assert worker.dropped(A) == 2
    gate.release.release()
    assert gate.started.acquire(timeout=LONG_S)  # 3 is in work
    gate.release.release()
    assert worker.close(LONG_S)
    assert gate.done == [{A: 0}, {A: 3}]
    assert worker.dropped(A) == 2


def test_every_item_is_worked_on_if_there_is_time(gate, worker):
    for item in range(5):
        worker.put(A, item)
        assert gate.started.acquire(timeout=LONG_S)
        gate.release.release()
    assert worker.close(LONG_S)
    assert gate.done == [{A: item} for item in range(5)]
    assert worker.dropped(A) == 0


def test_work_runs_on_one_thread_of_its_own():
    threads, finished = set(), threading.Semaphore(0)

    def work(items):
        threads.add(threading.current_thread())
        finished.release()

    worker = LatestWorker(work, lambda items, error: None)
    for item in range(3):
        worker.put(A, item)
        assert finished.acquire(timeout=LONG_S)
    assert worker.close(LONG_S)
    assert len(threads) == 1
    assert threading.current_thread() not in threads


def test_error_is_reported_with_its_item_and_the_worker_carries_on():
    errors, done, finished = [], [], threading.Semaphore(0)

    def work(items):
        if items[A] == "bad":
            raise ValueError("broken frame")
        done.append(items[A])
        finished.release()

    def on_error(items, error):
        errors.append((items[A], str(error)))
        finished.release()

    worker = LatestWorker(work, on_error)
    for item in ("bad", "good", "bad"):
        worker.put(A, item)
        assert finished.acquire(timeout=LONG_S)
    assert worker.close(LONG_S)
    assert errors == [("bad", "broken frame")] * 2
    assert done == ["good"]


def test_close_lets_running_work_finish_and_drops_what_waits(gate, worker):
    worker.put(A, "running")
    assert gate.started.acquire(timeout=LONG_S)
    worker.put(A, "waiting")
    assert not worker.close(0.01)  # still running
    assert worker.dropped(A) == 1
    gate.release.release()
    assert worker.close(LONG_S)
    assert gate.done == [{A: "running"}]


def test_close_twice_and_put_after_close(gate, worker):
    assert worker.close(LONG_S)
    assert worker.close(LONG_S)
    worker.put(A, "late")
    assert gate.done == []
    assert worker.dropped(A) == 1


def test_close_from_work_itself_does_not_hang():
    closed = threading.Event()

    def work(items):
        assert not worker.close(LONG_S)
        closed.set()

    worker = LatestWorker(work, lambda items, error: None)
    worker.put(A, 1)
    assert closed.wait(LONG_S)
    assert worker.close(LONG_S)


def test_no_item_is_lost_or_worked_on_twice_under_load():
    done = []
    worker = LatestWorker(lambda items: done.append(items[A]), lambda items, error: None)
    for item in range(20_000):
        worker.put(A, item)
    assert worker.close(LONG_S)
    assert len(done) + worker.dropped(A) == 20_000
    assert done == sorted(set(done))


def test_closed_worker_leaves_no_thread():
    before = threading.active_count()
    for _ in range(20):
        worker = LatestWorker(print, print)
        assert worker.close(LONG_S)
    assert threading.active_count() == before


def test_a_fast_source_takes_nothing_from_a_slow_one(gate, worker):
    worker.put(A, 0)
    assert gate.started.acquire(timeout=LONG_S)  # in work: what follows waits
    worker.put(B, "slow")
    for item in range(1, 100):
        worker.put(A, item)
    gate.release.release()
    assert gate.started.acquire(timeout=LONG_S)
    gate.release.release()
    assert worker.close(LONG_S)
    assert gate.done == [{A: 0}, {A: 99, B: "slow"}]
    assert (worker.dropped(A), worker.dropped(B), worker.dropped(C)) == (98, 0, 0)


def windowed(gate, window_s):
    return LatestWorker(gate, lambda items, error: None, window_s)


def test_the_first_waits_for_the_others(gate):
    """For as long as it takes within the window, which here outlasts the test."""
    worker = windowed(gate, LONG_S)
    for source in (A, B, C):  # each alone, so that all are known
        worker.put(source, 0)
        if source == A:
            assert gate.started.acquire(timeout=LONG_S)
            gate.release.release()
    assert not gate.started.acquire(timeout=0.1)  # B and C are here, A is alive
    worker.put(A, 1)
    assert gate.started.acquire(timeout=LONG_S)
    gate.release.release()
    assert worker.close(LONG_S)
    assert gate.done == [{A: 0}, {B: 0, C: 0, A: 1}]


def test_the_window_ends_although_a_source_is_missing(gate):
    worker = windowed(gate, 0.05)
    gate.release.release()
    gate.release.release()
    worker.put(A, 0)
    assert gate.started.acquire(timeout=LONG_S)
    worker.put(B, 0)  # A has just sent, and sends no more
    assert gate.started.acquire(timeout=LONG_S)
    assert worker.close(LONG_S)
    assert gate.done == [{A: 0}, {B: 0}]


def test_a_source_that_died_is_not_waited_for(gate, monkeypatch):
    monkeypatch.setattr("depth_ros.worker.ALIVE_S", 0.05)
    worker = windowed(gate, LONG_S)
    gate.release.release()
    gate.release.release()
    worker.put(A, 0)
    assert gate.started.acquire(timeout=LONG_S)
    time.sleep(0.1)
    worker.put(B, 0)
    assert gate.started.acquire(timeout=LONG_S / 2)
    assert worker.close(LONG_S)
    assert gate.done == [{A: 0}, {B: 0}]


def test_closing_ends_a_wait_for_others(gate):
    worker = windowed(gate, LONG_S)
    gate.release.release()
    worker.put(A, 0)
    assert gate.started.acquire(timeout=LONG_S)
    worker.put(B, 0)
    assert worker.close(LONG_S / 2)
    assert gate.done == [{A: 0}]
    assert worker.dropped(B) == 1
