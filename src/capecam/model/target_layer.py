"""Find the layer whose activations are explained, and refuse one that cannot be.

By default it is the layer whose output is the deepest feature map that the decoder reads, after its
activation. The original work took the last convolution before its batch norm, nearly half of whose
values are negative; with a tile's mean score its maps are further from what the network uses
(docs/method.md#target-layer-of-a-tiles-cams).
"""

from __future__ import annotations

import copy
import difflib
import re
from collections import Counter
from collections.abc import MutableMapping
from functools import partial

from torch import Tensor, nn

from capecam.errors import SettingsError
from capecam.model.introspection import (
    Call,
    Output,
    Trace,
    ancestors,
    original,
    tensors_in,
    trace_forward,
)

ENCODER = "encoder"
"""Path of the encoder in a network of segmentation_models_pytorch."""

FEATURE_MAP = "feature_map"
"""Name of the module that passes on a feature map that is no module's output."""


def find_layer(network: nn.Module, name: str | None, encoder: str = ENCODER) -> str:
    """Return the full path of a layer: ``layer4.2.conv3``, ``layer4[-1].conv3``, None (default).

    A name may leave out the path of the encoder.

    Where the default is the output of no module (transformers reshape theirs), the encoder gets a
    module ``feature_map`` that passes it on; the same if a layer of that name is asked for.

    Raises:
        SettingsError: the layer does not exist, or is no map of the tile that determines the
            logits; the message names similar ones.
    """
    trace = trace_forward(network, lambda _module: True)
    if name is None:
        return _default_layer(network, trace, encoder)
    path = _resolve(network, name, encoder)
    if path is None and name.removeprefix(f"{encoder}.") == FEATURE_MAP:
        return _default_layer(network, trace, encoder, itself=True)
    if path is None:
        problem = f"the network has no layer {name!r}"
    elif reason := _why_not(network.get_submodule(path), trace):
        problem = f"the network's layer {path} cannot be explained: it {reason}"
    else:
        return path
    near = _near(network, (path or name).removeprefix(f"{encoder}."), trace, encoder)
    raise SettingsError(f"{problem}; near it are: {near}")


def _resolve(network: nn.Module, name: str, encoder: str) -> str | None:
    parts = re.sub(r"\[(-?\d+)\]", r".\1", name).split(".")
    start = encoder.split(".")
    starts: list[list[str]] = [[], start, [*start, "model"]]  # the last is timm's
    paths = (_walk(network, [*start, *parts]) for start in starts)
    return next(filter(None, paths), None)


def _walk(module: nn.Module, parts: list[str]) -> str | None:
    """Resolve a path, in which negative indices count from the end; None if a module is missing."""
    path: list[str] = []
    for part in parts:
        children = dict(module.named_children())
        if re.fullmatch(r"-\d+", part) and int(part) >= -len(children):
            part = list(children)[int(part)]  # noqa: PLW2901
        if part not in children:
            return None
        module = children[part]
        path.append(part)
    return ".".join(path)


def _why_not(module: nn.Module, trace: Trace) -> str | None:
    """Explain why a layer cannot be explained; None if it can."""
    outputs = next((call.outputs for call in reversed(trace.calls) if call.module is module), None)
    if outputs is None:
        return "is not run"
    shapes = ", ".join(str(output.shape) for output in outputs)
    if len(outputs) != 1 or not _is_map(outputs[0]):
        return f"has no output (B, channels, h, w), but {shapes or 'no tensor'}"
    if outputs[0].shape[-1] == 1:
        return "has an output of 1 x 1 pixel, the same for a whole tile"
    return None if outputs[0].node in ancestors(trace.root) else "does not determine the logits"


def _is_map(output: Output) -> bool:
    """Return True for (B, K, h, w) of a square tile, unlike tokens (B, N, K) or (B, h, w, K)."""
    return len(output.shape) == 4 and output.shape[2] == output.shape[3]


def _near(network: nn.Module, name: str, trace: Trace, encoder: str) -> str:
    """Return layers that can be explained: the one around a layer, and those named like it."""
    layers = [path for path, m in network.named_modules() if path and _why_not(m, trace) is None]
    around = [path for path in layers if f"{encoder}.{name}".startswith(f"{path}.")]
    near = difflib.get_close_matches(f"{encoder}.{name}", layers, 3, cutoff=0.3)
    return ", ".join(dict.fromkeys([*around[-1:], *near]))


def _default_layer(
    network: nn.Module, trace: Trace, encoder_path: str, *, itself: bool = False
) -> str:
    """Return the path of the layer whose output is the deepest feature map that is used."""
    encoder = find_encoder(network, encoder_path)
    if encoder is None:
        raise SettingsError(
            f"the network has no module {encoder_path}; set model.target_layer, such as "
            f"{_coarsest(network, trace)}"
        )
    features = next((c.outputs for c in reversed(trace.calls) if c.module is encoder), ())
    index = _deepest(features, trace)
    inside = set(encoder.modules()) - {encoder}
    calls = [call for call in trace.calls if call.module in inside]
    module = _source(calls, features[index])
    if itself or module is None:
        encoder.add_module(FEATURE_MAP, module := nn.Identity())
        encoder.register_forward_hook(partial(_pass_on, index))
    path: str = next(path for path, found in network.named_modules() if found is module)
    return path


def find_encoder(network: nn.Module, path: str) -> nn.Module | None:
    """Return the encoder of a network; None if it has none."""
    try:  # named_modules() has a module that is registered twice by its first path alone
        return network.get_submodule(path)
    except AttributeError:
        return None


def _coarsest(network: nn.Module, trace: Trace) -> str:
    """Return the path of the last of the widest layers of the lowest resolution."""
    calls = [call for call in reversed(trace.calls) if _why_not(call.module, trace) is None]
    shapes = {call.module: call.outputs[0].shape for call in calls}
    found = max(shapes, key=lambda module: (-shapes[module][-1], shapes[module][1]), default=None)
    return next((path for path, module in network.named_modules() if module is found), "a layer")


def _deepest(features: tuple[Output, ...], trace: Trace) -> int:
    """Return the index of the last feature map that the logits depend on."""
    used = ancestors(trace.root)
    indices = [i for i, feature in enumerate(features) if _is_map(feature) and feature.node in used]
    if not indices:
        raise SettingsError("the decoder uses no feature map; set model.target_layer")
    return indices[-1]


def _source(calls: list[Call], feature: Output) -> nn.Module | None:
    """Return the outermost module whose output is a feature map, if it is called once."""
    times = Counter(call.module for call in calls)
    nodes = {feature.node, original(feature.node)}
    made = [call for call in calls if call.result in nodes and call.source not in nodes]
    maps = [call for call in made if call.outputs[0].shape == feature.shape]
    found = [c.module for c in maps if times[c.module] == 1]
    return found[-1] if found else None


def _pass_on(index: int, encoder: nn.Module, _inputs: object, output: object) -> object:
    """Pass one of an encoder's feature maps through its module ``feature_map``."""
    chosen = tensors_in(output)[index]
    passed = encoder.get_submodule(FEATURE_MAP)(chosen)

    def replaced(value: object) -> object:
        if isinstance(value, Tensor):
            return passed if value is chosen else value
        if isinstance(value, MutableMapping):
            same_kind = copy.copy(value)
            for key, part in value.items():
                same_kind[key] = replaced(part)
            return same_kind
        return type(value)(map(replaced, value)) if isinstance(value, (list, tuple)) else value

    return replaced(output)
