"""One night: run, verify, report, one line that says how it went. For cron and systemd timers.

Usage: nightly.py CONFIG

The log is OUT/logs/<date>.log; on a terminal it is shown, too, and without one nothing is printed.
Exit codes are those of capecam: 0 all is done; 3 some images failed or a product is bad; 130
interrupted, the next night goes on; 2 nothing could be made; 1 anything else. A night that starts
while another is at it ends with 2 and says whose it is.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import IO

from capecam.errors import CapecamError, UsageError
from capecam.settings.loading import load

KEPT_LOGS = 30
OUTCOMES = {
    0: "done",
    1: "stopped; the last lines say by what",
    2: "nothing was made; the last lines say why",
    3: "done, but for what the lines above name",
    130: "interrupted; the next night goes on",
}


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    config = Path(sys.argv[1])
    try:
        out = load(config).out
        if out is None:
            raise UsageError(f"{config}: out is not set")
        logs = out / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        path = logs / f"{datetime.now():%Y-%m-%dT%H%M%S}.log"
        with path.open("w", encoding="utf-8") as log:
            code = night(config, out, log)
            say(f"{now()} exit {code}: {OUTCOMES.get(code, 'failed')}", log)
    except (CapecamError, OSError) as error:
        print(f"nightly: {error}", file=sys.stderr)
        return 2
    for old in sorted(logs.glob("*.log"))[:-KEPT_LOGS]:
        old.unlink()
    return code


def night(config: Path, out: Path, log: IO[str]) -> int:
    """Run, verify, and put panels into the report."""
    say(f"{now()} capecam nightly, {config}", log)
    code = capecam(["run", "--config", str(config)], log)
    if code in (0, 3):
        code = capecam(["verify", str(out)], log) or code
    if code in (0, 3):
        code = capecam(["report", str(out)], log) or code
    return code


def capecam(arguments: list[str], log: IO[str]) -> int:
    """A command; what it says goes to the log. A signal to end is handed on."""
    command = [sys.executable, "-m", "capecam", *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        signal.signal(signal.SIGTERM, lambda *_: process.terminate())
        signal.signal(signal.SIGINT, lambda *_: None)  # the command has had it from the terminal
        for line in process.stdout or ():
            say(line.rstrip("\n"), log)
    return process.returncode


def say(line: str, log: IO[str]) -> None:
    """To the log, and to the terminal if there is one."""
    print(line, file=log, flush=True)
    if sys.stdout.isatty():
        print(line, flush=True)


def now() -> str:
    return f"{datetime.now().astimezone():%Y-%m-%dT%H:%M:%S%z}"


if __name__ == "__main__":
    sys.exit(main())
