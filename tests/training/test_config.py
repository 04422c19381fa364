"""Configuration: what a YAML and --set may say, and one clear line for all else."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from training.config import ConfigError, TrainConfig, load_config, merge, to_dict
from training.methods import METHODS, PARTS

SHIPPED = sorted((Path(__file__).resolve().parents[2] / "config" / "train").glob("*.yaml"))


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "train.yaml"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize("file", SHIPPED, ids=lambda f: f.stem)
def test_shipped_configurations_are_valid_and_write_to_their_own_folder(file: Path) -> None:
    config = load_config(file)
    assert config.method.name in METHODS | PARTS
    assert config.run.dir == f"runs/{file.stem}"
    assert config.data.root == "../shared/data"


def test_a_yaml_states_differences_and_set_overrides_it(tmp_path: Path) -> None:
    file = write(tmp_path, "run: {max_steps: 7, dir: runs/a}\noptim:\n  learning_rate: 1e-3\n")
    config = load_config(file, ["run.max_steps=9", "data.train_frames=[3, 8]", "data.offsets=[[-2, 2], [-3, 1]]", "data.root=/x"])
    assert config.run.max_steps == 9
    assert config.run.dir == "runs/a"
    assert config.optim.learning_rate == 0.001  # YAML 1.1 reads 1e-3 as text
    assert config.data.train_frames == (3, 8)
    assert config.data.offsets == ((-2, 2), (-3, 1))
    assert config.data.root == "/x"
    assert config.optim.batch_size == TrainConfig().optim.batch_size


def test_a_configuration_survives_its_own_file(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, "data: {offsets: [[-1, 1], [-3, 3]]}\nmethod: {teachers: [a.ckpt]}"))
    text = yaml.safe_dump(to_dict(config))
    assert merge(TrainConfig(), yaml.safe_load(text), "again") == config


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run: {max_step: 3}", "train.yaml: run: unknown key 'max_step'; did you mean 'max_steps'?"),
        ("optimizer: {}", "train.yaml: unknown key 'optimizer'; did you mean 'optim'?"),
        ("run: {max_steps: many}", "train.yaml: run: max_steps: found 'many' (str); expected int"),
        ("run: {max_steps: 2.5}", "found 2.5 (float); expected int"),
        ("run: {max_steps: true}", "found True (bool); expected int"),
        ("data: {flip: 1}", "found 1 (int); expected bool"),
        ("optim: {learning_rate: fast}", "optim: learning_rate: found 'fast'; expected a number"),
        ("data: {train_frames: 900}", "data: train_frames: found 900; expected a list"),
        ("data: {train_frames: [900]}", "data: train_frames: found [900]; expected 2 entries"),
        ("data: {train_frames: [0, all]}", "data: train_frames: found 'all' (str); expected int"),
        ("data: {offsets: [-1, 1]}", "data: offsets: found -1; expected a list"),
        ("method: {teachers: [1]}", "method: teachers: found 1 (int); expected str"),
        ("run: 3", "run: found 3; expected a section of keys"),
        ("[1, 2]", "found [1, 2]; expected a section of keys"),
        ("run: [", "not readable as YAML"),
    ],
)
def test_yaml_errors_are_one_line_that_names_the_key(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(write(tmp_path, text))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "good", "bad", "expected"),
    [
        ("data.width", [32, 416], [0, -32, 100], "a multiple of 32"),
        ("data.height", [128], [0, 127], "a multiple of 32"),
        ("data.street_share", [0, 0.5, 1], [-0.1, 1.01, ".nan"], "a share from 0 to 1"),
        ("data.colour_jitter", [0, 1], [-0.1, 1.5], "a share from 0 to 1"),
        ("data.street_samples", [1], [0], "1 or more"),
        ("data.max_zoom", [1, 2.5], [0.99, 0, ".nan"], "1 (no zoom) or more"),
        ("method.scales", [1, 4], [0, -1], "1 or more"),
        ("diffusion.spacing", ["leading", "trailing"], ["linear"], "leading or trailing"),
        ("diffusion.prediction", ["epsilon", "v", "direct"], ["x0"], "epsilon, v or direct"),
        ("diffusion.filter", ["both", "depth", "strict", "none"], ["mean"], "both, depth, strict or none"),
        ("diffusion.denoising", [0, 1.5], [-1, ".nan"], "0 or more"),
        ("diffusion.distillation", [0, 1.5], [-1, ".nan"], "0 or more"),
        ("diffusion.masked", [0, 0.1], [-0.1, ".nan"], "0 or more"),
        ("diffusion.mask_share", [0, 0.99], [-0.1, 1, ".nan"], "a share from 0, below 1"),
        ("diffusion.mask_block", [1, 8], [0], "1 or more"),
        ("diffusion.samples", [1, 8], [0], "1 or more"),
        ("optim.batch_size", [1], [0, -8], "1 or more"),
        ("optim.ema", [0, 0.999], [1, -0.1, ".nan"], "from 0 (no average) to below 1"),
        ("run.max_steps", [1], [0, -5], "1 or more"),
        ("run.log_every", [1], [0], "1 or more"),
        ("run.validate_every", [1], [0], "1 or more"),
        ("optim.learning_rate", [1e-3], [0, -1, ".nan"], "above 0"),
        ("optim.clip_norm", [0.5], [0, -1, ".nan"], "above 0"),
        ("optim.pose_learning_rate", [0, 1e-3], [-1, ".inf", ".nan"], "0 or more"),
        ("optim.weight_decay", [0, 0.1], [-1, ".nan"], "0 or more"),
        ("optim.warmup_steps", [0], [-1], "0 or more"),
        ("optim.schedule", ["cosine", "step", "cyclic"], ["linear"], "cosine, step or cyclic"),
        ("optim.drop_factor", [0.5, 1], [0, 1.5, ".nan"], "above 0, to 1"),
        ("run.seed", [0, 7], [-1], "0 or more"),
        ("run.cycles", [1, 20], [0], "1 or more"),
        ("run.keep", [1], [0], "1 or more"),
        ("run.devices", [1, 8], [0, -1], "1 or more"),
        ("run.precision", ["32-true", "bf16-mixed", "16-mixed"], ["64-true"], "32-true, bf16-mixed or 16-mixed"),
    ],
)
def test_values_out_of_range_name_their_key(tmp_path: Path, key: str, good: list, bad: list, expected: str) -> None:
    section, name = key.split(".")
    for value in good:
        config = load_config(write(tmp_path, f"{section}: {{{name}: {value}}}"), [f"{key}={value}"])
        assert getattr(getattr(config, section), name) == value
    for value in bad:
        for text, overrides, where in (
            (f"{section}: {{{name}: {value}}}", [], tmp_path / "train.yaml"),
            ("", [f"{key}={value}"], f"--set {key}={value}"),
        ):
            with pytest.raises(ConfigError) as error:
                load_config(write(tmp_path, text), overrides)
            assert str(error.value).startswith(f"{where}: {key} is ")
            assert str(error.value).endswith(f"; expected {expected}")


def test_lists_are_given_on_the_command_line_and_checked(tmp_path: Path) -> None:
    file = write(tmp_path, "")
    config = load_config(file, ["optim.drop_steps=[100, 200]", "method.teachers=[a.ckpt, b.ckpt]", "optim.clip_norm=.inf"])
    assert config.optim.drop_steps == (100, 200)
    assert config.method.teachers == ("a.ckpt", "b.ckpt")
    assert config.optim.clip_norm == float("inf")
    for steps in ("[200, 100]", "[0, 5]", "[5, 5]"):
        with pytest.raises(ConfigError, match=r"optim.drop_steps is \(\d+, \d+\); expected growing steps above 0"):
            load_config(file, [f"optim.drop_steps={steps}"])


def test_each_scale_of_a_diffusion_has_a_schedule_that_can_fall(tmp_path: Path) -> None:
    """One step alone has no last that differs from its first; the denoisers know 1280."""
    file = write(tmp_path, "")
    assert load_config(file, ["diffusion.train_steps=[2, 1280]", "diffusion.steps=[1]"]).diffusion.train_steps == (2, 1280)
    for override in ("train_steps=[]", "train_steps=[150, 1]", "train_steps=[1281]", "steps=[]", "steps=[3, 0]"):
        with pytest.raises(ConfigError, match=rf"diffusion.{override.split('=')[0]} is \(.*\); expected .* one for each scale"):
            load_config(file, [f"diffusion.{override}"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("run.max_stepz=3", "--set run.max_stepz=3: run: unknown key 'max_stepz'; did you mean 'max_steps'?"),
        ("max_steps=3", "--set max_steps=3: expected section.key=value"),
        ("run.max_steps", "--set run.max_steps: expected section.key=value"),
        ("data.offsets=[[1", "--set data.offsets=[[1: not readable as YAML"),
    ],
)
def test_errors_on_the_command_line_repeat_what_was_typed(tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(write(tmp_path, ""), [override])
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere.yaml: No such file or directory; expected a training YAML"):
        load_config(tmp_path / "nowhere.yaml")
    binary = tmp_path / "best.ckpt"
    binary.write_bytes(b"PK\x03\x04\xff\xfe\x80")
    with pytest.raises(ConfigError, match=r"best.ckpt: not readable as YAML"):
        load_config(binary)
