"""How commands print their results."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import Protocol

from capecam.runtime import logs


class Result(Protocol):
    """Result of a command."""

    def to_json(self) -> Mapping[str, object]: ...
    def to_text(self) -> str: ...


def show(result: Result, *, as_json: bool) -> None:
    """Print a result as text or JSON."""
    print(json.dumps(result.to_json(), indent=1) if as_json else result.to_text())


def print_error(message: str) -> None:
    """Print what has failed, on standard error, as the progress is printed."""
    as_json = json.dumps({"event": "error", "text": message})
    print(as_json if logs.is_json() else f"capecam: {message}", file=sys.stderr)
