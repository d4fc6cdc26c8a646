"""Conclusion of an audit: which maps can be believed about objects (docs/method.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from capecam.analysis.audit.estimate import Estimate


@dataclass(frozen=True, slots=True)
class Rule:
    """Bounds of the conclusion, kept with the results."""

    detections: int = 10
    """Minimum number of detections; intervals of fewer are too narrow."""
    above_random: float = 0.0
    """Bound of insertion minus deletion, compared with random order."""
    above_distance: float = -0.05
    """The same, compared with distance: a map may be as good, within what does not matter."""
    randomized: float = 0.5
    """Mean rank correlation with the map of a network with a random head, from which on a map shows
    the image: the guided gradient, nearly an edge detector, has .93."""


RULE = Rule()


@dataclass(frozen=True, slots=True)
class Verdict:
    """Verdict on a map."""

    believed: bool | None
    """None: the sample is too small to tell."""
    reason: str
    """A sentence."""


def judge(above_random: Estimate, above_distance: Estimate, head: Estimate | None) -> Verdict:
    """Judge a map by its differences to the two baselines, and by the random head.

    Args:
        above_random: insertion minus deletion, minus that of random order.
        above_distance: the same, minus that of the order by distance.
        head: rank correlation with the map of the network with a random head; None without one.
    """
    unknown = Verdict(None, "Too few detections to tell.")
    if above_random.count < RULE.detections:
        return unknown
    random_low, random_high = _ends(above_random)
    distance_low, distance_high = _ends(above_distance)
    similarity = None if head is None or head.mean is None else abs(head.mean)
    changes = similarity is not None and similarity < RULE.randomized
    failures = {
        "no better than random order": random_high <= RULE.above_random,
        "worse than the mere distance to the object": distance_high <= RULE.above_distance,
        "it hardly changes when the last layer is random": similarity is not None and not changes,
    }
    for reason, failed in failures.items():
        if failed:
            return Verdict(False, f"Cannot be believed: {reason}.")
    if changes and random_low > RULE.above_random and distance_low > RULE.above_distance:
        return Verdict(True, "Can be believed: it finds what the object's probability rests on.")
    return unknown


def _ends(estimate: Estimate) -> tuple[float, float]:
    """Return the ends of an interval of at least two detections."""
    if estimate.low is None or estimate.high is None:
        raise ValueError(f"{estimate} has no interval")
    return estimate.low, estimate.high


def conclude(verdicts: Mapping[str, Verdict], detections: int) -> str:
    """Return one sentence on the maps of a network.

    Args:
        verdicts: by title of the map.
        detections: number of measured detections.
    """
    if detections < RULE.detections:
        return (
            f"A sample of {detections} is too small to say which of this network's maps can be "
            f"believed about objects; it takes at least {RULE.detections} detections."
        )
    yes, no, unknown = (
        [title for title, verdict in verdicts.items() if verdict.believed is believed]
        for believed in (True, False, None)
    )
    judged = []
    if yes:
        judged.append(f"{_listed(yes)} can be believed about objects")
    if no:
        judged.append(f"{_listed(no)} cannot" + ("" if yes else " be believed about objects"))
    parts = [f"With this network, {', but '.join(judged)}"] if judged else []
    if unknown:
        parts.append(f"{detections} detections are too few to judge {_listed(unknown)}")
    return f"{'; '.join(parts)}."


def _listed(names: Sequence[str]) -> str:
    """Return "a, b and c"."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))
