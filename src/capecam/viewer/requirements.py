"""The packages of the extra ``view``."""

from __future__ import annotations

from capecam.runtime.extras import require_extra

PACKAGES = ("starlette", "uvicorn")


def require_view() -> None:
    """Raise unless the packages of the extra are installed.

    Raises:
        SettingsError: one is missing.
    """
    require_extra("view", PACKAGES, "capecam view needs")
