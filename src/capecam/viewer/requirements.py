"""The packages of the extra ``view``."""

from __future__ import annotations

from importlib.util import find_spec

from capecam.errors import SettingsError

PACKAGES = ("starlette", "uvicorn")


def require_view() -> None:
    """Raise unless the packages of the extra are installed.

    Raises:
        SettingsError: one is missing.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise SettingsError(
            f"{' and '.join(missing)} is not installed, which capecam view needs; "
            "pip install 'capecam[view]'"
        )
