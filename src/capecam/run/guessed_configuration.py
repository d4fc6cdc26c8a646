"""``capecam init``: write a guessed configuration, with comments, and a picture of one tile."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from capecam import __version__
from capecam.errors import OutputError, UsageError
from capecam.run.text_table import key_value_table
from capecam.runtime.files import atomic_write
from capecam.settings import VSI

if TYPE_CHECKING:
    from capecam.run.configuration_guess import ConfigurationGuess

DPI = 110

MAX_SOURCES = 100
"""Sources that the configuration itself lists; more are in a list beside it."""

PLAIN = re.compile(r"[A-Za-z./_][\w./-]*", re.ASCII)
"""Texts that need no quotes in YAML, unless they are words such as ``true``."""

WORDS = {"true", "false", "null"}


@dataclass(frozen=True, slots=True)
class Destination:
    """Files that are written."""

    config: Path

    @property
    def picture(self) -> Path:
        """Picture beside the configuration."""
        return self.config.with_suffix(".png")

    @property
    def images(self) -> Path:
        """List of images beside it, if there are many."""
        return self.config.with_suffix(".images.txt")

    def check(self) -> None:
        """Check that the files can be written.

        Raises:
            OutputError: one is there already, or the folder is missing.
        """
        for path in (self.config, self.picture, self.images):
            if os.path.lexists(path):
                raise OutputError(f"{path} is there already; choose another name with --out")
        if self.config.suffix.lower() not in (".yaml", ".yml"):
            raise OutputError(f"{self.config} is no name of a configuration; --out ends in .yaml")
        if not self.config.parent.is_dir():
            raise OutputError(f"the folder {self.config.parent} does not exist; create it first")

    def relative(self, path: str) -> str:
        """Return a path as the configuration has it: relative to its folder, if it is inside."""
        if path.startswith(VSI):
            return path
        folder, full = os.path.abspath(self.config.parent), os.path.abspath(path)
        return os.path.relpath(full, folder) if full.startswith(folder + os.sep) else full


def check_inputs(checkpoint: Path, sources: Sequence[str]) -> None:
    """Check that the files which are named exist, before anything slow is imported.

    Raises:
        UsageError: one does not.
    """
    if not os.path.exists(checkpoint):
        raise UsageError(f"the checkpoint {checkpoint} does not exist; check the path")
    for source in sources:
        is_plain = not (source.startswith(("@", VSI)) or re.search(r"[*?[]", source))
        if is_plain and not os.path.lexists(source):
            raise UsageError(f"{source}: there is no such image or folder; check the path")


def write_configuration(
    checkpoint: Path, sources: Sequence[str], config: Path, weights: str | None = None
) -> str:
    """Guess a configuration, write it and a picture, and return a summary.

    Args:
        checkpoint: file or saved folder.
        sources: images, as for a run.
        config: file to write; the picture has its name.
        weights: network of the checkpoint, if it holds several.

    Raises:
        UsageError: a file is missing, or there already, or nothing can be guessed.
    """
    files = Destination(config)
    files.check()
    check_inputs(checkpoint, sources)
    from capecam.run.configuration_guess import guess_configuration  # noqa: PLC0415 torch is slow to import
    from capecam.views.panels.trial import draw_trial  # noqa: PLC0415

    guess = guess_configuration(checkpoint, sources, weights)
    listed = list(sources)
    if len(listed) > MAX_SOURCES:
        with atomic_write(files.images) as temporary:
            lines = (files.relative(source) for source in sources)
            temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        listed = [f"@{files.images}"]
    with atomic_write(files.picture) as temporary:
        draw_trial(guess.trial).write(temporary, "png", DPI)
    with atomic_write(files.config) as temporary:
        text = "\n".join(_lines(guess, checkpoint, listed, files)) + "\n"
        temporary.write_text(text, encoding="utf-8")
    return f"{_summary(guess, files)}\n\nnow look at the picture, and then type:\n  capecam run --config {config}"


def _lines(
    guess: ConfigurationGuess, checkpoint: Path, sources: Sequence[str], files: Destination
) -> Iterator[str]:
    """Yield the lines of the configuration."""
    yield f"# Written by capecam init, version {__version__}. It says how each value was found; correct what"
    yield f"# is wrong, and look at {files.picture.name}. Paths are relative to this file."
    yield "sources:"
    for source in sources:
        at = "@" if source.startswith("@") else ""
        yield f"  - {_yaml(at + files.relative(source.removeprefix('@')))}"
    yield f"checkpoint: {_yaml(files.relative(str(checkpoint)))}"
    yield "out: out"
    yield "model:"
    yield from _network_lines(guess)
    yield f"  # Names: {guess.names_from}. The number of classes is that of the output: sure."
    yield "  classes:"
    for entry in guess.classes:
        yield f"    - {{name: {json.dumps(entry.name)}, color: {json.dumps(entry.color)}}}"
    yield from _input_lines(guess)
    yield f"  # Pixel size on the ground, of {guess.gsd_from}; in training it should have been the same."
    yield f"  gsd_m: {guess.gsd_m:g}"
    if guess.imagery.scale is not None:
        yield "# The images are not uint8: these percentiles of their values become 0 and 255 (a guess)."
        yield f"imagery: {{scale: {json.dumps(str(guess.imagery.scale))}}}"
    yield "# Tiles that the network takes; the size of those in training is best, if it is known."
    yield "tiling:"
    yield from (f"  {key}: {getattr(guess.tiling, key)}" for key in ("size", "overlap", "stride"))


def _network_lines(guess: ConfigurationGuess) -> Iterator[str]:
    network = guess.network
    if network.described:
        yield f"  # {network.title}: sure, as config.json beside the weights describes it."
    else:
        yield f"  # {_how_sure(guess)}"
        if network.same:
            yield f"  # Other names of this encoder: {', '.join(network.same)}."
        if network.alike:
            yield f"  # The same tensors have, and compute something else: {', '.join(network.alike)}."
        yield f"  architecture: {network.architecture}"
        yield f"  encoder: {_yaml(network.encoder)}"
        if network.unseen:
            unseen = ", ".join(f"{k}: {json.dumps(v)}" for k, v in network.unseen.items())
            yield f"  # No tensor shows these, of which the defaults are taken: {unseen}."
        if network.options:
            yield f"  options: {json.dumps(network.options)}"
    if guess.weights is not None:
        yield f"  weights: {_yaml(guess.weights)}"


def _how_sure(guess: ConfigurationGuess) -> str:
    """Return how sure the network is, as a sentence."""
    network = guess.network
    fits = f"{network.tensors} of {network.tensors} tensors have its names and shapes"
    if not network.alike:
        return f"Sure: {fits}, and those of no other that is known."
    if network.named:
        return f"Sure: {fits}, and the checkpoint names the encoder."
    if network.tried:
        return f"Likely: {fits}, and its batch norms know such imagery best."
    return f"A guess: {fits}; it is the plainest of the encoders that have them."


def _input_lines(guess: ConfigurationGuess) -> Iterator[str]:
    judgement = guess.input
    yield f"  # Input: {judgement.sure}. {_reason(guess)}"
    for other in judgement.ranges[1:]:
        norm = other.normalisation
        misfit = "" if other.misfit is None else f" ({other.misfit:.2g})"
        yield (
            f"  #   else{misfit}: input_max: {norm.input_max:g}, mean: {json.dumps(norm.mean)}, "
            f"std: {json.dumps(norm.std)}"
        )
    norm = judgement.taken.normalisation
    yield f"  input_max: {norm.input_max:g}"
    yield f"  mean: {json.dumps(norm.mean)}"
    yield f"  std: {json.dumps(norm.std)}"


def _reason(guess: ConfigurationGuess) -> str:
    taken = guess.input.taken
    if taken.misfit is None:
        return "The network has no trained batch norm to compare the imagery with: look at the picture."
    return (
        f"Misfit of the imagery to what batch norms remember of the training: {taken.misfit:.2g}."
    )


def _yaml(text: str) -> str:
    """Return a text as YAML, in quotes if it needs them."""
    plain = PLAIN.fullmatch(text) and text.lower() not in WORDS
    return text if plain else json.dumps(text, ensure_ascii=False)


def _summary(guess: ConfigurationGuess, files: Destination) -> str:
    """Return what was found, and how sure it is."""
    network, judgement = guess.network, guess.input
    others = [f"the same as {', '.join(network.same)}"] if network.same else []
    others += [f"with the same tensors: {', '.join(network.alike)}"] if network.alike else []
    sure = "Sure: described by config.json." if network.described else _how_sure(guess)
    names = ", ".join(entry.name for entry in guess.classes)
    next_best = judgement.ranges[1].name if len(judgement.ranges) > 1 else None
    pairs = [
        ("network", network.title),
        ("", sure),
        *(("", other) for other in others),
        *([("options", json.dumps(network.options))] if network.options else []),
        ("classes", f"{names} (names: {guess.names_from})"),
        ("input", f"{judgement.taken.name}: {judgement.sure}"),
        *([("", f"next best: {next_best}")] if next_best else []),
        ("pixel", f"{guess.gsd_m:g} m, of {guess.gsd_from}"),
        ("tile", f"{guess.tiling.size} px, overlap {guess.tiling.overlap} px"),
        ("looked at", guess.image),
        ("configuration", str(files.config)),
        ("picture", str(files.picture)),
    ]
    return key_value_table(pairs)
