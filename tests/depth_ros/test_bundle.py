"""Every way in which a bundle folder can be wrong gives one line that names the file, the key and what was found."""

import os
import shutil

import pytest
import yaml

from depth_ros import bundle
from depth_ros.bundle import BundleError


def refusal(folder):
    with pytest.raises(BundleError) as caught:
        bundle.load(folder)
    text = str(caught.value)
    assert "\n" not in text
    return text


def rewrite(folder, **changes):
    file = folder / "bundle.yaml"
    values = yaml.safe_load(file.read_text()) | changes
    file.write_text(yaml.safe_dump({key: value for key, value in values.items() if value is not None}))


def test_saved_bundle_is_loaded_as_it_was(make_bundle):
    saved = make_bundle(metrics={"abs_rel": 0.1}, provenance={"commit": "abc"}, max_depth=80)
    assert bundle.load(str(saved.path)) == saved
    assert saved.graph_path.is_file()
    assert list(yaml.safe_load((saved.path / "bundle.yaml").read_text())) == [
        "format", "name", "sha256", "width", "height", "fx", "fy", "kind", "min_depth", "max_depth", "sigma_calibration",
        "trained_on", "licence", "metrics", "provenance",
    ]  # fmt: skip


def test_copied_bundle_loads_from_its_new_place(make_bundle, tmp_path):
    saved = make_bundle()
    shutil.copytree(saved.path, tmp_path / "robot")
    moved = bundle.load(tmp_path / "robot")
    assert moved.path == tmp_path / "robot"
    assert moved.sha256 == saved.sha256


def test_no_folder(tmp_path):
    assert str(tmp_path / "none") in refusal(tmp_path / "none")


def test_no_yaml(tmp_path):
    assert f"{tmp_path / 'bundle.yaml'}: missing" in refusal(tmp_path)


def test_no_graph(make_bundle):
    folder = make_bundle().path
    (folder / "model.onnx").unlink()
    assert f"{folder / 'model.onnx'}: missing" in refusal(folder)


def test_changed_graph(make_bundle):
    made = make_bundle()
    graph = bytearray(made.graph_path.read_bytes())
    graph[len(graph) // 2] ^= 1
    made.graph_path.write_bytes(graph)
    text = refusal(made.path)
    assert str(made.graph_path) in text
    assert made.sha256 in text


@pytest.mark.parametrize("content", [b"width: [1, 2", b"a: b: c", b"\xff\xfe\x00"])
def test_unreadable_yaml(make_bundle, content):
    folder = make_bundle().path
    (folder / "bundle.yaml").write_bytes(content)
    assert f"{folder / 'bundle.yaml'}: not readable as YAML" in refusal(folder)


def test_yaml_that_is_a_folder(make_bundle):
    folder = make_bundle().path
    (folder / "bundle.yaml").unlink()
    (folder / "bundle.yaml").mkdir()
    assert refusal(folder).startswith(f"{folder / 'bundle.yaml'}: cannot be read (Is a directory)")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", ["bundle.yaml", "model.onnx"])
def test_file_of_somebody_else(make_bundle, name):
    file = make_bundle().path / name
    file.chmod(0)
    assert refusal(file.parent).startswith(f"{file}: cannot be read (Permission denied)")


@pytest.mark.parametrize("content", ["", "just text", "- a list"])
def test_yaml_that_is_no_mapping(make_bundle, content):
    folder = make_bundle().path
    (folder / "bundle.yaml").write_text(content)
    assert str(folder / "bundle.yaml") in refusal(folder)


def test_unknown_key_with_a_suggestion(make_bundle):
    folder = make_bundle().path
    rewrite(folder, widht=64)
    text = refusal(folder)
    assert "unknown key 'widht'" in text
    assert "did you mean 'width'?" in text


@pytest.mark.parametrize("key", sorted({*bundle.KEYS} - {*bundle.OPTIONAL}))
def test_missing_key(make_bundle, key):
    folder = make_bundle().path
    rewrite(folder, **{key: None})
    text = refusal(folder)
    assert str(folder / "bundle.yaml") in text
    assert f"'{key}' is missing" in text


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("format", 2, "format is 2"),
        ("kind", "meters", "kind is 'meters'"),
        ("width", 0, "width is 0"),
        ("width", 64.5, "width is 64.5 (float)"),
        ("height", True, "height is True (bool)"),
        ("fx", -1.0, "fx is -1.0"),
        ("fy", "50", "fy is '50' (str)"),
        ("fx", float("nan"), "fx is nan"),
        ("min_depth", 0.0, "min_depth is 0.0"),
        ("max_depth", 0.05, "max_depth is 0.05"),
        ("sigma_calibration", 0, "sigma_calibration is 0"),
        ("name", 7, "name is 7"),
        ("metrics", [1], "metrics is [1]"),
        ("sha256", "0" * 64, "0" * 64),
    ],
)
def test_wrong_value(make_bundle, key, value, found):
    folder = make_bundle().path
    rewrite(folder, **{key: value})
    assert found in refusal(folder)


def test_limits_are_loaded_as_they_were_saved(make_bundle):
    limits = {"fp16": {"depth_p99": 0.02, "sigma_median": 1}, "int8": {"depth_median": 0.05}}
    assert bundle.load(make_bundle(limits=limits).path).limits == limits


def test_bundle_without_limits_is_whole(make_bundle):
    made = make_bundle()
    assert "limits" not in (made.path / "bundle.yaml").read_text()
    assert bundle.load(made.path).limits == {}


def test_quantised_graph_is_recorded_with_its_checksum(make_bundle):
    int8 = {"sha256": "0" * 64, "frames": 20, "depth_median": 0.02}
    made = make_bundle(int8=int8)
    assert bundle.load(made.path).int8 == int8
    assert made.int8_path == made.path / "model.int8.onnx"


def test_quantised_graph_without_checksum_is_refused(make_bundle):
    folder = make_bundle().path
    rewrite(folder, int8={"frames": 20})
    assert "int8: sha256 is None; expected that of model.int8.onnx" in refusal(folder)


@pytest.mark.parametrize(
    ("limits", "found"),
    [
        (["fp16"], "limits is ['fp16'] (list)"),
        ({"fp61": {}}, "limits: unknown key 'fp61'; did you mean 'fp16'?"),
        ({16: {}}, "limits: unknown key '16'; did you mean 'fp16'? (known: fp32, fp16, bf16, int8)"),
        ({"fp16": 0.1}, "limits: fp16 is 0.1; expected depth_median, depth_p99, sigma_median, sigma_p99"),
        ({"fp16": {"depth_p90": 0.1}}, "limits: fp16: unknown key 'depth_p90'; did you mean 'depth_p99'?"),
        ({"fp16": {"depth_p99": 0}}, "limits: fp16: depth_p99 is 0; expected a positive number"),
        ({"fp16": {"depth_p99": -0.1}}, "depth_p99 is -0.1"),
        ({"fp16": {"depth_p99": float("nan")}}, "depth_p99 is nan"),
        ({"fp16": {"depth_p99": float("inf")}}, "depth_p99 is inf"),
        ({"fp16": {"depth_p99": True}}, "depth_p99 is True"),
        ({"fp16": {"depth_p99": "0.1"}}, "depth_p99 is '0.1'"),
    ],
)
def test_wrong_limits(make_bundle, limits, found):
    folder = make_bundle().path
    rewrite(folder, limits=limits)
    assert found in refusal(folder)
    assert str(folder / "bundle.yaml") in refusal(folder)
