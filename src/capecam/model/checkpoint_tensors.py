"""Map the tensors that a pickle describes onto the bytes of the file; nothing is copied."""

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
from capecam.model.checkpoint_zip import ZipMember, check_crc32

DTYPES = {
    "Float": torch.float32, "Double": torch.float64, "Half": torch.float16,
    "BFloat16": torch.bfloat16, "Long": torch.int64, "Int": torch.int32, "Short": torch.int16,
    "Char": torch.int8, "Byte": torch.uint8, "Bool": torch.bool,
}  # fmt: skip
"""Types by name of the storage. Complex, quantised and 8-bit floats cannot be weights here."""

MAX_DIMENSIONS = 8
MAX_NUMBER = 1 << 48
"""Upper bound of every number in a layout; keeps products of hostile ones small."""

ITEM_BYTES = {"ComplexDouble": 16, "ComplexFloat": 8, "QInt8": 1, "QUInt8": 1, "QInt32": 4}
"""Bytes of a number in storages that are not read, but may precede others in a legacy file."""

MAX_WRAPPERS = 8
WRAPPED = ("_rebuild_parameter", "_rebuild_parameter_with_state", "Parameter", "Buffer")
PLAIN = ("_rebuild_tensor", "_rebuild_tensor_v2")


@dataclass(frozen=True, slots=True)
class Layout:
    """Position of a tensor's numbers in its storage; sizes and offsets count numbers."""

    storage: str
    storage_size: int
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def __post_init__(self) -> None:
        if not isinstance(self.storage, str):  # 80 bytes can describe a tuple whose repr has TBs
            raise CheckpointError("is kept in a storage that is named by no text; save it again")
        numbers = (self.storage_size, self.offset, *self.shape, *self.strides)
        if not all(type(n) is int and 0 <= n < MAX_NUMBER for n in numbers):
            raise CheckpointError("has a size, an offset or a stride that cannot be")
        if len(self.shape) > MAX_DIMENSIONS or len(self.shape) != len(self.strides):
            raise CheckpointError(f"has {len(self.shape)} sizes and {len(self.strides)} strides")
        steps = zip(self.shape, self.strides, strict=True)
        last = self.offset + sum((size - 1) * stride for size, stride in steps)
        if self.count and (last >= self.storage_size or self.count > self.storage_size):
            raise CheckpointError(
                f"has shape {self.shape}, more than the {self.storage_size} numbers stored for it"
            )

    @property
    def count(self) -> int:
        """Count of the tensor's numbers."""
        return math.prod(self.shape)


def map_tensors(
    data: mmap, state_dict: Mapping[str, object], storages: Mapping[str, ZipMember]
) -> dict[str, Tensor]:
    """Return the tensors in a state dict as views of the file's bytes.

    Args:
        data: the file.
        state_dict: as a pickle describes it; entries that are no tensors are skipped.
        storages: position of each storage in the file.

    Raises:
        CheckpointError: a tensor has a type or layout that no weights have, or its numbers are
            missing or damaged.
    """
    tensors: dict[str, Tensor] = {}
    flat: dict[tuple[str, torch.dtype], Tensor] = {}
    for key, value in state_dict.items():
        try:
            layout = _layout(value)
            if layout is not None:
                tensors[key] = _map_tensor(data, layout, storages, flat)
        except CheckpointError as error:
            raise CheckpointError(f"{key[:120]} {error}") from error
    return tensors


def _map_tensor(
    data: mmap,
    layout: Layout,
    storages: Mapping[str, ZipMember],
    flat: dict[tuple[str, torch.dtype], Tensor],
) -> Tensor:
    storage, itemsize = storages.get(layout.storage), layout.dtype.itemsize
    if storage is None or layout.storage_size * itemsize > storage.size:
        raise CheckpointError(
            f"is damaged: it needs {layout.storage_size} numbers, and the file holds "
            f"{storage.size if storage else 0} bytes for it"
        )
    if not layout.count:
        return torch.empty(layout.shape, dtype=layout.dtype)
    key = layout.storage, layout.dtype
    if key not in flat:
        check_crc32(data, storage, f"is damaged: data/{layout.storage}")
        flat[key] = torch.frombuffer(
            data, dtype=layout.dtype, offset=storage.start, count=storage.size // itemsize
        )
    return flat[key].as_strided(layout.shape, layout.strides, layout.offset)


def _layout(value: object) -> Layout | None:
    """Return the layout of a value, or None if it is no tensor."""
    call = _unwrap(value)
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


def _unwrap(value: object) -> Call | None:
    """Return the call that makes the tensor in a parameter, or in a subclass of tensors."""
    for _ in range(MAX_WRAPPERS):
        if not isinstance(value, Call):
            return None
        kind = value.function.rsplit(".", 1)[-1]
        if kind in WRAPPED and value.arguments:
            value = value.arguments[0]
        elif kind == "_rebuild_from_type_v2" and len(value.arguments) >= 3:
            function, _, arguments = value.arguments[:3]
            if not isinstance(function, Name) or not isinstance(arguments, tuple):
                return None
            value = Call(function.path, arguments)
        else:
            return value
    return None


def _sizes(value: Any) -> tuple[int, ...]:
    if isinstance(value, Call) and value.function == "torch.Size":
        (value,) = value.arguments
    return tuple(value)


def item_sizes(references: Iterable[Reference]) -> dict[str, int]:
    """Return the bytes of a number by storage; storages of an unknown kind are left out."""
    by_kind = {name: dtype.itemsize for name, dtype in DTYPES.items()} | ITEM_BYTES
    sizes: dict[str, int] = {}
    for reference in references:
        match reference.to:
            case (_, Name(path), str(key), *_):
                kind = path.rsplit(".", 1)[-1].removesuffix("Storage")
                sizes |= {key: by_kind[kind]} if kind in by_kind else {}
    return sizes
