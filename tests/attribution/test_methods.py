"""Compare the formulas with numbers worked out by hand, and with the loops of ``oracles``."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from support import oracles
from torch import Tensor

from capecam.attribution.methods import (
    CAMS,
    GUIDED,
    SHARED,
    ReluSwitch,
    SwitchedReLU,
    class_scores,
    decide,
    gradcam,
    gradcampp,
    gradcampp_notebook,
    guided_gradcam,
    hirescam,
    layercam,
    resample,
    xgradcam,
)
from capecam.settings import METHODS, PIXEL_METHODS

# K = 2 channels of 2 x 2. Sums of A: 1 + 2 + 3 - 2 = 4 and 1 - 1 + 0 - 4 = -4.
A = torch.tensor([[[1.0, 2.0], [3.0, -2.0]], [[1.0, -1.0], [0.0, -4.0]]], dtype=torch.float64)
G = torch.tensor([[[0.5, -1.0], [2.0, 0.5]], [[0.25, 0.0], [-4.0, 0.5]]], dtype=torch.float64)


def test_gradcam_by_hand() -> None:
    # w_0 = (.5 - 1 + 2 + .5) / 4 = .5        w_1 = (.25 + 0 - 4 + .5) / 4 = -.8125
    # (0,0): .5 - .8125 = -.3125 -> 0         (0,1): .5 * 2 + .8125 = 1.8125
    # (1,0): .5 * 3 - 0 = 1.5                 (1,1): -.5 * 2 + .8125 * 4 = 2.25
    cam = gradcam(A, G)
    assert cam.map.tolist() == [[0.0, 1.8125], [1.5, 2.25]]
    assert cam.singular.item() == 0


def test_gradcampp_by_hand() -> None:
    # k = 0, sum A = 4:  g .5 -> 1 / (2 + 2) = 1/4, twice;  g 2 -> 1 / (2 + 8) = 1/10;  g -1 -> 0
    #   w_0 = 1/4 * .5 * 2 + 1/10 * 2 = .45
    # k = 1, sum A = -4: g .25 -> 1 / (2 - 1) = 1;  g .5 -> 2 - 2 = 0, singular;  g 0, -4 -> 0
    #   w_1 = 1 * .25 = .25
    # (0,0): .45 + .25 = .7   (0,1): .9 - .25 = .65   (1,0): 1.35   (1,1): -.9 - 1 = -1.9 -> 0
    cam = gradcampp(A, G)
    expected = torch.tensor([[0.7, 0.65], [1.35, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(cam.map, expected, rtol=1e-15, atol=0)
    assert cam.singular.item() == 1


def test_gradcampp_of_the_notebook_by_hand() -> None:
    # k = 0: sum A g³ = 1 * .125 + 2 * (-1) + 3 * 8 - 2 * .125 = 21.875
    #   g .5: alpha = .25 / (.5 + 21.875), twice;  g 2: alpha = 4 / (8 + 21.875)
    # k = 1: sum A g³ = 1 / 64 - 0 + 0 - 4 * .125 = -.484375
    #   g .25: alpha = .0625 / (.125 - .484375);  g .5: alpha = .25 / (.5 - .484375) = 16
    w0 = 2 * 0.5 * 0.25 / 22.375 + 2 * 4 / 29.875
    w1 = 0.25 * 0.0625 / -0.359375 + 0.5 * 16
    # (0,0): w0 + w1   (0,1): 2 w0 - w1 < 0 -> 0   (1,0): 3 w0   (1,1): -2 w0 - 4 w1 < 0 -> 0
    expected = torch.tensor([[w0 + w1, 0.0], [3 * w0, 0.0]], dtype=torch.float64)
    # The 1e-8 under alpha = 16 (over 1/64) is the largest departure: 6.4e-7.
    torch.testing.assert_close(gradcampp_notebook(A, G).map, expected, rtol=1e-6, atol=0)


def test_the_notebooks_epsilon_is_the_denominator_under_a_mean_score() -> None:
    # g = 7e-6 as measured on FPN-resnext50_32x4d, A = 1 on 1 x 1:
    #   exact: alpha = 1 / (2 + 7e-6) = .5;  notebook: 4.9e-11 / (9.8e-11 + 1e-8) = .004852
    ones, g = torch.ones(1, 1, 1, dtype=torch.float64), torch.full((1, 1, 1), 7e-6).double()
    assert gradcampp(ones, g).map.item() / 7e-6 == pytest.approx(0.5, rel=1e-5)
    assert gradcampp_notebook(ones, g).map.item() / 7e-6 == pytest.approx(0.004852, rel=1e-3)


def test_hirescam_by_hand() -> None:
    # (0,0): .5 + .25   (0,1): -2 + 0 -> 0   (1,0): 6 + 0   (1,1): -1 - 2 -> 0
    assert hirescam(A, G).map.tolist() == [[0.75, 0.0], [6.0, 0.0]]


def test_layercam_by_hand() -> None:
    # As above, without the places where g is negative: (0,1) of k = 0 and (1,0) of k = 1.
    assert layercam(A, G).map.tolist() == [[0.75, 0.0], [6.0, 0.0]]
    # Twice as much of k = 1 at (1,0), where its g is -4 and its A becomes 1: only HiResCAM sees it.
    a = A.clone()
    a[1, 1, 0] = 1.0
    assert layercam(a, G).map[1, 0].item() == 6.0
    assert hirescam(a, G).map[1, 0].item() == 2.0


def test_xgradcam_by_hand() -> None:
    # w_0 = (.5 - 2 + 6 - 1) / 4 = .875      w_1 = (.25 + 0 + 0 - 2) / -4 = .4375
    # (0,0): .875 + .4375   (0,1): 1.75 - .4375   (1,0): 2.625   (1,1): -1.75 - 1.75 -> 0
    cam = xgradcam(A, G)
    assert cam.map.tolist() == [[1.3125, 1.3125], [2.625, 0.0]]
    assert cam.singular.item() == 0
    # A channel that cancels is left out and counted; a dead one is not counted.
    cancels = torch.stack([A[0], torch.tensor([[1.0, -1.0], [2.0, -2.0]]).double()])
    assert xgradcam(cancels, G).map.tolist() == [[0.875, 1.75], [2.625, 0.0]]
    assert xgradcam(cancels, G).singular.item() == 1
    dead = torch.stack([A[0], torch.zeros(2, 2).double()])
    assert xgradcam(dead, G).map.tolist() == [[0.875, 1.75], [2.625, 0.0]]
    assert xgradcam(dead, G).singular.item() == 0


def test_guided_gradcam_by_hand() -> None:
    # The map is as large as the tile: per pixel the largest |gradient| of three times the map.
    guided = torch.tensor([[[1.0, -2.0], [0.0, 1.0]], [[-3.0, 1.0], [0.0, 1.0]], [[2.0] * 2] * 2])
    cam = torch.tensor([[2.0, 0.5], [1.0, 0.0]])
    assert guided_gradcam(guided, cam).tolist() == [[6.0, 1.0], [2.0, 0.0]]


def test_resampling_has_half_pixel_centres() -> None:
    # Two samples to four: output centres .25, .75, 1.25, 1.75 lie at -.25, .25, .75, 1.25
    # between the centres 0 and 1, so 0, 1/4, 3/4 and 1 of the way from 0 to 4.
    cam = torch.tensor([[0.0, 4.0], [0.0, 4.0]])
    assert resample(cam, 4).tolist() == [[0.0, 1.0, 3.0, 4.0]] * 4
    assert (
        resample(cam.T.expand(2, 3, 2, 2), 4).tolist()
        == [[[[0.0] * 4, [1.0] * 4, [3.0] * 4, [4.0] * 4]] * 3] * 2
    )


LOGITS = torch.tensor(
    [
        [
            [[1.0, 2.0], [3.0, 4.0]],
            [[5.0, 1.0], [3.0, 6.0]],  # argmax at (0,0) and (1,1); a tie at (1,0) goes to class 0
            [[0.0, 9.0], [0.0, 0.0]],
        ]
    ]
)


def test_mean_score_by_hand() -> None:
    # valid without (1,1); divided by the tile's 4 pixels, not by 3: 6/4, 9/4, 9/4
    valid = torch.tensor([[[True, True], [True, False]]])
    assert class_scores(LOGITS, valid, "mean").tolist() == [[1.5, 2.25, 2.25]]


def test_predicted_score_by_hand() -> None:
    # argmax: 1 2 / 0 1; with (1,1) invalid the sums are 3, 5, 9, over 4
    valid = torch.tensor([[[True, True], [True, False]]])
    assert class_scores(LOGITS, valid, "predicted").tolist() == [[0.75, 1.25, 2.25]]
    everywhere = torch.ones_like(valid)
    assert class_scores(LOGITS, everywhere, "predicted").tolist() == [[0.75, 2.75, 2.25]]


def test_no_gradient_runs_through_the_mask_of_predicted() -> None:
    logits = LOGITS.clone().requires_grad_()
    score = class_scores(logits, torch.ones(1, 2, 2, dtype=torch.bool), "predicted")[0, 1]
    (grad,) = torch.autograd.grad(score, logits)
    assert grad[0].tolist() == [[[0.0] * 2] * 2, [[0.25, 0.0], [0.0, 0.25]], [[0.0] * 2] * 2]


def test_a_sigmoid_decides_for_the_class_from_one_half_on() -> None:
    logits = torch.tensor([[[0.0, 0.0, 0.0]], [[-1.0, 0.0, 1.0]]])  # (2, 1, 3): 0 against z
    assert decide(logits, sigmoid=True).tolist() == [[0, 1, 1]]
    assert decide(logits.softmax(dim=0), sigmoid=True).tolist() == [[0, 1, 1]]
    assert decide(logits).tolist() == [[0, 0, 1]], "of a softmax the lower index wins"
    everywhere = torch.ones(1, 1, 3, dtype=torch.bool)
    logits = logits[None] + torch.tensor([[0.0], [0.25]])[:, :, None]
    found = class_scores(logits, everywhere, "predicted", sigmoid=True)
    assert found.tolist() == [[0.0, pytest.approx((0.25 + 1.25) / 3)]]


def test_an_unknown_score_is_named() -> None:
    with pytest.raises(ValueError, match="'sum'"):
        class_scores(LOGITS, torch.ones(1, 2, 2, dtype=torch.bool), "sum")


def guided_and_true(x: Tensor, weights: Tensor, inplace: bool) -> tuple[list[float], list[float]]:
    """Return guided and true gradient of weights . relu(2 x) by x, from one graph."""
    switch = ReluSwitch()
    x = x.clone().requires_grad_()
    doubled = 2 * x
    relu = SwitchedReLU.apply(switch, torch.contiguous_format, inplace, doubled)
    assert relu.equal((2 * x).relu())
    assert (doubled is relu) == inplace
    y = weights @ relu
    (true,) = torch.autograd.grad(y, x, retain_graph=True)
    with switch.on():
        (guided,) = torch.autograd.grad(y, x, retain_graph=True)
    (again,) = torch.autograd.grad(y, x)
    assert again.equal(true), "the switch is off again"
    return guided.tolist(), true.tolist()


@pytest.mark.parametrize("inplace", [False, True])
def test_guided_relu_by_hand(inplace: bool) -> None:
    # Both inputs positive, gradients from above 3 and -5: the true rule passes both (times 2),
    # the guided rule only the positive one.
    guided, true = guided_and_true(torch.tensor([1.0, 2.0]), torch.tensor([3.0, -5.0]), inplace)
    assert (guided, true) == ([6.0, 0.0], [6.0, -10.0])
    # A negative input passes nothing under either rule.
    guided, true = guided_and_true(torch.tensor([-1.0, 2.0]), torch.tensor([3.0, 5.0]), inplace)
    assert (guided, true) == ([0.0, 10.0], [0.0, 10.0])


def test_the_switch_is_off_after_an_error() -> None:
    switch = ReluSwitch()

    def fail() -> None:
        with switch.on():
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert switch.guided is False


# Half-precision numbers: sums and products of a few of them are exact in float64, so the loops
# and the tensors cannot disagree about which entries are singular.
numbers = st.floats(-4, 4, width=16)
stacks = arrays(np.float64, (3, 2, 4), elements=numbers)
powers = st.integers(-20, 20).map(lambda exponent: 2.0**exponent)


def tensors(*values: np.ndarray) -> list[Tensor]:
    return [torch.from_numpy(value) for value in values]


def close(actual: Tensor, expected: np.ndarray, scale: float) -> bool:
    """Compare within the rounding of the largest term of the sums."""
    return bool(np.abs(actual.numpy() - expected).max() <= 1e-12 * scale)


@given(stacks, stacks, st.sampled_from(sorted(CAMS)))
def test_every_map_equals_its_loops(a: np.ndarray, g: np.ndarray, method: str) -> None:
    expected = oracles.CAMS[method](a, g)
    cam = CAMS[method](*tensors(a, g))
    weights = {
        "gradcam": lambda: oracles.gradcam_weights(g),
        "gradcampp": lambda: oracles.gradcampp_weights(a, g)[0],
        "gradcampp_notebook": lambda: oracles.gradcampp_notebook_weights(a, g),
        "hirescam": lambda: g,
        "layercam": lambda: g,
        "xgradcam": lambda: oracles.xgradcam_weights(a, g)[0],
    }[method]()
    # The notebook's denominator cancels without a bound on what is left: compare by its weights.
    scale = 4 * np.abs(weights).sum() * (1e6 if method == "gradcampp_notebook" else 1)
    assert close(cam.map, expected, scale)


@given(stacks, stacks)
def test_what_is_left_out_is_what_the_loops_leave_out(a: np.ndarray, g: np.ndarray) -> None:
    assert gradcampp(*tensors(a, g)).singular.item() == oracles.gradcampp_weights(a, g)[1]
    assert xgradcam(*tensors(a, g)).singular.item() == oracles.xgradcam_weights(a, g)[1]


@given(
    arrays(np.float64, (4,), elements=st.floats(-8, 8, width=16)),
    st.lists(st.booleans(), min_size=4, max_size=4),
    st.integers(-3, 3),
)
def test_singular_entries_are_counted_and_weigh_nothing(
    others: np.ndarray, places: list[bool], exponent: int
) -> None:
    # A sums to -2 / g, so 2 + g sum A is exactly 0 wherever the gradient is g.
    g = 2.0**exponent
    a = torch.from_numpy(others).reshape(1, 2, 2).clone()
    a[0, 0, 0] -= a.sum() + 2 / g
    assert a.sum().item() == -2 / g
    gradient = torch.tensor(places).reshape(1, 2, 2).double() * g
    cam = gradcampp(a, gradient)
    assert cam.singular.item() == sum(places)
    assert not cam.map.any()


@given(stacks, stacks, powers)
def test_gradcam_scales_with_the_score_and_the_activations(
    a: np.ndarray, g: np.ndarray, factor: float
) -> None:
    # Powers of two are exact, so this is equality.
    A, G = tensors(a, g)
    assert gradcam(A, factor * G).map.equal(factor * gradcam(A, G).map)
    assert gradcam(factor * A, G).map.equal(factor * gradcam(A, G).map)


@given(stacks, stacks, powers)
def test_gradcampp_depends_on_the_product_only(a: np.ndarray, g: np.ndarray, factor: float) -> None:
    A, G = tensors(a, g)
    assert gradcampp(A / factor, factor * G).map.equal(gradcampp(A, G).map)


def test_gradcampp_does_depend_on_the_scores_scale() -> None:
    # This is why the score is a named setting.
    small, large = gradcampp(A, G / 1000).map, gradcampp(A, G).map
    assert not torch.allclose(small / small.max(), large / large.max(), rtol=0.1)


@given(
    arrays(np.float64, (3, 6, 6), elements=numbers), arrays(np.float64, (2, 3), elements=numbers)
)
def test_guided_gradcam_equals_its_loops(guided: np.ndarray, cam: np.ndarray) -> None:
    cam = np.abs(cam)  # a class activation map is not negative
    actual = guided_gradcam(*tensors(guided, cam))
    assert close(actual, oracles.guided_gradcam(guided, cam), 16)


@given(arrays(np.float64, (3, 2, 3), elements=numbers), st.data())
def test_scores_equal_their_loops(logits: np.ndarray, data: st.DataObject) -> None:
    valid = data.draw(arrays(np.bool_, (2, 3)))
    kind = data.draw(st.sampled_from(["mean", "predicted"]))
    expected = [oracles.class_score(logits, valid, c, kind) for c in range(3)]
    x, mask = tensors(logits, valid)
    assert close(class_scores(x[None], mask[None], kind)[0], np.array(expected), 4)


@pytest.mark.parametrize("method", CAMS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(method: str, dtype: torch.dtype) -> None:
    # g³ of 1e-3 is 1e-9, which float16 cannot hold.
    a, g = A.to(dtype), (G / 1000).to(dtype)
    cam = CAMS[method](a, g).map
    assert cam.dtype == torch.float32
    assert cam.max() > 0
    assert cam.equal(CAMS[method](a.float(), g.float()).map)


@pytest.mark.parametrize("method", CAMS)
def test_leading_dimensions_are_tiles_and_classes(method: str) -> None:
    draw = torch.Generator().manual_seed(0)
    a = torch.randn(2, 1, 3, 4, 4, generator=draw, dtype=torch.float64)
    g = torch.randn(2, 5, 3, 4, 4, generator=draw, dtype=torch.float64)
    cam = CAMS[method](a, g)
    assert cam.singular.shape == (2, 5)
    for b in range(2):
        for c in range(5):
            expected = oracles.CAMS[method](a[b, 0].numpy(), g[b, c].numpy())
            np.testing.assert_allclose(cam.map[b, c].numpy(), expected, rtol=1e-9, atol=1e-12)


def test_the_methods_that_settings_know_are_those_that_there_are() -> None:
    assert (*CAMS, GUIDED, SHARED) == METHODS
    assert PIXEL_METHODS == (GUIDED, SHARED)
