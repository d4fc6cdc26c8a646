"""Check the settings of a run before anything slow is imported.

torch and GDAL take seconds to import, and reading headers and weights takes longer. Whatever can be
found out without them is reported first, and all of it at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from capecam.errors import OutputError, SettingsError, UsageError
from capecam.imagery.discovery import find_images
from capecam.io.paths import is_there, location, names_checkpoint
from capecam.model.checkpoint_file import check_file
from capecam.runtime.extras import require_extra, require_onnx
from capecam.settings import Settings, leaves

CHECKED_APART = ("checkpoint", "out")
"""Settings with paths that may be folders, or may be absent."""


def check_settings(settings: Settings, *, plan: bool = False) -> None:
    """Check that a run, or a plan of it, can start as far as files and settings say.

    Raises:
        UsageError: it cannot; the message has every reason, a line for each if there are several.
    """
    problems = [*(() if plan else _missing(settings)), *_absent_files(settings)]
    for check in (_check_sources, _check_checkpoint, _check_output, _check_choices):
        try:
            check(settings)
        except UsageError as error:
            problems.append(str(error))
    if len(problems) == 1:
        raise UsageError(*problems)
    if problems:
        lines = ["nothing was started, for several reasons; correct them:", *problems]
        raise UsageError("\n  ".join(lines))


def check_inspected(name: str) -> None:
    """Check that a checkpoint can be inspected; images are checked when they are opened.

    Raises:
        CheckpointError: it cannot.
    """
    path = location(name)
    if names_checkpoint(path):
        check_file(path)


def _missing(settings: Settings) -> Iterator[str]:
    """Yield a sentence for each setting that a run needs and that is not set."""
    for setting in leaves():
        if setting.key in CHECKED_APART and getattr(settings, setting.key) is None:
            option = f"{setting.option.flag} {setting.option.metavar}" if setting.option else ""
            yield (
                f"{setting.key} is not set ({setting.help}); give {option}, or set it in a --config"
            )
    config = None
    if settings.checkpoint is not None:
        with suppress(UsageError):  # which is reported on its own
            config = check_file(settings.checkpoint)
    if config is None and not (settings.model.architecture and settings.model.encoder):
        yield (
            "model.architecture and model.encoder are not set, and no checkpoint says them but a "
            "folder of save_pretrained; capecam init guesses them and writes a --config"
        )


def _check_sources(settings: Settings) -> None:
    find_images(settings.sources, vrt=settings.imagery.allow_vrt)


def _check_checkpoint(settings: Settings) -> None:
    if settings.checkpoint is not None:
        check_file(settings.checkpoint)


def _check_output(settings: Settings) -> None:
    if settings.out is None:
        return
    out = settings.out.absolute()
    nearest = next(path for path in (out, *out.parents) if path.exists())
    if not (nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)):
        reason = "has no permission to write" if nearest.is_dir() else "is a file"
        raise OutputError(
            f"cannot write to the output folder {settings.out}: {nearest} {reason}"
            "; choose another --out, or fix its disk or permissions"
        )


def _absent_files(settings: Settings) -> Iterator[str]:
    """Yield a sentence for each other file that is named and not there."""
    for setting in leaves():
        if setting.is_path and setting.key not in CHECKED_APART:
            section, _, name = setting.key.rpartition(".")
            path: Path | None = getattr(getattr(settings, section), name)
            if path is not None and not is_there(path):
                yield f"{setting.key}: {path}: there is no such file; check its path"


def _check_choices(settings: Settings) -> None:
    """Check choices that exclude each other, or need an optional package."""
    _ = settings.target_gsd_m
    compute = settings.compute
    if compute.engine == "onnx":
        require_onnx()
        if compute.device.startswith("cuda") or compute.precision not in ("auto", "fp32"):
            raise SettingsError(
                f"the engine onnx runs on the CPU in fp32, not on {compute.device} in "
                f"{compute.precision}; choose --device cpu and --precision fp32"
            )
    if compute.cluster:
        require_extra("ray", ["ray"], "--cluster needs")
