"""Optional packages, which the extras of this one install."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from capecam.errors import SettingsError


def require_extra(extra: str, packages: Sequence[str], user: str) -> None:
    """Raise unless the packages of an extra are installed.

    Args:
        extra: name of the extra.
        packages: names of its packages, as they are imported.
        user: what needs them, with its verb, such as "capecam view needs".

    Raises:
        SettingsError: one is missing.
    """
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise SettingsError(
            f"{missing[0]} is not installed, which {user}; pip install 'capecam[{extra}]'"
        )


def require_onnx() -> None:
    """Raise unless the packages of the extra ``onnx`` are installed.

    Raises:
        SettingsError: one is missing.
    """
    require_extra("onnx", ("onnx", "onnxruntime"), "ONNX files need")
