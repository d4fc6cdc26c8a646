"""What all sections of settings are made of."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict


@dataclass(frozen=True, slots=True)
class Option:
    """Marks a field that the command line offers: its flag and the value's name in the help."""

    flag: str
    metavar: str | None = None


def among(name: str, known: Sequence[str], what: str) -> None:
    """Raises ValueError, with the nearest name, where a name is not known."""
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
        raise ValueError(f"{what} {name!r}; {hint}")


class Section(BaseModel):
    """Frozen, and without any key that is not declared."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", arbitrary_types_allowed=True, allow_inf_nan=False
    )
