"""The tensors in a checkpoint file, and nothing that could run: a file is told by its content."""

from __future__ import annotations

import hashlib
import io
import json
import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from capecam.errors import CheckpointError
from capecam.model.checkpoint_pickle import LIMIT_BYTES, Described, interpret_pickle
from capecam.model.checkpoint_tensors import DTYPES, item_sizes, map_tensors, tensor_layouts
from capecam.model.checkpoint_zip import ZipMember, check_crc32, check_plain, zip_members

MAGIC = 0x1950A86A20F9469CFC6C
"""What PyTorch before 1.6 begins a file with."""

CONFIG_BYTES = 1 << 20
MOST_BYTES = 16 << 30
"""Ten times the largest network of segmentation_models_pytorch with the state of its optimiser."""

HEADER_BYTES = 100 << 20
"""The most that safetensors itself allows for its header."""

STRANGERS = {
    b"version https://git-lfs": "a pointer of Git LFS and not the file; fetch it with git lfs pull",
    b"<": "a web page or XML, probably an error page; download the file again",
    b"\x89HDF": "HDF5, as of Keras; capecam reads networks of segmentation_models_pytorch",
    b"\x1f\x8b": "compressed with gzip; unpack it first",
    b"BZh": "compressed with bzip2; unpack it first",
    b"7z\xbc\xaf": "a 7-Zip archive; unpack it first",
    b"\x08": "perhaps ONNX; capecam reads networks of segmentation_models_pytorch",
}
"""What comes under a checkpoint's name, by its first bytes."""

AGAIN = "; copy the file again, or save the state_dict anew"
"""What can be done about a damaged file."""

SAVE_AGAIN = "; save the network anew with save_pretrained"
"""The same, of the settings beside it."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Tensors of a checkpoint file, over its bytes as they are on disk."""

    path: Path
    tensors: dict[str, Tensor]
    sha256: str
    config: dict[str, Any] | None
    """Constructor arguments, where the checkpoint is a saved folder; they name the class too."""


def read_weights(path: Path) -> Weights:
    """The tensors of a Lightning checkpoint, a state dict, a safetensors file or a saved folder.

    Raises:
        CheckpointError: the file cannot be read, or holds anything but tensors.
    """
    file, config = _locate(path)
    try:
        tensors = _read(file)
        sha256 = _sha256(file)
    except OSError as error:
        raise _unreadable(file, error) from error
    except CheckpointError as error:
        # Names in it are the file's own.
        said = "".join(c if c.isprintable() else "?" for c in str(error))
        cure = "" if "; " in said else AGAIN
        raise CheckpointError(f"{file}: {said}{cure}") from error
    if not tensors:
        raise CheckpointError(f"{file}: holds no tensors; expected the weights of a network")
    return Weights(path, tensors, sha256, config)


def checkpoint_sha256(path: Path) -> str:
    """Of the file with the tensors.

    Raises:
        CheckpointError: there is none, or it cannot be read.
    """
    file, _ = _locate(path)
    try:
        return _sha256(file)
    except OSError as error:
        raise _unreadable(file, error) from error


def _unreadable(file: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"cannot read the checkpoint {file}: {error.strerror}; check its permissions and its disk"
    )


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _locate(path: Path) -> tuple[Path, dict[str, Any] | None]:
    """The file with the tensors, and the configuration beside it."""
    if not os.path.isdir(path):
        if not os.path.exists(path):  # which says no of a name that is too long, too
            raise CheckpointError(f"the checkpoint {path} does not exist; check the path")
        return _checked(path), None
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (path / name).exists() and (path / "config.json").exists():
            return _checked(path / name), _read_config(path / "config.json")
    raise CheckpointError(
        f"{path}: not a saved model; expected config.json beside model.safetensors"
    )


def _checked(file: Path) -> Path:
    if not file.is_file():  # a pipe would wait for ever, and a device never ends
        raise CheckpointError(f"{file}: is no ordinary file; copy the checkpoint to disk first")
    if file.stat().st_size > MOST_BYTES:
        raise CheckpointError(
            f"{file}: has {file.stat().st_size / 1e9:.0f} GB, more than any network that can be "
            "used; save the state_dict alone"
        )
    return file


def _read_config(file: Path) -> dict[str, Any]:
    def constant(name: str) -> NoReturn:
        raise ValueError(f"{name} is no number of JSON")

    if not file.is_file() or file.stat().st_size > CONFIG_BYTES:
        raise CheckpointError(
            f"{file}: is no file of at most 1 MB, as the settings of a network{SAVE_AGAIN}"
        )
    try:
        tree = json.loads(file.read_text(encoding="utf-8"), parse_constant=constant)
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(f"{file}: not valid JSON: {str(error)[:200]}{SAVE_AGAIN}") from error
    if not isinstance(tree, dict):
        raise CheckpointError(
            f"{file}: must hold a network's arguments, found a list or a value{SAVE_AGAIN}"
        )
    return tree


