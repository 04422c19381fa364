"""The cache of built engines: real files, and real processes that are killed, refused and kept waiting."""

import hashlib
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from depth_ros import bundle
from depth_ros.engines import EngineError, EngineOptions, plans
from depth_ros.engines.plan_keys import Device, PlanKey, plan_key
from depth_ros.engines.plans import PlanCache, write_atomically

ROOT = Path(__file__).resolve().parents[2]
KEY = PlanKey("ab" * 32, "tensorrt", "10.3.0", "Orin (nvgpu)", "8.7", "fp16", 2, name="mono")
OTHER = {
    "graph_sha256": "cd" * 32,
    "backend": "tensorrt_rtx",
    "version": "10.13.0",
    "gpu": "RTX A2000",
    "compute_capability": "8.6",
    "precision": "fp32",
    "batch": 4,
    "frame": "1280x720",
    "name": "stereo",
}
PREAMBLE = f"""
import os, sys, signal, resource, time
from pathlib import Path
from depth_ros.engines import EngineError
from depth_ros.engines.plan_keys import PlanKey
from depth_ros.engines.plans import PlanCache
KEY = PlanKey(**{asdict(KEY)!r})
cache = PlanCache(Path(sys.argv[1]))
"""


@pytest.fixture
def cache(tmp_path):
    return PlanCache(tmp_path / "cache")


@pytest.fixture
def stored(cache):
    with cache.lock(KEY):
        cache.store(KEY, b"plan" * 100, {"build_seconds": 12.5})
    return cache


def start(code, *arguments):
    command = [sys.executable, "-c", PREAMBLE + code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run(code, *arguments):
    process = start(code, *arguments)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    return output


def test_what_is_stored_is_found_with_all_that_it_depends_on(stored):
    plan = stored.find(KEY)
    assert (plan.data, plan.reason, plan.refused) == (b"plan" * 100, "", "")
    sidecar = json.loads(plan.path.with_suffix(".json").read_text())
    assert sidecar["key"] == asdict(KEY)
    assert sidecar["plan_sha256"] == hashlib.sha256(b"plan" * 100).hexdigest()
    assert sidecar["plan_bytes"] == 400
    assert sidecar["build_seconds"] == 12.5
    assert sidecar == plan.details


def test_an_empty_or_absent_folder_holds_no_plan(cache):
    assert cache.find(KEY) is None
    cache.folder.mkdir()
    assert cache.find(KEY) is None


def test_every_part_of_the_key_is_told_apart(stored):
    assert set(OTHER) == set(asdict(KEY))
    keys = [KEY, *(replace(KEY, **{name: value}) for name, value in OTHER.items())]
    assert len({stored.path(key) for key in keys}) == len(keys)
    for key in keys[1:]:
        plan = stored.find(key)
        assert plan is None or (plan.reason and not plan.data)


@pytest.mark.parametrize(
    ("part", "found"),
    [
        ("version", "version 10.3.0, here it is 10.13.0"),
        ("gpu", "gpu Orin (nvgpu), here it is RTX A2000"),
        ("compute_capability", "compute capability 8.7, here it is 8.6"),
        ("graph_sha256", "graph sha256 abababababab, here it is cdcdcdcdcdcd"),
        ("backend", "backend tensorrt, here it is tensorrt_rtx"),
    ],
)
def test_a_plan_for_something_else_says_for_what(stored, part, found):
    plan = stored.find(replace(KEY, **{part: OTHER[part]}))
    assert plan.data == b""
    assert str(stored.path(KEY)) in plan.reason
    assert plan.reason.count("here it is") == 1
    assert found in plan.reason


def test_the_nearest_of_several_others_is_named(stored):
    stored.store(replace(KEY, version="9.0", gpu="Xavier"), b"old", {})
    assert "10.3.0" in stored.find(replace(KEY, version="10.13.0")).reason


def test_a_plan_copied_from_another_machine_is_not_used(stored):
    elsewhere = replace(KEY, gpu="Thor")
    for ending in (".plan", ".json"):
        stored.path(KEY).with_suffix(ending).rename(stored.path(elsewhere).with_suffix(ending))
    plan = stored.find(elsewhere)
    assert plan.data == b""
    assert "gpu Orin (nvgpu), here it is Thor" in plan.reason


def damage_one_byte(plan, sidecar):
    content = bytearray(plan.read_bytes())
    content[200] ^= 1
    plan.write_bytes(content)


def cut_off(plan, sidecar):
    plan.write_bytes(plan.read_bytes()[:-1])


def lose_plan(plan, sidecar):
    plan.unlink()


def lose_sidecar(plan, sidecar):
    sidecar.unlink()


def cut_off_sidecar(plan, sidecar):
    sidecar.write_text(sidecar.read_text()[:60])


def empty_sidecar(plan, sidecar):
    sidecar.write_text("{}")


def list_sidecar(plan, sidecar):
    sidecar.write_text("[]")


def sidecar_of_a_later_release(plan, sidecar):
    values = json.loads(sidecar.read_text())
    values["key"]["driver"] = "570"
    sidecar.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("harm", "named"),
    [
        (damage_one_byte, "corrupt: 400 bytes"),
        (cut_off, "corrupt: 399 bytes"),
        (lose_plan, "No such file"),
        (lose_sidecar, "has no sidecar"),
        (cut_off_sidecar, "not a sidecar"),
        (empty_sidecar, "not a sidecar"),
        (list_sidecar, "not a sidecar"),
        (sidecar_of_a_later_release, "not a sidecar"),
    ],
)
def test_a_damaged_plan_is_never_given_out(stored, harm, named):
    plan = stored.path(KEY)
    harm(plan, plan.with_suffix(".json"))
    found = stored.find(KEY)
    assert found.data == b""
    assert named in found.reason
    assert str(plan.with_suffix("")) in found.reason
    stored.store(KEY, b"new", {})
    assert stored.find(KEY).data == b"new"


