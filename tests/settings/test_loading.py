"""Loading settings of correct, mistaken and hostile files: values, or one line with the key."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from capecam.errors import SettingsError
from capecam.settings import Settings, leaves
from capecam.settings.loading import load

BILLION_LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{b}: &{b} [{','.join([f'*{a}'] * 10)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
)
"""A billion values in 400 bytes."""


def write_config(folder: Path, content: str | bytes) -> Path:
    path = folder / "a.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("tiling: {sise: 3}", "unknown setting 'tiling.sise'; did you mean 'tiling.size'"),
        ("tiling: {size: [1]}", r"tiling.size: .* got \[1\]"),
        ("tiling: {size: large}", "tiling.size: .* got 'large'"),
        ("tiling: 5", "tiling: .* got 5"),
        ("- tiling", "must hold keys and values, found list"),
        ("tiling: {size: 320, size: 640}", "the key 'size' stands twice"),
        ("tiling: {size: 320}\ntiling: {overlap: 0}", "the key 'tiling' stands twice"),
        (BILLION_LAUGHS, "with its aliases it holds more than"),
        ("model: {options: &a {b: *a}}", "with its aliases it holds more than"),
        ("model: {options: " + "[" * 900, "nested too deeply"),
        ("model: {options: " + "{a: " * 900 + "1" + "}" * 901, "nested too deeply"),
        ("a: " + "b" * 300_000, "has 300003 bytes"),
        ("out: " + "b" * 50_000, "out: holds a text of 50.* characters"),
        ('out: "a\\0b"', "out: holds a text"),
        ("out: !!python/object/apply:os.system [touch x]", "could not determine a constructor"),
        ("out: !!binary aGFsbG8=", "could not determine a constructor"),
        ("model: {options: {a: !!set {b}}}", "could not determine a constructor"),
        ("? [a]\n: b", "a list or a map is a key"),
        ("out: a\n---\nout: b", "but found another document"),
        ("out: \xff".encode("latin-1"), "is not valid YAML: 'utf-8' codec"),
        ("out: a\n\tb: c", "is not valid YAML"),
        ("model: {input_max: .nan}", "model.input_max: .* got '.nan'"),
        ("model: {input_max: .inf}", "model.input_max: .* got '.inf'"),
        ("model: {input_max: nan}", "model.input_max: .* finite number"),
        ("model: {input_max: 1e999}", "model.input_max: .* finite number"),
        ("model: {mean: [0, inf, 0]}", "model.mean.1: .* finite number"),
        ("mosaic: {bbox: [nan, 0, 1, 1]}", "mosaic.bbox"),
        ("imagery: {scale: [0, inf]}", "imagery.scale"),
        ("detections: {min_area_m2: .inf}", "detections.min_area_m2"),
        ("tiling: {size: " + "9" * 5000 + "}", "is not valid YAML"),
        ("tiling: {size: " + "9" * 500 + "}", "tiling.size: holds a number of"),
        ("sources: [2023]", "sources.0: .* got 2023; put it in quotes"),
        ("sources: [{a: b}]", "sources.0"),
        ("sources: pictures", "sources"),
        ("1: 2", "keys? should be strings|unknown setting '1'"),
        ("model: {classes: [{name: a, color: red}, {name: b}]}", "model.classes.0.color"),
        ("model: {classes: [" + "{}," * 999 + "]}", "and .* more"),
        ("tiling: {size: 320, overlap: 320}", "overlap must be"),
        ("compute: {device: tpu}", "compute.device"),
    ],
)  # fmt: skip
def test_errors_are_one_line(tmp_path: Path, content: str, message: str) -> None:
    path = write_config(tmp_path, content)
    with pytest.raises(SettingsError, match=f"(?i){message}") as error:
        load(path)
    line = str(error.value)
    assert str(path) in line
    assert "\n" not in line
    assert len(line) < 1500


def test_an_option_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("tiling: {size: 320}\n")
    with pytest.raises(SettingsError, match=r"^run\.shard: must be I/N"):
        load(path, {"run.shard": "3/2"})
    path.write_text("run: {shard: 3/2}\n")
    with pytest.raises(SettingsError, match=rf"^{re.escape(str(path))}: run\.shard: must be I/N"):
        load(path, {"run.prune": True})


def test_a_pipe_or_folder_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(SettingsError, match="is no file"):
            load(path)
    with pytest.raises(SettingsError, match="No such file"):
        load(tmp_path / "none.yaml")


def test_yaml_values(tmp_path: Path) -> None:
    text = (
        "sources: [no, 012.tif, '2023']\n"
        "tiling: {size: 0320, overlap: 7e1, stride: 1_0}\n"
        "truth: {class_column: on, flags: {1: yes}}\n"
        "model: {input_max: 1e2, options: {date: 2023-01-01, time: 1:30}}\n"
        "detections: {keep_rejected: true}\n"
    )
    found = load(write_config(tmp_path, b"\xef\xbb\xbf" + text.replace("{1:", "{'1':").encode()))
    assert [Path(source).name for source in found.sources] == ["no", "012.tif", "2023"]
    assert (found.tiling.size, found.tiling.overlap, found.tiling.stride) == (320, 70, 10)
    assert (found.truth.class_column, found.truth.flags) == ("on", {"1": "yes"})
    assert found.model.input_max == 100
    assert found.model.options == {"date": "2023-01-01", "time": "1:30"}
    assert found.detections.keep_rejected is True


def test_a_few_aliases_are_read(tmp_path: Path) -> None:
    found = load(write_config(tmp_path, "model: {mean: &a [1, 2, 3], std: *a}"))
    assert found.model.mean == found.model.std == (1, 2, 3)


KEYS = [setting.key for setting in leaves()]
names = st.text(max_size=4)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["auto", "1,2,3", "0,100", "2%,98%", "1/2", "cpu", "snap", "nan", "-inf"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)  # fmt: skip
trees = st.dictionaries(st.sampled_from(KEYS), values, max_size=4)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(trees)
def test_any_tree_is_valid_or_refused_with_its_key(tree: dict[str, Any]) -> None:
    try:
        found = load(None, tree)
    except SettingsError as error:
        said = str(error)
    else:
        assert all(math.isfinite(n) for n in _leaves(found.model_dump()) if isinstance(n, float))
        assert Settings.model_validate(found.model_dump(mode="json")) == found
        return
    assert len(said) < 2500
    assert any(key.split(".")[-1] in said for key in tree), said


def _leaves(tree: Any) -> list[Any]:
    parts = tree.values() if isinstance(tree, dict) else tree
    if not isinstance(tree, (dict, list, tuple)):
        return [tree]
    return [leaf for part in parts for leaf in _leaves(part)]


def test_settings_survive_being_written_and_read(tmp_path: Path) -> None:
    capetown = load(Path(__file__).parents[2] / "configs" / "capetown.yaml")
    path = write_config(tmp_path, yaml.safe_dump(capetown.model_dump(mode="json")))
    again = load(path)
    assert again.model == capetown.model
    assert again.tiling == capetown.tiling
