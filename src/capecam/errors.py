"""Errors that are reported to the user, with their exit codes.

A message says what was found, where, and what to do; docs/errors.md lists the common ones.
"""

from collections.abc import Mapping


class CapecamError(Exception):
    """Base of the errors that are reported as one line, without a traceback."""

    exit_code = 1


class UsageError(CapecamError):
    """The call, the configuration, the checkpoint or all inputs are unusable.

    Correct what the message names and repeat the command.
    """

    exit_code = 2


class SettingsError(UsageError):
    """A setting is unknown, has the wrong type or contradicts another.

    Correct it; docs/configuration.md lists every setting.
    """


class CheckpointError(UsageError):
    """The checkpoint cannot be read, is not safe to read, or does not fit the network.

    Copy the file again, or save the state_dict again.
    """


class OutputError(UsageError):
    """The output folder cannot be written, or contains something else.

    Choose another, or correct its permissions or make space on its disk.
    """


class StoppedError(CapecamError):
    """The machine, and not the input, stopped the run.

    Correct that; the same command continues where it stopped.
    """


class DeviceError(StoppedError):
    """This process cannot use the GPU any more; a new process may be able to.

    The same command continues where it stopped; if it happens again, check the GPU and its driver.
    """


class WorkerError(StoppedError):
    """A worker process ended before it computed a cell; other workers can continue.

    Repeat the command with -v or --in-process to see why.
    """


class NotFiniteError(CapecamError):
    """Gradients of the network are infinite or NaN, so that the cell fails.

    Use another --precision.
    """

    exit_code = 2


class ImageError(CapecamError):
    """One image cannot be used, so that its cell fails; the run continues with the others.

    Deliver the image again; the next run processes it.
    """

    exit_code = 2

    def __init__(self, message: str, facts: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.facts: Mapping[str, str] = facts or {}
        """Known properties of the image, by name."""
