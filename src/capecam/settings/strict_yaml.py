"""A YAML file of settings as plain values, and nothing that surprises.

YAML 1.1, which PyYAML speaks, reads ``no`` as false, ``012`` as 10, ``1:30`` as 90 and ``1e3`` as a
text, and the last of two equal keys wins. Here numbers are decimal, true and false are the only
truths, and a key stands once.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any, ClassVar

import yaml

from capecam.errors import SettingsError

MOST_BYTES = 1 << 16
"""A settings file has one or two thousand; of this PyYAML takes six seconds at the worst."""

MOST_VALUES = 20_000
"""With everything that aliases repeat counted each time."""


def read_yaml(path: Path) -> Any:
    """The one document of a file.

    Raises:
        SettingsError: there is no such file, or it is no YAML that is read here.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would wait for ever
            raise SettingsError(f"the configuration {path} is no file; check its path")
        if path.stat().st_size > MOST_BYTES:
            raise SettingsError(
                f"the configuration {path} has {path.stat().st_size} bytes, more than {MOST_BYTES}"
                "; name a file of settings"
            )
        return yaml.load(path.read_text(encoding="utf-8-sig"), Loader=_Loader)
    except OSError as error:
        raise SettingsError(
            f"cannot read the configuration {path}: {error.strerror}"
            "; check its path and permissions"
        ) from error
    except RecursionError as error:
        raise SettingsError(
            f"{path} is not valid YAML: nested too deeply; see docs/configuration.md"
        ) from error
    except (yaml.YAMLError, ValueError) as error:
        message = " ".join(str(error).split()).replace('in "<unicode string>", ', "at ")[:300]
        raise SettingsError(f"{path} is not valid YAML: {message}; correct that line") from error


class _Loader(yaml.SafeLoader):
    """Maps, lists, texts, numbers, true, false and null."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012
    yaml_constructors: ClassVar[dict[Any, Any]] = {}

    def compose_document(self) -> Any:
        """Refuse what would grow before it does."""
        node = super().compose_document()
        if _values(node, {}) > MOST_VALUES:
            raise yaml.YAMLError(f"with its aliases it holds more than {MOST_VALUES} values")
        return node

    def whole_mapping(self, node: yaml.MappingNode) -> dict[Hashable, Any]:
        """Of which no key stands twice."""
        tree: dict[Hashable, Any] = {}
        for key_node, value_node in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.YAMLError(f"a list or a map is a key{key_node.start_mark}")
            if key in tree:
                raise yaml.YAMLError(f"the key {str(key)[:80]!r} stands twice{key_node.start_mark}")
            tree[key] = self.construct_object(value_node, deep=True)
        return tree


def _values(node: Any, known: dict[int, int]) -> int:
    """How many a node stands for; an alias that leads to itself stands for too many."""
    if id(node) in known:
        return known[id(node)]
    known[id(node)] = MOST_VALUES + 1
    parts: list[Any] = []
    if isinstance(node, yaml.MappingNode):
        parts = [part for pair in node.value for part in pair]
    elif isinstance(node, yaml.SequenceNode):
        parts = node.value
    known[id(node)] = 1 + sum(_values(part, known) for part in parts)
    return known[id(node)]


def _null(_: Any, __: Any) -> None:
    return None


def _truth(_: Any, node: Any) -> bool:
    return str(node.value).lower() == "true"


def _integer(_: Any, node: Any) -> int:
    return int(node.value)


def _number(_: Any, node: Any) -> float:
    return float(node.value)


def _text(_: Any, node: Any) -> str:
    return str(node.value)


def _list(loader: Any, node: Any) -> list[Any]:
    return list(loader.construct_sequence(node, deep=True))


PLAIN = (
    ("null", r"~|null|Null|NULL|", _null, "~nN"),
    ("bool", r"true|True|TRUE|false|False|FALSE", _truth, "tTfF"),
    ("int", r"[-+]?\d+", _integer, "-+0123456789"),
    ("float", r"[-+]?(\d+\.\d*|\.?\d+)([eE][-+]?\d+)?", _number, "-+.0123456789"),
)
"""What a text without quotes may be: its tag, its pattern, its value, its first character."""

TAG = "tag:yaml.org,2002:"

for _kind, _pattern, _construct, _first in PLAIN:
    _Loader.add_implicit_resolver(
        TAG + _kind, re.compile(f"(?:{_pattern})$", re.ASCII), [*_first, ""]
    )
    _Loader.add_constructor(TAG + _kind, _construct)
_Loader.add_constructor(f"{TAG}str", _text)
_Loader.add_constructor(f"{TAG}seq", _list)
_Loader.add_constructor(f"{TAG}map", _Loader.whole_mapping)
_Loader.add_constructor(None, _Loader.construct_undefined)  # type: ignore[type-var]
