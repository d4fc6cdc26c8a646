"""Reading a YAML file of settings as plain values.

YAML 1.1, which PyYAML reads, takes ``no`` for false, ``012`` for 10, ``1:30`` for 90 and ``1e3``
for a text, and the last of two equal keys wins. Here numbers are decimal, the only booleans are
true and false, and a key occurs once. (ruamel.yaml, which reads YAML 1.2, would need the same rules
for dates, ``.nan``, tags and aliases.)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import yaml

from capecam.errors import SettingsError

MAX_BYTES = 1 << 16
"""A settings file has one or two thousand; PyYAML needs up to six seconds for this many."""

MAX_VALUES = 20_000
"""Number of values, with those behind an alias counted each time."""

PLAIN = "plain"
"""Tag of a scalar without quotes and without a tag of its own."""

CONSTANTS = {"": None, "~": None} | {
    spelling: value
    for word, value in (("null", None), ("true", True), ("false", False))
    for spelling in (word, word.capitalize(), word.upper())
}
INTEGER = re.compile(r"[-+]?\d+", re.ASCII)
FLOAT = re.compile(r"[-+]?(\d+\.\d*|\.?\d+)([eE][-+]?\d+)?", re.ASCII)


def read_yaml(path: Path) -> object:
    """Return the only document of a file as maps, lists, texts, numbers, booleans and None.

    Raises:
        SettingsError: there is no such file, or it is not such a document.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would never end
            raise SettingsError(f"the configuration {path} is no file; check its path")
        if path.stat().st_size > MAX_BYTES:
            raise SettingsError(
                f"the configuration {path} has {path.stat().st_size} bytes, more than {MAX_BYTES}"
                "; name a file of settings"
            )
        node = yaml.compose(path.read_text(encoding="utf-8-sig"), Loader=_Loader)
        return None if node is None else _Document().value(node)
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


class _Loader(yaml.BaseLoader):
    def resolve(self, kind: type[yaml.Node], value: object, implicit: tuple[bool, bool]) -> str:
        if kind is yaml.ScalarNode and implicit[0]:
            return PLAIN
        return str(super().resolve(kind, value, implicit))  # type: ignore[no-untyped-call]


@dataclass(slots=True)
class _Document:
    """Construction of a document's values, which ends when aliases make them too many."""

    count: int = 0

    def value(self, node: yaml.Node, *ancestors: yaml.Node) -> object:
        """Return the value of a node."""
        self.count += 1
        if self.count > MAX_VALUES or node in ancestors:
            raise yaml.YAMLError(f"with its aliases it holds more than {MAX_VALUES} values")
        ancestors = (*ancestors, node)
        match node:
            case yaml.ScalarNode(tag=tag, value=text) if tag in (PLAIN, _Loader.DEFAULT_SCALAR_TAG):
                return _plain(text) if tag == PLAIN else text
            case yaml.SequenceNode(tag=_Loader.DEFAULT_SEQUENCE_TAG, value=parts):
                return [self.value(part, *ancestors) for part in parts]
            case yaml.MappingNode(tag=_Loader.DEFAULT_MAPPING_TAG, value=pairs):
                tree: dict[object, object] = {}
                for key_node, value_node in pairs:
                    if not isinstance(key_node, yaml.ScalarNode):
                        raise yaml.YAMLError(f"a list or a map is a key{key_node.start_mark}")
                    key = self.value(key_node)
                    if key in tree:
                        raise yaml.YAMLError(
                            f"the key {str(key)[:80]!r} stands twice{key_node.start_mark}"
                        )
                    tree[key] = self.value(value_node, *ancestors)
                return tree
        raise yaml.YAMLError(
            f"could not determine a constructor for the tag {node.tag!r}{node.start_mark}"
        )


def _plain(text: str) -> object:
    """Return the constant or number that a text without quotes stands for, or the text itself."""
    if text in CONSTANTS:
        return CONSTANTS[text]
    if INTEGER.fullmatch(text):
        return int(text)
    return float(text) if FLOAT.fullmatch(text) else text
