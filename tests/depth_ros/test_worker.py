"""The newest item wins, errors are reported, and stopping never hangs. Events order the threads; no sleeping."""

import threading

import pytest

from depth_ros.worker import LatestWorker

LONG_S = 20.0  # only waited for if the worker is broken


class Gate:
    """Work that reports when it starts an item and holds it until released."""

    def __init__(self):
        self.done = []
        self.started = threading.Semaphore(0)
        self.release = threading.Semaphore(0)

    def __call__(self, item):
        self.started.release()
        assert self.release.acquire(timeout=LONG_S)
        self.done.append(item)


@pytest.fixture
def gate():
    return Gate()


@pytest.fixture
def worker(gate):
    errors = []
    worker = LatestWorker(gate, lambda item, error: errors.append((item, error)))
    yield worker
    for _ in range(10):
        gate.release.release()
    assert worker.close(LONG_S)
    assert not errors


def test_newest_item_wins_and_the_others_are_counted(gate, worker):
    worker.put(0)
    assert gate.started.acquire(timeout=LONG_S)  # 0 is in work
    for item in (1, 2, 3):
        worker.put(item)
    assert worker.dropped == 2
    gate.release.release()
    assert gate.started.acquire(timeout=LONG_S)  # 3 is in work
    gate.release.release()
    assert worker.close(LONG_S)
    assert gate.done == [0, 3]
    assert worker.dropped == 2


def test_every_item_is_worked_on_if_there_is_time(gate, worker):
    for item in range(5):
        worker.put(item)
        assert gate.started.acquire(timeout=LONG_S)
        gate.release.release()
    assert worker.close(LONG_S)
    assert gate.done == list(range(5))
    assert worker.dropped == 0


def test_work_runs_on_one_thread_of_its_own():
    threads, finished = set(), threading.Semaphore(0)

    def work(item):
        threads.add(threading.current_thread())
        finished.release()

    worker = LatestWorker(work, lambda item, error: None)
    for item in range(3):
        worker.put(item)
        assert finished.acquire(timeout=LONG_S)
    assert worker.close(LONG_S)
    assert len(threads) == 1
    assert threading.current_thread() not in threads


def test_error_is_reported_with_its_item_and_the_worker_carries_on():
    errors, done, finished = [], [], threading.Semaphore(0)

    def work(item):
        if item == "bad":
            raise ValueError("broken frame")
        done.append(item)
        finished.release()

    def on_error(item, error):
        errors.append((item, str(error)))
        finished.release()

    worker = LatestWorker(work, on_error)
    for item in ("bad", "good", "bad"):
        worker.put(item)
        assert finished.acquire(timeout=LONG_S)
    assert worker.close(LONG_S)
    assert errors == [("bad", "broken frame")] * 2
    assert done == ["good"]


def test_close_lets_running_work_finish_and_drops_what_waits(gate, worker):
    worker.put("running")
    assert gate.started.acquire(timeout=LONG_S)
    worker.put("waiting")
    assert not worker.close(0.01)  # still running
    assert worker.dropped == 1
    gate.release.release()
    assert worker.close(LONG_S)
    assert gate.done == ["running"]


def test_close_twice_and_put_after_close(gate, worker):
    assert worker.close(LONG_S)
    assert worker.close(LONG_S)
    worker.put("late")
    assert gate.done == []
    assert worker.dropped == 1


def test_close_from_work_itself_does_not_hang():
    closed = threading.Event()

    def work(item):
        assert not worker.close(LONG_S)
        closed.set()

    worker = LatestWorker(work, lambda item, error: None)
    worker.put(1)
    assert closed.wait(LONG_S)
    assert worker.close(LONG_S)


def test_no_item_is_lost_or_worked_on_twice_under_load():
    done = []
    worker = LatestWorker(done.append, lambda item, error: None)
    for item in range(20_000):
        worker.put(item)
    assert worker.close(LONG_S)
    assert len(done) + worker.dropped == 20_000
    assert done == sorted(set(done))


def test_closed_worker_leaves_no_thread():
    before = threading.active_count()
    for _ in range(20):
        worker = LatestWorker(print, print)
        assert worker.close(LONG_S)
    assert threading.active_count() == before
