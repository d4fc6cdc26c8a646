"""``capecam init``: write a guessed configuration, with comments, and a picture of one tile."""

from __future__ import annotations

import json
import os
import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from capecam import __version__
from capecam.errors import OutputError, UsageError
from capecam.run.text_table import WIDTH, key_value_table
from capecam.runtime.files import atomic_write
from capecam.settings import VSI

if TYPE_CHECKING:
    from capecam.model.input_range import Judgement
    from capecam.model.normalisation import Normalisation
    from capecam.model.recognition import Recognition
    from capecam.run.configuration_guess import ConfigurationGuess

DPI = 110

MAX_SOURCES = 100
"""Sources that the configuration itself lists; more are in a list beside it."""

PLAIN = re.compile(r"[A-Za-z/_][\w./-]*", re.ASCII)
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
    following = f"now look at the picture, and then type:\n  capecam run --config {config}"
    return f"{_summary(guess, files)}\n\n{following}"


def _lines(
    guess: ConfigurationGuess, checkpoint: Path, sources: Sequence[str], files: Destination
) -> Iterator[str]:
    """Yield the lines of the configuration."""
    yield from _comment(
        f"Written by capecam init {__version__}. Comments say how each value was found; correct "
        f"what is wrong, and look at {files.picture.name}. Paths are relative to this file.",
        "",
    )
    yield "sources:"
    for source in sources:
        at = "@" if source.startswith("@") else ""
        yield f"  - {_yaml(at + files.relative(source.removeprefix('@')))}"
    yield f"checkpoint: {_yaml(files.relative(str(checkpoint)))}"
    yield "out: out"
    yield "model:"
    yield from _network_lines(guess)
    yield from _comment(f"Number of classes: sure. Names: {guess.names_from}.")
    yield "  classes:"
    for entry in guess.classes:
        yield f"    - {{name: {json.dumps(entry.name)}, color: {json.dumps(entry.color)}}}"
    yield from _input_lines(guess)
    yield from _comment(
        f"Metres of a pixel on the ground in training, taken from {guess.gsd_from}."
    )
    yield f"  gsd_m: {guess.gsd_m:g}"
    if guess.imagery.scale is not None:
        yield from _comment(
            "A guess: images are not uint8, and these percentiles of them become 0 and 255.", ""
        )
        yield f"imagery: {{scale: {json.dumps(str(guess.imagery.scale))}}}"
    yield from _comment("Tiles that the network takes; best is the size of those in training.", "")
    yield "tiling:"
    yield from (f"  {key}: {getattr(guess.tiling, key)}" for key in ("size", "overlap", "stride"))


def _comment(text: str, indent: str = "  ") -> list[str]:
    """Return a text as the lines of a comment."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=f"{indent}# ",
        subsequent_indent=f"{indent}# ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _network_lines(guess: ConfigurationGuess) -> Iterator[str]:
    network = guess.network
    yield from _comment(how_sure(network))
    if not network.described:
        if network.same:
            yield from _comment(f"Other names of this encoder: {', '.join(network.same)}.")
        if network.alike:
            alike = ", ".join(network.alike)
            yield from _comment(f"Others with these tensors, which compute differently: {alike}.")
        yield f"  architecture: {network.architecture}"
        yield f"  encoder: {_yaml(network.encoder)}"
        if network.unseen:
            unseen = ", ".join(f"{k}: {json.dumps(v)}" for k, v in network.unseen.items())
            yield from _comment(
                f"No tensor shows these options; defaults, unless they are set: {unseen}."
            )
        if network.options:
            yield f"  options: {json.dumps(network.options)}"
    if guess.weights is not None:
        yield f"  weights: {_yaml(guess.weights)}"


def how_sure(network: Recognition) -> str:
    """Return how sure a network is, as a sentence."""
    if network.described:
        return f"Sure: config.json beside the weights describes it, {network.title}."
    fits = f"all {network.tensors} tensors have the names and shapes of this network"
    if not network.alike:
        return f"Sure: {fits}, and of no other that is known."
    if network.named:
        return f"Sure: {fits}, and the checkpoint names the encoder."
    return (
        f"A guess: {fits}; of the encoders that have them, it is one with pretrained weights, and "
        "has the plainest name."
    )


def _input_lines(guess: ConfigurationGuess) -> Iterator[str]:
    judgement = guess.input
    if judgement.taken.misfit is None:
        reason = "No trained batch norm tells the range: look at the picture."
    else:
        reason = (
            "Misfit of imagery in this range to what the batch norms remember: "
            f"{judgement.taken.misfit:.2g}."
        )
    yield from _comment(f"Input: {sure_input(judgement)}. {reason}")
    for other in judgement.ranges[1:]:
        misfit = "" if other.misfit is None else f" ({other.misfit:.2g})"
        yield f"  # instead{misfit}: {', '.join(_scaling(other.normalisation))}"
    yield from (f"  {line}" for line in _scaling(judgement.taken.normalisation))


def sure_input(judgement: Judgement) -> str:
    """Return how sure the range of the input is."""
    top, name = judgement.taken.name.split(", ")
    return f"{top}: {judgement.sure_max}; {name}: {judgement.sure_mean}"


def _scaling(norm: Normalisation) -> list[str]:
    return [
        f"input_max: {norm.input_max:g}",
        f"mean: {json.dumps(norm.mean)}",
        f"std: {json.dumps(norm.std)}",
    ]


def _yaml(text: str) -> str:
    """Return a text as YAML, in quotes if it needs them."""
    plain = PLAIN.fullmatch(text) and text.lower() not in WORDS
    return text if plain else json.dumps(text, ensure_ascii=False)


def _summary(guess: ConfigurationGuess, files: Destination) -> str:
    """Return what was found, and how sure it is."""
    network, judgement = guess.network, guess.input
    names = ", ".join(entry.name for entry in guess.classes)
    others = ", ".join(each.name for each in judgement.ranges[1:2])
    pairs = [
        ("network", network.title),
        ("", how_sure(network)),
        ("same network", ", ".join(network.same)),
        ("same tensors", ", ".join(network.alike)),
        ("options", json.dumps(network.options) if network.options else ""),
        ("classes", f"{names} (names: {guess.names_from})"),
        ("input", sure_input(judgement)),
        ("next best", others),
        ("pixel", f"{guess.gsd_m:g} m, from {guess.gsd_from}"),
        ("tile", f"{guess.tiling.size} px, overlap {guess.tiling.overlap} px"),
        ("looked at", guess.image),
        ("configuration", str(files.config)),
        ("picture", str(files.picture)),
    ]
    return key_value_table([(name, text) for name, text in pairs if text])
