"""Cascading randomization of a model's weights.

Adebayo et al. 2018 (Sanity checks for saliency maps) replace weights by random ones, layer after
layer from the top; a map that does not change is independent of what the network has learnt.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import nn

from capecam.analysis.audit.block_maps import Heat, correlation
from capecam.model.model import Model
from capecam.model.target_layer import ENCODER


def stages(network: nn.Module, target_layer: str, encoder: str = ENCODER) -> tuple[str, ...]:
    """Return the names of the modules to randomize one after another, from the top.

    The modules defined after the target layer, last first, then the one that contains it: head,
    decoder and last stage of the encoder in a network of segmentation_models_pytorch. Only the
    encoder, lists, and a sole module with weights are divided further.
    """
    result: list[str] = []
    path, module = "", network
    for part in target_layer.split("."):
        names = [
            name for name, child in module.named_children() if _has_weights(child) or name == part
        ]
        result += [path + name for name in reversed(names[names.index(part) + 1 :])]
        module, path = module.get_submodule(part), f"{path}{part}."
        is_list = isinstance(module, nn.ModuleList)
        if len(names) > 1 and not f"{encoder}.".startswith(path) and not is_list:
            break
    return (*result, path[:-1]) if _has_weights(module) else tuple(result)


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def cascade(model: Model, seed: int) -> Iterator[tuple[str, Model]]:
    """Yield every stage with a copy of the model that is random from the top down to this stage."""
    generator = torch.Generator().manual_seed(seed)
    network = model.network
    for stage in stages(model.network, model.target_layer, model.encoder):
        network = copy.deepcopy(network)
        randomize(network.get_submodule(stage), generator)
        yield stage, replace(model, network=network)


@torch.no_grad()
def randomize(module: nn.Module, generator: torch.Generator) -> None:
    """Replace every weight by a normal sample with the mean and deviation of its tensor.

    This keeps activations in their usual range. The running statistics of batch norms are not
    weights and are kept.
    """
    for weight in module.parameters():
        # On the CPU, so that the seed gives the same numbers on every device.
        sample = torch.randn(weight.shape, generator=generator, dtype=weight.dtype).to(
            weight.device
        )
        weight.copy_(weight.mean() + sample * weight.std(correction=0))


def spearman(a: Heat, b: Heat, valid: NDArray[np.bool_]) -> Heat:
    """Return the rank correlation (M,) of maps (M, n, n) over valid blocks; NaN if one is constant.

    Equal values share their mean rank.
    """
    return correlation(*(rankdata(x[:, valid], axis=1) for x in (a, b)))
