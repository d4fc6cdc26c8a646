"""Find the file of a checkpoint, and tell from its beginning and size what it is, without torch."""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from capecam.errors import CheckpointError
from capecam.model.checkpoint_zip import MappedFile, zip_members

CONFIG_BYTES = 1 << 20
CHECKPOINT_BYTES = 16 << 30
"""Ten times the largest network of segmentation_models_pytorch with the state of its optimizer."""

HEAD_BYTES = 512

OTHER_FORMATS = {
    b"version https://git-lfs": "a pointer of Git LFS and not the file; fetch it with git lfs pull",
    b"<": "a web page or XML, probably an error page; download the file again",
    b"\x89HDF": "HDF5, as of Keras; capecam reads networks of segmentation_models_pytorch",
    b"\x1f\x8b": "compressed with gzip; unpack it first",
    b"BZh": "compressed with bzip2; unpack it first",
    b"7z\xbc\xaf": "a 7-Zip archive; unpack it first",
    b"\x08": "perhaps ONNX; capecam reads networks of segmentation_models_pytorch",
}
"""Other formats that are found under a checkpoint's name, by their first bytes."""

COPY_AGAIN = "; copy the file again, or save the state_dict again"
SAVE_AGAIN = "; save the network again with save_pretrained"


def check_file(path: Path) -> dict[str, object] | None:
    """Check that a checkpoint is there, can be opened, and is of a known format.

    Returns:
        The description of the network in a saved folder; None of a file, which has none.

    Raises:
        CheckpointError: it cannot be used.
    """
    file, config = locate(path)
    with naming(file), file.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
        if is_zip(head):  # the directory is at the end, which an interrupted copy lacks
            with MappedFile(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
                zip_members(data)
        elif not (is_safetensors(head) or is_legacy(head)):
            raise CheckpointError(describe_other_format(file, head))
    return config


def is_safetensors(head: bytes) -> bool:
    """Return whether a file begins with the header of safetensors."""
    return head[8:9] == b"{"


def is_zip(head: bytes) -> bool:
    """Return whether a file is a zip archive, as PyTorch writes."""
    return head[:4] == b"PK\3\4"


def is_legacy(head: bytes) -> bool:
    """Return whether a file is a pickle, as PyTorch wrote before 1.6."""
    return head[:1] == b"\x80"


@contextmanager
def naming(file: Path) -> Iterator[None]:
    """Name the file in errors of a block that reads it, with what to do.

    Raises:
        CheckpointError: the file cannot be read.
    """
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"cannot read the checkpoint {file}: {error.strerror}"
            "; check its permissions and its disk"
        ) from error
    except CheckpointError as error:
        # The message may quote names from the file.
        message = "".join(c if c.isprintable() else "?" for c in str(error))
        remedy = "" if "; " in message else COPY_AGAIN
        raise CheckpointError(f"{file}: {message}{remedy}") from error


def locate(path: Path) -> tuple[Path, dict[str, object] | None]:
    """Find the file with the tensors, and read the configuration beside it."""
    if not os.path.isdir(path):
        if not os.path.exists(path):  # False for a name that is too long, too
            raise CheckpointError(f"the checkpoint {path} does not exist; check the path")
        return _check_size(path), None
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (path / name).exists() and (path / "config.json").exists():
            return _check_size(path / name), _read_config(path / "config.json")
    raise CheckpointError(
        f"{path}: not a saved model; expected config.json beside model.safetensors"
    )


def _check_size(file: Path) -> Path:
    if not file.is_file():  # reading a pipe or a device might never end
        raise CheckpointError(f"{file}: is no ordinary file; copy the checkpoint to disk first")
    if file.stat().st_size > CHECKPOINT_BYTES:
        raise CheckpointError(
            f"{file}: has {file.stat().st_size / 1e9:.0f} GB, more than any network that can be "
            "used; save the state_dict alone"
        )
    return file


def _read_config(file: Path) -> dict[str, object]:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is no number of JSON")

    if not file.is_file() or file.stat().st_size > CONFIG_BYTES:
        raise CheckpointError(
            f"{file}: is no file of at most 1 MB, as the settings of a network{SAVE_AGAIN}"
        )
    try:
        tree = json.loads(file.read_text(encoding="utf-8"), parse_constant=refuse)
    except (ValueError, OSError, RecursionError) as error:
        raise CheckpointError(f"{file}: not valid JSON: {str(error)[:200]}{SAVE_AGAIN}") from error
    if not isinstance(tree, dict):
        raise CheckpointError(
            f"{file}: must hold a network's arguments, found a list or a value{SAVE_AGAIN}"
        )
    return tree


def describe_other_format(file: Path, head: bytes) -> str:
    """Return what a file is that is no checkpoint, by its first bytes."""
    if not head:
        return "damaged or not a checkpoint: it is empty; copy it again"
    if head[257:262] == b"ustar":
        return "a tar archive, as PyTorch wrote before 0.2; load it there and save the state_dict"
    for start, description in OTHER_FORMATS.items():
        if head.lstrip().startswith(start):
            return f"damaged or not a checkpoint: it is {description}"
    expected = "safetensors" if file.suffix == ".safetensors" else "a PyTorch checkpoint"
    return f"damaged or not {expected}: it begins with {head[:8]!r}"
