"""Read the tensors in a checkpoint file, and nothing that could run.

The format is recognised by the file's content, never by its name.
"""

from __future__ import annotations

import io
import mmap
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from capecam.errors import CheckpointError
from capecam.model.checkpoint_file import (
    HEAD_BYTES,
    describe_other_format,
    is_legacy,
    is_safetensors,
    is_zip,
    locate,
    naming,
)
from capecam.model.checkpoint_networks import facts_in, state_dict_of, triples_in
from capecam.model.checkpoint_pickle import LIMIT_BYTES, PickleContent, interpret_pickle
from capecam.model.checkpoint_tensors import DTYPES, item_sizes, map_tensors
from capecam.model.checkpoint_zip import MappedFile, ZipMember, check_crc32, zip_members
from capecam.runtime.files import file_digest

MAGIC = 0x1950A86A20F9469CFC6C
"""Number with which PyTorch before 1.6 begins a file."""

HEADER_BYTES = 100 << 20
"""Maximum that safetensors itself allows for its header."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Tensors of a checkpoint file, mapped onto its bytes on disk."""

    path: Path
    tensors: dict[str, Tensor]
    sha256: str
    config: dict[str, object] | None
    """Constructor arguments and class of the network if the checkpoint is a saved folder."""
    facts: Mapping[str, object] = field(default_factory=dict)
    """Texts, numbers and lists of them beside the tensors, by the last part of their keys."""


def read_weights(path: Path) -> Weights:
    """Read a Lightning checkpoint, a state dict, a safetensors file or a saved folder.

    Raises:
        CheckpointError: the file cannot be read, or holds anything but tensors.
    """
    file, config = locate(path)
    with naming(file):
        tensors, facts = _read(file)
    if not tensors:
        raise CheckpointError(f"{file}: holds no tensors; expected the weights of a network")
    return Weights(path, tensors, checkpoint_sha256(path), config, facts)


def checkpoint_sha256(path: Path) -> str:
    """Compute the sha256 of the file that holds the tensors.

    Raises:
        CheckpointError: the file does not exist, or cannot be read.
    """
    file, _ = locate(path)
    with naming(file):
        return file_digest(file)


Content = tuple[dict[str, Tensor], dict[str, object]]
"""Tensors and facts of a file."""


def _read(file: Path) -> Content:
    """Read the contents of a file, in the format that its first bytes say."""
    with file.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
        if is_safetensors(head):
            return _read_safetensors(file, head)
        if is_zip(head) or is_legacy(head):
            # Never closed here: the tensors are views of it.
            data = MappedFile(stream.fileno(), 0, access=mmap.ACCESS_COPY)
            return _read_zip(data) if is_zip(head) else _read_legacy(data)
    raise CheckpointError(describe_other_format(file, head))


def _read_safetensors(file: Path, head: bytes) -> Content:
    (size,) = struct.unpack_from("<Q", head)
    if size > min(HEADER_BYTES, file.stat().st_size):
        raise CheckpointError(f"damaged or not safetensors: its header says it has {size} bytes")
    try:
        tensors = load_file(file)
    except (SafetensorError, ValueError, OverflowError, KeyError, TypeError) as error:
        raise CheckpointError(f"damaged or not safetensors ({str(error)[:200]})") from error
    for key, tensor in tensors.items():
        if tensor.dtype not in DTYPES.values():
            raise CheckpointError(f"{key[:120]} is of {tensor.dtype}; save it as float32")
    with safe_open(file, "pt") as opened:
        return tensors, facts_in(opened.metadata() or {})


def _read_zip(data: MappedFile) -> Content:
    """Read what torch.save writes: ``NAME/data.pkl`` and a member for each storage."""
    members = zip_members(data)
    folder = _pytorch_folder(members)
    if compressed := next((name for name, member in members.items() if not member.plain), None):
        raise CheckpointError(
            f"refused, because its member {compressed[:80]!r} is compressed or encrypted, as "
            "PyTorch never writes it; load it where it comes from, and save the state_dict again"
        )
    order = members.get(f"{folder}/byteorder")
    if order is not None and data[order.start : order.end] != b"little":
        raise CheckpointError("written on a big-endian machine; save it again on another")
    pickled = members[f"{folder}/data.pkl"]
    if pickled.size > LIMIT_BYTES:
        raise CheckpointError(
            f"refused, because {pickled.size / 1e6:.0f} MB describe its tensors, and at most "
            f"{LIMIT_BYTES / 1e6:.0f} MB may; save the state_dict alone"
        )
    check_crc32(data, pickled, "damaged: data.pkl")
    content = interpret_pickle(io.BytesIO(data[pickled.start : pickled.end]))
    prefix = f"{folder}/data/"
    storages = {n.removeprefix(prefix): m for n, m in members.items() if n.startswith(prefix)}
    return _map_networks(data, content.value, storages)


def _pytorch_folder(members: dict[str, ZipMember]) -> str:
    """Name of the folder in which PyTorch keeps everything."""
    folders = [name.split("/")[0] for name in members if name.count("/") == 1]
    folder = next((folder for folder in folders if f"{folder}/data.pkl" in members), None)
    if folder is None:
        raise CheckpointError("a zip archive, but none that PyTorch wrote: it has no data.pkl")
    if f"{folder}/constants.pkl" in members:
        raise CheckpointError(
            "refused, because it is a TorchScript archive, which holds code; save its weights: "
            "torch.save(torch.jit.load(FILE).state_dict(), 'weights.pt')"
        )
    return folder


def _read_legacy(data: mmap.mmap) -> Content:
    """Read what PyTorch wrote before 1.6: five pickles, then the storages, each after its length.

    The pickles are: magic number, protocol version, system, state dict, keys of the storages.
    """
    stream = io.BytesIO(data[:LIMIT_BYTES])
    if interpret_pickle(stream).value != MAGIC:
        raise CheckpointError("damaged or not a PyTorch checkpoint: a pickle of something else")
    interpret_pickle(stream)
    system = interpret_pickle(stream).value
    if not (isinstance(system, dict) and system.get("little_endian") is True):
        raise CheckpointError("written on a big-endian machine; save it again on another")
    content, keys = interpret_pickle(stream), interpret_pickle(stream).value
    if not (isinstance(keys, list) and all(isinstance(key, str) for key in keys)):
        raise CheckpointError("damaged: it does not list its storages")
    storages = dict(_storages(data, stream.tell(), content, keys))
    return _map_networks(data, content.value, storages)


def _storages(
    data: mmap.mmap, start: int, content: PickleContent, keys: list[str]
) -> Iterator[tuple[str, ZipMember]]:
    """Locate storages: the file has the count of their numbers, the pickle the size of one."""
    sizes = item_sizes(content.references)
    for key in keys:
        if key not in sizes or start + 8 > len(data):
            raise CheckpointError(f"damaged: the storage {key[:40]!r} is missing")
        (count,) = struct.unpack_from("<q", data, start)
        storage = ZipMember(start + 8, count * sizes[key])
        if count < 0 or storage.end > len(data):
            raise CheckpointError(f"damaged: the storage {key[:40]!r} is cut off")
        yield key, storage
        start = storage.end


def _map_networks(data: mmap.mmap, value: object, storages: Mapping[str, ZipMember]) -> Content:
    """Map the tensors of the networks in the content of a file."""
    if not isinstance(value, dict):
        raise CheckpointError(
            f"holds a {type(value).__name__}, expected a state dict; save the state_dict alone"
        )
    entries = state_dict_of(value)
    return map_tensors(data, entries, storages) | triples_in(entries), facts_in(value)
