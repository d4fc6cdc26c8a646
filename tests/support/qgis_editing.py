"""Real QGIS, which edits the verdicts of a review file."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

PYTHON = "/usr/bin/python3"

IN_QGIS = """
import os, sys
os.environ["QT_QPA_PLATFORM"] = "offscreen"
from qgis.core import QgsApplication, QgsVectorLayer
from qgis.gui import QgsAttributeForm, QgsGui

application = QgsApplication([], True)
application.initQgis()
QgsGui.editorWidgetRegistry().initEditors()
layer = QgsVectorLayer(sys.argv[1] + "|layername=verdicts", "verdicts", "ogr")
assert layer.renderer().type() == "RuleRenderer", layer.renderer().type()
fields = layer.fields()
for name in ("class", "verdict", "true_class"):
    assert layer.editorWidgetSetup(fields.indexOf(name)).type() == "ValueMap", name
assert layer.editFormConfig().readOnly(fields.indexOf("id"))
layer.startEditing()
feature = next(layer.getFeatures())
print("editing", flush=True)
sys.stdin.readline()
form = QgsAttributeForm(layer, feature)
form.changeAttribute("verdict", "wrong")
form.changeAttribute("true_class", "pool heater")
assert form.save()
assert layer.commitChanges(), layer.commitErrors()
print("saved", flush=True)
sys.stdin.readline()
del form
layer.startEditing()
layer.changeAttributeValue(2, fields.indexOf("verdict"), "right")
assert layer.commitChanges(), layer.commitErrors()
del layer
application.exitQgis()
os._exit(0)  # without the destructors of offscreen Qt
"""


def require_qgis(module: str) -> None:
    """Skip the test without Debian's QGIS, which pip does not have."""
    found = subprocess.run(
        [PYTHON, "-c", f"import qgis.{module}"], capture_output=True, check=False
    )
    if found.returncode:
        pytest.skip(f"{PYTHON} has no QGIS; apt-get install --no-install-recommends python3-qgis")


@dataclass
class Editing:
    """The process of QGIS, which has the layer in its editing mode."""

    process: subprocess.Popen[str]

    def save(self) -> None:
        """Fill in the form of the first row, and save."""
        self.process.stdin.write("go on\n")
        assert self.process.stdout.readline() == "saved\n"


@contextmanager
def editing_in_qgis(path: Path) -> Iterator[Editing]:
    """Edit the first row; then set the verdict of the second one to right, and close the file."""
    require_qgis("gui")
    with subprocess.Popen(
        [PYTHON, "-c", IN_QGIS, path],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
    ) as process:  # fmt: skip
        assert process.stdout.readline() == "editing\n"
        yield Editing(process)
        process.stdin.write("go on\n")
        process.communicate()
    assert process.returncode == 0
