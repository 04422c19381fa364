"""What the node says of itself on /diagnostics, over real DDS."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import pytest

pytest.importorskip("rclpy", reason="needs ROS 2")

from diagnostic_msgs.msg import DiagnosticStatus
from harness import NODE, image_message, info_message, wall
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, QoSProfile

from depth_ros import bundle
from depth_ros.engines import AUTO, Choice, EngineError, EngineOptions, PassedOver, choose_engine, load_engine
from depth_ros.ros.camera import Camera
from depth_ros.ros.diagnostics import Diagnostics, Status
from depth_ros.ros.params import NodeParams

INTERFACES = (Path(__file__).resolve().parents[2] / "docs" / "interfaces.md").read_text(encoding="utf-8")
OK, WARN, ERROR = DiagnosticStatus.OK, DiagnosticStatus.WARN, DiagnosticStatus.ERROR


def values(status: DiagnosticStatus) -> dict[str, str]:
    return {item.key: item.value for item in status.values}


def undocumented(keys: Iterable[str]) -> list[str]:
    """Those that the page on interfaces does not name; of the outputs it names the first."""
    return [key for key in keys if f"`{key}`" not in INTERFACES and not key.startswith("subscribers of ")]


def test_the_engine_and_why_no_faster_one(start, make_bundle, states):
    model = make_bundle()
    choice = choose_engine(model, AUTO, EngineOptions(threads=1))
    process = start(NODE, model=model.path, threads=1).wait_ready()
    broken = [item for item in choice.passed_over if not item.expected]
    status = states.wait("mono_depth: engine", WARN if broken else OK, choice.engine.describe())
    assert status.hardware_id == "probe"
    said = values(status)
    assert said["engine"] == choice.name
    assert undocumented(key for key in said if not key.startswith("not ")) == []
    assert {key: value for key, value in said.items() if key.startswith("not ")} == {
        f"not {item.name}": item.reason for item in choice.passed_over
    }
    assert f"on engine {choice.name}: {choice.engine.describe()}" in process.log()
    for item in choice.passed_over:
        (line,) = [line for line in process.log().splitlines() if f"engine passed over: {item}" in line]
        assert ("[WARN]" in line) == (item in broken)


def test_named_engine_passes_nothing_over(start, make_bundle, states):
    process = start(NODE, model=make_bundle().path, engine="onnxruntime").wait_ready()
    status = states.wait("mono_depth: engine", OK, "ONNX Runtime")
    assert not any(key.startswith("not ") for key in values(status))
    assert "passed over" not in process.log()


def test_frames_from_the_first_to_the_refused(start, client, make_bundle, states):
    start(NODE, model=make_bundle().path, engine="onnxruntime").wait_ready()
    states.wait("mono_depth: frames", WARN, "no camera_info on /camera_info yet")
    client.listen("depth/image_rect")
    for _ in range(3):
        client.ask(wall(), info_message(), "depth/image_rect")
    status = states.wait("mono_depth: frames", OK, "answered/s, latency")
    said = values(status)
    assert int(said["received"]) >= int(said["answered"]) > 0
    assert said["refused"] == "0"
    assert 0 < float(said["latency, median [ms]"]) <= float(said["latency, max [ms]"])

    strange = image_message(np.zeros((64, 128), np.uint8), "jpeg2000")
    client.send_until(
        lambda: any(s.level == ERROR and "jpeg2000" in s.message for s in states.seen), strange, info_message(), "refusals"
    )
    refused = [s for s in states.seen if s.level == ERROR]
    assert all(s.name == "mono_depth: frames" for s in refused)
    assert int(values(refused[-1])["refused"]) >= 1
    assert "jpeg2000" in values(refused[-1])["last refusal"]
    assert undocumented(said | values(refused[-1])) == []


def test_images_that_come_elsewhere_are_named(start, client, make_bundle, states):
    """Raw ones where compressed ones are read: in DDS these are two topics that know nothing of each other."""
    start(NODE, model=make_bundle().path, engine="onnxruntime", image_transport="compressed").wait_ready()
    text = "nobody publishes there, but on /image (sensor_msgs/msg/Image): remap image, or set image_transport"
    assert "/image/compressed" in states.wait("mono_depth: frames", WARN, text).message


def test_qos_that_does_not_fit_and_a_camera_that_stops(start, client, make_bundle, states):
    start(NODE, model=make_bundle().path, engine="onnxruntime").wait_ready()
    client.listen("depth/image_rect")
    client.ask(wall(), info_message(), "depth/image_rect")
    stale = states.wait("mono_depth: frames", DiagnosticStatus.STALE, "no image on /image for")
    assert "it has a publisher that sends nothing" in stale.message
    client.listen("points", qos=QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL))

    def reported() -> list[DiagnosticStatus]:
        return [
            s for s in states.seen if s.level == WARN and "/points: a subscriber has incompatible QoS (durability)" in s.message
        ]

    client.send_until(reported, wall(), info_message(), "incompatible QoS on /diagnostics")
    assert "incompatible QoS on /points" in values(reported()[-1])


def test_lifecycle_and_a_model_that_cannot_be_used(start, client, make_bundle, states):
    model = make_bundle()
    good = model.graph_path.read_bytes()
    start(NODE, "-r", "__ns:=/left", model=model.path, engine="onnxruntime", autostart=False)

    def change(transition: int) -> bool:
        request = ChangeState.Request(transition=Transition(id=transition))
        return client.call(ChangeState, "/left/mono_depth/change_state", request).success

    states.wait("left/mono_depth: engine", OK, "not configured")
    states.wait("left/mono_depth: frames", OK, "not active")

    model.graph_path.write_bytes(b"no graph")
    bundle.save(model, model.path)
    assert not change(Transition.TRANSITION_CONFIGURE)
    states.wait("left/mono_depth: engine", WARN, "loading")
    states.wait("left/mono_depth: engine", ERROR, "cannot configure")

    model.graph_path.write_bytes(good)
    bundle.save(model, model.path)
    assert change(Transition.TRANSITION_CONFIGURE)
    states.wait("left/mono_depth: engine", OK, "ONNX Runtime")
    assert change(Transition.TRANSITION_CLEANUP)
    states.seen.clear()
    states.wait("left/mono_depth: engine", OK, "not configured")


def test_a_model_that_does_not_run_fails_to_activate(start, make_bundle, states):
    """The graph is right in form, but asks for a row that it does not have."""
    model = make_bundle()
    graph = onnx.load(model.graph_path)
    for initialiser in graph.graph.initializer:
        if initialiser.name == "red":
            initialiser.CopyFrom(onnx.numpy_helper.from_array(np.int64(9), "red"))
    onnx.save(graph, model.graph_path)
    bundle.save(model, model.path)
    process = start(NODE, model=model.path, engine="onnxruntime")
    assert process.wait() == 1
    assert any("cannot activate: the model does not run" in line for line in process.lines("ERROR"))


# ---- what needs an engine that this machine may not have: said by the same code, in the test's own process


@pytest.fixture
def diagnostics(client, states):
    node = LifecycleNode("mono_depth", context=client.node.context)
    executor = SingleThreadedExecutor(context=client.node.context)
    executor.add_node(node)
    made = Diagnostics(node)
    client.spin_until(lambda: client.node.count_publishers("/diagnostics"), "discovery")
    yield made
    executor.shutdown()
    node.destroy_node()


def test_progress_of_a_build_is_said_while_the_executor_is_busy(client, diagnostics, states):
    """Nothing spins the node here, as while configure builds, and TensorRT reports from threads of its own."""
    client.spin_until(lambda: diagnostics._publisher.get_subscription_count(), "subscriber")
    diagnostics.engine_loading("default")
    for percent in (0, 50):
        thread = threading.Thread(target=diagnostics.engine_loading, args=("default", f"building tensorrt fp16: {percent}%"))
        thread.start()
        thread.join()
    for text in ("loading", "building tensorrt fp16: 0%", "building tensorrt fp16: 50%"):
        assert states.wait("mono_depth: engine", WARN, text).hardware_id == "default"


def test_a_build_for_a_new_image_size_is_over_with_the_first_answer(client, diagnostics, states, make_bundle):
    engine = load_engine(make_bundle(), options=EngineOptions(threads=1))
    client.spin_until(lambda: diagnostics._publisher.get_subscription_count(), "subscriber")
    diagnostics.engine_runs(Choice("onnxruntime", engine))
    camera = Camera(diagnostics._node, "", NodeParams)
    diagnostics.watch([camera], lambda camera: 0, lambda camera: Status(OK, ""), lambda: False)
    camera.health.frame_answered(10_000_000, None)  # of the size before: no sign that the build is over
    diagnostics.engine_loading("probe", "building tensorrt fp16 for 1280x720")
    states.wait("mono_depth: engine", WARN, "for 1280x720")
    states.seen.clear()
    camera.health.frame_answered(10_000_000, None)
    diagnostics.publish()
    states.wait("mono_depth: engine", OK, engine.describe())


def test_what_an_engine_logs_stands_in_the_log_of_the_node(start, make_bundle, tmp_path):
    (tmp_path / "talking_node.py").write_text(TALKING_ENGINE)
    process = start("talking_node", env={"PYTHONPATH": str(tmp_path)}, model=make_bundle().path, engine="talking").wait_ready()
    assert any("[mono_depth]: 1280x720 images are resized on the CPU" in line for line in process.lines("WARN"))
    assert any("[mono_depth]: plan read" in line for line in process.lines("INFO"))


TALKING_ENGINE = """
import logging, sys
from depth_ros import engines
from depth_ros.engines import onnxrt
from depth_ros.ros import node