def test_a_refused_plan_names_the_one_to_use_instead(stored):
    exact = replace(KEY, precision="fp32", graph_sha256="ef" * 32)
    stored.refuse(KEY, "depth p99 0.3 > 0.05", exact, {})
    assert not stored.path(KEY).exists()
    assert stored.find(KEY) is None  # it is not there yet
    stored.store(exact, b"exact", {})
    plan = stored.find(KEY)
    assert (plan.data, plan.key, plan.reason) == (b"exact", exact, "")
    assert plan.refused == "fp16 was refused (depth p99 0.3 > 0.05)"


@pytest.mark.parametrize("instead", ["fp32", {"precision": "fp32"}, "itself"])
def test_a_refusal_that_names_no_plan_is_not_a_sidecar(stored, instead):
    stored.refuse(KEY, "depth p99 0.3 > 0.05", None, {})
    sidecar = stored.path(KEY).with_suffix(".json")
    values = json.loads(sidecar.read_text())
    values["instead"] = values["key"] if instead == "itself" else instead
    sidecar.write_text(json.dumps(values))
    plan = stored.find(KEY)
    assert plan.data == b""
    assert "not a sidecar" in plan.reason


def test_a_plan_refused_with_nothing_instead_stays_refused_until_it_is_built_anew(stored):
    stored.refuse(KEY, "depth p99 0.3 > 0.05", None, {})
    plan = stored.find(KEY)
    assert plan.data == b""
    assert "depth p99 0.3 > 0.05" in plan.reason
    stored.store(KEY, b"new", {})
    assert stored.find(KEY).data == b"new"


def test_file_names_say_what_a_plan_is_and_stay_in_the_folder(cache):
    name = cache.path(replace(KEY, frame="1280x720")).name
    assert name.startswith("mono-fp16-b2-1280x720-")
    assert cache.path(replace(KEY, name="../../etc/my model")).parent == cache.folder


def test_keys_follow_graph_and_options(make_bundle):
    made = make_bundle()
    device = Device("tensorrt", "10.3.0", "Orin", "8.7")
    key = plan_key(made, EngineOptions(), device)
    assert (key.precision, key.batch, key.frame, key.name) == ("fp16", 1, "", "probe")
    assert plan_key(made, EngineOptions(precision="fp16"), device) == key
    assert plan_key(make_bundle(96, 32), EngineOptions(), device).graph_sha256 != key.graph_sha256
    frame = plan_key(made, EngineOptions(), device, (640, 480))
    deeper = plan_key(bundle.save(replace(made, max_depth=30.0), made.path), EngineOptions(), device, (640, 480))
    assert frame.graph_sha256 != deeper.graph_sha256  # the depth range is inside a frame graph, and only there
    assert plan_key(bundle.load(made.path), EngineOptions(), device) == key
    quantised = [replace(made, int8={"sha256": digit * 64}) for digit in "12"]
    keys = [plan_key(one, EngineOptions(precision="int8"), device) for one in quantised]
    assert len({one.graph_sha256 for one in (key, *keys)}) == 3


@pytest.mark.parametrize(
    ("precision", "named"),
    [
        ("bf16", "no precision 'bf16'; choose fp16 or fp32 or int8"),
        ("int8", r"make one: python -m training\.quantise .*bundle_64x32 FOLDER"),
    ],
)
def test_a_precision_that_there_is_not_is_named(make_bundle, precision, named):
    with pytest.raises(EngineError, match=named):
        plan_key(make_bundle(), EngineOptions(precision=precision), Device("tensorrt", "10.3.0", "Orin", "8.7"))


