"""Recognise the network of a checkpoint by the names and shapes of its tensors.

The decoder shows the architecture and most of its options; an index finds the few encoders that
have such tensors. What comes of it is built on the meta device and compared, tensor by tensor.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor, nn

from capecam.errors import CheckpointError, SettingsError
from capecam.model.architecture import BANDS, find_architecture
from capecam.model.checkpoint import Weights
from capecam.model.checkpoint_networks import PARTS, choose_network, head_key
from capecam.model.decoder_shapes import DECODERS, HEAD, Decoder, Options, decoder_of
from capecam.model.encoder_index import (
    TIMM,
    IndexedEncoder,
    Shapes,
    other_name,
    same_names,
    same_shapes,
)
from capecam.model.introspection import PROBE_PX, REFUSALS
from capecam.model.meta import meta_network
from capecam.settings import ModelSettings

MAX_BUILT = 40
"""Networks that are built at most: of 0.05 to 1 s each."""

BY_HAND = "name model.architecture and model.encoder in a configuration by hand"

INVISIBLE = ("encoder_output_stride", "decoder_interpolation", "decoder_atrous_rates")
"""Arguments that change what a network computes and no tensor. Upsampling is another one, which the
size of the output tells."""


@dataclass(frozen=True, slots=True)
class Recognition:
    """A network that has exactly the tensors of a checkpoint."""

    architecture: str
    encoder: str
    options: Options
    """Arguments that are not the architecture's defaults."""
    channels: int
    """Number of output channels."""
    tensors: int
    """Number of tensors that were compared."""
    same: tuple[str, ...] = ()
    """Other names of the encoder."""
    alike: tuple[str, ...] = ()
    """Other encoders with the same tensors, which compute something else."""
    named: bool = False
    """True if the checkpoint itself names the encoder."""
    described: bool = False
    """True if the folder of the checkpoint describes the whole network."""
    unseen: Options = field(default_factory=dict)
    """Arguments that no tensor shows, with the defaults that are taken."""

    @property
    def title(self) -> str:
        """Architecture and encoder in one text."""
        return f"{self.architecture} ({self.encoder})"

    @property
    def settings(self) -> ModelSettings:
        """Settings of the network."""
        if self.described:
            return ModelSettings()
        return ModelSettings(
            architecture=self.architecture, encoder=self.encoder, options=self.options
        )


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the floating-point tensors; counters and indices are left out."""
    return {k: tuple(x.shape) for k, x in tensors.items() if x.is_floating_point()}


def recognize(weights: Weights, name: str | None = None) -> Recognition:
    """Find the architecture, the encoder and their options.

    Args:
        weights: the tensors of a checkpoint, and what it says about itself.
        name: of the network, if there are several (``model.weights``).

    Raises:
        CheckpointError: there is no network, or none that can be recognised.
    """
    prefix = choose_network(weights.path, weights.tensors, name)
    starts = tuple(prefix + part for part in PARTS)
    own = {k.removeprefix(prefix): x for k, x in weights.tensors.items() if k.startswith(starts)}
    shapes = shapes_of(own)
    if weights.config is not None:
        return Recognition(
            str(weights.config.get("_model_class")),
            str(weights.config.get("encoder_name")),
            {},
            weights.tensors[head_key(weights.tensors, prefix)].shape[0],
            len(shapes),
            described=True,
        )
    decoder = decoder_of(shapes)
    if decoder is None:
        raise CheckpointError(
            f"{weights.path}: its decoder is that of none of {', '.join(DECODERS)}; {BY_HAND}"
        )
    return _Search(weights, shapes, decoder).result()


@dataclass(frozen=True, slots=True)
class _Fit:
    """A network that fits, with its arguments."""

    encoder: str
    options: Options
    network: nn.Module


@dataclass(frozen=True, slots=True)
class _Search:
    """Search for the encoder of a network whose decoder is known."""

    weights: Weights
    shapes: Shapes
    decoder: Decoder

    @property
    def channels(self) -> int:
        """Number of output channels."""
        return self.shapes[HEAD][0]

    def result(self) -> Recognition:
        """Return the network that fits, and what else does."""
        encoder = self._part("encoder.")
        found = same_shapes(encoder)
        near = same_names(encoder)  # of which shapes may depend on the output stride
        fits = list(self._fits(found)) or list(self._fits(near)) or list(self._widened(encoder))
        if not fits:
            raise CheckpointError(f"{self.weights.path}: {self._why_none(found or near)}")
        first = min(
            fits, key=lambda fit: (not self._is_named(fit.encoder), *_preference(fit.encoder))
        )
        description = repr(first.network.encoder)
        same = {fit.encoder for fit in fits if repr(fit.network.encoder) == description}
        others = {fit.encoder for fit in fits} - same
        options = first.options | _upsampling(first.network, self.decoder.architecture)
        return Recognition(
            self.decoder.architecture,
            first.encoder,
            options,
            self.channels,
            len(self.shapes),
            tuple(_with_other_names(same - {first.encoder}, first.encoder)),
            tuple(_with_other_names(others)),
            named=self._is_named(first.encoder),
            unseen=_unseen(self.decoder.architecture, options),
        )

    def _part(self, start: str) -> Shapes:
        return {k.removeprefix(start): s for k, s in self.shapes.items() if k.startswith(start)}

    def _is_named(self, encoder: str) -> bool:
        """Return whether the checkpoint names an encoder, perhaps as timm does."""
        names = {encoder, encoder.removeprefix(TIMM), other_name(encoder)}
        texts = (text for text in self.weights.facts.values() if isinstance(text, str))
        return any(text.split(".")[0] in names for text in texts)

    def _fits(self, found: list[IndexedEncoder], extra: Options | None = None) -> Iterator[_Fit]:
        """Yield the networks that have exactly these tensors, one for each encoder."""
        for encoder, indexed in _by_name(found):
            for depth in self._depths(indexed):
                options = self._options(depth) | (extra or {})
                network = self._built(encoder, options)
                if network is not None and shapes_of(network.state_dict()) == self.shapes:
                    yield _Fit(encoder, options, network)
                    break

    def _depths(self, indexed: list[int]) -> list[int]:
        """Return the depths that an encoder may have, the architecture's default first."""
        visible = self.decoder.options.get("encoder_depth")
        default = _defaults(self.decoder.architecture)["encoder_depth"]
        depths = [visible] if visible else [default, 5, 4, 3]
        any_depth = visible or 0 in indexed
        unique = (depth for depth in dict.fromkeys(depths) if any_depth or depth in indexed)
        return [depth for depth in unique if isinstance(depth, int)]

    def _options(self, depth: int) -> Options:
        """Return the options of the network that are not its defaults."""
        defaults = _defaults(self.decoder.architecture)
        facts = self.weights.facts
        said = {k: facts[k] for k in INVISIBLE if k in defaults and k in facts}
        given = {**self.decoder.options, "encoder_depth": depth, **said}
        return {k: v for k, v in given.items() if v != _listed(defaults.get(k))}

    def _built(self, encoder: str, options: Options) -> nn.Module | None:
        settings = ModelSettings(
            architecture=self.decoder.architecture, encoder=encoder, options=options
        )
        try:
            return meta_network(settings, self.channels)
        except SettingsError:
            return None  # an encoder that this architecture cannot have

    def _widened(self, encoder: Shapes) -> Iterator[_Fit]:
        """Yield networks of timm's ResNets with other widths, which they take as ``channels``."""
        widths = [
            next((s[0] for key, s in encoder.items() if key.endswith(last)), 0)
            for last in (f".layer{stage}.0.conv2.weight" for stage in (1, 2, 3, 4))
        ]
        # A first stage of another width than the stem needs a projection.
        usual = {k: s for k, s in encoder.items() if ".layer1.0.downsample." not in k}
        found = [entry for entry in same_names(usual) if entry.name.startswith(TIMM)]
        if all(widths):
            yield from self._fits(found, {"channels": widths})

    def _why_none(self, near: list[IndexedEncoder]) -> str:
        """Explain why nothing fits, by what differs from the nearest network."""
        architecture = self.decoder.architecture
        nearest = min(self._misfits(near), key=lambda misfit: len(misfit[1]), default=None)
        if nearest is None:
            return (
                f"its decoder is that of {architecture}, but no encoder that is known has its "
                f"{len(self._part('encoder.'))} tensors; {BY_HAND}"
            )
        encoder, differing = nearest
        key, expected = next(iter(differing.items()))
        shape = self.shapes.get(key)
        if len(differing) == 1 and shape and expected and shape[2:] == expected[2:] != ():
            return (
                f"the network takes {shape[1]} bands, but images are read as {BANDS} (R, G, B); it "
                "cannot be used; train it on red, green and blue"
            )
        return (
            f"is nearest to {architecture} with {encoder}, but {len(differing)} of "
            f"{len(self.shapes)} tensors differ, the first of them {key}: {shape or 'missing'}, "
            f"there {expected or 'missing'}; {BY_HAND}, and model.options"
        )

    def _misfits(
        self, near: list[IndexedEncoder]
    ) -> Iterator[tuple[str, dict[str, tuple[int, ...] | None]]]:
        """Yield encoders, with the shapes that they need where they differ from the checkpoint."""
        for encoder, indexed in _by_name(near):
            network = self._built(encoder, self._options(self._depths(indexed)[0]))
            expected = shapes_of(network.state_dict()) if network else {}
            keys = dict.fromkeys((*expected, *self.shapes))
            yield (
                encoder,
                {
                    key: expected.get(key)
                    for key in keys
                    if expected.get(key) != self.shapes.get(key)
                },
            )


