"""Write docs/configuration.md from the settings tree. A test compares the two."""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any, get_args, get_origin

from capecam.settings import ClassSettings, Setting, leaves

PAGE = Path(__file__).parents[1] / "docs" / "configuration.md"

HEAD = """# Configuration

Every setting, made from `src/capecam/settings` by `scripts/configuration_docs.py`. A setting can
stand in the YAML file that `--config` names (nested: `tiling: {overlap: 70}`); those with an option
can also be given on the command line, which wins. Unknown keys are errors. Paths in a file are
relative to the file. `configs/capetown.yaml` is the original Cape Town model, `configs/demo.yaml`
the sample city.

| YAML key | option | default | what it is |
|---|---|---|---|
"""


def page() -> str:
    """The whole page."""
    return HEAD + "".join(row(setting) for setting in leaves())


def row(setting: Setting) -> str:
    """A row of the table."""
    option = f"`{setting.option.flag}`" if setting.option else ""
    text = setting.help.replace("|", "\\|")
    words = choices(setting.annotation)
    text += f" ({', '.join(words)})" if words else ""
    return f"| `{setting.key}` | {option} | {shown(setting.default)} | {text} |\n"


def choices(kind: Any) -> list[str]:
    """The words of a Literal."""
    if get_origin(kind) in (types.UnionType, tuple):
        return []
    return [f"`{word}`" for word in get_args(kind) if isinstance(word, str)]


def shown(value: Any) -> str:
    """A default as YAML would have it."""
    if value is None or value in ((), {}):
        return "none"
    if isinstance(value, tuple) and isinstance(value[0], ClassSettings):
        return ", ".join(f"{entry.name} `{entry.color}`" for entry in value)
    if isinstance(value, tuple):
        return f"`{', '.join(map(str, value))}`"
    return f"`{value}`"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(PAGE)
