"""Base class of the sections, and the mark of settings with an option."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict


@dataclass(frozen=True, slots=True)
class Option:
    """Mark of a field that has a command-line option, with the name of the value in the help."""

    flag: str
    metavar: str | None = None


def check_name(name: str, names: Sequence[str], problem: str) -> None:
    """Raise ValueError with the nearest name if a name is not one of ``names``."""
    if name not in names:
        near = difflib.get_close_matches(name, names, 1)
        hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(names)}"
        raise ValueError(f"{problem} {name!r}; {hint}")


class Section(BaseModel):
    """Frozen model that refuses undeclared keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False
    )
