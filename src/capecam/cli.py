"""The command line: its application, and how it ends."""

from __future__ import annotations

import errno
import logging
import signal
import sys

import typer

from capecam.cli_options import HELP_COLUMNS, CommandGroup, with_common_options
from capecam.commands import exporting, judging, looking, reviewing, running, trying, viewing
from capecam.commands.results import print_error
from capecam.errors import CapecamError
from capecam.runtime import logs

app = typer.Typer(
    cls=CommandGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain text: rich's tables leave a third of 80 columns to sentences
    context_settings={"max_content_width": HELP_COLUMNS},
)
for group in (running, looking, viewing, judging, reviewing, exporting, trying):
    app.add_typer(group.app)

INTERRUPTED = 130
"""Exit code of an interrupted run."""

UNWRITABLE = {errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOSPC, errno.EDQUOT}
"""Errors of a folder that is read-only, or of a full disk."""


def main() -> None:
    """Run a command; print an error as one line and exit with its code."""
    logs.configure(logging.INFO)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app()
    except CapecamError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:
        if error.errno in UNWRITABLE:
            where = "" if error.filename is None else f"{error.filename}: "
            _fail(f"{where}{error.strerror}; make space on the disk, or correct its permissions", 1)
        if error.errno != errno.ENAMETOOLONG:
            raise
        _fail(f"{str(error.filename)[:80]}...: no file can have such a long name; shorten it", 2)
    except SystemExit as end:  # of typer, after Ctrl-C
        if end.code == INTERRUPTED:
            _fail("interrupted; the same command continues where it stopped", INTERRUPTED)
        raise


def _interrupt(*_: object) -> None:
    """Treat SIGTERM like Ctrl-C."""
    raise KeyboardInterrupt


def _fail(message: str, code: int) -> None:
    print_error(message)
    sys.exit(code)


@app.callback()
@with_common_options
def _root() -> None:
    """Map rooftop solar in aerial orthophotos, with heatmaps that explain the network's decisions.

    To begin, type: capecam demo DIR, and then the command that it prints.
    """
