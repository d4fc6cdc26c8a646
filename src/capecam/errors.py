"""What can go wrong, in words for the person who can mend it.

Every message says what was found, where, and what to do. Where the rule is the cure ("must be from
1 on"), the second paragraph of its class says the rest; docs/errors.md is made of both.
"""

from collections.abc import Mapping


class CapecamError(Exception):
    """Base of all errors that are reported as one line, without a traceback."""

    exit_code = 1


class UsageError(CapecamError):
    """The call, the configuration, the checkpoint or all inputs are unusable.

    Correct what the message names, and give the command again.
    """

    exit_code = 2


class SettingsError(UsageError):
    """A setting is unknown, has the wrong type or contradicts another.

    Correct it; docs/configuration.md lists every setting.
    """


class CheckpointError(UsageError):
    """The checkpoint cannot be read, is not safe to read, or does not fit the network.

    Copy the file again, or save the state_dict anew.
    """


class OutputError(UsageError):
    """The output folder cannot be written or holds something else.

    Choose another, or mend its disk or permissions.
    """


class StoppedError(CapecamError):
    """The machine, and not the input, keeps the run from going on.

    Mend that; the same command goes on where it stopped.
    """

    exit_code = 1


class DeviceError(StoppedError):
    """The GPU is lost to this process; a new one may be able to use it.

    The same command goes on where it stopped; if it happens again, look at the GPU and its driver.
    """


class WorkerError(StoppedError):
    """A worker process has ended, and not of a cell; others can go on.

    Give the command again, with -v or --in-process to see why.
    """


class NotFiniteError(CapecamError):
    """The network's gradients overflowed, or are no numbers. It fails the cell.

    Use another --precision.
    """

    exit_code = 2


class ImageError(CapecamError):
    """One image cannot be used. It fails its own cell; the rest of the run goes on.

    Deliver it again; the next run does the rest.
    """

    exit_code = 2

    def __init__(self, message: str, facts: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.facts: Mapping[str, str] = facts or {}
        """What is known of the image none the less, by name."""