def _by_name(found: list[IndexedEncoder]) -> list[tuple[str, list[int]]]:
    """Return encoders and their depths in the index, the plainest names first."""
    names = sorted({entry.name for entry in found}, key=_preference)[:MAX_BUILT]
    return [(name, [e.depth for e in found if e.name == name]) for name in names]


def _with_other_names(encoders: Set[str], *taken: str) -> Iterator[str]:
    """Yield encoders, each with its deprecated name, and that of the one that is taken."""
    for encoder in [*taken, *sorted(encoders, key=_preference)]:
        yield from () if encoder in taken else (encoder,)
        yield from filter(None, (other_name(encoder),))


@cache
def _preference(encoder: str) -> tuple[bool, int, str]:
    """Sort key of encoders: those that training can begin with, then the plainest name."""
    import timm  # noqa: PLC0415 slow

    is_timm = encoder.startswith(TIMM)
    has_weights = not is_timm or timm.models.is_model_pretrained(encoder.removeprefix(TIMM))
    return not has_weights, len(encoder), encoder


def _defaults(architecture: str) -> Options:
    parameters = inspect.signature(find_architecture(architecture)).parameters
    return {name: parameter.default for name, parameter in parameters.items()}


def _listed(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _unseen(architecture: str, options: Options) -> Options:
    """Return the arguments that no tensor shows, with their defaults."""
    defaults = _defaults(architecture)
    return {k: _listed(defaults[k]) for k in INVISIBLE if k in defaults and k not in options}


def _upsampling(network: nn.Module, architecture: str) -> Options:
    """Return the upsampling with which the output has the size of the input, if not the default."""
    default = _defaults(architecture).get("upsampling")
    if not isinstance(default, int):
        return {}
    try:
        with torch.no_grad():
            height = network(torch.empty(1, BANDS, PROBE_PX, PROBE_PX, device="meta")).shape[-2]
    except REFUSALS:
        return {}  # loading the network tries, too
    factor = default * PROBE_PX // height
    return {} if factor == default else {"upsampling": factor}