def _read(file: Path) -> dict[str, Tensor]:
    """By what its first bytes say it is."""
    with file.open("rb") as stream:
        head = stream.read(512)
        if head[8:9] == b"{":
            return _read_safetensors(file, head)
        if head[:4] == b"PK\3\4" or head[:1] == b"\x80":
            # Never closed by hand: tensors lie over it.
            data = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_COPY)
            return _read_zip(data) if head[:4] == b"PK\3\4" else _read_legacy(data)
    raise CheckpointError(_stranger(file, head))


def _stranger(file: Path, head: bytes) -> str:
    """What a file is that is no checkpoint."""
    if not head:
        return "damaged or not a checkpoint: it is empty; copy it again"
    if head[257:262] == b"ustar":
        return "a tar archive, as PyTorch wrote before 0.2; load it there and save the state_dict"
    known = (what for start, what in STRANGERS.items() if head.lstrip().startswith(start))
    if what := next(known, None):
        return f"damaged or not a checkpoint: it is {what}"
    wanted = "safetensors" if file.suffix == ".safetensors" else "a PyTorch checkpoint"
    return f"damaged or not {wanted}: it begins with {head[:8]!r}"


def _read_safetensors(file: Path, head: bytes) -> dict[str, Tensor]:
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
    return tensors


def _read_zip(data: mmap.mmap) -> dict[str, Tensor]:
    """As torch.save writes: ``NAME/data.pkl`` and a member for each storage."""
    records = zip_members(data)
    top = _top(records)
    check_plain(records)
    order = records.get(f"{top}/byteorder")
    if order is not None and data[order.start : order.end] != b"little":
        raise CheckpointError("written on a big-endian machine; save it again on another")
    pickled = records[f"{top}/data.pkl"]
    if pickled.size > LIMIT_BYTES:
        raise CheckpointError(_too_long(pickled.size))
    check_crc32(data, pickled, "data.pkl")
    wanted = tensor_layouts(
        _state(interpret_pickle(io.BytesIO(data[pickled.start : pickled.end])).content)
    )
    for storage in sorted({layout.storage for layout in wanted.values()}):
        if (record := records.get(f"{top}/data/{storage}")) is not None:
            check_crc32(data, record, f"data/{storage}")
    inside = f"{top}/data/"
    storages = {n.removeprefix(inside): r for n, r in records.items() if n.startswith(inside)}
    return map_tensors(data, wanted, storages)


def _top(records: dict[str, ZipMember]) -> str:
    """The folder in which PyTorch keeps everything."""
    tops = [name.split("/")[0] for name in records if name.count("/") == 1]
    top = next((top for top in tops if f"{top}/data.pkl" in records), None)
    if top is None:
        raise CheckpointError("a zip archive, but none that PyTorch wrote: it has no data.pkl")
    if f"{top}/constants.pkl" in records:
        raise CheckpointError(
            "refused, because it is a TorchScript archive, which holds code; save its weights: "
            "torch.save(torch.jit.load(FILE).state_dict(), 'weights.pt')"
        )
    return top


def _too_long(size: int) -> str:
    return (
        f"refused, because {size / 1e6:.0f} MB describe its tensors, and at most "
        f"{LIMIT_BYTES / 1e6:.0f} MB may; save the state_dict alone"
    )


def _read_legacy(data: mmap.mmap) -> dict[str, Tensor]:
    """As PyTorch wrote before 1.6: five pickles, then each storage behind its length."""
    stream = io.BytesIO(data[:LIMIT_BYTES])
    if interpret_pickle(stream).content != MAGIC:
        raise CheckpointError("damaged or not a PyTorch checkpoint: a pickle of something else")
    interpret_pickle(stream)  # the version, which nobody ever changed
    system = interpret_pickle(stream).content
    if not (isinstance(system, dict) and system.get("little_endian") is True):
        raise CheckpointError("written on a big-endian machine; save it again on another")
    described, keys = interpret_pickle(stream), interpret_pickle(stream).content
    if not (isinstance(keys, list) and all(isinstance(key, str) for key in keys)):
        raise CheckpointError("damaged: it does not list its storages")
    wanted = tensor_layouts(_state(described.content))
    return map_tensors(data, wanted, dict(_storages(data, stream.tell(), described, keys)))


def _storages(
    data: mmap.mmap, start: int, described: Described, keys: list[str]
) -> Iterator[tuple[str, ZipMember]]:
    """The file says how many numbers a storage has, the pickle of how many bytes each."""
    sizes = item_sizes(described.references)
    for key in keys:
        if key not in sizes or start + 8 > len(data):
            raise CheckpointError(f"damaged: the storage {key[:40]!r} is missing")
        (count,) = struct.unpack_from("<q", data, start)
        record = ZipMember(start + 8, count * sizes[key])
        if count < 0 or record.end > len(data):
            raise CheckpointError(f"damaged: the storage {key[:40]!r} is cut off")
        yield key, record
        start = record.end


def _state(content: Any) -> dict[str, Any]:
    """The state dict in what a file holds."""
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        return dict(content["state_dict"])
    if not isinstance(content, dict):
        raise CheckpointError(
            f"holds a {type(content).__name__}, expected a state dict; save the state_dict alone"
        )
    return content
