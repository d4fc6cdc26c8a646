"""Integrated gradients of an object equal a slow loop, and add up to the change of its score."""

from __future__ import annotations

import torch
from support.networks import TINY_INPUT, images, normalise, tiny_model, tiny_network
from torch import Tensor

from capecam.attribution.interventions import blurred
from capecam.attribution.object_engine import IG_STEPS, ObjectEngine, Targets

CLASS = 2


def case() -> tuple[ObjectEngine, Tensor, Tensor, Targets]:
    """Return an engine in float64, two tiles with their baselines, and an object in each."""
    pixels = images(2, 32, seed=3)
    inside = torch.zeros(2, 32, 32, dtype=torch.bool)
    inside[0, 4:12, 6:20], inside[1, 20:, 20:] = True, True
    baseline = blurred(pixels, torch.ones(2, 32, 32, dtype=torch.bool))
    targets = Targets(torch.tensor([CLASS, CLASS]), inside)
    return ObjectEngine(tiny_model(tiny_network())), pixels, baseline, targets


def log_odds_by_hand(pixels: Tensor, inside: Tensor) -> Tensor:
    """Return the mean log-odds of the class at the pixels of one tile (3, H, W)."""
    logits = tiny_network().requires_grad_(False)(normalise(pixels[None], TINY_INPUT))[0]
    p = logits.softmax(dim=0)[CLASS]
    return (p / (1 - p)).log()[inside].mean()


def test_they_equal_a_slow_loop() -> None:
    engine, pixels, baseline, targets = case()
    found = engine.integrated_gradients(pixels, baseline, targets)
    for tile, start, inside, heat in zip(pixels, baseline, targets.inside, found, strict=True):
        total = torch.zeros(3, 32, 32, dtype=torch.float64)
        for step in range(IG_STEPS):
            share = (step + 0.5) / IG_STEPS
            x = (start.double() + share * (tile.double() - start.double())).requires_grad_()
            log_odds_by_hand(x, inside).backward()
            total += x.grad / IG_STEPS
        expected = ((tile.double() - start.double()) * total).sum(dim=0)
        torch.testing.assert_close(heat, expected, rtol=1e-9, atol=1e-12)


def test_they_add_up_to_the_change_of_the_score() -> None:
    engine, pixels, baseline, targets = case()
    found = engine.integrated_gradients(pixels, baseline, targets, steps=400).sum(dim=(1, 2))
    for n, inside in enumerate(targets.inside):
        after, before = (log_odds_by_hand(x[n].double(), inside) for x in (pixels, baseline))
        assert abs(after - before) > 0.1, "else there is nothing to add up"
        torch.testing.assert_close(found[n], after - before, rtol=2e-2, atol=1e-2)
