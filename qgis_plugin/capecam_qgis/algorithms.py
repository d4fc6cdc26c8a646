"""Commands of capecam as algorithms of Processing."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from processing.core.ProcessingConfig import ProcessingConfig
from qgis.core import (
    QgsApplication,
    QgsMapLayer,
    QgsProcessing,
    QgsProcessingAlgorithm,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProcessingOutputFile,
    QgsProcessingOutputFolder,
    QgsProcessingOutputNumber,
    QgsProcessingOutputVectorLayer,
    QgsProcessingParameterBoolean,
    QgsProcessingParameterDefinition,
    QgsProcessingParameterFeatureSource,
    QgsProcessingParameterField,
    QgsProcessingParameterFile,
    QgsProcessingParameterMultipleLayers,
    QgsProcessingParameterNumber,
    QgsProcessingParameterString,
    QgsProviderRegistry,
    QgsVectorLayer,
)
from qgis.PyQt.QtCore import QThread
from qgis.PyQt.QtGui import QIcon

from .command import run_command
from .run_layers import DETECTIONS, PROJECT, add_run

COMMAND = "CAPECAM_COMMAND"
"""Name of the provider's setting: where capecam is."""

FORMATS = ("gpkg", "shp", "geojson", "json", "fgb", "parquet")
"""Endings of vector files that are passed as they are; other layers are written to a GeoPackage."""

Parameters = dict[str, Any]


@dataclass(frozen=True)
class Given:
    """Values of the parameters in a call, as a command takes them."""

    algorithm: QgsProcessingAlgorithm
    parameters: Parameters
    context: QgsProcessingContext
    feedback: QgsProcessingFeedback

    def text(self, name: str) -> str:
        """Return a text, or the path of a file or folder; "" if none is given."""
        return str(self.algorithm.parameterAsString(self.parameters, name, self.context))

    def words(self, name: str) -> list[str]:
        """Return the words of a command line.

        Raises:
            QgsProcessingException: a quotation is not closed.
        """
        try:
            return shlex.split(self.text(name))
        except ValueError as error:
            raise QgsProcessingException(f"{self.text(name)}: {error}; correct it") from error

    def flag(self, name: str) -> bool:
        """Return whether something is asked for."""
        return bool(self.algorithm.parameterAsBool(self.parameters, name, self.context))

    def layer(self, name: str) -> str:
        """Return the file of a vector layer, with its name there; "" if none is given.

        What is in no file, filtered or selected is written to a temporary one.
        """
        if not self.parameters.get(name):
            return ""
        path, layer = self.algorithm.parameterAsCompatibleSourceLayerPathAndLayerName(
            self.parameters, name, self.context, FORMATS, "gpkg", self.feedback
        )
        return f"{path}|layername={layer}" if layer else path

    def images(self, name: str) -> list[str]:
        """Return the files of raster layers.

        Raises:
            QgsProcessingException: one comes from elsewhere.
        """
        layers = self.algorithm.parameterAsLayerList(self.parameters, name, self.context)
        return [_image_of(layer) for layer in layers]


def _image_of(layer: QgsMapLayer) -> str:
    if layer.providerType() != "gdal":
        raise QgsProcessingException(
            f"{layer.name()}: is no file; choose layers of GeoTIFFs, or their folder"
        )
    path: str = QgsProviderRegistry.instance().decodeUri("gdal", layer.source())["path"]
    return path


def options(**values: str) -> list[str]:
    """Return options of a command, without those that are not given."""
    return [f"--{name}={value}" for name, value in values.items() if value]


