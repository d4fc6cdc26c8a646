"""How commands print their results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Protocol


class Result(Protocol):
    """Result of a command."""

    def to_json(self) -> Mapping[str, object]: ...
    def to_text(self) -> str: ...


def show(result: Result, *, as_json: bool) -> None:
    """Print a result as text or JSON."""
    print(json.dumps(result.to_json(), indent=1) if as_json else result.to_text())
