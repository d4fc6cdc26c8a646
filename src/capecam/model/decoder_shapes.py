"""Architectures of segmentation_models_pytorch and their options, read off a decoder's tensors."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from capecam.model.encoder_index import Shapes

HEAD = "segmentation_head.0.weight"

Options = dict[str, object]


class Decoder(NamedTuple):
    """Architecture and options that a decoder's tensors show."""

    architecture: str
    options: Options
    """Arguments of the architecture; ``encoder_depth`` among them if the decoder shows it."""


def decoder_of(shapes: Shapes) -> Decoder | None:
    """Return the architecture of a network and its options; None if it is none that is known.

    Args:
        shapes: of the tensors of the network, whose names begin with ``decoder.`` and so on.
    """
    if len(shapes.get(HEAD, ())) != 4:
        return None
    for architecture, (key, read) in DECODERS.items():
        if f"decoder.{key}" in shapes:
            try:
                return Decoder(architecture, read(shapes))
            except (KeyError, IndexError):
                continue  # some tensors of another network have these names, too
    return None


def _out(shapes: Shapes, key: str) -> int:
    """Return the output channels of a layer of the decoder."""
    return shapes[f"decoder.{key}.weight"][0]


def _norm(shapes: Shapes, block: str) -> Options:
    """Return how a convolution with a norm and a ReLU was made, by the tensors of its parts."""
    if f"decoder.{block}.1.running_mean" in shapes:
        return {"decoder_use_norm": "batchnorm"}
    if f"decoder.{block}.1.weight" in shapes:
        return {"decoder_use_norm": "layernorm"}
    has_bias = f"decoder.{block}.0.bias" in shapes
    return {"decoder_use_norm": "identity" if has_bias else "instancenorm"}


def _blocks(shapes: Shapes, pattern: str) -> list[str]:
    """Return the names of blocks, in the order of the numbers in them."""
    found = {m[1] for key in shapes if (m := re.match(rf"decoder\.({pattern})\.", key))}
    return sorted(found, key=lambda name: [int(n) for n in re.findall(r"\d+", name)])


def _attention(shapes: Shapes) -> Options:
    is_scse = any(".attention1.attention.cSE." in key for key in shapes)
    return {"decoder_attention_type": "scse" if is_scse else None}


def _unet_like(shapes: Shapes, pattern: str) -> Options:
    """Return depth, channels and norm of a decoder with a block a stage."""
    blocks = _blocks(shapes, pattern)
    return {
        "encoder_depth": len(blocks),
        "decoder_channels": [_out(shapes, f"{block}.conv1.0") for block in blocks],
        **_norm(shapes, f"{blocks[0]}.conv1"),
    }


def _unet(shapes: Shapes) -> Options:
    return {**_unet_like(shapes, r"blocks\.\d+"), **_attention(shapes)}


def _unet_plus_plus(shapes: Shapes) -> Options:
    return {**_unet_like(shapes, r"blocks\.x_0_\d+"), **_attention(shapes)}


def _manet(shapes: Shapes) -> Options:
    pab = {"decoder_pab_channels": _out(shapes, "center.top_conv")}
    return {**_unet_like(shapes, r"blocks\.\d+"), **pab}


def _linknet(shapes: Shapes) -> Options:
    blocks = _blocks(shapes, r"blocks\.\d+")
    return {"encoder_depth": len(blocks), **_norm(shapes, "blocks.0.block.0")}


def _fpn(shapes: Shapes) -> Options:
    segmentation = _out(shapes, "seg_blocks.0.block.0.block.0")
    is_added = shapes[HEAD][1] == segmentation
    return {
        "decoder_pyramid_channels": _out(shapes, "p5"),
        "decoder_segmentation_channels": segmentation,
        "decoder_merge_policy": "add" if is_added else "cat",
    }


def _pspnet(shapes: Shapes) -> Options:
    # The first of the blocks never has a norm.
    return {"psp_out_channels": _out(shapes, "conv.0"), **_norm(shapes, "conv")}


def _deeplab(shapes: Shapes, aspp: str) -> Options:
    return {
        "decoder_channels": _out(shapes, f"{aspp}.convs.0.0"),
        "decoder_aspp_separable": f"decoder.{aspp}.convs.1.0.0.weight" in shapes,
    }


def _pan(shapes: Shapes) -> Options:
    depth = 2 + len(_blocks(shapes, r"gau\d"))
    return {"encoder_depth": depth, "decoder_channels": _out(shapes, "fpa.mid.0.conv")}


def _upernet(shapes: Shapes) -> Options:
    return {
        "encoder_depth": 1 + len(_blocks(shapes, r"feature_norms\.\d+")),
        "decoder_channels": _out(shapes, "psp.out_conv.0"),
        **_norm(shapes, "fusion_block"),
    }


def _segformer(shapes: Shapes) -> Options:
    return {"decoder_segmentation_channels": _out(shapes, "fuse_stage.0")}


DECODERS: dict[str, tuple[str, Callable[[Shapes], Options]]] = {
    "FPN": ("p5.weight", _fpn),
    "PAN": ("fpa.mid.0.conv.weight", _pan),
    "UnetPlusPlus": ("blocks.x_0_0.conv1.0.weight", _unet_plus_plus),
    "MAnet": ("center.top_conv.weight", _manet),
    "Linknet": ("blocks.0.block.0.0.weight", _linknet),
    "Unet": ("blocks.0.conv1.0.weight", _unet),  # after MAnet, whose blocks have this one, too
    "PSPNet": ("psp.blocks.0.pool.1.0.weight", _pspnet),
    "UPerNet": ("psp.out_conv.0.weight", _upernet),
    "DeepLabV3Plus": ("aspp.0.convs.0.0.weight", lambda shapes: _deeplab(shapes, "aspp.0")),
    "DeepLabV3": ("aspp.convs.0.0.weight", lambda shapes: _deeplab(shapes, "aspp")),
    "Segformer": ("fuse_stage.0.weight", _segformer),
}
"""By architecture: a tensor that it has, and how its options are read."""