class CommandAlgorithm(QgsProcessingAlgorithm):
    """Base class: a command of capecam, whose name is that of the class."""

    TITLE = HELP = ""

    def createInstance(self) -> QgsProcessingAlgorithm:
        """Return a new algorithm of this kind, of which QGIS needs one a call."""
        return type(self)()

    def name(self) -> str:
        """Return the command."""
        return type(self).__name__.lower()

    def displayName(self) -> str:
        """Return the title in the toolbox."""
        return self.TITLE

    def shortHelpString(self) -> str:
        """Return the text beside the parameters."""
        return self.HELP

    def icon(self) -> QIcon:
        """Return the icon of the provider."""
        return self.provider().icon()

    def initAlgorithm(self, configuration: Parameters | None = None) -> None:
        """Declare parameters and outputs."""
        for parameter in self.inputs():
            self.addParameter(parameter)
        self.addOutput(QgsProcessingOutputNumber("EXIT_CODE", "0, or 3 if images failed"))

    def inputs(self) -> list[QgsProcessingParameterDefinition]:
        """Return the parameters."""
        raise NotImplementedError

    def arguments(self, given: Given) -> list[str]:
        """Return the arguments and options of the command."""
        raise NotImplementedError

    def results(self, given: Given) -> Parameters:
        """Return the results of a command that has ended well, and let layers be loaded."""
        return {}

    def processAlgorithm(
        self,
        parameters: Parameters,
        context: QgsProcessingContext,
        feedback: QgsProcessingFeedback,
    ) -> Parameters:
        """Run the command; a failure is an exception with its message."""
        given = Given(self, parameters, context, feedback)
        setting = ProcessingConfig.getSetting(COMMAND) or ""
        code = run_command(setting, [self.name(), *self.arguments(given)], feedback)
        return {"EXIT_CODE": code, **self.results(given)}


def polygons(
    name: str, title: str, *, optional: bool = True
) -> QgsProcessingParameterFeatureSource:
    """Return a parameter for a layer of polygons, or those of it that are selected."""
    types = [QgsProcessing.SourceType.TypeVectorPolygon]
    return QgsProcessingParameterFeatureSource(name, title, types, optional=optional)


def folder(name: str, title: str, *, optional: bool = True) -> QgsProcessingParameterFile:
    """Return a parameter for a folder, which is no destination: those are temporary if empty."""
    kind = QgsProcessingParameterFile.Behavior.Folder
    return QgsProcessingParameterFile(name, title, kind, optional=optional)


def configuration(title: str) -> QgsProcessingParameterFile:
    """Return a parameter for a configuration."""
    files = "Configuration (*.yaml *.yml)"
    return QgsProcessingParameterFile("CONFIG", title, optional=True, fileFilter=files)


def results_folder() -> QgsProcessingParameterFile:
    """Return a parameter for the folder of the results on a run."""
    return folder("TO", "Folder for the results (empty: that of the run)")


class MosaicAlgorithm(CommandAlgorithm):
    """Base class: a command that takes images and settings."""

    def inputs(self) -> list[QgsProcessingParameterDefinition]:
        """Return the parameters."""
        raster = QgsProcessing.SourceType.TypeRaster
        further = QgsProcessingParameterString(
            "OPTIONS", "Further options, as on the command line", optional=True
        )
        further.setFlags(further.flags() | QgsProcessingParameterDefinition.Flag.FlagAdvanced)
        return [
            configuration("Configuration"),
            folder("IMAGES", "Folder of images"),
            QgsProcessingParameterMultipleLayers(
                "LAYERS", "Layers of images", raster, optional=True
            ),
            QgsProcessingParameterFile("CHECKPOINT", "Trained network", optional=True),
            polygons("AOI", "Area of interest"),
            polygons("FOOTPRINTS", "Footprints of buildings"),
            further,
        ]

    def arguments(self, given: Given) -> list[str]:
        """Return images and options."""
        return [
            *filter(None, [given.text("IMAGES")]),
            *given.images("LAYERS"),
            *options(
                progress="json",
                config=given.text("CONFIG"),
                checkpoint=given.text("CHECKPOINT"),
                aoi=given.layer("AOI"),
                footprints=given.layer("FOOTPRINTS"),
                out=given.text("OUT"),
            ),
            *given.words("OPTIONS"),
        ]


