"""Settings from a YAML file and, above it, the command line's options: defaults come first."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from capecam.errors import SettingsError
from capecam.settings import Settings, leaves


def load(config: Path | str | None, options: Mapping[str, Any] = MappingProxyType({})) -> Settings:
    """Settings from a YAML file and, above it, options by dotted key (None: not given).

    Paths in the file are relative to the file.

    Raises:
        SettingsError: naming the key, what was found and what is expected.
    """
    tree = _read_yaml(Path(config)) if config else {}
    for key, value in options.items():
        if value is not None:
            _put(tree, key, value)
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        where = f"{config}: " if config else ""
        raise SettingsError(where + "; ".join(map(_in_words, error.errors()))) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"cannot read the configuration {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        message = " ".join(str(error).split())
        raise SettingsError(f"{path} is not valid YAML: {message}") from error
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise SettingsError(f"{path} must hold keys and values, found {type(tree).__name__}")
    place_paths(tree, lambda named: str(path.parent / named))
    return tree


def place_paths(tree: dict[str, Any], placed: Callable[[str], str]) -> None:
    """Give every path in a tree of settings its place."""
    paths = (
        (tree, "checkpoint"), (tree, "out"), (tree.get("explain"), "calibration"),
        (tree.get("mosaic"), "aoi"), (tree.get("mosaic"), "footprints"),
        (tree.get("imagery"), "checksums"),
    )  # fmt: skip
    for section, key in paths:
        if isinstance(section, dict) and isinstance(section.get(key), str):
            section[key] = placed(section[key])
    if isinstance(tree.get("sources"), list):
        tree["sources"] = [_place_source(str(source), placed) for source in tree["sources"]]


def _place_source(source: str, placed: Callable[[str], str]) -> str:
    """Of ``@list.txt``, the path behind the @; GDAL's virtual paths stay as they are."""
    if source.startswith("/vsi"):
        return source
    at = "@" if source.startswith("@") else ""
    return at + placed(source.removeprefix("@"))


def _put(tree: dict[str, Any], key: str, value: Any) -> None:
    *sections, leaf = key.split(".")
    for section in sections:
        below = tree.setdefault(section, {})
        if not isinstance(below, dict):
            return  # the validation names what stands there instead of a section
        tree = below
    tree[leaf] = value


def _in_words(error: Mapping[str, Any]) -> str:
    """One pydantic error as a line; an unknown key with the nearest known one."""
    path = ".".join(str(part) for part in error["loc"])
    if error["type"] != "extra_forbidden":
        found = "" if isinstance(error["input"], (dict, BaseModel)) else f", got {error['input']!r}"
        message = error["msg"].removeprefix("Value error, ")
        return f"{path}: {message}{found}" if path else message
    keys = [setting.key for setting in leaves()]
    sections = {key.split(".")[0] for key in keys}
    near = difflib.get_close_matches(path, [*keys, *sections], 1, cutoff=0.5)
    return f"unknown setting {path!r}" + (f"; did you mean {near[0]!r}?" if near else "")