def load(bundle, options, name):
    log = logging.getLogger("depth_ros.engines.talking")
    log.info("plan read")
    log.warning("%dx%d images are resized on the CPU", 1280, 720)
    return onnxrt.load(bundle, options, name)

engines.ENGINES["talking"] = "talking_node"
if __name__ == "__main__":
    sys.exit(node.main())
"""


def test_an_engine_that_is_here_but_does_not_run_is_a_warning(client, diagnostics, states, make_bundle):
    engine = load_engine(make_bundle(), options=EngineOptions(threads=1))
    passed = (
        PassedOver("tensorrt", "no plan: run build_engine", expected=False),
        PassedOver("openvino", "not installed", expected=True),
    )
    client.spin_until(lambda: diagnostics._publisher.get_subscription_count(), "subscriber")
    diagnostics.engine_runs(Choice("onnxruntime", engine, passed))
    status = states.wait("mono_depth: engine", WARN, "; not tensorrt, see values")
    assert values(status)["not tensorrt"] == "no plan: run build_engine"
    assert values(status)["not openvino"] == "not installed"


@pytest.mark.parametrize("name", ["precision", "memory"])
def test_unknown_names_are_refused_with_the_known_ones(name):
    with pytest.raises(EngineError, match=rf"{name} is 'abacus'; expected .*, "):
        EngineOptions(**{name: "abacus"})
