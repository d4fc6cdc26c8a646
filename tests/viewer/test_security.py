"""Only the server's own page may ask, and only for what is named."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import ORIGIN, WRITES, client_of
from starlette.testclient import TestClient

from capecam.viewer.files import RunFiles
from capecam.viewer.security import MAX_BODY, Access
from capecam.viewer.served_runs import ServedRuns

POSTS = ["explain", "verdicts", "missed", "undo"]


@pytest.mark.parametrize("host", ["127.0.0.1:8321", "localhost:8321", "LOCALHOST:8321"])
def test_the_server_goes_by_the_names_of_loopback(client: TestClient, host: str) -> None:
    assert client.get("/city.json", headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1", "127.0.0.1:80", "127.0.0.1.evil.example:8321", ""]
)
def test_a_foreign_host_is_refused(client: TestClient, host: str) -> None:
    """Against names that are made to lead here (DNS rebinding)."""
    for path in ("/", "/city.json", "/run/0/detections.fgb"):
        answer = client.get(path, headers={"Host": host})
        assert (answer.status_code, set(answer.json())) == (403, {"error"})


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://127.0.0.1:8321"])
def test_a_foreign_origin_is_refused(client: TestClient, origin: str) -> None:
    assert client.get("/city.json", headers={"Origin": origin}).status_code == 403
    for post in POSTS:
        answer = client.post(f"/run/0/{post}", json={}, headers={**WRITES, "Origin": origin})
        assert answer.status_code == 403
        assert "access-control-allow-origin" not in answer.headers


def test_pictures_on_a_foreign_page_are_refused_and_links_are_not(client: TestClient) -> None:
    foreign = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    assert client.get("/run/0/imagery/0/0/0.webp", headers=foreign).status_code == 403
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert client.get("/", headers=link).status_code == 200


@pytest.mark.parametrize("post", POSTS)
def test_what_a_form_can_send_writes_nothing(client: TestClient, out: Path, post: str) -> None:
    path, body = f"/run/0/{post}", {"id": "1_2_3"}
    for missing in WRITES:
        headers = {name: value for name, value in WRITES.items() if name != missing}
        assert client.post(path, json=body, headers=headers).status_code == 403
    plain = {**WRITES, "Content-Type": "text/plain"}
    assert client.post(path, content="{}", headers=plain).status_code == 415
    assert client.get(path).status_code in (404, 405)
    assert not (out / "review.gpkg").exists()


def test_large_requests_are_refused(client: TestClient) -> None:
    kind = {**WRITES, "Content-Type": "application/json"}

    def endless() -> Iterator[bytes]:
        for _ in range(3 * MAX_BODY // 1000):
            yield b" " * 1000

    assert (
        client.post("/run/0/undo", content=b" " * (MAX_BODY + 1), headers=kind).status_code == 413
    )
    assert client.post("/run/0/undo", content=endless(), headers=kind).status_code == 413
    assert client.post("/run/0/undo", content=b"[1]", headers=kind).status_code == 400
    assert client.post("/run/0/undo", content=b"[" * 60_000, headers=kind).status_code == 400
    assert client.post("/run/0/explain", content=b'{"x": NaN}', headers=kind).status_code == 400


@pytest.mark.parametrize("number", ["1e400", "-1e400", "1" + 400 * "0", "true", '"1"', "1.7"])
def test_numbers_are_finite_and_those_that_count_are_whole(client: TestClient, number: str) -> None:
    kind = {**WRITES, "Content-Type": "application/json"}
    for path, name in (("explain", "class_id"), ("undo", "row"), ("missed", "m2")):
        body = f'{{"{name}": {number}, "geometry": {{}}}}'
        answer = client.post(f"/run/0/{path}", content=body, headers=kind)
        assert (answer.status_code == 400) == (number != "1.7" or name != "m2"), answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/run/0/cells/..%2F..%2F/run.json", "/run/0/cells/../../run.json", "/run/0/run.json",
        "/run/0/cells/%2e%2e/run.json", "/run/0/cells/west/cell.json", "/../app.py",
        "/%2e%2e/app.py",
        "/run/0/cells/west/..%2Feast%2Fclasses.tif", "/run/0/detections.parquet", "/run/1/find",
        "/run/0/cells/nowhere/classes.tif", "/run/0/overlay/..%2F..%2Fx.png", "/run/0/classes.vrt",
    ],
)  # fmt: skip
def test_only_files_that_are_named_are_sent(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_links_out_of_the_folder_are_not_followed(out: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(out, tmp_path / "out")
    shutil.move(copy / "cells/west/classes.tif", tmp_path / "elsewhere.tif")
    (copy / "cells/west/classes.tif").symlink_to(tmp_path / "elsewhere.tif")
    shutil.move(copy / "classes.overview.tif", copy / "inside.tif")
    (copy / "classes.overview.tif").symlink_to("inside.tif")
    (tmp_path / "link").symlink_to(copy)
    for folder in (copy, tmp_path / "link"):
        with ServedRuns.open([folder]) as city:
            files: RunFiles = city.runs[0].files
            assert files.of_cell("west", "classes.tif") is None
            assert files.of_cell("east", "classes.tif") is not None
            assert files.overview("classes.overview.tif") is not None
    shutil.move(copy / "cells/west", tmp_path / "west")
    (copy / "cells/west").symlink_to(tmp_path / "west")
    with ServedRuns.open([copy]) as city:
        assert city.runs[0].files.of_cell("west", "probability.tif") is None


def test_every_answer_has_a_strict_policy(client: TestClient) -> None:
    for path in ("/", "/city.json", "/nothing.js", "/run/0/classes.overview.tif"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"


def test_beyond_loopback_a_token_is_needed(served: ServedRuns) -> None:
    access = Access.of("192.0.2.7", 8321)
    assert len(access.token or "") >= 32
    client = client_of(served, access)
    host = {"Host": "192.0.2.7:8321"}
    assert client.get("/city.json", headers=host).status_code == 403
    assert client.get("/city.json?token=wrong", headers=host).status_code == 403
    other = {"Host": "192.0.2.8:8321"}
    assert client.get(f"/?token={access.token}", headers=other).status_code == 403

    answer = client.get(
        f"{ORIGIN}//x?token={access.token}&a=1", headers=host, follow_redirects=False
    )
    assert (answer.status_code, answer.headers["location"]) == (303, "/x?a=1")
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    client.cookies.clear()
    named = {**host, "Cookie": cookie.partition(";")[0]}
    assert client.get("/city.json", headers=named).status_code == 200
    own = {**named, "X-Capecam": "1", "Origin": "http://192.0.2.7:8321"}
    assert client.post("/run/0/undo", json={}, headers=own).status_code == 409
    assert client.post("/run/0/undo", json={}, headers={**own, "Origin": ORIGIN}).status_code == 403


def test_addresses_are_those_of_a_browser() -> None:
    assert Access.of("127.0.0.1", 80).url == "http://127.0.0.1:80/"
    assert Access.of("::1", 81).url == "http://[::1]:81/"
    assert Access.of("localhost", 81).token is None
    everywhere = Access.of("0.0.0.0", 82)
    assert everywhere.url == f"http://127.0.0.1:82/?token={everywhere.token}"
    assert everywhere.is_named("city.example:82")


@contextmanager
def serving(out: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """``capecam view``, and the address that it prints."""
    code = "from capecam.cli import main; main()"
    command = [sys.executable, "-c", code, "view", str(out), "--no-browser", "--port", "0"]
    process = subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    with process:
        try:
            assert process.stdout
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def raw(port: int, request: bytes) -> bytes:
    """What the server answers to some bytes."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request)
        return connection.recv(1 << 16)


