"""Check images against the list of checksums of a delivery: no codec notices every damage."""

from __future__ import annotations

import json
import logging
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from capecam.errors import SettingsError
from capecam.io.paths import Location
from capecam.runtime.files import file_digest, write_json

log = logging.getLogger(__name__)

ALGORITHMS = {32: "md5", 40: "sha1", 56: "sha224", 64: "sha256", 96: "sha384", 128: "sha512"}
"""Hash algorithms by number of hexadecimal digits."""

THREADS = 8
"""hashlib releases the GIL, and threads wait for disks."""

CACHE = ".checksums.json"
"""File in the output folder with the digests computed so far, so that unchanged images are not read
again in every run."""

GNU = re.compile(r"(\\?)([0-9A-Fa-f]{32,128}) [ *](.+)", re.DOTALL)
BSD = re.compile(r"(?:MD5|SHA\d+) \((.+)\) = ([0-9A-Fa-f]{32,128})", re.DOTALL)


def check_images(
    images: Mapping[str, Location], listing: Path, cache_folder: Path | None = None
) -> dict[str, str]:
    """Return, by name, why images differ from a list of checksums.

    Images that the list does not name are counted in a warning. Images that only GDAL can read
    (``/vsi...``) are not checked.

    Args:
        images: paths by name.
        listing: file with the checksums.
        cache_folder: folder in which digests are cached, if it exists.

    Raises:
        SettingsError: the list cannot be used.
    """
    files = {name: path for name, path in images.items() if isinstance(path, Path)}
    expected = match_checksums(read_checksums(listing), listing.parent, files)
    if missing := len(images) - len(expected):
        log.warning("%s: names no checksum of %d of %d images", listing, missing, len(images))
    cache = cache_folder / CACHE if cache_folder is not None and cache_folder.is_dir() else None
    previous = _read_cache(cache) if cache else {}
    current: dict[str, str] = {}

    def check(name: str) -> str | None:
        path, algorithm = files[name], ALGORITHMS[len(expected[name])]
        try:
            status = path.stat()
            key = f"{algorithm} {status.st_size} {status.st_mtime_ns} {path.absolute()}"
            digest = current[key] = previous.get(key) or file_digest(path, algorithm)
        except OSError as error:
            return f"{path}: cannot be read ({error.strerror}); try again, or check its disk"
        if digest == expected[name]:
            return None
        return (
            f"{path}: its {algorithm} is {digest}, the list says {expected[name]}; deliver it again"
        )

    with ThreadPoolExecutor(THREADS) as pool:
        reasons = dict(zip(expected, pool.map(check, expected), strict=True))
    if cache and current != previous:
        write_json(cache, current)
    return {name: reason for name, reason in reasons.items() if reason}


def _read_cache(path: Path) -> dict[str, str]:
    try:
        tree = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return tree if isinstance(tree, dict) else {}


def read_checksums(path: Path) -> dict[str, str]:
    """Read lines as ``sha256sum``, ``md5sum`` and ``shasum --tag`` write them; # begins a comment.

    Returns:
        Lower-case hexadecimal digests by listed name.

    Raises:
        SettingsError: the list cannot be read, or a line is malformed or contradicts another.
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
            name, digest = _parse(path, number, entry)
            if digests.setdefault(name, digest) != digest:
                raise SettingsError(
                    f"{path}, line {number}: {name} has another checksum above"
                    "; keep the right one of the two"
                )
    return digests


def _parse(path: Path, number: int, entry: str) -> tuple[str, str]:
    """Return name and digest of a line."""
    name = digest = ""
    if match := GNU.fullmatch(entry):
        escaped, digest, name = match.groups()
        if escaped:
            name = re.sub(r"\\(.)", lambda m: {"n": "\n", "r": "\r"}.get(m[1], m[1]), name)
    elif match := BSD.fullmatch(entry):
        name, digest = match.groups()
    if len(digest) not in ALGORITHMS:
        raise SettingsError(
            f"{path}, line {number}: not a checksum and file name as sha256sum or md5sum write "
            f"them: {entry[:80]!r}; correct the line"
        )
    return name, digest.lower()


def match_checksums(
    digests: Mapping[str, str], folder: Path, images: Mapping[str, Path]
) -> dict[str, str]:
    """Return the digest of each listed image, by the image's name.

    Args:
        digests: by listed path; an image at that path, relative to ``folder``, is the one meant.
            Otherwise a listed path and an image match if each is the only one with the longest
            common end of the path for the other.
        folder: of the list.
        images: paths by name.
    """
    listed = {_normal(folder / entry): entry for entry in digests if PurePosixPath(entry).name}
    normal = {name: _normal(path) for name, path in images.items()}
    entries = {name: listed[path] for name, path in normal.items() if path in listed}
    used = set(entries.values())
    rest = {str(path): name for name, path in images.items() if name not in entries}
    unused = [entry for entry in digests if PurePosixPath(entry).name and entry not in used]
    nearest_image = _nearest(unused, rest)
    for path, entry in _nearest(rest, unused).items():
        if nearest_image.get(entry) == path:
            entries[rest[path]] = entry
    return {name: digests[entry] for name, entry in entries.items()}


def _normal(path: Path) -> str:
    """Return an absolute path without ``..``; links are kept, since the list names them."""
    return os.path.normpath(path.absolute())


def _nearest(paths: Iterable[str], others: Iterable[str]) -> dict[str, str]:
    """Map each path to the only other with the longest common end; leave out ambiguous ones."""
    by_end: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for other in others:
        for end in _ends(other):
            by_end[end].append(other)
    nearest: dict[str, str] = {}
    for path in paths:
        matches = next((by_end[end] for end in _ends(path) if end in by_end), [])
        if len(matches) == 1:
            nearest[path] = matches[0]
    return nearest


def _ends(path: str) -> list[tuple[str, ...]]:
    """Return ``(a, b, c)``, ``(b, c)`` and ``(c,)`` of ``a/b/c``."""
    parts = PurePosixPath(path).parts
    return [parts[start:] for start in range(len(parts))]
