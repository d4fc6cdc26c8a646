"""Tensors that a pickle describes, laid over the bytes of the file; nothing is copied."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from mmap import mmap
from typing import Any

import torch
from torch import Tensor

from capecam.errors import CheckpointError
from capecam.model.checkpoint_pickle import Call, Name, Reference
from capecam.model.checkpoint_zip import ZipMember

DTYPES = {
    "Float": torch.float32, "Double": torch.float64, "Half": torch.float16,
    "BFloat16": torch.bfloat16, "Long": torch.int64, "Int": torch.int32, "Short": torch.int16,
    "Char": torch.int8, "Byte": torch.uint8, "Bool": torch.bool,
}  # fmt: skip
"""By the name of the storage. Complex, quantised and 8-bit floats are no weights of ours."""

DIMENSIONS = 8
MOST = 1 << 48
"""Of any number that a layout is made of; keeps products of hostile ones small."""

ITEM_BYTES = {"ComplexDouble": 16, "ComplexFloat": 8, "QInt8": 1, "QUInt8": 1, "QInt32": 4}
"""Of storages whose tensors are not read, but stand between those that are."""

WRAPPED = ("_rebuild_parameter", "_rebuild_parameter_with_state", "Parameter", "Buffer")
PLAIN = ("_rebuild_tensor", "_rebuild_tensor_v2")


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the numbers of a tensor lie, counted in numbers."""

    storage: str
    storage_size: int
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.storage, str):  # a tuple of 80 bytes can have terabytes as a text
            raise CheckpointError("is kept in a storage that is named by no text; save it again")
        numbers = (self.storage_size, self.offset, *self.shape, *self.strides)
        if not all(type(n) is int and 0 <= n < MOST for n in numbers):
            raise CheckpointError("has a size, an offset or a stride that cannot be")
        if len(self.shape) > DIMENSIONS or len(self.shape) != len(self.strides):
            raise CheckpointError(f"has {len(self.shape)} sizes and {len(self.strides)} strides")
        steps = zip(self.shape, self.strides, strict=True)
        last = self.offset + sum((size - 1) * stride for size, stride in steps)
        if self.count and (last >= self.storage_size or self.count > self.storage_size):
            raise CheckpointError(
                f"has shape {self.shape}, more than the {self.storage_size} numbers stored for it"
            )

    @property
    def count(self) -> int:
        """Numbers in the tensor."""
        return math.prod(self.shape)


def tensor_layouts(content: Mapping[str, Any]) -> dict[str, Layout]:
    """Of all that are tensors in a state dict.

    Raises:
        CheckpointError: one is of a kind, or has a layout, that no weights have.
    """
    found = {}
    for key, value in content.items():
        try:
            layout = _layout(value)
        except CheckpointError as error:
            raise CheckpointError(f"{key[:120]} {error}") from error
        if layout is not None:
            found[key] = layout
    return found


def _layout(value: Any) -> Layout | None:
    """None, if it is no tensor."""
    call = _unwrapped(value)
    kind = call.function.rsplit(".", 1)[-1] if call else ""
    if call is None or not kind.startswith("_rebuild_"):
        return None
    if kind not in PLAIN:
        raise CheckpointError(
            f"is no plain tensor of floats or integers ({kind.removeprefix('_rebuild_')}: "
            "quantised, sparse, complex, 8-bit float or on no device); save it as float32"
        )
    try:
        reference, offset, shape, strides = call.arguments[:4]
        _, storage, key, _, size = reference.to[:5]
        dtype = DTYPES[storage.path.rsplit(".", 1)[-1].removesuffix("Storage")]
        if any(part is not None for part in reference.to[5:]):
            raise CheckpointError("is a view of another tensor's file part; save it with .clone()")
        return Layout(key, size, dtype, offset, _sizes(shape), _sizes(strides))
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError("is described in a way that cannot be read") from error
    except KeyError as error:
        raise CheckpointError(f"is of {error.args[0][:40]}s; save it as float32") from error


def _unwrapped(value: Any) -> Call | None:
    """The call that makes the tensor in a parameter, or in a subclass of tensors."""
    for _ in range(DIMENSIONS):
        if not isinstance(value, Call):
            return None
        kind = value.function.rsplit(".", 1)[-1]
        if kind in WRAPPED and value.arguments:
            value = value.arguments[0]
        elif kind == "_rebuild_from_type_v2" and len(value.arguments) >= 3:
            function, _, arguments = value.arguments[:3]
            whole = isinstance(function, Name) and isinstance(arguments, tuple)
            value = Call(function.path, arguments) if whole else None
        else:
            return value
    return None


def _sizes(value: Any) -> tuple[int, ...]:
    if isinstance(value, Call) and value.function == "torch.Size":
        (value,) = value.arguments
    return tuple(value)


def item_sizes(references: Iterable[Reference]) -> dict[str, int]:
    """Bytes of a number, by storage; storages of an unknown kind are left out."""
    known = {name: dtype.itemsize for name, dtype in DTYPES.items()} | ITEM_BYTES
    sizes: dict[str, int] = {}
    for reference in references:
        match reference.to:
            case (_, Name(path), str(key), *_):
                kind = path.rsplit(".", 1)[-1].removesuffix("Storage")
                sizes |= {key: known[kind]} if kind in known else {}
    return sizes


def map_tensors(
    data: mmap, wanted: Mapping[str, Layout], records: Mapping[str, ZipMember]
) -> dict[str, Tensor]:
    """Tensors over the file's bytes.

    Args:
        data: the file.
        wanted: their layouts.
        records: where each storage lies.

    Raises:
        CheckpointError: the file does not hold what a layout says.
    """
    numbers: dict[tuple[str, torch.dtype], Tensor] = {}
    for key, layout in wanted.items():
        record = records.get(layout.storage)
        if record is None or layout.storage_size * layout.dtype.itemsize > record.size:
            held = 0 if record is None else record.size
            raise CheckpointError(
                f"damaged: {key[:120]} wants {layout.storage_size} numbers, and the file holds "
                f"{held} bytes for it"
            )
        name = (layout.storage, layout.dtype)
        if layout.storage_size and name not in numbers:
            numbers[name] = torch.frombuffer(
                data, dtype=layout.dtype, offset=record.start,
                count=record.size // layout.dtype.itemsize,
            )  # fmt: skip
    return {key: _placed(numbers, layout) for key, layout in wanted.items()}


def _placed(numbers: Mapping[tuple[str, torch.dtype], Tensor], layout: Layout) -> Tensor:
    if not layout.count:
        return torch.empty(layout.shape, dtype=layout.dtype)
    flat = numbers[layout.storage, layout.dtype]
    return flat.as_strided(layout.shape, layout.strides, layout.offset)
