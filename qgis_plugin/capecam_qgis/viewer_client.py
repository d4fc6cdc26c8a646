"""Requests to a running ``capecam view`` (docs/viewer.md), none of which is waited for."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from qgis.core import QgsNetworkAccessManager
from qgis.PyQt.QtCore import QObject, QTimer, QUrl, QUrlQuery, pyqtSignal
from qgis.PyQt.QtNetwork import QNetworkReply, QNetworkRequest

PATIENCE_MS = 310_000
"""Time that an answer may take: the server gives an explanation up after 300 s. QGIS would stop
waiting after the 60 s of its settings, in which a large network may not be loaded."""

RETRIES, RETRY_MS = 5, 1000
"""As many times as the viewer's own page, when the server says that it is busy."""

BUSY = 503

START = "start capecam view with the folder of the run, and enter the address that it prints"


class ViewerClient(QObject):
    """One server. A new request takes the place of one that waits.

    Args:
        address: as ``capecam view`` prints it, perhaps with a token.
    """

    failed = pyqtSignal(str)
    """Emitted in place of an answer: why there is none."""

    def __init__(self, address: str) -> None:
        super().__init__()
        url = QUrl.fromUserInput(address.strip())
        self._token = QUrlQuery(url).queryItemValue("token")
        self._base = QUrl(f"{url.scheme()}://{url.authority()}/")
        self._reply: QNetworkReply | None = None
        self._turn = 0  # number of the last request

    @property
    def address(self) -> str:
        """Return the address without the token."""
        return self._base.toString()

    def city(self, then: Callable[[dict[str, Any]], None]) -> None:
        """Ask what the server shows; this also shows it the token, if there is one."""
        url = self._base.resolved(QUrl("city.json"))
        if self._token:
            query = QUrlQuery()
            query.addQueryItem("token", self._token)
            url.setQuery(query)

        def check(content: bytes) -> None:
            try:
                city = json.loads(content)
                city["numbers"]  # which came with this plugin
            except (ValueError, TypeError, KeyError):
                self.failed.emit(
                    f"{self.address}: this is no capecam view of this version; {START}"
                )
            else:
                then(city)

        self._send(url, None, check)

    def explain(self, run: str, x: float, y: float, then: Callable[[dict[str, Any]], None]) -> None:
        """Ask for the explanation of what is at a place.

        Args:
            run: its path on the server.
            x: place in the CRS of the run.
            y: the same.
            then: called with the answer.
        """
        url = self._base.resolved(QUrl(f"{run}explain"))
        body = json.dumps({"x": x, "y": y}).encode()
        self._send(url, body, lambda content: then(json.loads(content)))

    def picture(self, path: str, then: Callable[[bytes], None]) -> None:
        """Ask for a picture of an explanation."""
        self._send(self._base.resolved(QUrl(path)), None, then)

    def close(self) -> None:
        """Give up what is waited for."""
        self._turn += 1
        reply, self._reply = self._reply, None
        if reply is not None:
            reply.abort()

    def _send(
        self,
        url: QUrl,
        body: bytes | None,
        then: Callable[[bytes], None],
        retries: int = RETRIES,
    ) -> None:
        self.close()
        request = QNetworkRequest(url)
        request.setAttribute(
            QNetworkRequest.Attribute.RedirectPolicyAttribute,
            QNetworkRequest.RedirectPolicy.SameOriginRedirectPolicy,
        )
        manager = QgsNetworkAccessManager.instance()
        if body is None:
            reply = manager.get(request)
        else:
            # Only the server's own page may write; no foreign page can set these two headers.
            request.setRawHeader(b"Origin", self.address.rstrip("/").encode())
            request.setRawHeader(b"X-Capecam", b"1")
            request.setHeader(QNetworkRequest.KnownHeaders.ContentTypeHeader, "application/json")
            reply = manager.post(request, body)
        timer = reply.findChild(QTimer, "timeoutTimer")
        if timer is not None:
            timer.start(PATIENCE_MS)
        self._reply, turn = reply, self._turn
        reply.finished.connect(lambda: self._receive(reply, turn, body, then, retries))

    def _receive(
        self,
        reply: QNetworkReply,
        turn: int,
        body: bytes | None,
        then: Callable[[bytes], None],
        retries: int,
    ) -> None:
        reply.deleteLater()
        if turn != self._turn:
            return
        self._reply = None
        status = reply.attribute(QNetworkRequest.Attribute.HttpStatusCodeAttribute)
        content = bytes(reply.readAll())
        if reply.error() == QNetworkReply.NetworkError.NoError:
            then(content)
        elif status == BUSY and retries:
            url = reply.request().url()
            QTimer.singleShot(
                RETRY_MS,
                lambda: turn == self._turn and self._send(url, body, then, retries - 1),
            )
        else:
            self.failed.emit(self._problem(reply, content))

    def _problem(self, reply: QNetworkReply, content: bytes) -> str:
        """Return why there is no answer, in the words of the server if it has said something."""
        try:
            return str(json.loads(content)["error"])
        except (ValueError, TypeError, KeyError):
            return f"{self.address}: {reply.errorString()}; {START}"