@pytest.mark.thorough
def test_the_command_serves_until_it_is_interrupted(out: Path) -> None:
    with serving(out) as (process, address):
        port = int(address.rpartition(":")[2].strip("/"))
        host = b"Host: 127.0.0.1:%d\r\n" % port
        up = b"GET /run/0/cells/../../run.json HTTP/1.1\r\n" + host + b"\r\n"
        answer = raw(port, up)
        assert answer.startswith(b"HTTP/1.1 404")
        assert b"\r\nserver:" not in answer.lower()
        assert raw(port, b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n").startswith(
            b"HTTP/1.1 403"
        )
        huge = (
            b"POST /run/0/verdicts HTTP/1.1\r\nX-Capecam: 1\r\nContent-Type: application/json\r\n"
            + host + b"Origin: http://127.0.0.1:%d\r\n" % port
            + b"Content-Length: 1000000000\r\n\r\n" + b" " * 100_000
        )  # fmt: skip
        assert raw(port, huge).startswith(b"HTTP/1.1 413")
        worst = max(int(line.split()[1]) for line in _status(process.pid) if "VmHWM" in line)
        assert worst < 600_000  # kB
        process.send_signal(2)
        assert process.wait(timeout=20) == 0
        assert process.stderr
        assert process.stderr.read() == ""


def _status(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/status").read_text().splitlines()
