"""Judge which range of its input a network was trained on, by what its batch norms remember.

A batch norm keeps the mean and the variance of every channel over the training. Imagery like that
of the training has about the same ones, if it enters the network in the same range.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from capecam.model.normalisation import Normalisation
from capecam.settings import IMAGENET_MEAN, IMAGENET_STD, Triple

NORMS = 8
"""Batch norms that are compared, the first that run: later ones say the same, at the price of more
of the forward."""

CLEAR = 20.0
"""Ratio of misfits from which a range is beyond doubt. A factor of 255 gives 7 to a million, and 3
to 20 behind the layer norms of a transformer; see also ``LIKELY``."""

LIKELY = 5.0
"""Ratio from which a range is preferred to those before it in the list. Another mean and deviation
of the same range gives 4 to 30, and imagery of another contrast than that of the training up to 8
(FPN with regnetx_002 and resnet18d, drawn and real imagery)."""

TINY = 1e-9

HALF = (0.5, 0.5, 0.5)
NOTHING: tuple[Triple, Triple] = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@dataclass(frozen=True, slots=True)
class InputRange:
    """A range that the input may have had."""

    normalisation: Normalisation
    name: str
    misfit: float | None
    """Median over channels of the Kullback-Leibler divergence of the imagery from what the batch
    norms remember; None where there is nothing to compare."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """The range that is taken, and how sure that is: ``sure``, ``likely`` or ``guess``."""

    ranges: tuple[InputRange, ...]
    """All that were tried, the one that is taken first, then by misfit."""
    sure_max: str
    """Certainty of the maximum of the input."""
    sure_mean: str
    """Certainty of mean and std."""

    @property
    def taken(self) -> InputRange:
        """The range that is taken."""
        return self.ranges[0]


def possible_ranges(own: tuple[Triple, Triple] | None) -> Mapping[str, Normalisation]:
    """Return ranges by name, the most common first.

    Args:
        own: mean and std of the checkpoint, which leave open only the maximum; None without.
    """
    if own is not None:
        # Of 0..1 in the checkpoint, and yet used on 0..255: so was the first network of capecam.
        return {
            f"0..{top:g}, mean and std of the checkpoint": Normalisation(top, *own)
            for top in ((1.0, 255.0) if max(own[0]) <= 1 else (255.0,))
        }
    pairs = {
        "mean and std of ImageNet": (IMAGENET_MEAN, IMAGENET_STD),
        "mean and std .5": (HALF, HALF),
        "no mean and std": NOTHING,
    }
    return {
        f"0..{top:g}, {name}": Normalisation(top, *pair)
        for name, pair in pairs.items()
        for top in (1.0, 255.0)
    }


def judge(network: nn.Module, own: tuple[Triple, Triple] | None, pixels: Tensor) -> Judgement:
    """Judge the range of the input by a few tiles.

    Args:
        network: in eval mode.
        own: mean and std of the checkpoint, if it has any.
        pixels: (B, 3, H, W) uint8, with imagery everywhere if possible.
    """
    encoder = getattr(network, "encoder", network)
    if not any(isinstance(module, nn.BatchNorm2d) for module in encoder.modules()):
        pixels = pixels[:1]  # the first batch norm is in the decoder, after most of the forward
    ranges = [
        InputRange(normalisation, name, misfit(network, normalisation, pixels))
        for name, normalisation in possible_ranges(own).items()
    ]
    least = min((each.misfit for each in ranges if each.misfit is not None), default=None)
    if least is None:
        return Judgement(tuple(ranges), "guess", "guess" if own is None else "sure")
    taken = next(each for each in ranges if _misfit(each) <= LIKELY * least)
    others = sorted((each for each in ranges if each is not taken), key=_misfit)
    top = taken.normalisation.input_max
    same_max = [each for each in others if each.normalisation.input_max == top]
    other_max = [each for each in others if each.normalisation.input_max != top]
    return Judgement((taken, *others), _how_sure(taken, other_max), _how_sure(taken, same_max))


def _misfit(each: InputRange) -> float:
    return math.inf if each.misfit is None else each.misfit


def _how_sure(taken: InputRange, others: Sequence[InputRange]) -> str:
    """Return how much better a range fits than others."""
    ratio = min((_misfit(other) for other in others), default=math.inf) / max(_misfit(taken), TINY)
    return "sure" if ratio >= CLEAR else "likely" if ratio >= LIKELY else "guess"


class _ComparedError(Exception):
    """The batch norms that are compared have run."""


@torch.no_grad()
def misfit(network: nn.Module, normalisation: Normalisation, pixels: Tensor) -> float | None:
    """Compare imagery in a range with what a network's first batch norms remember.

    Args:
        network: in eval mode.
        normalisation: of the input.
        pixels: (B, 3, H, W) uint8.

    Returns:
        Median over channels of the Kullback-Leibler divergence between normal distributions; None
        if the network has no batch norm, or none that was trained.
    """
    found: list[Tensor] = []

    def compare(norm: nn.BatchNorm2d, inputs: Sequence[Tensor]) -> None:
        mean, variance = norm.running_mean, norm.running_var
        if isinstance(mean, Tensor) and isinstance(variance, Tensor):
            if mean.any() or (variance != 1).any():  # as they are made
                found.append(_divergence(inputs[0], mean, variance + norm.eps))
            if len(found) >= NORMS:
                raise _ComparedError

    layers = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    handles = [layer.register_forward_pre_hook(compare) for layer in layers]
    dtype = next(network.parameters()).dtype
    try:
        network(normalisation.on(pixels.device, dtype)(pixels.to(dtype)))
    except _ComparedError:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return float(torch.cat(found).nan_to_num(nan=torch.inf).median()) if found else None


def _divergence(x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Return the divergence of (B, C, H, W) activations from C means and variances."""
    actual = x.var(dim=(0, 2, 3)) + 1e-12
    ratio, shift = actual / variance, (x.mean(dim=(0, 2, 3)) - mean) ** 2 / variance
    return 0.5 * (ratio + shift - 1 - ratio.log())
