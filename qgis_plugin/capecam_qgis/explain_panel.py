"""The panel beside the map: where the viewer is, and what it says of the place that was clicked."""

from __future__ import annotations

from functools import partial
from html import escape
from typing import Any

from qgis.core import (
    QgsCoordinateReferenceSystem,
    QgsCoordinateTransform,
    QgsCsException,
    QgsPointXY,
    QgsProject,
    QgsSettings,
)
from qgis.gui import QgsDockWidget, QgsMapCanvas
from qgis.PyQt.QtWidgets import (
    QComboBox,
    QFormLayout,
    QLineEdit,
    QPushButton,
    QTextBrowser,
    QVBoxLayout,
    QWidget,
)

from .explanation_layers import ExplanationLayers
from .viewer_client import ViewerClient

SETTING = "capecam/viewer"
"""Key of the viewer's address in the settings of QGIS; its token is not kept."""

ADDRESS = "http://127.0.0.1:8321/"
"""Where ``capecam view`` listens if nothing else is asked for."""

START = (
    "Start <tt>capecam view OUT</tt> with the folder of a run, and enter the address that it "
    "prints. Then click on a roof of the map: the network of the run says what its decision there "
    "rests on."
)


class ExplainPanel(QgsDockWidget):
    """Asks on a click, and shows the answer.

    Args:
        canvas: the map.
    """

    def __init__(self, canvas: QgsMapCanvas) -> None:
        super().__init__("Explain here (capecam)")
        self.setObjectName("capecam_explain_here")  # by which QGIS remembers its place
        self._canvas, self._layers = canvas, ExplanationLayers()
        self._client: ViewerClient | None = None
        self._entered = ""
        self._address = QLineEdit(QgsSettings().value(SETTING, ADDRESS))
        self._run, self._text = QComboBox(), QTextBrowser()
        clear = QPushButton("Take it off the map")
        form, box = QFormLayout(), QWidget()
        form.addRow("Viewer", self._address)
        form.addRow("Run", self._run)
        column = QVBoxLayout(box)
        column.addLayout(form)
        column.addWidget(self._text)
        column.addWidget(clear)
        self.setWidget(box)
        self._address.returnPressed.connect(self.connect_viewer)
        clear.clicked.connect(self.clear)
        self._text.setHtml(START)

    def connect_viewer(self) -> None:
        """Ask the viewer which runs it shows, whereupon it loads the network."""
        self._viewer().city(self._show_runs)

    def explain(self, point: QgsPointXY) -> None:
        """Explain what is at a place of the map, given in its CRS."""
        self._text.setHtml("Explaining ...")
        # Asked each time, since another run may be shown at the same address by now.
        self._viewer().city(partial(self._ask, point))

    def clear(self) -> None:
        """Take the explanation away."""
        self._layers.clear()
        self._text.setHtml(START)

    def close_viewer(self) -> None:
        """Give up what is waited for."""
        if self._client is not None:
            self._client.close()

    def remove(self) -> None:
        """Take everything away, for good."""
        self.close_viewer()
        self._layers.close()

    def _viewer(self) -> ViewerClient:
        """Return the client of the viewer whose address is entered."""
        entered = self._address.text()
        if self._client is None or entered != self._entered:
            self.close_viewer()
            self._client, self._entered = ViewerClient(entered), entered
            self._client.failed.connect(self._show_problem)
            QgsSettings().setValue(SETTING, self._client.address)
        return self._client

    def _show_runs(self, city: dict[str, Any]) -> None:
        names = [run["name"] for run in city["runs"]]
        if names != [self._run.itemText(n) for n in range(self._run.count())]:
            self._run.clear()
            self._run.addItems(names)

    def _show_problem(self, problem: str) -> None:
        self._layers.clear()
        self._text.setHtml(f"<p style='color: #b3261e'>{escape(problem)}</p>")

    def _ask(self, point: QgsPointXY, city: dict[str, Any]) -> None:
        self._show_runs(city)
        run = city["runs"][self._run.currentIndex()]
        if run["explain_problem"]:
            self._show_problem(run["explain_problem"])
            return
        crs = QgsCoordinateReferenceSystem.fromWkt(city["crs"]["wkt"])
        here = self._canvas.mapSettings().destinationCrs()
        if not here.isValid():
            self._show_problem("the map has no CRS; choose one at the lower right of QGIS")
            return
        try:
            place = QgsCoordinateTransform(here, crs, QgsProject.instance()).transform(point)
        except QgsCsException as error:
            self._show_problem(f"that place is not in {city['crs']['name']}: {error}")
            return
        self._viewer().explain(
            run["path"], place.x(), place.y(), partial(self._load, city, crs, [])
        )

    def _load(
        self,
        city: dict[str, Any],
        crs: QgsCoordinateReferenceSystem,
        pictures: list[bytes],
        answer: dict[str, Any],
    ) -> None:
        """Load the pictures of an explanation one after the other, and show it."""
        if len(pictures) < len(answer["overlays"]):
            url = answer["overlays"][len(pictures)]["url"]
            self._viewer().picture(url, lambda png: self._load(city, crs, [*pictures, png], answer))
            return
        colors = {entry["id"]: entry["color"] for entry in city["classes"]}
        self._layers.show(answer, pictures, crs, colors[answer["class_id"]])
        self._text.setHtml(explanation_html(city, answer))


def explanation_html(city: dict[str, Any], answer: dict[str, Any]) -> str:
    """Return an explanation as text, with its numbers and the legend of its map."""
    words = {entry["word"]: entry for entry in city["evidence"]}
    word = words.get(answer["evidence"])
    rows = "".join(
        f"<tr><td>{escape(title)}</td><td align='right'>&nbsp;{measure(name, value)}</td></tr>"
        for name, title in city["numbers"].items()
        for value in [answer["numbers"][name]]
    )
    own = answer["overlays"][0]
    legend = "".join(
        f"<tr><td bgcolor='{entry['color'][:7]}'>&nbsp;&nbsp;&nbsp;&nbsp;</td>"
        f"<td>&nbsp;{escape(entry['label'])}</td></tr>"
        for entry in own["legend"]
    )
    return "".join([
        f"<h3>{escape(answer['class'])}, {percent(answer['confidence'])}</h3>",
        f"<p><b style='background: {word['color']}'>&nbsp;{word['word']}&nbsp;</b> "
        f"{escape(word['meaning'])}</p>" if word else "",
        f"<table>{rows}</table>",
        f"<p>{escape(own['title'])}, {escape(own['unit'])}:</p><table>{legend}</table>",
        f"<p>{escape(answer['id'])}, explained in {answer['took_s']:.1f} s</p>",
    ])  # fmt: skip


def measure(name: str, value: float | None) -> str:
    """Return a number of an explanation for people: metres, or a share."""
    if value is None:
        return "–"
    return f"{value:.1f} m" if name.endswith("_m") else percent(value)


def percent(share: float) -> str:
    """Return 0.123 as 12 %."""
    return "&lt; 1 %" if 0 < share < 0.01 else f"{100 * share:.0f} %"
