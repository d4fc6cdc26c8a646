"""Which images a user means, and what they are called."""

from __future__ import annotations

import glob
import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from capecam.errors import UsageError
from capecam.imagery.archives import list_archive
from capecam.imagery.validation.sidecars import inside
from capecam.io.paths import TIFFS, VRT, Location, VsiPath, location
from capecam.settings import VSI

LONGEST = 200
"""Bytes of an image's name: with ``.work-`` and ``_r10c10`` a folder's must have at most 255."""

UNUSABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff\\\\/,]")
"""Characters that XML, a column of names with commas, or GDAL would make something else of."""


@dataclass(frozen=True, slots=True)
class DiscoveredImages:
    """The files that a user means, and the folders named, by which one is trusted."""

    paths: list[Location] = field(default_factory=list)
    """Sorted, each once."""
    refused: dict[Location, str] = field(default_factory=dict)
    """Those that must not be opened, or are not there, and why."""
    folders: tuple[str, ...] = ()
    """Real paths: sources that are folders, and the folders of those that are files."""


def find_images(sources: Sequence[str], *, vrt: bool = False) -> DiscoveredImages:
    """Files as they are named, GeoTIFFs of folders, matches of globs, and the lines of lists
    (``@list.txt``; relative to the list, ``#`` begins a comment).

    A file that is named twice, also by a link, counts once. A link that is met in a folder, or by
    a glob, may lead to nothing beyond the folders named.

    Args:
        sources: at least one.
        vrt: folders are searched for VRTs, too.

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
    return search.found()


@dataclass(slots=True)
class _Search:
    suffixes: tuple[str, ...]
    named: set[Location] = field(default_factory=set)
    """By the user, one by one."""
    met: set[Location] = field(default_factory=set)
    """In a folder, or by a glob."""
    missing: dict[Location, str] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)

    def expand(self, source: str) -> bool:
        """Look for what one source means; False if there is nothing."""
        if not source or "\0" in source:
            return False
        place = location(source)
        if isinstance(place, VsiPath):
            self.named.update(list_archive(place, self.suffixes))
            return True
        if os.path.isdir(place):
            found = self._scan(place)
            if found or place.suffix.lower() not in self.suffixes:
                self.folders.add(os.path.realpath(place))
                return found
        if os.path.lexists(place):
            self.named.add(place)
            self.folders.add(os.path.realpath(place.parent))
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
        """Hidden files are none: what is being copied, and what macOS puts beside every file."""
        return not name.startswith(".") and name.lower().endswith(self.suffixes)

    def _match(self, source: str) -> bool:
        """A glob: its GeoTIFFs and those of its folders; other files only if there are none."""
        matches = [Path(match) for match in glob.glob(source, recursive=True)]
        images = [path for path in matches if self._is_image(path.name) and not path.is_dir()]
        found = [self._scan(path) for path in matches if path.is_dir()]
        if not images and not any(found):
            images = [path for path in matches if not path.is_dir()]
        self.met.update(images)
        if images or any(found):
            self.folders.add(os.path.realpath(_fixed_part(source)))
        return bool(images) or any(found)

    def read_list(self, source: str) -> None:
        """The lines of a list; one that leads to nothing is an image that fails."""
        path = Path(source[1:])
        for number, entry in _lines(path):
            placed = entry if entry.startswith(VSI) else os.path.join(path.parent, entry)
            if not self.expand(placed):
                self.missing[Path(placed)] = (
                    f"{placed}: there is no such file, or no GeoTIFF in it "
                    f"(line {number} of {path}); bring it back, or take it off the list"
                )

    def found(self) -> DiscoveredImages:
        """Each file once: as the user named it rather than met, and rather itself than a link."""
        folders = tuple(sorted(self.folders))
        best: dict[str, Location] = {}
        for path in sorted(self.named | self.met, key=self._rank):
            best.setdefault(_real(path), path)
        refused = {path: why for path in best.values() if (why := self._why_out(path, folders))}
        everything = [*best.values(), *self.missing]
        return DiscoveredImages(sorted(everything, key=_order), refused | self.missing, folders)

    def _rank(self, path: Location) -> tuple[bool, bool, tuple[bool, tuple[str, ...]]]:
        is_link = isinstance(path, Path) and path.is_symlink()
        return path not in self.named, is_link, _order(path)

    def _why_out(self, path: Location, folders: tuple[str, ...]) -> str | None:
        if path in self.named or isinstance(path, VsiPath) or inside(path, folders):
            return None
        is_what = "is a link" if path.is_symlink() else "lies behind a link"
        return (
            f"{path}: {is_what} out of the folders given, to {os.path.realpath(path)}; name that "
            "folder as a source, too, or the link itself"
        )


def _order(path: Location) -> tuple[bool, tuple[str, ...]]:
    """Files before virtual ones, each as paths are sorted."""
    return isinstance(path, VsiPath), path.parts if isinstance(path, Path) else (path.gdal,)


def _real(path: Location) -> str:
    return path.gdal if isinstance(path, VsiPath) else os.path.realpath(path)


def _fixed_part(pattern: str) -> str:
    """The folder of a glob down to which it has no wildcard."""
    parts = Path(pattern).parts
    fixed = [
        part for n, part in enumerate(parts) if not glob.has_magic(os.path.join(*parts[: n + 1]))
    ]
    return os.path.join(*fixed) if fixed and len(fixed) < len(parts) else os.path.dirname(pattern)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of the lines that say something."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise UsageError(
            f"@{path}: the list of images cannot be read ({error.strerror}); check its path"
        ) from error
    encodings = ("utf-16",) if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else ("utf-8-sig", "latin-1")
    for encoding in encodings:
        try:
            text = raw.decode(encoding)
        except UnicodeDecodeError:
            continue
        break
    else:
        raise UsageError(f"@{path}: the list of images is no text; save it as UTF-8")
    if "\0" in text:
        raise UsageError(f"@{path}: the list of images is no text; give one file name a line")
    for number, line in enumerate(text.split("\n"), start=1):
        if (entry := line.strip()) and not entry.startswith("#"):
            yield number, entry


def name_images(paths: Sequence[Location]) -> dict[str, Location]:
    """The stem of each file, with six hex digits of its path's hash where two share one, also by
    other capitals or as a part of an image; or where it cannot name a folder as it is.

    With sixteen where six are the same: of 5,000 images of one name, some are.
    """
    plain = {path: _plain(path.stem) for path in paths}
    stems = Counter(map(_folded, plain.values()))

    def name(path: Location) -> str:
        stem = plain[path]
        whole = re.sub(r"_r\d+c\d+$", "", stem)
        clash = stems[_folded(stem)] > 1 or (whole != stem and _folded(whole) in stems)
        return f"{stem}_{_path_hash(path)[:6]}" if clash or stem != path.stem else stem

    names = {path: name(path) for path in paths}
    times = Counter(map(_folded, names.values()))
    return {
        found if times[_folded(found)] == 1 else f"{plain[path]}_{_path_hash(path)[:16]}": path
        for path, found in names.items()
    }


def _plain(stem: str) -> str:
    """What can name a folder: short, visible, and the same to every reader."""
    text = UNUSABLE.sub("_", stem)
    text = "_" + text[1:] if text.startswith(".") or not text.strip() else text
    text = text.rstrip(" .") or "_"
    return text.encode()[:LONGEST].decode(errors="ignore")


def _folded(stem: str) -> str:
    """Equal for names that some file system takes for one."""
    return unicodedata.normalize("NFC", stem).casefold()


def _path_hash(path: Location) -> str:
    return hashlib.sha256(os.fsencode(_real(path))).hexdigest()
