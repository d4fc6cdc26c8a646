"""Loading settings: defaults, overridden by a YAML file, overridden by options."""

from __future__ import annotations

import difflib
import logging
import reprlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from capecam.errors import SettingsError
from capecam.settings import VSI, Settings, leaves
from capecam.settings.strict_yaml import read_yaml

MAX_TEXT = 4096
"""Maximum length of a path on Linux in characters; a CRS as WKT has about a thousand."""

MAX_BITS = 62
"""Maximum length of a number; larger ones overflow in many places."""

MAX_ERRORS = 5
"""Number of errors in a message."""

RETIRED = ("evidence.high", "evidence.certain", "evidence.outweighs")
"""Settings of version 0.1, of words that are not in use any more."""

MOVED = {"qgis.attribution": "about.attribution"}
"""Settings that earlier versions had under another key, which still holds."""

log = logging.getLogger(__name__)


def load(
    config: Path | str | None, options: Mapping[str, object] = MappingProxyType({})
) -> Settings:
    """Load settings from a YAML file, and override them by options.

    Args:
        config: the file; its paths are relative to it.
        options: values by dotted key; None is not given.

    Raises:
        SettingsError: a setting is not valid; the message names the key, the value and what is
            expected.
    """
    tree = _read_yaml(Path(config)) if config else {}
    given = {key: value for key, value in options.items() if value is not None}
    for key, value in given.items():
        _set(tree, key, value)
    return validated(tree, f"{config}: " if config else "", given)


def validated(tree: Mapping[str, object], where: str, options: Collection[str] = ()) -> Settings:
    """Validate a tree of settings.

    Args:
        tree: as in a file.
        where: prefix of messages, which names the file.
        options: dotted keys that are not from the file.

    Raises:
        SettingsError: as for :func:`load`.
    """
    if problem := _oversized(tree, ""):
        raise SettingsError(where + problem)
    try:
        return Settings.model_validate(_moved(_without_retired(tree)))
    except ValidationError as error:
        keys = {".".join(map(str, found["loc"])) for found in error.errors()}
        raise SettingsError((where if keys - set(options) else "") + _message(error)) from None
    except SettingsError as error:
        raise SettingsError(f"{where}{error}") from None
    except RecursionError:
        raise SettingsError(
            f"{where}settings are nested too deeply; see docs/configuration.md"
        ) from None


def _without_retired(tree: Mapping[str, object]) -> dict[str, object]:
    """Return a tree without settings of earlier versions that have no effect any more."""
    rest = dict(tree)
    for key in RETIRED:
        name, _, leaf = key.rpartition(".")
        section = rest.get(name)
        if isinstance(section, dict) and leaf in section:
            log.debug("%s is a setting of earlier versions, and has no effect", key)
            rest[name] = {other: value for other, value in section.items() if other != leaf}
    return rest


def _moved(tree: dict[str, object]) -> dict[str, object]:
    """Return a tree whose settings of earlier versions are under their present key.

    Raises:
        SettingsError: one is given under both.
    """
    for old, new in MOVED.items():
        (name, leaf), (new_name, new_leaf) = old.split("."), new.split(".")
        section, target = tree.get(name), tree.get(new_name) or {}
        if not (isinstance(section, dict) and isinstance(target, dict) and leaf in section):
            continue
        if new_leaf in target:
            raise SettingsError(f"{old} is now {new}, which is set, too; remove {old}")
        rest = {key: value for key, value in section.items() if key != leaf}
        tree = {**tree, name: rest, new_name: {**target, new_leaf: section[leaf]}}
    return tree


def _read_yaml(path: Path) -> dict[str, object]:
    tree = read_yaml(path)
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise SettingsError(
            f"{path} must hold keys and values, found {type(tree).__name__}"
            "; see docs/configuration.md"
        )
    resolve_paths(tree, lambda text: str(path.parent / text))
    return tree


def _oversized(value: object, key: str) -> str | None:
    """Return a message about a text or number that is too long, or a text with a null byte."""
    if isinstance(value, str) and ("\0" in value or len(value) > MAX_TEXT):
        return f"{key}: holds a text of {len(value)} characters, got {_shown(value)}"
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        return f"{key}: holds a number of {value.bit_length()} bits"
    if isinstance(value, dict):
        entries = [(f"{key}.{str(name)[:40]}".lstrip("."), part) for name, part in value.items()]
    elif isinstance(value, (list, tuple)):
        entries = [(key, part) for part in value]
    else:
        return None
    return next(filter(None, (_oversized(part, name) for name, part in entries)), None)


def resolve_paths(tree: dict[str, Any], resolve: Callable[[str], str]) -> None:
    """Replace every path in a tree of settings by ``resolve(path)``."""
    for setting in leaves():
        if setting.is_path:
            name, _, key = setting.key.rpartition(".")
            section = tree.get(name) if name else tree
            if isinstance(section, dict) and isinstance(section.get(key), str):
                section[key] = resolve(section[key])
    if isinstance(tree.get("sources"), list):
        tree["sources"] = [
            _resolve_source(source, resolve) if isinstance(source, str) else source
            for source in tree["sources"]
        ]


def _resolve_source(source: str, resolve: Callable[[str], str]) -> str:
    """Resolve a source, after the @ of ``@list.txt``; virtual paths of GDAL stay as they are."""
    if source.startswith(VSI):
        return source
    at = "@" if source.startswith("@") else ""
    return at + resolve(source.removeprefix("@"))


def _set(tree: dict[str, object], key: str, value: object) -> None:
    *sections, leaf = key.split(".")
    for section in sections:
        below = tree.setdefault(section, {})
        if not isinstance(below, dict):
            return  # validation reports the value that is here in place of a section
        tree = below
    tree[leaf] = value


def _message(error: ValidationError) -> str:
    """Return the first few errors as one line."""
    errors = error.errors()
    shown = "; ".join(map(_line, errors[:MAX_ERRORS]))
    return shown + (f"; and {len(errors) - MAX_ERRORS} more" if errors[MAX_ERRORS:] else "")


def _shown(value: object) -> str:
    """Return a value for a message, cut to 80 characters."""
    short = repr(value) if isinstance(value, (bool, int, float)) else reprlib.repr(value)
    return " ".join(short.split())[:80]


def _line(error: ErrorDetails) -> str:
    """Return one error as a line."""
    key = ".".join(str(part)[:80] for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return _unknown(key)
    expected = error["msg"].removeprefix("Value error, ")[:300]
    has_value = isinstance(error["input"], (dict, BaseModel)) or "; " in expected
    value = "" if has_value else _shown(error["input"])
    if error["type"] == "string_type" and value:
        return f"{key}: {expected}, got {value}; put it in quotes"
    line = f"{expected}, got {value}" if value else expected
    return f"{key}: {line}" if key else line


def _unknown(key: str) -> str:
    """Return a message with the nearest key."""
    keys = [setting.key for setting in leaves()]
    sections = {leaf.split(".")[0] for leaf in keys}
    near = difflib.get_close_matches(key, [*keys, *sections], 1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else "see docs/configuration.md"
    return f"unknown setting {key!r}; {hint}"
