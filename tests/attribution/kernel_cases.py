"""Cases for the Triton kernels: in the interpreter, or on a GPU.

They are not collected by name: ``test_triton_kernels.py`` starts them in a process of their own, as
Triton decides between interpreter and compiler when it is imported.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
import triton
from support.networks import balance, images, normalise, tiny_model, warm_up
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional as F
from torch.utils import _pytree as pytree
from torch.utils.flop_counter import FlopCounterMode

from capecam.attribution.device import repeatable
from capecam.attribution.engine import Engine
from capecam.attribution.graph import triton_kernels
from capecam.attribution.graph.capture import capture
from capecam.attribution.graph.kernel_operations import packed_weight
from capecam.attribution.graph.kernel_substitution import KINDS, use_kernels
from capecam.attribution.maps import Explanation
from capecam.model.model import Normalisation
from capecam.settings import IMAGENET_MEAN, IMAGENET_STD

DEVICE = "cpu" if triton_kernels.INTERPRETED else "cuda"
ops = torch.ops.capecam

LAST, FIRST = torch.channels_last, torch.contiguous_format

# Which of scale and shift, other and mask there are, and if there is a ReLU.
EPILOGUES = {
    "none": (False, False, False, False),
    "norm": (True, False, False, False),
    "norm_relu": (True, False, False, True),
    "norm_residual_relu": (True, True, False, True),
    "mask": (False, False, True, False),
    "guided": (False, False, True, True),
    "branch": (False, True, True, False),
    "branch_guided": (False, True, True, True),
}


@pytest.fixture(autouse=True)
def _repeatable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Draw the same numbers each time; on a GPU round to no TF32, and try no blocks."""
    torch.manual_seed(0)
    if DEVICE == "cuda":
        for name in ("grouped", "dense"):
            tried = getattr(triton_kernels, f"{name.upper()}_TRIED")[:1]
            kernel = triton.autotune(tried, key=[])(triton_kernels.convolve)
            monkeypatch.setattr(triton_kernels, name, kernel)
    with repeatable("fp32"):
        yield


def random(*shape: int, dtype: torch.dtype = torch.float32, layout: object = FIRST) -> Tensor:
    return torch.randn(shape, device=DEVICE).to(dtype).contiguous(memory_format=layout)


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    """The greatest difference is below a part of the range."""
    assert found.shape == expected.shape
    apart = (found.double() - expected.double()).abs().max()
    assert apart <= tolerance * expected.double().abs().max(), float(apart)


def convolution(
    x: Tensor, weight: Tensor, groups: int, stride: int, to_input: tuple[int, int] | None
) -> Tensor:
    """Compute a convolution, or the gradient of its input of a size, in float64."""
    x, weight, padding = x.double(), weight.double(), weight.shape[-1] // 2
    if to_input is None:
        return F.conv2d(x, weight, None, stride, padding, 1, groups)
    shape = (len(x), weight.shape[1] * groups, *to_input)
    return nn.grad.conv2d_input(shape, weight, x, stride, padding, 1, groups)


def check(
    x: Tensor,
    weight: Tensor,
    groups: int,
    stride: int = 1,
    to_input: tuple[int, int] | None = None,
    epilogue: str = "none",
    layouts: tuple[object, object] = (LAST, LAST),
    tolerance: float = 1e-5,
) -> None:
    """Compare a kernel with the formula: ``layouts`` are of the summand and the mask."""
    normed, added, masked, relu = EPILOGUES[epilogue]
    expected = convolution(x, weight, groups, stride, to_input)
    shape = expected.shape
    scale, shift = (random(shape[1]) if normed else None for _ in range(2))
    other = random(*shape, dtype=x.dtype, layout=layouts[0]) if added else None
    mask = random(*shape, dtype=x.dtype, layout=layouts[1]).relu() if masked else None
    if normed:
        expected = expected * scale[:, None, None].double() + shift[:, None, None].double()
    if added:
        expected = expected + other.double()
    if masked:
        expected = expected * (mask > 0)
    expected = expected.relu() if relu else expected
    transposed = to_input is not None
    packed = packed_weight(weight, groups, transposed)
    result = ops.convolve(
        x, packed, shape[2:], stride, transposed, scale, shift, other, mask, relu, False
    )
    assert result.dtype == x.dtype
    assert result.is_contiguous(memory_format=LAST)
    close(result, expected, tolerance)


