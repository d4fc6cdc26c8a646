"""Styles of polygons by rules, which are also the legend."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from xml.etree import ElementTree as ET

import numpy as np
from numpy.typing import NDArray

from capecam.views.styles.qml import LayerStyle
from capecam.views.styles.symbols import area

STEPS = 5
"""Shades of a graduated style."""

PALEST = 0.15
"""Share of the full colour in the first of them."""

FIGURES = 3
"""Significant figures of the limits between them."""

NO_VALUE = "#C8C8C8"


@dataclass(frozen=True, slots=True)
class Rule:
    """One entry of a legend; what is inside others is drawn where all of them apply."""

    label: str
    where: str
    """QGIS expression."""
    symbol: ET.Element | None = None
    """Without it only the rules inside draw."""
    shown: bool = True
    """Whether it is ticked when the layer opens."""
    inside: tuple[Rule, ...] = ()


def graduated(
    value: str, values: NDArray[np.float64], color: str, missing: str
) -> tuple[Rule, ...]:
    """Shades of a colour for equal shares of the values; grey where there is none.

    Args:
        value: QGIS expression, such as the quoted name of a column.
        values: that it takes; NaN is none.
        color: #RRGGBB of the highest.
        missing: what it means to have no value.
    """
    known = values[~np.isnan(values)]
    limits = _limits(known[known > 0])
    rules = [
        Rule(missing, f"{value} IS NULL", area(NO_VALUE)),
        Rule("0", f"{value} = 0", area("#FFFFFF")),
    ]
    edges = ["0", *(f"{limit:g}" for limit in limits)]
    for step, (low, high) in enumerate(pairwise(edges), start=1):
        where = f"{value} > {low} AND {value} <= {high}"
        rules.append(Rule(f"{low} - {high}", where, area(_shade(color, step / len(edges)))))
    rules.append(Rule(f"over {edges[-1]}", f"{value} > {edges[-1]}", area(color)))
    return tuple(rules)


def _limits(values: NDArray[np.float64]) -> list[float]:
    """Between shades; fewer where values are few."""
    if not len(values):
        return []
    found = np.quantile(values, np.arange(1, STEPS) / STEPS)
    rounded = {float(f"{value:.{FIGURES}g}") for value in found}
    return sorted(limit for limit in rounded if limit < values.max())


def _shade(color: str, share: float) -> str:
    """A colour mixed with white."""
    share = PALEST + (1 - PALEST) * share
    rgb = (round(255 + (value - 255) * share) for value in bytes.fromhex(color[1:]))
    return "#" + "".join(f"{value:02X}" for value in rgb)


def ruled(rules: Sequence[Rule], *more: ET.Element, labels: ET.Element | None = None) -> LayerStyle:
    """A style of rules, with labels and other elements where there are any."""
    renderer = ET.Element("renderer-v2", type="RuleRenderer", symbollevels="0")
    symbols = ET.Element("symbols")
    _add(ET.SubElement(renderer, "rules", key="root"), symbols, rules, "rule")
    renderer.append(symbols)
    labelled = () if labels is None else (labels,)
    return LayerStyle((renderer, *labelled, *more), {"labelsEnabled": str(len(labelled))})


def _add(parent: ET.Element, symbols: ET.Element, rules: Sequence[Rule], key: str) -> None:
    """The rules under an element, and what they draw with under ``symbols``."""
    for number, rule in enumerate(rules):
        own = f"{key}-{number}"
        facts = {"key": own, "label": rule.label, "filter": rule.where}
        facts["checkstate"] = "1" if rule.shown else "0"
        if rule.symbol is not None:
            facts["symbol"] = str(len(symbols))
            symbols.append(_named(rule.symbol, facts["symbol"]))
        _add(ET.SubElement(parent, "rule", facts), symbols, rule.inside, own)


def _named(symbol: ET.Element, name: str) -> ET.Element:
    symbol = deepcopy(symbol)
    for part in symbol.iter("symbol"):  # markers inside are named after the symbol around them
        part.set("name", name if part is symbol else part.get("name", "").replace("@0", f"@{name}"))
    return symbol
