"""Measure the server of a run: its start, its memory, and explanations on a click.

Usage: viewer.py OUT [--clicks N]

OUT is any output. Requests follow each other; the network is loaded before the first click.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

WARM_S = 15.0
"""Time to load the network after the page is open."""

PAGES = 300
"""Pages of 1,000 rows that are read before memory is measured again."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--clicks", type=int, default=8)
    arguments = parser.parse_args()
    command = [sys.executable, "-m", "capecam", "view", str(arguments.out), "--no-browser"]
    started = time.perf_counter()
    server = subprocess.Popen([*command, "--port", "0"], stdout=subprocess.PIPE, text=True)
    try:
        address = server.stdout.readline().strip()
        report("address", started)
        city = json.loads(get(address + "city.json"))
        report("city.json", started)
        rows = json.loads(get(f"{address}run/0/queue.json?limit={arguments.clicks}"))["rows"]
        report("queue", started)
        get(address + "run/0/detections.fgb", Range="bytes=0-7")
        report("outlines", started)
        print(f"memory: {peak_mb(server.pid)} MB")
        for page in range(PAGES):
            get(f"{address}run/0/queue.json?offset={1000 * page}&limit=1000")
        print(f"memory after {PAGES} pages: {peak_mb(server.pid)} MB")
        if not city["runs"][0]["explain_problem"]:
            time.sleep(WARM_S)
            for row in rows:
                before = time.perf_counter()
                explain(address, row[0])
                report("click", before)
    finally:
        server.send_signal(signal.SIGINT)
        server.wait()


def report(what: str, since: float) -> None:
    print(f"{what}: {time.perf_counter() - since:.2f} s", flush=True)


def get(url: str, **headers: str) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
        return answer.read()


def explain(address: str, id_: str) -> None:
    headers = {"Origin": address.rstrip("/"), "X-Capecam": "1", "Content-Type": "application/json"}
    body = json.dumps({"id": id_}).encode()
    urllib.request.urlopen(urllib.request.Request(f"{address}run/0/explain", body, headers)).read()


def peak_mb(pid: int) -> int:
    """Return the peak resident memory of a process, files that are mapped included."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) // 1000


if __name__ == "__main__":
    main()