PIXELS, COLUMNS, STEP = 128, 128, 32
"""Sizes of blocks of float32: pixels, channels that are written, and read in one step."""


@pytest.mark.parametrize(
    ("pixels", "written", "read"),
    [
        (PIXELS - 1, 15, STEP - 1),
        (PIXELS, 16, STEP),
        (PIXELS + 1, 17, STEP + 1),
        (1, COLUMNS - 1, 1),
        (2, COLUMNS, 2 * STEP),
        (3, COLUMNS + 1, 2 * STEP + 1),
    ],
)
@pytest.mark.parametrize("transposed", [False, True])
def test_matrix_products_at_the_edges_of_blocks(
    pixels: int, written: int, read: int, transposed: bool
) -> None:
    shape = (read, written) if transposed else (written, read)
    x, weight = random(1, read, 1, pixels, layout=LAST), random(*shape, 1, 1)
    check(x, weight, 1, 1, (1, pixels) if transposed else None)


@pytest.mark.parametrize("epilogue", EPILOGUES)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("size", [1, 3])
def test_what_follows_a_convolution(epilogue: str, transposed: bool, size: int) -> None:
    groups = 1 if size == 1 else 4
    x, weight = random(2, 16, 4, 5, layout=LAST), random(16, 16 // groups, size, size)
    check(x, weight, groups, 1, (4, 5) if transposed else None, epilogue)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("source", [(5, 8), (6, 7), (1, 2)])
def test_stride_2(size: int, source: tuple[int, int]) -> None:
    groups = 1 if size == 1 else 2
    weight = random(16, 16 // groups, size, size)
    check(random(2, 16, *source, layout=LAST), weight, groups, 2, None, "norm_relu")
    gradient = random(2, 16, *((n + 1) // 2 for n in source), layout=LAST)
    check(gradient, weight, groups, 2, source, "branch_guided")


@pytest.mark.parametrize("width", [4, 8, 16, 32])
@pytest.mark.parametrize("transposed", [False, True])
def test_groups_of_all_widths(width: int, transposed: bool) -> None:
    groups = 64 // width
    x, weight = random(1, 64, 3, 4, layout=LAST), random(64, width, 3, 3)
    check(x, weight, groups, 1, (3, 4) if transposed else None)


@pytest.mark.parametrize("columns", [PIXELS - 1, PIXELS, PIXELS + 1])
def test_grouped_convolutions_at_the_edges_of_blocks(columns: int) -> None:
    check(random(1, 16, 1, columns, layout=LAST), random(16, 4, 3, 3), 4)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("x_layout", [LAST, FIRST])
@pytest.mark.parametrize("layouts", [(FIRST, LAST), (LAST, FIRST)])
def test_layouts_may_be_mixed(size: int, x_layout: object, layouts: tuple) -> None:
    groups = 1 if size == 1 else 2
    x, weight = random(2, 16, 3, 4, layout=x_layout), random(16, 16 // groups, size, size)
    check(x, weight, groups, 1, (3, 4), "branch_guided", layouts)


def test_a_tensor_with_gaps() -> None:
    check(random(2, 32, 3, 4)[:, ::2], random(16, 16, 1, 1), 1)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2**-7), (torch.float16, 2**-11)])
@pytest.mark.parametrize("size", [1, 3])
def test_16_bits_are_rounded_once(dtype: torch.dtype, tolerance: float, size: int) -> None:
    """By half of the last bit; to bfloat16 the interpreter of Triton 3.8 cuts off all of it."""
    groups = 1 if size == 1 else 4
    x, weight = random(1, 64, 3, 4, dtype=dtype), random(64, 64 // groups, size, size, dtype=dtype)
    check(x, weight, groups, 1, (3, 4), "branch_guided", tolerance=tolerance)


@pytest.mark.parametrize("size", [1023, 1024, 1025])
@pytest.mark.parametrize("added", [False, True])
@pytest.mark.parametrize("guided", [False, True])
def test_masks(size: int, added: bool, guided: bool) -> None:
    gradient, other, mask = (random(1, 1, 1, size) for _ in range(3))
    expected = gradient + other if added else gradient
    expected = torch.ops.aten.threshold_backward(expected, mask.relu(), 0)
    found = ops.mask_gradient(gradient, other if added else None, mask.relu(), guided)
    assert found.equal(expected.relu() if guided else expected)


def test_masks_of_mixed_layouts() -> None:
    gradient, other, mask = random(2, 3, 4, 5), random(2, 3, 4, 5, layout=LAST), random(2, 3, 4, 5)
    expected = ((gradient + other) * (mask > 0)).relu()
    assert ops.mask_gradient(gradient, other, mask, True).equal(expected)
    assert ops.mask_gradient(other, gradient, mask, True).equal(expected)


def test_what_is_not_finite_is_not_hidden() -> None:
    nan = torch.tensor([torch.nan, torch.inf, -torch.inf], device=DEVICE)
    found = ops.mask_gradient(nan, None, torch.ones_like(nan), True)
    assert found[0].isnan()
    assert found[1:].tolist() == [torch.inf, 0]
    x, weight = random(1, 16, 1, 2), random(16, 16, 1, 1)
    x[0, 3, 0, 1] = torch.nan
    packed = packed_weight(weight, 1, False)
    y = ops.convolve(x, packed, [1, 2], 1, False, None, None, None, None, True, False)
    assert y[..., 1].isnan().all()
    assert y[..., 0].isfinite().all()


@pytest.mark.parametrize("last", [False, True])
def test_operations_on_fake_tensors_are_as_in_reality(last: bool) -> None:
    x, weight = random(2, 16, 3, 4), packed_weight(random(16, 4, 3, 3), 4, False)
    arguments = (x, weight, [2, 2], 2, False, random(16), random(16))
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(
        ops.convolve.default, (*arguments, None, None, True, False), test_utils=tests
    )
    gradient = x.contiguous(memory_format=LAST if last else FIRST)
    torch.library.opcheck(ops.mask_gradient.default, (gradient, x, x, True), test_utils=tests)


def test_arithmetic_is_counted_with_the_zeros_between_groups() -> None:
    x, weight = random(2, 16, 4, 4), packed_weight(random(16, 4, 3, 3), 4, False)
    with FlopCounterMode(display=False) as counter:
        ops.convolve(x, weight, [2, 2], 2, False, *([None] * 4), False, False)
    assert counter.get_total_flops() == 2 * (2 * 16 * 2 * 2) * 9 * 16


class Block(nn.Module):
    """Residual block of ResNeXt."""

    def __init__(self, channels: int, width: int, groups: int, stride: int) -> None:
        super().__init__()
        out = channels if stride == 1 else 2 * channels
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, groups=groups, bias=False)
        self.conv3 = nn.Conv2d(width, out, 1, bias=False)
        self.bn1, self.bn2, self.bn3 = (nn.BatchNorm2d(n) for n in (width, width, out))
        self.relu = nn.ReLU(inplace=True)
        self.downsample = nn.Sequential()
        if stride > 1:
            conv = nn.Conv2d(channels, out, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y += self.downsample(x)
        return self.relu(y)


class Network(nn.Module):
    """Four blocks, the last the target, a bias in the decoder, and a branch around the encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(True))
        self.encoder = nn.Sequential(
            Block(16, 32, 8, 1), Block(16, 32, 4, 2), Block(32, 32, 2, 1), Block(32, 32, 1, 1)
        )
        self.decoder = nn.Sequential(nn.Conv2d(32, 16, 1), nn.ReLU(inplace=True))
        self.segmentation_head = nn.Sequential(nn.Conv2d(16, 4, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = F.interpolate(self.decoder(self.encoder(x)), scale_factor=2) + x
        logits: Tensor = self.segmentation_head(y)
        return F.interpolate(logits, scale_factor=2, mode="bilinear")


def network() -> nn.Module:
    made = Network()
    x = normalise(images(4, 16).float(), Normalisation(1.0, IMAGENET_MEAN, IMAGENET_STD))
    return balance(warm_up(made, x), x)


def called(graph: GraphModule) -> Counter[str]:
    return Counter(str(node.target) for node in graph.graph.nodes if node.op == "call_function")


@dataclass(frozen=True, slots=True)
class Explained:
    """A graph that calls kernels."""

    graph: GraphModule
    count: int
    """Of calls."""
    inputs: tuple[Tensor, Tensor]
    """Other tiles than those of the capture."""
    expected: Explanation
    """Of the graph without kernels, for these tiles."""


def explained(kinds: tuple[str, ...] = KINDS) -> Explained:
    """Replace a true and a guided gradient of one class, and the forward before them."""
    methods = ("gradcam", "layercam", "guided_gradcam")
    engine = Engine(tiny_model(network(), "encoder.3.conv3"), methods, device=DEVICE)
    engine.use_channels_last()
    valid = torch.ones(2, 16, 16, dtype=torch.bool, device=DEVICE)
    one, other = (images(2, 16, seed).to(DEVICE) for seed in (1, 2))

    def explain(pixels: Tensor, valid: Tensor) -> Explanation:
        return engine.explain(pixels, valid, (1,))

    graph = capture(explain, one, valid)
    expected = graph(other, valid)
    count = use_kernels(graph, one, valid, kinds=kinds, tf32=False)
    return Explained(graph, count, (other, valid), expected)


def calls(graph: GraphModule) -> int:
    names = called(graph)
    return names["capecam.convolve.default"] + names["capecam.mask_gradient.default"]


SOME_KINDS = [KINDS, *(pytest.param((kind,), marks=pytest.mark.thorough) for kind in KINDS)]


@pytest.mark.parametrize("kinds", SOME_KINDS)
def test_maps_by_kernels_are_those_of_the_engine(kinds: tuple[str, ...]) -> None:
    case = explained(kinds)
    assert case.count == calls(case.graph) > 0
    found = case.graph(*case.inputs)
    for one, other in zip(*map(pytree.tree_leaves, (found, case.expected)), strict=True):
        assert one.stride() == other.stride()
        if other.is_floating_point():
            close(one, other)
    assert all(maps.any() for maps in found.heat.values())


@pytest.mark.skipif(DEVICE == "cuda", reason="a GPU's graph has other batch norms and layouts")
def test_all_that_can_be_is_computed_by_kernels() -> None:
    names = called(explained().graph)
    assert names["aten.native_batch_norm.default"] == 3  # of the stem, a dense 3 x 3, the target
    assert names["aten.threshold_backward.default"] == 1  # alone, behind an upsampling
    assert names["aten.relu_.default"] == names["aten.add_.Tensor"] + 2  # of stem and dense 3 x 3


@pytest.mark.thorough
def test_a_graph_with_kernels_can_be_captured_again() -> None:
    case = explained()
    assert calls(capture(case.graph, *case.inputs)) == case.count


def replaced(function: Callable[[Tensor], Tensor], x: Tensor) -> int:
    """Compare a function of a tensor with its graph by kernels; return the number of calls."""
    x = x.contiguous(memory_format=LAST)
    graph = capture(function, x.clone())
    count = use_kernels(graph, x.clone(), tf32=False)
    close(graph(x.clone()), function(x.clone()))
    return count


def test_what_is_written_in_between_is_read_before() -> None:
    weight, x = random(16, 16, 1, 1), random(1, 16, 2, 2)

    def function(x: Tensor) -> Tensor:
        x = x * 2
        y = F.conv2d(x, weight)
        x.relu_()
        return y.relu_() + x

    assert replaced(function, x) == 0


def test_a_sum_in_place_is_left_to_its_reader() -> None:
    weight, x = random(16, 16, 1, 1), random(1, 16, 2, 2)

    def function(x: Tensor) -> Tensor:
        total = x * 2
        view = total[:, :3]
        total.add_(F.conv2d(x, weight))
        return torch.cat([view, total], dim=1)

    assert replaced(function, x) == 1


def test_what_others_read_is_kept() -> None:
    weight, x = random(16, 16, 1, 1), random(1, 16, 2, 2)

    def function(x: Tensor) -> Tensor:
        y = F.conv2d(x, weight)
        return torch.cat([y, y.relu()])

    assert replaced(function, x) == 1


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(16, 16, 3, padding=1),
        nn.Conv2d(16, 16, 3, groups=2),
        nn.Conv2d(16, 16, 3, padding=2, dilation=2, groups=2),
        nn.Conv2d(16, 16, 1, stride=3),
        nn.Conv2d(16, 16, 1, stride=(1, 2)),
        nn.Conv2d(16, 16, 1, padding=1),
        nn.Conv2d(16, 32, 3, padding=1, groups=4),
        nn.Conv2d(24, 24, 3, padding=1, groups=8),
        nn.Conv2d(16, 16, 3, padding=1, groups=16, padding_mode="reflect"),
        nn.ConvTranspose2d(16, 16, 1),
        nn.Conv2d(16, 16, 1).double(),
    ],
    ids=str,
)
def test_other_convolutions_are_left_alone(conv: nn.Module) -> None:
    conv = conv.requires_grad_(False).to(DEVICE)
    inputs = random(1, conv.in_channels, 4, 4, dtype=conv.weight.dtype)
    assert replaced(lambda x: conv(x).relu_(), inputs) == 0


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(16, 48, 1, stride=2),
        nn.Conv2d(16, 16, 3, padding=1, groups=4),
        nn.Conv2d(64, 64, 3, stride=2, padding=1, groups=2, bias=False),
    ],
    ids=str,
)
def test_convolutions_of_residual_networks_are_replaced(conv: nn.Module) -> None:
    conv = conv.requires_grad_(False).to(DEVICE)
    assert replaced(lambda x: conv(x).relu_(), random(1, conv.in_channels, 5, 4)) == 1


def test_images_that_are_not_channels_last_are_left_alone() -> None:
    weight, x = random(16, 16, 1, 1), random(2, 16, 4, 4)
    graph = capture(lambda x: F.conv2d(x, weight).relu_(), x)
    assert use_kernels(graph, x) == 0


def test_statistics_of_the_batch_are_left_alone() -> None:
    weight, mean, variance = random(16, 16, 1, 1), random(16), random(16).abs()

    def function(x: Tensor) -> Tensor:
        y = F.conv2d(x, weight)
        return F.batch_norm(y, mean.clone(), variance.clone(), training=True)

    graph = capture(function, x := random(2, 16, 2, 2, layout=LAST))
    assert use_kernels(graph, x) == 1
    assert called(graph)["aten.native_batch_norm.default"] == 1


def test_a_weight_that_is_computed_is_left_alone() -> None:
    assert replaced(lambda x: F.conv2d(x, x.reshape(16, 16, 1, 1)), random(1, 16, 4, 4)) == 0


def test_a_converted_weight_is_converted_once() -> None:
    weight = random(16, 16, 1, 1).double()
    graph = capture(lambda x: F.conv2d(x, weight.float()), x := random(1, 16, 4, 4, layout=LAST))
    assert use_kernels(graph, x) == 1
    assert called(graph)["aten._to_copy.default"] == 0
