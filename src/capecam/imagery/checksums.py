"""Are images what the delivery's list of checksums says? Some damage no codec can notice."""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from capecam.errors import SettingsError
from capecam.io.paths import Location
from capecam.runtime.files import file_digest, write_json

log = logging.getLogger(__name__)

ALGORITHMS = {32: "md5", 40: "sha1", 56: "sha224", 64: "sha256", 96: "sha384", 128: "sha512"}
"""By hexadecimal digits."""

THREADS = 8
"""Digests are made outside of Python's lock, and wait for disks."""

MEMORY = ".checksums.json"
"""In the output folder: what has been found, so that it is not read again every night."""

GNU = re.compile(r"(\\?)([0-9A-Fa-f]{32,128}) [ *](.+)", re.DOTALL)
BSD = re.compile(r"(?:MD5|SHA\d+) \((.+)\) = ([0-9A-Fa-f]{32,128})", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Checksums:
    """The lines of a list."""

    path: Path
    digests: Mapping[str, str]
    """By name as it is listed: in small letters."""

    @classmethod
    def read(cls, path: Path) -> Checksums:
        """Lines as ``sha256sum``, ``md5sum`` and ``shasum --tag`` write them; # begins a comment.

        Raises:
            SettingsError: naming the line that is none.
        """
        try:
            text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
        except OSError as error:
            raise SettingsError(
                f"{path}: the checksums cannot be read ({error.strerror})"
                "; check the path given by --checksums"
            ) from error
        digests: dict[str, str] = {}
        for number, line in enumerate(text.split("\n"), start=1):
            entry = line.rstrip("\r")
            if entry.strip() and not entry.startswith("#"):
                name, digest = _parsed(path, number, entry)
                if digests.setdefault(name, digest) != digest:
                    raise SettingsError(
                        f"{path}, line {number}: {name} has another checksum above"
                        "; keep the right one of the two"
                    )
        return cls(path, digests)

    def of(self, images: Mapping[str, Location]) -> dict[str, str]:
        """The digest of each image that is listed, by its name.

        A listed path, relative to the list, may be the image's; else the two that have most of the
        end of their paths in common belong together, if no others have as much.
        """
        listed = [name for name in self.digests if PurePosixPath(name).name]
        exact = {_plain(self.path.parent / name): name for name in listed}
        found = {n: exact[p] for n, image in images.items() if (p := _plain(image)) in exact}
        taken = set(found.values())
        rest = {name: image for name, image in images.items() if name not in found}
        found |= _by_ends(rest, [name for name in listed if name not in taken])
        return {name: self.digests[entry] for name, entry in found.items()}


def _by_ends(images: Mapping[str, Location], listed: Sequence[str]) -> dict[str, str]:
    """By name of an image: the listed path that is the only best one for it, and it for that."""
    own = {name: _ends(str(image)) for name, image in images.items()}
    theirs = {entry: _ends(entry) for entry in listed}
    to_list, to_images = _nearest(own, theirs), _nearest(theirs, own)
    return {name: entry for name, entry in to_list.items() if to_images.get(entry) == name}


Ends = Mapping[str, Sequence[tuple[str, ...]]]


def _ends(path: str) -> list[tuple[str, ...]]:
    """``(c,)``, ``(b, c)`` and ``(a, b, c)`` of ``a/b/c``."""
    parts = PurePosixPath(path).parts
    return [parts[-length:] for length in range(1, len(parts) + 1)]


def _nearest(paths: Ends, others: Ends) -> dict[str, str]:
    """By path: of the others, the only one that has the longest end in common with it."""
    having: dict[tuple[str, ...], list[str]] = {}
    for other, ends in others.items():
        for end in ends:
            having.setdefault(end, []).append(other)
    longest = {
        path: next((having[end] for end in reversed(ends) if end in having), [])
        for path, ends in paths.items()
    }
    return {path: found[0] for path, found in longest.items() if len(found) == 1}


def _plain(path: Location) -> str:
    """A path made plain; a link is itself, since that is what the list names."""
    return os.path.normpath(path.absolute()) if isinstance(path, Path) else str(path)


def _parsed(path: Path, number: int, entry: str) -> tuple[str, str]:
    """Name and digest of a line."""
    if found := GNU.fullmatch(entry):
        escaped, digest, name = found.groups()
        if escaped:
            name = re.sub(r"\\(.)", lambda m: {"n": "\n", "r": "\r"}.get(m[1], m[1]), name)
    elif found := BSD.fullmatch(entry):
        name, digest = found.groups()
    else:
        digest = name = ""
    if len(digest) not in ALGORITHMS:
        raise SettingsError(
            f"{path}, line {number}: is no checksum and file name as sha256sum or md5sum write "
            f"them: {entry[:80]!r}"
            "; correct the line"
        )
    return name, digest.lower()


@dataclass(slots=True)
class ChecksumCache:
    """Digests found before, by algorithm, file, its size and its time."""

    folder: Path | None
    """Of the output; None keeps nothing."""
    _known: dict[str, str] = field(default_factory=dict)
    _used: dict[str, str] = field(default_factory=dict)

    def __enter__(self) -> ChecksumCache:
        if self.folder is not None:
            self._known = _read(self.folder / MEMORY)
        return self

    def __exit__(self, *_: object) -> None:
        if self.folder is not None and self.folder.is_dir() and self._used != self._known:
            write_json(self.folder / MEMORY, self._used)

    def digest(self, path: Path, algorithm: str) -> str:
        """Of a file; read only if size or time are not those of before.

        Raises:
            OSError: it cannot be read.
        """
        status = path.stat()
        key = f"{algorithm} {status.st_size} {status.st_mtime_ns} {path.absolute()}"
        found = self._known.get(key)
        if found is None:
            found = file_digest(path, algorithm)
        self._used[key] = found
        return found


def _read(path: Path) -> dict[str, str]:
    try:
        tree: Any = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return tree if isinstance(tree, dict) else {}


def check_images(
    images: Mapping[str, Location], listing: Path, folder: Path | None = None
) -> dict[str, str]:
    """By name: why an image is not what the list says.

    Images that the list does not name are counted in a warning. What only GDAL can read
    (``/vsi...``) is not checked.

    Args:
        images: by name; those that are ordinary files.
        listing: of checksums.
        folder: the output, where digests are remembered.

    Raises:
        SettingsError: the list cannot be used.
    """
    files = {name: path for name, path in images.items() if isinstance(path, Path)}
    wanted = Checksums.read(listing).of(files)
    if missing := len(images) - len(wanted):
        log.warning("%s: names no checksum of %d of %d images", listing, missing, len(images))
    with ChecksumCache(folder) as memory, ThreadPoolExecutor(THREADS) as threads:

        def why(name: str) -> str | None:
            return _why_not(files[name], wanted[name], memory)

        reasons = dict(zip(wanted, threads.map(why, wanted), strict=True))
    return {name: reason for name, reason in reasons.items() if reason}


def _why_not(path: Path, wanted: str, memory: ChecksumCache) -> str | None:
    algorithm = ALGORITHMS[len(wanted)]
    try:
        found = memory.digest(path, algorithm)
    except OSError as error:
        return f"{path}: cannot be read ({error.strerror}); try again, or check its disk"
    if found == wanted:
        return None
    return f"{path}: its {algorithm} is {found}, the list says {wanted}; deliver it again"