def test_killed_at_any_moment_of_storing_nothing_invalid_is_left(stored):
    """A child per file operation of store(), killed just before it; afterwards the parent looks and stores again."""
    code = """
def kill_at(number):
    events = []
    def watch(event, arguments):
        if event in ("open", "os.rename", "os.remove") and str(cache.folder) in str(arguments[0]):
            events.append(event)
            if len(events) == number:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(watch)

for number in range(1, 100):
    cache.store(KEY, b"old", {})
    child = os.fork()
    if not child:
        kill_at(number)
        with cache.lock(KEY):
            cache.store(KEY, b"new" * 50000, {})
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    plan = cache.find(KEY)
    print(os.WTERMSIG(status), plan.data[:3].decode() if plan and not plan.reason else "none", len(plan.data) if plan else 0)
    with cache.lock(KEY):  # the kernel gave it back
        cache.store(KEY, b"again", {})
    assert cache.find(KEY).data == b"again"
    assert not list(cache.folder.glob(".*")), "temporary files stay"
    if status == 0:
        break
"""
    lines = [line.split() for line in run(code, stored.folder).splitlines()]
    *killed, last = lines
    assert last == ["0", "new", "150000"]
    assert len(killed) >= 6  # opens, renames and removals of two files
    assert {status for status, _, _ in killed} == {"9"}
    assert {(data, size) for _, data, size in killed} <= {("old", "3"), ("none", "0"), ("new", "150000")}, killed
    assert ["9", "old", "3"] in killed


def test_who_waits_for_a_lock_says_for_whom_and_goes_on_when_the_holder_dies(cache):
    holder = start("with cache.lock(KEY):\n    print('held', flush=True)\n    time.sleep(60)", cache.folder)
    assert holder.stdout.readline() == "held\n"
    said = []

    def kill_holder(text):
        said.append(text)
        holder.kill()

    with cache.lock(KEY, kill_holder):
        holder.wait(timeout=10)
    assert len(said) == 1
    assert f"process {holder.pid} on " in said[0]
    assert cache.path(KEY).stem in said[0]
    holder.stdout.close()


def test_who_waits_says_so_again_and_may_give_up(cache, monkeypatch):
    monkeypatch.setattr(plans, "TURN_S", 0.001)
    said = []

    def give_up_at_the_third(text):
        said.append(text)
        if len(said) == 3:
            raise KeyboardInterrupt

    with cache.lock(KEY), pytest.raises(KeyboardInterrupt), cache.lock(KEY, give_up_at_the_third):
        pytest.fail("two hold one lock")
    assert len(set(said)) == 1
    with cache.lock(KEY, said.append):
        assert len(said) == 3


def test_a_lock_is_free_again_after_an_error_and_locks_of_other_plans_are_others(cache):
    with pytest.raises(RuntimeError), cache.lock(KEY):
        raise RuntimeError
    said = []
    with cache.lock(KEY, said.append), cache.lock(replace(KEY, batch=1), said.append):
        pass
    assert said == []


@pytest.fixture
def open_folder():
    """A folder that every user may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def test_a_read_only_cache_is_read_and_not_written(open_folder):
    """As another user where the tests run as root, whom no permission stops."""
    cache = PlanCache(open_folder / "cache")
    with cache.lock(KEY):
        cache.store(KEY, b"plan", {})
    cache.folder.chmod(0o555)
    code = """
if os.getuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
print(cache.find(KEY).data.decode())
for action in (lambda: cache.lock(KEY).__enter__(), lambda: cache.store(KEY, b"new", {})):
    try:
        action()
    except EngineError as error:
        print(error)
"""
    found, locked, written = run(code, cache.folder).splitlines()
    assert found == "plan"
    for line in (locked, written):
        assert str(cache.folder) in line
        assert "Permission denied" in line
        assert "name another engine cache" in line
    assert cache.find(KEY).data == b"plan"
    cache.folder.chmod(0o755)


def test_a_cache_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineError, match="file/cache"), PlanCache(tmp_path / "file" / "cache").lock(KEY):
        pass


def test_a_full_disk_is_a_clear_error_and_leaves_nothing_behind(cache):
    """The limit on the size of a file stands for the end of the disk: the write of the plan fails half way."""
    code = """
with cache.lock(KEY):
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        cache.store(KEY, bytes(2_000_000), {})
    except EngineError as error:
        print(error)
"""
    said = run(code, cache.folder)
    assert "File too large" in said
    assert "expected 2.0 MB free" in said
    assert str(cache.path(KEY)) in said
    assert [file.suffix for file in cache.folder.iterdir()] == [".lock"]
    assert cache.find(KEY) is None


def test_a_file_that_cannot_be_replaced_stays_as_it_was(tmp_path):
    file = tmp_path / "timing"
    file.write_bytes(b"old")
    script = (
        "import resource, sys; from pathlib import Path; from depth_ros.engines.plans import write_atomically\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10)); write_atomically(Path(sys.argv[1]), bytes(100))"
    )
    done = subprocess.run([sys.executable, "-c", script, file], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "EngineError" in done.stderr
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]
    write_atomically(file, b"new")
    assert file.read_bytes() == b"new"
