"""Settings from a YAML file and, above it, the command line's options: defaults come first."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ValidationError

from capecam.errors import SettingsError
from capecam.settings import VSI, Settings, leaves
from capecam.settings.strict_yaml import read_yaml

LONGEST_TEXT = 4096
"""Characters of a path on Linux; a CRS as WKT has about a thousand."""

NUMBER_BITS = 62
"""Larger ones are in nobody's data, and overflow in many places."""

MOST_ERRORS = 5


def load(config: Path | str | None, options: Mapping[str, Any] = MappingProxyType({})) -> Settings:
    """Settings from a YAML file and, above it, options by dotted key (None: not given).

    Paths in the file are relative to the file.

    Raises:
        SettingsError: naming the key, what was found and what is expected.
    """
    tree = _read_yaml(Path(config)) if config else {}
    given = {key: value for key, value in options.items() if value is not None}
    for key, value in given.items():
        _put(tree, key, value)
    return validated(tree, f"{config}: " if config else "", given)


def validated(tree: dict[str, Any], where: str, options: Collection[str] = ()) -> Settings:
    """Settings of a tree.

    Args:
        tree: as a file holds them.
        where: what messages begin with.
        options: dotted keys that are not from there.

    Raises:
        SettingsError: naming the key, what was found and what is expected.
    """
    if bad := _unfit_text(tree, ""):
        raise SettingsError(where + bad)
    try:
        return Settings.model_validate(tree)
    except ValidationError as error:
        keys = {".".join(map(str, found["loc"])) for found in error.errors()}
        raise SettingsError((where if keys - set(options) else "") + _all_in_words(error)) from None
    except SettingsError as error:
        raise SettingsError(f"{where}{error}") from None
    except RecursionError:
        raise SettingsError(
            f"{where}settings are nested too deeply; see docs/configuration.md"
        ) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    tree = read_yaml(path)
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise SettingsError(
            f"{path} must hold keys and values, found {type(tree).__name__}"
            "; see docs/configuration.md"
        )
    place_paths(tree, lambda named: str(path.parent / named))
    return tree


def _unfit_text(value: Any, key: str) -> str | None:
    """A text that no path and no name can be, or a number that no product can hold."""
    if isinstance(value, str) and ("\0" in value or len(value) > LONGEST_TEXT):
        return f"{key}: holds a text of {len(value)} characters, got {_shown(value)}"
    if isinstance(value, int) and value.bit_length() > NUMBER_BITS:
        return f"{key}: holds a number of {value.bit_length()} bits"
    if isinstance(value, dict):
        entries = [(f"{key}.{str(name)[:40]}".lstrip("."), part) for name, part in value.items()]
    elif isinstance(value, (list, tuple)):
        entries = [(key, part) for part in value]
    else:
        return None
    return next(filter(None, (_unfit_text(part, name) for name, part in entries)), None)


def place_paths(tree: dict[str, Any], placed: Callable[[str], str]) -> None:
    """Give every path in a tree of settings its place."""
    for setting in leaves():
        if setting.is_path:
            name, _, key = setting.key.rpartition(".")
            section = tree.get(name) if name else tree
            if isinstance(section, dict) and isinstance(section.get(key), str):
                section[key] = placed(section[key])
    if isinstance(tree.get("sources"), list):
        tree["sources"] = [
            _place_source(source, placed) if isinstance(source, str) else source
            for source in tree["sources"]
        ]


def _place_source(source: str, placed: Callable[[str], str]) -> str:
    """Of ``@list.txt``, the path behind the @; GDAL's virtual paths stay as they are."""
    if source.startswith(VSI):
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


def _all_in_words(error: ValidationError) -> str:
    """The first few of what is wrong, as one line."""
    errors = error.errors()
    words = "; ".join(map(_in_words, errors[:MOST_ERRORS]))
    return words + (f"; and {len(errors) - MOST_ERRORS} more" if errors[MOST_ERRORS:] else "")


def _shown(value: Any) -> str:
    """A value of any size, in a message; a text that YAML may have taken for something else."""
    short = repr(value) if isinstance(value, (bool, int, float)) else reprlib.repr(value)
    return " ".join(short.split())[:80]


def _in_words(error: Mapping[str, Any]) -> str:
    """One pydantic error as a line."""
    key = ".".join(str(part)[:80] for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return _unknown(key)
    expected = error["msg"].removeprefix("Value error, ")[:300]
    is_named = isinstance(error["input"], (dict, BaseModel)) or "; " in expected
    value = "" if is_named else _shown(error["input"])
    if error["type"] == "string_type" and value:
        return f"{key}: {expected}, got {value}; put it in quotes"
    said = f"{expected}, got {value}" if value else expected
    return f"{key}: {said}" if key else said


def _unknown(key: str) -> str:
    """With the nearest key that there is."""
    known = [setting.key for setting in leaves()]
    sections = {leaf.split(".")[0] for leaf in known}
    near = difflib.get_close_matches(key, [*known, *sections], 1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else "see docs/configuration.md"
    return f"unknown setting {key!r}; {hint}"
