"""The command ``capecam`` of an environment that the user names: found, checked and run."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import time
from configparser import ConfigParser
from functools import cache
from pathlib import Path

from qgis.core import QgsBlockingProcess, QgsProcessingException, QgsProcessingFeedback
from qgis.PyQt.QtCore import QByteArray, QProcess

DONE, PARTLY = 0, 3
"""Exit codes with results: everything is done, or everything but some images."""

REMEDY = (
    "name the program capecam of its environment, or the python there, in Settings > Options > "
    "Processing > Providers > capecam"
)

FOREIGN = ("PYTHONHOME", "PYTHONPATH", "GDAL_DATA", "GDAL_DRIVER_PATH", "PROJ_DATA", "PROJ_LIB")
"""Variables by which some builds of QGIS lead their own Python, GDAL and PROJ to their files; those
of the environment would read them, too."""

LINE_S = 60.0
"""Seconds between lines of the log within a stage; the bar moves with every event."""


def plugin_version() -> str:
    """Return the version of this plugin, which is that of the capecam that it is for."""
    metadata = ConfigParser(interpolation=None)
    metadata.read(Path(__file__).with_name("metadata.txt"), encoding="utf-8")
    return metadata["general"]["version"]


def run_command(setting: str, arguments: list[str], feedback: QgsProcessingFeedback) -> int:
    """Run a command of capecam, and return its exit code: ``DONE`` or ``PARTLY``.

    If the algorithm is cancelled, the command gets SIGTERM, after which it keeps what is finished.

    Args:
        setting: see :func:`find_program`.
        arguments: the command, its arguments and options.
        feedback: told the progress, and everything that the command prints.

    Raises:
        QgsProcessingException: there is no capecam of this version, or the command did not end with
            results; the message is its own.
    """
    program = find_program(setting)
    check_version(program)
    feedback.pushCommandInfo(shlex.join([*program, *arguments]))
    if feedback.isCanceled():
        raise QgsProcessingException("cancelled before it began")
    messages = _Messages(feedback)
    code, text = _run([*program, *arguments], messages, feedback)
    feedback.pushConsoleInfo(text.replace("  ", "\u00a0\u00a0"))  # or tables lose their columns
    if code not in (DONE, PARTLY):
        raise QgsProcessingException(f"{messages.reason or 'capecam ended'} (exit code {code})")
    for error in messages.errors:
        feedback.reportError(error)
    return code


def find_program(setting: str) -> tuple[str, ...]:
    """Return the words that start capecam.

    Args:
        setting: path of ``capecam``, of the ``python`` of its environment, or of the folder of the
            environment; "": that on the PATH.

    Raises:
        QgsProcessingException: there is no such program.
    """
    path = os.path.expanduser(setting.strip()) or shutil.which("capecam")
    if path is None:
        raise QgsProcessingException(f"capecam is not on the PATH of QGIS; {REMEDY}")
    if os.path.isdir(path):
        path = os.path.join(path, "bin", "capecam")
    if not (os.path.isfile(path) and os.access(path, os.X_OK)):
        raise QgsProcessingException(f"{path}: there is no such program; {REMEDY}")
    is_python = os.path.basename(path).startswith("python")
    return (path, "-m", "capecam") if is_python else (path,)


@cache  # errors are not cached, so a program that is mended is tested again
def check_version(program: tuple[str, ...]) -> None:
    """Check that a program is the capecam that this plugin is for.

    Raises:
        QgsProcessingException: it is something else, or of another version.
    """
    messages = _Messages(QgsProcessingFeedback(False))
    _, text = _run([*program, "--version"], messages)
    wanted = plugin_version().rpartition(".")[0]
    found = re.match(r"capecam (\d+\.\d+)", text)
    if found is None:
        said = f" ({messages.reason})" if messages.reason else ""
        raise QgsProcessingException(f"{shlex.join(program)}: this is no capecam{said}; {REMEDY}")
    if found[1] != wanted:
        raise QgsProcessingException(
            f"{shlex.join(program)}: this is {text.strip()}, and the plugin is for {wanted}; "
            f"install the plugin of that version (make plugin), or {REMEDY}"
        )


def _run(
    words: list[str], messages: _Messages, feedback: QgsProcessingFeedback | None = None
) -> tuple[int, str]:
    """Run a program; return its exit code (-N: signal N ended it), and its standard output."""
    if os.name == "posix":  # env leaves the environment of QGIS itself as it is
        without = [word for name in FOREIGN for word in ("-u", name)]
        words = ["/usr/bin/env", *without, "CAPECAM_LOG=json", *words]
    output: list[bytes] = []

    def keep(chunk: QByteArray) -> None:
        output.append(bytes(chunk))

    show = messages.add  # in a name, since QgsBlockingProcess holds no reference to it
    process = QgsBlockingProcess(words[0], words[1:])
    process.setStdOutHandler(keep)
    process.setStdErrHandler(show)
    code = process.run(feedback)
    messages.add(QByteArray(b"\n"))
    if process.exitStatus() == QProcess.ExitStatus.CrashExit:
        code = -code  # it is the number of a signal
        messages.plain.append("capecam was killed; run again, it continues where it stopped")
    return code, b"".join(output).decode(errors="replace")


class _Messages:
    """Standard error of a command: an event a line, as JSON (docs/operations.md).

    Args:
        feedback: shows them.
    """

    def __init__(self, feedback: QgsProcessingFeedback) -> None:
        self._feedback = feedback
        self._rest = b""
        self._told_at = 0.0
        self.errors: list[str] = []
        """What failed, in the words of capecam, which says so at its end."""
        self.plain: list[str] = []
        """Lines that are no events: the usage of an option that there is not, or a traceback."""

    @property
    def reason(self) -> str:
        """Why the command ended; "" if it did not say."""
        return "\n".join(self.errors) or "".join(self.plain[-1:])

    def add(self, chunk: QByteArray) -> None:
        """Show the lines that end in a piece of the stream."""
        *lines, self._rest = (self._rest + bytes(chunk)).split(b"\n")
        for line in lines:
            if line.strip():
                self._show(line.decode(errors="replace"))

    def _show(self, line: str) -> None:
        try:
            event = json.loads(line)
            kind = event["event"]
        except (ValueError, TypeError, KeyError):
            self.plain.append(line)
            self._feedback.pushWarning(line)
            return
        if kind in ("stage", "progress"):
            self._show_progress(event, is_new=kind == "stage")
        elif kind == "cell":
            self._feedback.pushInfo("[{ended}/{cells}] {cell}: {outcome}".format(**event))
        elif kind == "error":
            self.errors.append(event["text"])
        elif kind == "message":
            is_info = event["level"] in ("debug", "info")
            show = self._feedback.pushInfo if is_info else self._feedback.pushWarning
            show(event["text"])

    def _show_progress(self, event: dict[str, object], *, is_new: bool) -> None:
        """Show how far a stage is; each stage has the bar from 0 to 100 %."""
        done, total = event["done"], event["total"]
        self._feedback.setProgress(100 * done / total if total else 0)
        if is_new or time.monotonic() >= self._told_at + LINE_S:
            self._told_at = time.monotonic()
            self._feedback.setProgressText(event["text"])
