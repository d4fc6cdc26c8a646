"""Find the images that a user names, and give them unique names."""

from __future__ import annotations

import glob
import hashlib
import os
import re
import tarfile
import unicodedata
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

from capecam.errors import UsageError
from capecam.io.paths import TIFFS, VRT, Location, VsiPath, inside, location
from capecam.settings import VSI

MAX_NAME_BYTES = 200
"""Bytes of an image's name; a folder's, with ``.work-`` and ``_r10c10``, may have 255."""

UNUSABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff\\\\/,]")
"""Characters that XML, a column of comma-separated names, or GDAL would not keep."""

ZIP, TAR = "/vsizip/", "/vsitar/"

READ_ERRORS = (
    OSError, EOFError, ValueError, NotImplementedError, zlib.error, zipfile.BadZipFile,
    tarfile.TarError,
)  # fmt: skip
"""Raised by ``zipfile`` and ``tarfile`` for truncated or corrupt archives."""

MAX_MEMBERS = 100_000


@dataclass(frozen=True, slots=True)
class DiscoveredImages:
    """Files that a user names, and the folders that are trusted because they were named."""

    paths: list[Location] = field(default_factory=list)
    """Sorted, without duplicates."""
    refused: dict[Location, str] = field(default_factory=dict)
    """Reasons of those that are missing or must not be opened."""
    folders: tuple[str, ...] = ()
    """Real paths of folders named as sources, and of the folders of files named as sources."""


def find_images(sources: Sequence[str], *, vrt: bool = False) -> DiscoveredImages:
    """Find named files, GeoTIFFs in folders, matches of globs, and the lines of lists
    (``@list.txt``; relative to the list, ``#`` begins a comment).

    A file that is named twice, also through a link, counts once. A link in a folder, or one that
    a glob matches, must not lead out of the folders named.

    Args:
        sources: at least one.
        vrt: find VRTs in folders, too.

    Raises:
        UsageError: a source does not exist, or holds no GeoTIFF.
    """
    if not sources:
        raise UsageError("no images were named; give files, folders, globs or @list.txt as SOURCES")
    search = _Search(TIFFS + ((VRT,) if vrt else ()))
    for source in sources:
        if source.startswith("@"):
            search.read_list(source)
        elif not search.expand(source):
            raise UsageError(
                f"{source}: there is no such file, or no GeoTIFF in it"
                "; check the path of the source"
            )
    return search.result()


@dataclass(slots=True)
class _Search:
    suffixes: tuple[str, ...]
    named: set[Location] = field(default_factory=set)
    """Images that the user named one by one."""
    met: set[Location] = field(default_factory=set)
    """Images in folders, and matches of globs."""
    missing: dict[Location, str] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)

    def expand(self, source: str) -> bool:
        """Add the images of one source; return whether there are any."""
        if not source or "\0" in source:
            return False
        path = location(source)
        if isinstance(path, VsiPath):
            self.named.update(_list_archive(path, self.suffixes))
            return True
        if os.path.isdir(path):
            has_images = self._scan(path)
            if has_images or path.suffix.lower() not in self.suffixes:
                self.folders.add(os.path.realpath(path))
                return has_images
        if os.path.lexists(path):
            self.named.add(path)
            self.folders.add(os.path.realpath(path.parent))
            return True
        return self._match(source)

    def _scan(self, folder: Path) -> bool:
        try:
            names = os.listdir(folder)
        except OSError as error:
            raise UsageError(
                f"{folder}: the folder cannot be read ({error.strerror}); check its permissions"
            ) from error
        images = {folder / name for name in names if self._is_image(name)}
        self.met |= images
        return bool(images)

    def _is_image(self, name: str) -> bool:
        """Return whether it names an image; hidden files are partial copies or macOS metadata."""
        return not name.startswith(".") and name.lower().endswith(self.suffixes)

    def _match(self, source: str) -> bool:
        """Add the GeoTIFFs that match a glob or are in matching folders, else other files."""
        matches = [Path(match) for match in glob.glob(source, recursive=True)]
        files = [path for path in matches if not path.is_dir()]
        images = [path for path in files if self._is_image(path.name)]
        in_folders = sum(self._scan(path) for path in matches if path.is_dir()) > 0
        if not in_folders:
            images = images or files
        self.met.update(images)
        if images or in_folders:
            self.folders.add(os.path.realpath(_fixed_part(source)))
        return bool(images) or in_folders

    def read_list(self, source: str) -> None:
        """Add the images of a list; a line without an image is recorded as a missing image."""
        path = Path(source[1:])
        for number, entry in _lines(path):
            name = entry if entry.startswith(VSI) else os.path.join(path.parent, entry)
            if not self.expand(name):
                self.missing[Path(name)] = (
                    f"{name}: there is no such file, or no GeoTIFF in it "
                    f"(line {number} of {path}); restore it, or take it off the list"
                )

    def result(self) -> DiscoveredImages:
        """Return each file once, preferring named paths to others and files to links."""
        folders = tuple(sorted(self.folders))
        unique: dict[str, Location] = {}
        for path in sorted(self.named | self.met, key=self._preference):
            unique.setdefault(_real(path), path)
        refused = {p: reason for p in unique.values() if (reason := self._refusal(p, folders))}
        paths = sorted([*unique.values(), *self.missing], key=_order)
        return DiscoveredImages(paths, refused | self.missing, folders)

    def _preference(self, path: Location) -> tuple[bool, bool, tuple[bool, tuple[str, ...]]]:
        is_link = isinstance(path, Path) and path.is_symlink()
        return path not in self.named, is_link, _order(path)

    def _refusal(self, path: Location, folders: tuple[str, ...]) -> str | None:
        if path in self.named or isinstance(path, VsiPath) or inside(path, folders):
            return None
        problem = "is a link" if path.is_symlink() else "is behind a link"
        return (
            f"{path}: {problem} out of the folders given, to {os.path.realpath(path)}; name that "
            "folder as a source, too, or the link itself"
        )


