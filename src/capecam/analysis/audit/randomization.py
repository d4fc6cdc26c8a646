"""Model randomisation: what becomes of maps when the network forgets what it has learnt.

Adebayo et al. 2018 (Sanity checks for saliency maps): weights are replaced by random ones, layer
after layer from the top; a map that stays as it was does not depend on what the network has learnt.
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


def stages(network: nn.Module, target_layer: str) -> tuple[str, ...]:
    """The parts of a network that are randomised one after the other, from the top.

    What is defined after the target layer, last first, and then the part that holds it: the head,
    the decoder and the encoder's last stage of a network of segmentation_models_pytorch. It goes
    into ``encoder``, into lists, and into what is the only part with weights, and no deeper.
    """
    found: list[str] = []
    path, module = "", network
    for part in target_layer.split("."):
        names = [name for name, child in module.named_children() if _weighs(child) or name == part]
        found += [path + name for name in reversed(names[names.index(part) + 1 :])]
        module, path = module.get_submodule(part), f"{path}{part}."
        if len(names) > 1 and part != "encoder" and not isinstance(module, nn.ModuleList):
            break
    return (*found, path[:-1]) if _weighs(module) else tuple(found)


def _weighs(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def cascade(model: Model, seed: int) -> Iterator[tuple[str, Model]]:
    """Every stage, and a model of which all stages down to this one are random.

    The given model is never touched: its weights are drawn anew in copies.
    """
    draw = torch.Generator().manual_seed(seed)
    network = model.network
    for stage in stages(model.network, model.target_layer):
        network = copy.deepcopy(network)
        redraw(network.get_submodule(stage), draw)
        yield stage, replace(model, network=network)


@torch.no_grad()
def redraw(module: nn.Module, draw: torch.Generator) -> None:
    """Replace every weight by a normal draw with its tensor's own mean and deviation.

    So that the network stays in the range where its activations mean something; the running
    statistics of batch norms are no weights, and stay.
    """
    for weight in module.parameters():
        # On the CPU, so that the seed gives the same numbers on every device.
        drawn = torch.randn(weight.shape, generator=draw, dtype=weight.dtype).to(weight.device)
        weight.copy_(weight.mean() + drawn * weight.std(correction=0))


def spearman(a: Heat, b: Heat, seen: NDArray[np.bool_]) -> Heat:
    """(M, n, n) twice -> (M,): rank correlation over the seen blocks, equal values sharing a rank.

    NaN where one of the two maps is even: it has no ranks.
    """
    return correlation(*(rankdata(x[:, seen], axis=1) for x in (a, b)))
