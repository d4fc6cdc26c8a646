"""Maps of objects. Oracle: the same written slowly with plain autograd, in float64."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from support.networks import (
    TinyNetwork,
    images,
    normalise,
    smp_network,
    tiny_model,
    tiny_network,
)
from torch import nn
from torch.nn import functional as F

from capecam.attribution.object_engine import (
    ObjectEngine,
    Targets,
    log_odds,
    mean_logit,
    object_probability,
)
from capecam.errors import SettingsError
from capecam.model.feature_map import find_feature_map
from capecam.model.model import Model

SIZE = 64


def batch(count: int, size: int = SIZE) -> tuple[torch.Tensor, torch.Tensor, Targets]:
    """Pixels and validity of some tiles, and a rectangle of a class in each."""
    valid = torch.ones(count, size, size, dtype=torch.bool)
    valid[:, :, -5:] = False
    inside = torch.zeros_like(valid)
    for n in range(count):
        inside[n, 10 + n : 30, 20 : 40 + n] = True
    pixels = images(count, size) * valid[:, None]
    return pixels, valid, Targets(torch.arange(count) % 3 + 1, inside)


def slow_map(model: Model, pixels: torch.Tensor, targets: Targets, index: int) -> torch.Tensor:
    """HiResCAM of the mean logit of one tile, with loops."""
    network, kept = copy.deepcopy(model.network), []
    network.encoder.register_forward_hook(
        lambda _m, _i, out: kept.append(out if isinstance(out, torch.Tensor) else out[index])
    )
    x = normalise(pixels[None].double(), model.normalisation).requires_grad_()
    logits, c = network(x)[0], int(targets.class_id[0])
    rows, cols = torch.nonzero(targets.inside[0], as_tuple=True)
    score = sum(logits[c, i, j] for i, j in zip(rows, cols, strict=True)) / len(rows)
    (A,) = kept
    gradient = torch.autograd.grad(score, A)[0]
    heat = torch.zeros(A.shape[2:], dtype=torch.float64)
    for k in range(A.shape[1]):
        heat += A[0, k].detach() * gradient[0, k]
    return heat.clamp(min=0)


@pytest.mark.parametrize("network", [tiny_network(), smp_network("FPN", "resnet18").double()])
def test_the_map_equals_the_slow_one(network: nn.Module) -> None:
    model = tiny_model(network, None)
    pixels, valid, targets = batch(2)
    heat, _ = ObjectEngine(model).maps(pixels, valid, targets)
    index = find_feature_map(network, 8)
    for n in range(2):
        own = Targets(targets.class_id[n : n + 1], targets.inside[n : n + 1])
        expected = slow_map(model, pixels[n], own, index)
        assert expected.max() > 0
        assert (heat[n] - expected).abs().max() < 1e-9 * expected.max()


def test_the_feature_map_is_found_by_its_stride() -> None:
    network = smp_network("FPN", "resnet18")
    assert [find_feature_map(network, stride) for stride in (32, 16, 15, 4, 2)] == [5, 4, 3, 2, 1]
    assert find_feature_map(nn.Conv2d(3, 4, 1), 16) is None


def test_scores_and_probability_are_means_over_the_object() -> None:
    logits = torch.randn(2, 4, SIZE, SIZE, dtype=torch.float64)
    _, _, targets = batch(2)
    for n, c in enumerate(targets.class_id.tolist()):
        own = logits[n][:, targets.inside[n]]
        others = own[[k for k in range(4) if k != c]]
        assert torch.allclose(mean_logit(logits, targets)[n], own[c].mean())
        odds = (own[c] - others.exp().sum(dim=0).log()).mean()
        assert torch.allclose(log_odds(logits, targets)[n], odds)
        share = F.softmax(own, dim=0)[c].mean()
        assert torch.allclose(object_probability(logits, targets)[n], share)


def test_a_map_does_not_depend_on_its_batch() -> None:
    engine = ObjectEngine(tiny_model(smp_network("FPN", "resnet18"), None))
    pixels, valid, targets = batch(3)
    together, p = engine.maps(pixels, valid, targets)
    for n in range(3):
        one = slice(n, n + 1)
        own = Targets(targets.class_id[one], targets.inside[one])
        heat, probability = engine.maps(pixels[one], valid[one], own)
        assert torch.allclose(heat[0], together[n], rtol=1e-4, atol=1e-7)
        assert torch.allclose(probability[0], p[n], rtol=1e-5)


def test_a_named_layer_is_explained_in_place_of_the_feature_map() -> None:
    model = tiny_model(tiny_network(), None)
    pixels, valid, targets = batch(1)
    heat, _ = ObjectEngine(model, layer="conv2").maps(pixels, valid, targets)
    assert heat.shape == (1, SIZE // 2, SIZE // 2)
    with pytest.raises(SettingsError, match="has no layer 'conv9'"):
        ObjectEngine(model, layer="conv9")


def test_the_guided_map_is_at_pixels_and_needs_relus() -> None:
    pixels, valid, targets = batch(1)
    heat, _ = ObjectEngine(tiny_model(tiny_network()), method="guided").maps(pixels, valid, targets)
    assert heat.shape == (1, SIZE, SIZE)
    assert heat.max() > 0
    assert not heat[~valid].any()
    with pytest.raises(SettingsError, match=r"objects\.method guided is not possible"):
        ObjectEngine(tiny_model(TinyNetwork(nn.SiLU).double()), method="guided")


def test_a_network_without_an_encoder_uses_the_layer_of_the_tiles() -> None:
    network = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Conv2d(5, 4, 1))
    model = replace(tiny_model(tiny_network()), network=network.double(), target_layer="1")
    pixels, valid, targets = batch(1)
    heat, _ = ObjectEngine(model).maps(pixels, valid, targets)
    assert heat.shape == (1, SIZE, SIZE)
