"""Export a network with its explanation as one ONNX file."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, get_args

import onnx
import torch
from onnx import helper, numpy_helper
from torch import Tensor

from capecam import __version__
from capecam.attribution.engine import Engine
from capecam.attribution.graph.onnx_graph import IR_VERSION, OPSET, TYPES, Size, Tiles
from capecam.attribution.graph.onnx_translation import COUNTS, forward_graph, translate
from capecam.attribution.methods import resample
from capecam.model.model import Model

Layout = Literal["maps", "segmentor", "regressor"]
"""Results of a file: all maps, each as the engine returns it; the probabilities alone, for QGIS's
plugin Deepness as a segmentor; or all maps at the size of the tile, one output for each class, as
it reads a regressor."""

LAYOUTS: tuple[str, ...] = get_args(Layout)

PIXELS, VALID = "pixels", "valid"
"""Names of the inputs."""

Compute = Callable[[Tensor, Tensor], dict[str, Tensor]]
"""Function from pixels (B, 3, S, S) of 0..255 and validity (B, S, S) to results by name; that of
files for Deepness does not use the validity, which it cannot pass."""


def in_float32(model: Model) -> Model:
    """Return a model whose network is float32, which is what runtimes convolve in."""
    return replace(model, network=copy.deepcopy(model.network).float())


def results_of(engine: Engine, layout: Layout) -> Compute:
    """Return the function that computes the results of a file."""
    if layout == "segmentor":
        return lambda pixels, _valid: {"probability": engine.logits(pixels).softmax(dim=1)}

    def maps(pixels: Tensor, valid: Tensor) -> dict[str, Tensor]:
        explanation = engine.explain(pixels, valid)
        return {"probability": explanation.logits.softmax(dim=1), **explanation.heat}

    if layout == "maps":
        return maps

    def layers(pixels: Tensor, valid: Tensor) -> dict[str, Tensor]:
        found, size = maps(pixels, torch.ones_like(valid)), pixels.shape[-1]
        found["probability"] = found["probability"][:, 1:]
        return {
            layer_name(name, entry.name): resample(values[:, [c]], size)
            for name, values in found.items()
            for c, entry in enumerate(engine.model.foreground)
        }

    return layers


def layer_name(method: str, class_name: str) -> str:
    """Return the name of the layer of one class."""
    return f"{method} {class_name}"


def export(compute: Compute, example: Tensor, metadata: Mapping[str, str] | None = None) -> bytes:
    """Write a computation on tiles as ONNX.

    The file takes ``pixels``, float32 of 0..255 (0 where invalid), (B, 3, S, S), and optionally
    ``valid``, bool, (B, S, S); without it all pixels are valid. B is free, S is fixed. The file has
    no ``valid`` if nothing is computed from it.

    Args:
        compute: float32 in, float32 out.
        example: (3, S, S) pixels of a tile.
        metadata: facts to store.

    Returns:
        The content of the file.

    Raises:
        SettingsError: an operation of the network has no form in ONNX here.
    """
    names: list[str] = []

    def flat(pixels: Tensor, valid: Tensor) -> tuple[Tensor, ...]:
        results = compute(pixels.clone(), valid)
        names[:] = results
        return tuple(results.values())

    graphs = [forward_graph(flat, *_batch_of(example, count)) for count in COUNTS]
    g, results = translate(graphs, (PIXELS, VALID))
    for name, result in zip(names, results, strict=True):
        g.nodes.append(helper.make_node("Identity", [g.name(result)], [name]))
    size = example.shape[-1]
    inputs = [helper.make_tensor_value_info(PIXELS, TYPES[torch.float32], ["batch", 3, size, size])]
    defaults = []
    if any(VALID in node.input for node in g.nodes):
        axes = ["tiles", "rows", "columns"]  # of the default, all are 1
        inputs.append(helper.make_tensor_value_info(VALID, TYPES[torch.bool], axes))
        everywhere = torch.ones(1, 1, 1, dtype=torch.bool)
        defaults.append(numpy_helper.from_array(everywhere.numpy(), VALID))
    outputs = [
        helper.make_tensor_value_info(name, TYPES[result.dtype], _axes(result.shape))
        for name, result in zip(names, results, strict=True)
    ]
    return _content(g.to_proto("explanation", inputs, defaults, outputs), metadata or {})


def _axes(shape: Sequence[Size]) -> list[int | str]:
    """Return the axes of an output as ONNX declares them."""
    return ["batch" if isinstance(size, Tiles) else size for size in shape]


def _content(graph: onnx.GraphProto, metadata: Mapping[str, str]) -> bytes:
    """Return a checked file of a graph."""
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="capecam",
        producer_version=__version__,
    )
    helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString()
    return content


def _batch_of(example: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return tiles and a validity with which to capture a graph."""
    pixels = torch.stack([example.flip(i % 2 + 1) for i in range(count)]).float()
    valid = torch.ones_like(pixels[:, 0], dtype=torch.bool)
    valid[0, 0] = False
    return pixels, valid
