"""The layers of a run in the project that is open."""

from __future__ import annotations

from pathlib import Path

from qgis.core import (
    QgsLayerDefinition,
    QgsMapLayer,
    QgsProcessingException,
    QgsProject,
    QgsProviderRegistry,
    QgsReadWriteContext,
)
from qgis.PyQt.QtXml import QDomDocument

PROJECT, DETECTIONS = "capecam.qgz", "detections.gpkg"
"""Files of a run: its own project, and a layer that every such project has."""


def add_run(out: Path, project: QgsProject) -> None:
    """Add the layers of ``OUT/capecam.qgz`` to a project, as a group with the name of OUT.

    Groups, styles, names of columns and forms are those of the run's own project. Layers that are
    in the project already are only drawn anew.

    Args:
        out: folder of the run.
        project: the project.

    Raises:
        QgsProcessingException: QGIS cannot read the run's own project.
    """
    files = [(layer, _file(layer)) for layer in project.mapLayers().values()]
    if any(file == out / DETECTIONS for _, file in files):
        for layer, file in files:
            if file is not None and file.parent == out:
                layer.reload()
                layer.triggerRepaint()
        return
    path, own = out / PROJECT, QgsProject()
    if not own.read(str(path)):
        raise QgsProcessingException(f"{path}: {own.error()}; write it again with capecam finish")
    layers, context = QDomDocument("qgis-layer-definition"), QgsReadWriteContext()
    nodes = own.layerTreeRoot().children()
    _check(path, QgsLayerDefinition.exportLayerDefinition(layers, nodes, context))
    group = project.layerTreeRoot().insertGroup(0, out.name)
    _check(path, QgsLayerDefinition.loadLayerDefinition(layers, project, group, context))


def _check(path: Path, result: tuple[bool, str]) -> None:
    """Raise what QGIS says if it has not taken the layers."""
    ok, message = result
    if not ok:
        raise QgsProcessingException(f"{path}: {message}; add the files of the run by themselves")


def _file(layer: QgsMapLayer) -> Path | None:
    """Return the file of a layer, if it has one."""
    parts = QgsProviderRegistry.instance().decodeUri(layer.providerType(), layer.source())
    return Path(parts["path"]) if "path" in parts else None
