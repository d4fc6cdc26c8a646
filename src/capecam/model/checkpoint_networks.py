"""Find the networks in the content of a checkpoint, however they are wrapped, and choose one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from capecam.errors import CheckpointError
from capecam.model.checkpoint_pickle import Call

HEADS = ("segmentation_head.0.weight", "segmentation_head.head.4.weight")
"""Last layer of segmentation_models_pytorch's networks, (classes, channels, kh, kw), and of DPT."""

PARTS = ("encoder.", "decoder.", "segmentation_head.")
"""Beginnings of the keys of such a network."""

NORMALISATION = re.compile(r"(?P<prefix>(?:.*[._])?)(?<!running_)(?P<name>mean|std)", re.DOTALL)
"""Key of the mean or the deviation of the input: ``mean``, ``module.std``, ``net.pixel_mean``."""

SHADOW = "shadow_params"
"""Key of a list of averaged weights, which have no names (torch_ema)."""

AVERAGED = re.compile(r"(?:.*[._])?(?:ema|swa|averaged|shadow)(?:[._].*)?", re.DOTALL)
"""Key of a weight that may be averaged over the training: ``model_ema.encoderconv1weight``."""

MAX_VALUE = 1e6
MAX_NETWORKS = 16
MAX_BESIDE = 256
MAX_DEPTH = 6
MAX_KEY = 100
"""Limits on dicts in dicts and on the characters of their keys: paths could have gigabytes."""

MAX_LIST = 64
"""Limit on a list of facts: names of classes, mean and deviation."""

MAX_SHOWN = 6
"""Number of networks in a message."""


def triples_in(entries: Mapping[str, object]) -> dict[str, Tensor]:
    """Return the means and deviations that are lists of three numbers, and no tensors yet."""
    return {
        key: torch.tensor(value, dtype=torch.float64)
        for key, value in entries.items()
        if NORMALISATION.fullmatch(key) and isinstance(value, (list, tuple)) and len(value) == 3
        if all(isinstance(x, (int, float)) and abs(x) < MAX_VALUE for x in value)
    }


def facts_in(value: Mapping[str, object]) -> dict[str, object]:
    """Return texts, numbers and short lists of them in dicts in dicts, by their last key."""

    def is_plain(part: object) -> bool:
        return isinstance(part, (int, float)) or (isinstance(part, str) and len(part) <= MAX_KEY)

    facts: dict[str, object] = {}
    for _, entries in _dicts(value, "", set()):
        for key, part in entries.items():
            parts = part if isinstance(part, (list, tuple)) else (part,)
            if len(parts) <= MAX_LIST and all(map(is_plain, parts)):
                facts.setdefault(key[:MAX_KEY], part)
    return facts


@dataclass(slots=True)
class _Content:
    """State dicts of networks, and the other entries that may be their normalisation."""

    networks: dict[str, Mapping[str, object]] = field(default_factory=dict)
    beside: dict[str, object] = field(default_factory=dict)

    def add(self, path: str, entries: Mapping[str, object]) -> None:
        """Add the entries of one dict."""
        if any(key.endswith(HEADS) and isinstance(part, Call) for key, part in entries.items()):
            self.networks[path] = entries
            if len(self.networks) > MAX_NETWORKS:
                raise CheckpointError(f"holds more than {MAX_NETWORKS} networks; save one alone")
        elif len(self.beside) < MAX_BESIDE:
            names = (key for key in entries if len(key) <= MAX_KEY and NORMALISATION.fullmatch(key))
            self.beside.update((f"{path}{key}", entries[key]) for key in names)
            match entries.get(SHADOW):
                case [first, *_]:  # enough to know of them
                    self.beside[f"{path}{SHADOW}.0"] = first


def state_dict_of(value: Mapping[str, object]) -> dict[str, object]:
    """Return the entries of a file's networks, and of the normalisation beside them.

    Args:
        value: the content of the file: a state dict, or dicts that hold one (``state_dict``,
            ``model``, ``ema`` ...), whose names become part of the keys if there are several.
    """
    content = _Content()
    for path, entries in _dicts(value, "", set()):
        content.add(path, entries)
    if not content.networks:
        inner = value.get("state_dict")
        return dict(inner if isinstance(inner, dict) else value)
    if len(content.networks) == 1:
        return content.beside | dict(*content.networks.values())
    for path, entries in content.networks.items():
        content.beside.update((f"{path}{key}", part) for key, part in entries.items())
    return content.beside