def _order(path: Location) -> tuple[bool, tuple[str, ...]]:
    """Sort key: files before virtual ones, each in the order of paths."""
    return isinstance(path, VsiPath), path.parts if isinstance(path, Path) else (path.gdal,)


def _real(path: Location) -> str:
    return path.gdal if isinstance(path, VsiPath) else os.path.realpath(path)


def _fixed_part(pattern: str) -> str:
    """Return the deepest folder of a glob that has no wildcard in its path."""
    folders = Path(pattern).parts[:-1]
    return os.path.join("", *takewhile(lambda folder: not glob.has_magic(folder), folders))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield number and text of the lines that are not blank or comments."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"@{path}: the list of images cannot be read ({error.strerror}); check its path"
        ) from error
    text = "\0"
    encodings = ("utf-16",) if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else ("latin-1", "utf-8-sig")
    for encoding in encodings:  # the last that fits
        with suppress(UnicodeDecodeError):
            text = raw.decode(encoding)
    if "\0" in text:
        raise UsageError(
            f"@{path}: the list of images is not text; save it as UTF-8, one file name per line"
        )
    for number, line in enumerate(text.split("\n"), start=1):
        if (entry := line.strip()) and not entry.startswith("#"):
            yield number, entry


def _list_archive(path: VsiPath, suffixes: tuple[str, ...]) -> list[VsiPath]:
    """Return the images in a local archive or in a folder of it; any other path is returned as is.

    Raises:
        UsageError: the archive does not exist, cannot be read or holds no image.
    """
    prefix = next((p for p in (ZIP, TAR) if path.gdal.startswith(p)), None)
    if prefix is None or path.suffix.lower() in TIFFS or VSI in path.gdal[4:]:
        return [path]
    archive, folder = _split_archive(path.gdal.removeprefix(prefix))
    if archive is None:
        raise UsageError(f"{path}: there is no such archive; name /vsizip/ and the path to one")
    names = _archive_members(path, archive, prefix)
    images = [n for n in names if n.startswith(folder) and n.lower().endswith(suffixes)]
    images = [n for n in images if not any(p.startswith((".", "__MACOSX")) for p in n.split("/"))]
    if not images:
        raise UsageError(
            f"{path}: there is no GeoTIFF in it; name another archive, or a folder in it"
        )
    return [VsiPath(f"{prefix}{archive}/{name}") for name in images]


def _split_archive(path: str) -> tuple[str | None, str]:
    """Split a path into the archive and the folder inside it."""
    parts = path.rstrip("/").split("/")
    for n in range(1, len(parts) + 1):
        archive = "/".join(parts[:n])
        if os.path.isfile(archive):
            return archive, "".join(f"{part}/" for part in parts[n:])
    return None, ""


def _archive_members(path: VsiPath, archive: str, prefix: str) -> list[str]:
    try:
        if prefix == ZIP:
            with zipfile.ZipFile(archive) as file:
                names = file.namelist()
        else:
            with tarfile.open(archive) as tar:
                names = tar.getnames()
    except READ_ERRORS as error:
        raise UsageError(
            f"{path}: cannot be read as an archive ({error}); deliver it again"
        ) from error
    if len(names) > MAX_MEMBERS:
        raise UsageError(f"{path}: holds {len(names)} files; unpack it, and name the folder")
    return names


def name_images(paths: Sequence[Location]) -> dict[str, Location]:
    """Return paths by unique names that can be names of folders.

    A name is the stem of the file. Six hex digits of the path's hash are added where two files
    share a stem, also in other capitals or as a part of a large image, and where a stem had to be
    changed; sixteen where six are the same, as happens among 5,000 images of one name.
    """
    stems = {path: _clean(path.stem) for path in paths}
    counts = Counter(map(_casefolded, stems.values()))

    def name(path: Location) -> str:
        stem = stems[path]
        whole = re.sub(r"_r\d+c\d+$", "", stem)
        clash = counts[_casefolded(stem)] > 1 or (whole != stem and _casefolded(whole) in counts)
        return f"{stem}_{_path_hash(path)[:6]}" if clash or stem != path.stem else stem

    names = {path: name(path) for path in paths}
    uses = Counter(map(_casefolded, names.values()))
    return {
        short if uses[_casefolded(short)] == 1 else f"{stems[path]}_{_path_hash(path)[:16]}": path
        for path, short in names.items()
    }


def _clean(stem: str) -> str:
    """Return a stem as a short, visible folder name that every reader reads alike."""
    text = UNUSABLE.sub("_", stem)
    text = "_" + text[1:] if text.startswith(".") or not text.strip() else text
    text = text.rstrip(" .") or "_"
    return text.encode()[:MAX_NAME_BYTES].decode(errors="ignore")


def _casefolded(stem: str) -> str:
    """Return equal texts for names that some file system treats as the same."""
    return unicodedata.normalize("NFC", stem).casefold()


def _path_hash(path: Location) -> str:
    return hashlib.sha256(os.fsencode(_real(path))).hexdigest()
