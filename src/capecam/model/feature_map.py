"""Find the feature map of an encoder that has a stride, by what the encoder returns."""

from __future__ import annotations

from torch import nn

from capecam.model.introspection import ancestors, trace_forward
from capecam.model.target_layer import ENCODER, find_encoder


def find_feature_map(network: nn.Module, stride: int, encoder_path: str = ENCODER) -> int | None:
    """Return the index of a feature map among the tensors that the network's encoder returns.

    Args:
        network: the network.
        stride: the map is the deepest of at most this stride that determines the logits.
        encoder_path: path of the encoder.

    Returns:
        The index; None if there is no encoder that is called, or no such map.
    """
    encoder = find_encoder(network, encoder_path)
    if encoder is None:
        return None
    trace = trace_forward(network, lambda module: module is encoder)
    used, found = ancestors(trace.root), []
    returned = trace.calls[-1].outputs if trace.calls else ()  # a ModuleList is not called
    for index, feature in enumerate(returned):
        if len(feature.shape) != 4 or feature.shape[2] != feature.shape[3]:
            continue  # tokens
        is_fine = 1 < trace.size / feature.shape[-1] <= stride
        if is_fine and feature.node in used:
            found.append(index)
    return found[-1] if found else None
