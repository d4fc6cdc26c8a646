"""Names of methods, scores and precisions, and the prefix of virtual paths."""

from __future__ import annotations

from typing import Literal, get_args

METHODS = (
    "gradcam", "gradcampp", "gradcampp_notebook", "hirescam", "layercam", "xgradcam",
    "guided_gradcam", "guided_gradcam_shared",
)  # fmt: skip
"""Names of the heatmaps, which are also the stems of their files. The formulas are in
``attribution.methods``, which imports torch; a test compares the two lists."""

TITLES = {
    "gradcam": "Grad-CAM",
    "gradcampp": "Grad-CAM++",
    "gradcampp_notebook": "Grad-CAM++ (notebook)",
    "hirescam": "HiResCAM",
    "layercam": "LayerCAM",
    "xgradcam": "XGrad-CAM",
    "guided_gradcam": "Guided Grad-CAM",
    "guided_gradcam_shared": "Guided Grad-CAM (shared)",
}
"""Titles of the methods."""

PIXEL_METHODS = ("guided_gradcam", "guided_gradcam_shared")
"""Methods at full resolution; the others come in blocks."""

ObjectMethod = Literal["hirescam", "guided"]
OBJECT_METHODS: tuple[str, ...] = get_args(ObjectMethod)
"""Methods of the objects' own maps."""

OBJECT_TITLES: dict[str, str] = {"hirescam": TITLES["hirescam"], "guided": "guided gradient"}
"""Titles of these methods."""

DEFAULT_METHODS = ("gradcam", "gradcampp", "guided_gradcam")

Score = Literal["mean", "predicted"]
SCORES: tuple[str, ...] = get_args(Score)

SCORE_TITLES = {
    "mean": "the class's mean logit over the tile",
    "predicted": "the class's logit over the pixels predicted as it",
}
"""Titles of the scores."""

Where = Literal["all", "detected"]
WHERE: tuple[str, ...] = get_args(Where)
Precision = Literal["fp32", "tf32", "bf16", "fp16"]
PRECISIONS: tuple[str, ...] = get_args(Precision)
"""From the most exact to the fastest."""

Backend = Literal["graph", "autograd", "onnx"]

VSI = "/vsi"
"""Prefix of the paths of GDAL's virtual file systems."""