class Run(MosaicAlgorithm):
    """``capecam run``."""

    TITLE = "Run: map images"
    HELP = (
        "Maps rooftop solar in aerial images: classes, heatmaps, and polygons with the evidence "
        "for each. It needs a configuration, as <i>capecam init</i> and <i>capecam demo</i> write "
        "it, or at least images and a trained network.\n\n"
        "A run that was cancelled continues when it is run again with the same parameters, and "
        "images that have not changed are not processed again. Images that fail do not stop the "
        "others: they are named in the log, and the exit code is 3."
    )

    def inputs(self) -> list[QgsProcessingParameterDefinition]:
        """Return the parameters."""
        return [
            *super().inputs(),
            folder("OUT", "Folder for all results", optional=False),
            QgsProcessingParameterBoolean("LOAD", "Add the layers to the project", True),
        ]

    def initAlgorithm(self, configuration: Parameters | None = None) -> None:
        """Declare parameters and outputs."""
        super().initAlgorithm(configuration)
        self.addOutput(QgsProcessingOutputFolder("OUT", "Folder of all results"))
        self.addOutput(QgsProcessingOutputVectorLayer("DETECTIONS", "Detections"))

    def results(self, given: Given) -> Parameters:
        """Return the folder and the detections."""
        self._out, self._is_shown = Path(given.text("OUT")), given.flag("LOAD")
        detections = f"{self._out / DETECTIONS}|layername=detections"
        return {"OUT": str(self._out), "DETECTIONS": detections}

    def postProcessAlgorithm(
        self, context: QgsProcessingContext, feedback: QgsProcessingFeedback
    ) -> Parameters:
        """Add the layers of the run to the project."""
        has_project = (self._out / PROJECT).exists()  # no shard, and no dry run, writes one
        if not (self._is_shown and has_project and context.project()):
            return {}
        if QThread.currentThread() == QgsApplication.instance().thread():
            add_run(self._out, context.project())
        else:
            feedback.pushWarning(f"a model adds no layers of a run; open {PROJECT} in its folder")
        return {}


class Plan(MosaicAlgorithm):
    """``capecam plan``."""

    TITLE = "Plan: what a run needs"
    HELP = (
        "Lists the images that a run would process, and why, with tiles, time, memory and disk "
        "space. Nothing is written. Without an earlier run, a few tiles are put through the "
        "network to measure the time, if it runs on a CPU.\n\nThe plan is in the log."
    )

    def inputs(self) -> list[QgsProcessingParameterDefinition]:
        """Return the parameters."""
        return [*super().inputs(), folder("OUT", "Folder of the results, if there are any")]


class Summarize(CommandAlgorithm):
    """``capecam summarize``."""

    TITLE = "Summarize: count by zone"
    HELP = (
        "Counts detections and m² of a run by zone and class; of two runs, also what is new, kept "
        "and gone. Writes the layers <i>zones</i> and <i>changes</i> into the folder of the run "
        "(the later one of two), unless another folder is named."
    )

    def inputs(self) -> list[QgsProcessingParameterDefinition]:
        """Return the parameters."""
        return [
            folder("RUN", "Folder of the run (the earlier one of two)", optional=False),
            folder("LATER", "Folder of the later run"),
            polygons("ZONES", "Zones", optional=False),
            QgsProcessingParameterField(
                "NAME",
                "Field with the names of zones (empty: the first one with text)",
                parentLayerParameterName="ZONES",
                optional=True,
            ),
            polygons("FOOTPRINTS", "Footprints of buildings, to count them, too"),
            results_folder(),
        ]

    def initAlgorithm(self, configuration: Parameters | None = None) -> None:
        """Declare parameters and outputs."""
        super().initAlgorithm(configuration)
        self.addOutput(QgsProcessingOutputFolder("TO", "Folder of the results"))
        self.addOutput(QgsProcessingOutputVectorLayer("COUNTS", "Zones with counts"))
        self.addOutput(QgsProcessingOutputVectorLayer("CHANGES", "Changes between two runs"))

    def arguments(self, given: Given) -> list[str]:
        """Return runs and options.

        The folder is always named: so the layers are there, or the command fails.
        """
        return [
            *filter(None, [given.text("RUN"), given.text("LATER")]),
            *options(
                zones=given.layer("ZONES"),
                name=given.text("NAME"),
                footprints=given.layer("FOOTPRINTS"),
                to=self._folder(given),
            ),
        ]

    def results(self, given: Given) -> Parameters:
        """Return the layers that were written, and let them be loaded."""
        to, context = self._folder(given), given.context
        names = {"COUNTS": "zones"}
        if given.text("LATER"):
            names["CHANGES"] = "changes"
        found = {}
        for output, name in names.items():
            found[output] = f"{Path(to) / name}.gpkg|layername={name}"
            # As a layer, which has the style in its file; Processing would load a path without it.
            layer = context.temporaryLayerStore().addMapLayer(QgsVectorLayer(found[output], name))
            details = QgsProcessingContext.LayerDetails(name, context.project(), output)
            context.addLayerToLoadOnCompletion(layer.id(), details)
        return {"TO": to, **found}

    def _folder(self, given: Given) -> str:
        return given.text("TO") or given.text("LATER") or given.text("RUN")


