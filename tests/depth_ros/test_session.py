"""A run over stand-ins for its three processes: nothing is left, whatever one of them does."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from depth_ros.tools import processes
from depth_ros.tools.session import Session, SessionError

SERVER = """
import json, os, pathlib, signal, sys, time
stopped = []
signal.signal(signal.SIGINT, lambda *_: stopped.append(1))
pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
while not stopped:
    print(json.dumps({"ready": True, "images": 0, "answers": 0, "rate_hz": None, "latency_ms": None}), flush=True)
    time.sleep(0.05)
"""
STUBBORN = """
import os, pathlib, signal, sys, time
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, signal.SIG_IGN)
pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
time.sleep(120)
"""


def running(pid_file: Path) -> bool:
    return Path(f"/proc/{pid_file.read_text()}").exists()


def test_player_that_has_to_be_killed_leaves_nothing_and_is_named(tmp_path, monkeypatch):
    (tmp_path / "server.py").write_text(SERVER)
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(processes, "STOP_STEPS", tuple((number, 2.0) for number, _ in processes.STOP_STEPS))
    pids = {name: tmp_path / f"{name}.pid" for name in ("recorder", "node", "player")}
    session = Session(
        recorder=["server", str(pids["recorder"])], node=["server", str(pids["node"])], player=["stubborn", str(pids["player"])],
        index=tmp_path / "frames.csv", log=tmp_path,
    )  # fmt: skip
    interrupted = threading.Event()

    def interrupt() -> None:
        while not pids["player"].is_file():
            time.sleep(0.05)
        interrupted.set()

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(SessionError, match=r"^player did not stop and had to be killed"):
        session.run(interrupted)
    assert not any(running(file) for file in pids.values())


@pytest.mark.parametrize(
    ("ending", "complaint"),
    [
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", "ended by SIGSEGV; see {log}"),
        ("print('[ERROR] [1.2] [x]: lens cap')\nprint('bye')\nraise SystemExit(1)", "lens cap"),
        ("print('all is well')\nraise SystemExit(3)", "all is well (exit code 3)"),
        ("raise SystemExit(3)", "it said nothing (exit code 3)"),
        ("print('all is well')", "all is well"),
    ],
)  # fmt: skip
def test_complaint_of_a_process_says_how_it_ended(tmp_path, monkeypatch, ending, complaint):
    (tmp_path / "ending.py").write_text(ending)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    child = processes.Child("child", ["ending"], processes.environment(tmp_path), tmp_path / "child.txt")
    assert child.wait(30)
    assert child.complaint() == complaint.format(log=tmp_path / "child.txt")


def test_domain_is_not_the_users(tmp_path, monkeypatch):
    for user in ("42", str(1 + os.getpid() % 100)):
        monkeypatch.setenv("ROS_DOMAIN_ID", user)
        assert processes.environment(tmp_path)["ROS_DOMAIN_ID"] != user
        assert 0 < int(processes.environment(tmp_path)["ROS_DOMAIN_ID"]) <= 101
