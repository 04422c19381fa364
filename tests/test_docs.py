"""What README and docs name exists: links, files, modules, make targets; and the Python they show runs."""

from __future__ import annotations

import importlib
import importlib.util
import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from training import import_onnx
from training.config import TrainConfig, load_config

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks" / "README.md"]
FOLDERS = tuple(path.name for path in ROOT.iterdir() if path.is_dir() and not path.name.startswith("."))
MADE = ("models/mine", "runs/", "out/")  # written by commands

PATH = re.compile(rf"(?<![\w/.<-])(?:{'|'.join(FOLDERS)})/[\w./{{}},*<>-]*[\w}}/*>]")
MODULE = re.compile(r"python3? -m ([\w.]+)")
DOTTED = re.compile(r"\b(?:training|depth_ros|benchmarks)(?:\.[a-z_]\w*)+")
TARGET = re.compile(r"\bmake (?:\w+=\S+ )*([a-z][a-z-]*)")
LINK = re.compile(r"\]\(([^)\s]+)\)")


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def named(page: Path) -> str:
    """The part of a page that names things exactly: code blocks and `code`."""
    return "\n".join(re.findall(r"```.*?```|`[^`\n]+`", text_of(page), flags=re.DOTALL))


def expand(path: str) -> list[str]:
    """a/{b,c}.yaml -> a/b.yaml, a/c.yaml"""
    match = re.search(r"\{([^}]*)\}", path)
    if not match:
        return [path]
    return [out for part in match[1].split(",") for out in expand(path[: match.start()] + part + path[match.end() :])]


def missing_paths(text: str) -> list[str]:
    found = [path for match in PATH.findall(text) for path in expand(match)]
    literal = [path for path in found if "<" not in path and not path.startswith(MADE)]
    return [path for path in literal if not any(ROOT.glob(path.rstrip("/")))]


def importable(name: str) -> bool:
    """Whether a dotted name is a module, or something that a module defines."""
    module, _, attribute = name.rpartition(".")
    parent = importlib.import_module(module)
    return hasattr(parent, attribute) or (hasattr(parent, "__path__") and importlib.util.find_spec(name) is not None)


@pytest.fixture(params=PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def page(request: pytest.FixtureRequest) -> Path:
    return request.param


def test_relative_links_lead_somewhere(page):
    links = [link.partition("#")[0] for link in LINK.findall(text_of(page)) if "://" not in link]
    assert [link for link in links if link and not (page.parent / link).exists()] == []


def test_paths_exist(page):
    assert missing_paths(named(page)) == []


def test_modules_can_be_run(page):
    assert [name for name in MODULE.findall(text_of(page)) if importlib.util.find_spec(name) is None] == []


def test_dotted_names_exist(page):
    names = {name for name in DOTTED.findall(named(page)) if not name.endswith((".py", ".md", ".yaml", ".onnx"))}
    assert [name for name in sorted(names) if not importable(name)] == []


def test_make_targets_exist(page):
    targets = re.findall(r"^([a-z-]+):", text_of(ROOT / "Makefile"), flags=re.MULTILINE)
    assert set(TARGET.findall(named(page))) - set(targets) == set()


def test_launch_arguments_exist(page):
    """ros2 launch takes any name without a word and does nothing with one that is not declared."""
    given = {name for line in re.findall(r"ros2 launch depth_ros .*", text_of(page)) for name in re.findall(r"(\w+):=", line)}
    declared = re.findall(r'DeclareLaunchArgument\("(\w+)"', text_of(ROOT / "launch" / "mono_depth.launch.py"))
    assert given - set(declared) == set()


def test_navigation_reads_topics_that_the_node_has():
    page = text_of(ROOT / "docs" / "navigation.md")
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, flags=re.DOTALL)]

    def topics(tree: object) -> set[str]:
        if not isinstance(tree, dict):
            return set()
        return {tree["topic"]} if "topic" in tree else set().union(*map(topics, tree.values()))

    read = topics(dict(enumerate(blocks))) | set(re.findall(r"-r \w+:=(\S+)", page))
    made = re.findall(r"^\| `([\w/]+)` \| \S+ \| out \|", text_of(ROOT / "docs" / "interfaces.md"), flags=re.MULTILINE)
    assert read == {"/points", "/depth/image_rect", "/depth/camera_info", "/scan"}
    assert read - {"/scan"} <= {f"/{topic}" for topic in made}


@pytest.mark.parametrize("program", ["build_engine", "check_engine", "check_bundle", "bench", "process"])
def test_arguments_of_the_engine_programs_exist(page, program):
    given = {name for line in re.findall(rf"{program}\b(.*)", named(page)) for name in re.findall(r"--[a-z-]+", line)}
    help_text = importlib.import_module(f"depth_ros.tools.{program}")._parser().format_help()
    assert given - set(re.findall(r"--[a-z-]+", help_text)) == set()


def test_messages_in_the_gpu_page_are_those_of_the_code():
    table = text_of(ROOT / "docs" / "gpu.md").partition("| message | what to do |")[2].partition("\n\n")[0]
    rows = re.findall(r"^\| `(.+?)` \|", table, flags=re.MULTILINE)
    assert len(rows) == len(table.splitlines()) - 2  # without the end of the head, and the rule below it
    code = " ".join(text_of(file) for file in (ROOT / "depth_ros").rglob("*.py"))
    parts = [part.strip() for row in rows for part in row.split("...") if part.strip()]
    assert [part for part in parts if part not in code] == []


def test_what_does_not_exist_would_be_found():
    assert missing_paths("python depth_ros/nothing.py config/train/{street,nothing}.yaml") == [
        "depth_ros/nothing.py", "config/train/nothing.yaml",
    ]  # fmt: skip
    assert not importable("training.nothing")
    assert not importable("depth_ros.bundle.nothing")
    assert importable("depth_ros.bundle.save")
    assert TARGET.findall("make setup-train && make MODEL=a demo") == ["setup-train", "demo"]


def test_the_training_yaml_is_a_configuration(tmp_path):
    (block,) = re.findall(r"```yaml\n(.*?)```", text_of(ROOT / "docs" / "training.md"), flags=re.DOTALL)
    (tmp_path / "mine.yaml").write_text(block, encoding="utf-8")
    config = load_config(tmp_path / "mine.yaml")
    assert (config.data.root, config.data.val_frames, config.run.dir) == ("drive", (900, 1000), "runs/mine")


@pytest.mark.parametrize("section", ["data", "method", "network", "optim", "run"])
def test_configuration_keys_exist(section):
    known = {field.name for field in fields(getattr(TrainConfig(), section))}
    named_keys = set(re.findall(rf"(?<![\w./]){section}\.([a-z_]+)\b", named(ROOT / "docs" / "training.md")))
    assert named_keys - known == set()


def test_arguments_of_the_import_exist(capsys):
    with pytest.raises(SystemExit):
        import_onnx.parse(["--help"])
    known = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    given = set(re.findall(r"--[a-z-]+", named(ROOT / "docs" / "bring_your_own.md")))
    assert given - known == set()