def _dicts(
    value: Mapping[str, object], path: str, seen: set[int]
) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Yield each dict in a dict once, with its path, which ends in a dot."""
    yield path, value
    for key, part in value.items():
        is_new = isinstance(part, dict) and id(part) not in seen
        if is_new and len(key) <= MAX_KEY and path.count(".") < MAX_DEPTH:
            seen.add(id(part))
            yield from _dicts(part, f"{path}{key}.", seen)  # type: ignore[arg-type]


def choose_network(path: Path, tensors: Mapping[str, Tensor], name: str | None) -> str:
    """Return the prefix of the keys of a network, such as ``model.``.

    Args:
        path: of the checkpoint, for messages.
        tensors: in the checkpoint.
        name: of the network, its prefix or the beginning of that; None if there is one alone.

    Raises:
        CheckpointError: there is none, or none of this name, or several.
    """
    prefixes = network_prefixes(tensors)
    if not prefixes:
        raise CheckpointError(
            f"{path}: has no {HEADS[0]}; expected a network of segmentation_models_pytorch"
        )
    found = _distinct(tensors, prefixes) if name is None else _named(prefixes, name.strip("."))
    if len(found) == 1:
        return found[0]
    raise CheckpointError(
        f"{path}: holds {'the network' if len(prefixes) == 1 else f'{len(prefixes)} networks:'} "
        f"{_shown(prefixes)}"
        + (f", and {'several' if found else 'none'} of the name {name!r}" if name else "")
        + "; choose one with --weights, or model.weights in a --config"
    )


def why_incomplete(path: Path, unused: Mapping[str, Tensor]) -> str | None:
    """Explain which averaged weights are not read, for want of names; None if there are none.

    Args:
        path: of the checkpoint.
        unused: tensors that are of no network.
    """
    # Single numbers are counters and factors beside averaged weights.
    averaged = {key: x for key, x in unused.items() if AVERAGED.fullmatch(key)}
    keys = [key for key, x in averaged.items() if x.numel() > 1 or f"{SHADOW}." in key]
    if not keys:
        return None
    return (
        f"{path}: holds averaged weights without the names of the network's layers "
        f"({keys[0][:MAX_KEY]} ...), which are not read; if they are meant, copy them into the "
        "network and save its state_dict"
    )


def _named(prefixes: Sequence[str], name: str) -> Sequence[str]:
    """Return the networks of a name; where there is none, those whose names begin with it."""
    same = [prefix for prefix in prefixes if _name(prefix) == name]
    return same or [prefix for prefix in prefixes if prefix.startswith(f"{name}.")]


def _name(prefix: str) -> str:
    return prefix.removesuffix(".")


def network_prefixes(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the prefixes of all networks in the order of the file; "" if keys have none."""
    heads = ((key, head) for key in tensors for head in HEADS if key.endswith(head))
    return list(dict.fromkeys(key.removesuffix(head) for key, head in heads))


def head_key(tensors: Mapping[str, Tensor], prefix: str) -> str:
    """Return the key of the last layer of a network."""
    return next(f"{prefix}{head}" for head in HEADS if f"{prefix}{head}" in tensors)


def _shown(prefixes: Sequence[str]) -> str:
    """Return the names of networks; that of keys without a prefix is a dot."""
    more = len(prefixes) - MAX_SHOWN
    names = ", ".join(_name(prefix)[:MAX_KEY] or "." for prefix in prefixes[:MAX_SHOWN])
    return names + (f" and {more} more" if more > 0 else "")


def _distinct(tensors: Mapping[str, Tensor], prefixes: Sequence[str]) -> Sequence[str]:
    """Return the networks without those that equal the first: one network under several names."""
    if len(prefixes) > MAX_NETWORKS:
        return prefixes
    first, *others = prefixes
    expected = _own(tensors, first)
    return [first, *(prefix for prefix in others if not _equal(_own(tensors, prefix), expected))]


def _own(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors of a network by their names within it."""
    starts = tuple(prefix + part for part in PARTS)
    return {key.removeprefix(prefix): x for key, x in tensors.items() if key.startswith(starts)}


def _equal(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(
        a[key].dtype == b[key].dtype and torch.equal(a[key], b[key]) for key in a
    )