class Evaluate(CommandAlgorithm):
    """``capecam evaluate``."""

    TITLE = "Evaluate: compare with the truth"
    HELP = (
        "Compares the detections of a run, or of a layer, with annotated polygons: precision, "
        "recall and F1 of each class. Objects are matched one to one by intersection over union. "
        "Writes <i>evaluation.json</i> into the folder of the run, unless another folder is named."
        "\n\nThe scores are in the log."
    )

    def inputs(self) -> list[QgsProcessingParameterDefinition]:
        """Return the parameters."""
        return [
            folder("RUN", "Folder of the run"),
            polygons("LAYER", "Or a layer of detections"),
            polygons("TRUTH", "Annotated polygons", optional=False),
            polygons("AREA", "Area in which everything is annotated"),
            QgsProcessingParameterNumber(
                "IOU",
                "Smallest intersection over union of a match",
                QgsProcessingParameterNumber.Type.Double,
                0.5,
                minValue=0,
                maxValue=1,
            ),
            QgsProcessingParameterBoolean("STEPS", "Also score each step of a run", False),
            configuration("Configuration with fields and classes of the truth"),
            results_folder(),
        ]

    def initAlgorithm(self, configuration: Parameters | None = None) -> None:
        """Declare parameters and outputs."""
        super().initAlgorithm(configuration)
        self.addOutput(QgsProcessingOutputFile("SCORES", "Scores (evaluation.json)"))

    def checkParameterValues(
        self, parameters: Parameters, context: QgsProcessingContext
    ) -> tuple[bool, str]:
        """Return whether the parameters are usable, and why not."""
        if bool(parameters.get("RUN")) == bool(parameters.get("LAYER")):
            return False, "name either the folder of a run, or a layer of detections"
        is_fine, why = super().checkParameterValues(parameters, context)
        return is_fine, why

    def arguments(self, given: Given) -> list[str]:
        """Return what is compared, and options."""
        iou = self.parameterAsDouble(given.parameters, "IOU", given.context)
        return [
            given.text("RUN") or given.layer("LAYER"),
            *options(
                truth=given.layer("TRUTH"),
                area=given.layer("AREA"),
                iou=f"{iou:g}",
                config=given.text("CONFIG"),
                to=self._folder(given),
            ),
            *(["--steps"] if given.flag("STEPS") else []),
        ]

    def results(self, given: Given) -> Parameters:
        """Return the file that was written."""
        to = self._folder(given)
        return {"SCORES": str(Path(to) / "evaluation.json")} if to else {}

    def _folder(self, given: Given) -> str:
        return given.text("TO") or given.text("RUN")


ALGORITHMS = (Run, Plan, Summarize, Evaluate)
