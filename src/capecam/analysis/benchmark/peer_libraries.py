"""pytorch-grad-cam, captum and torch-cam, each used as in its documentation.

The extra ``bench`` installs them; libraries that are not installed are skipped.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from capecam.analysis.benchmark.methods import ExplanationMethod, Heat, Scores
from capecam.attribution.methods import GUIDED
from capecam.model.model import Model


def peers(model: Model, device: torch.device) -> Iterator[ExplanationMethod]:
    """Yield the libraries that are installed."""
    known: dict[str, Callable[[Any, Model, torch.device], ExplanationMethod]] = {
        "pytorch_grad_cam": PytorchGradCam,
        "captum.attr": Captum,
        "torchcam.methods": TorchCam,
    }
    for module, way in known.items():
        try:
            library = importlib.import_module(module)
        except ImportError:
            warnings.warn(f"{module} is not installed (pip install 'capecam[bench]')", stacklevel=2)
        else:
            yield way(library, model, device)


class PytorchGradCam:
    """Grad-CAM and Grad-CAM++ of a batch, per class; its guided model takes one image a time."""

    name = "pytorch-grad-cam"
    methods: tuple[str, ...] = ("gradcam", "gradcampp", GUIDED)
    forwards = False

    def __init__(self, library: Any, model: Model, device: torch.device) -> None:
        self._classes = range(1, len(model.classes))
        self._target = importlib.import_module(
            "pytorch_grad_cam.utils.model_targets"
        ).ClassifierOutputTarget
        self._kinds = {"gradcam": library.GradCAM, "gradcampp": library.GradCAMPlusPlus}
        self._scores = Scores(model, device)
        self._layer = self._scores.network.get_submodule(model.target_layer)
        self._guided = library.GuidedBackpropReLUModel(Scores(model, device), device)

    def __call__(self, pixels: Tensor, methods: tuple[str, ...]) -> Heat:
        """Return maps scaled by their own range, at the tile's size."""
        x = pixels.float()
        return {
            method: torch.stack([self._map(x, c, method) for c in self._classes], dim=1)
            for method in methods
        }

    def _map(self, x: Tensor, c: int, method: str) -> Tensor:
        if method == GUIDED:
            cam = self._map(x, c, "gradcam")
            guided = [self._guided(image[None].clone(), c) for image in x]
            gradient = torch.stack([torch.from_numpy(array) for array in guided])
            return gradient.abs().amax(dim=-1) * cam
        # In a with statement, or it keeps the graph of the last batch: 5 GB by 8 tiles.
        with self._kinds[method](self._scores, [self._layer]) as cam:
            return torch.from_numpy(cam(x, [self._target(c)] * len(x)))


class Captum:
    """LayerGradCam and GuidedGradCam of a batch, per class; it has no Grad-CAM++."""

    name = "captum"
    methods: tuple[str, ...] = ("gradcam", GUIDED)
    forwards = False

    def __init__(self, library: Any, model: Model, device: torch.device) -> None:
        self._classes = range(1, len(model.classes))
        scores = Scores(model, device)
        layer = scores.network.get_submodule(model.target_layer)
        self._cam = library.LayerGradCam(scores, layer)
        self._guided = library.GuidedGradCam(scores, layer)

    def __call__(self, pixels: Tensor, methods: tuple[str, ...]) -> Heat:
        """Return maps; of the signed guided product, the maximum over channels."""
        x = pixels.float().requires_grad_()
        heat: Heat = {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # captum tells that it sets hooks
            if "gradcam" in methods:
                maps = [self._cam.attribute(x, c, relu_attributions=True) for c in self._classes]
                heat["gradcam"] = torch.cat(maps, dim=1).detach()
            if GUIDED in methods:
                maps = [
                    self._guided.attribute(x, c, interpolate_mode="bilinear").abs().amax(dim=1)
                    for c in self._classes
                ]
                heat[GUIDED] = torch.stack(maps, dim=1).detach()
        return heat


class TorchCam:
    """The two CAMs of a batch, per class; one forward a method, its graph kept."""

    name = "torch-cam"
    methods: tuple[str, ...] = ("gradcam", "gradcampp")
    forwards = False

    def __init__(self, library: Any, model: Model, device: torch.device) -> None:
        self._classes = range(1, len(model.classes))
        self._kinds = {"gradcam": library.GradCAM, "gradcampp": library.GradCAMpp}
        self._scores, self._layer = Scores(model, device), f"network.{model.target_layer}"

    def __call__(self, pixels: Tensor, methods: tuple[str, ...]) -> Heat:
        """Return raw maps."""
        heat: Heat = {}
        for method in methods:
            with self._kinds[method](self._scores, self._layer) as cam:
                output = self._scores(pixels.float())
                maps = [
                    cam([c] * len(pixels), output, normalized=False, retain_graph=True)[0]
                    for c in self._classes
                ]
            heat[method] = torch.stack(maps, dim=1).detach()
        return heat
