"""Logistic models of being right: fitted, selected and judged on blocks that are held out."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import pandas as pd
from scipy.special import expit, logit
from sklearn import config_context
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold

from capecam.analysis.held_out import (
    Bools,
    Estimate,
    Floats,
    Integers,
    log_losses,
    mean_gain,
    standard_error,
)
from capecam.detections.confidence_calibration import CLASS, Term, feature_names, features

FOLDS = 5

STRENGTHS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Inverse strengths of the L2 penalty (``C`` of scikit-learn) from which one is chosen."""

MAX_ITERATIONS = 1000

PATIENCE = 3
"""Signals that are tried without a lower loss before the search for more ends."""


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """Detections that are known to be right or wrong."""

    x: Floats
    """(N, F) base features, then a column for each candidate; NaN where missing."""
    base: tuple[str, ...]
    """Names of the features that every model has."""
    candidates: tuple[str, ...]
    """Columns that may become signals."""
    right: Bools
    """(N,)"""
    block: Integers
    """(N,) number of the block of ground."""

    @classmethod
    def of(
        cls,
        table: pd.DataFrame,
        right: Bools,
        block: Integers,
        classes: Sequence[str],
        candidates: Sequence[str],
    ) -> Self:
        """Return labelled rows of a table of detections.

        Args:
            table: N rows: ``class``, ``confidence``, ``area_m2`` and the candidates.
            right: (N,)
            block: (N,)
            classes: names of the foreground classes.
            candidates: columns that may become signals.
        """
        x, base = features(table, classes, candidates), feature_names(classes, ())
        return cls(x, tuple(base), tuple(candidates), right, block)

    def __len__(self) -> int:
        return len(self.right)

    def take(self, chosen: Integers | Bools) -> Labelled:
        """Return the rows of an index or mask."""
        rows = (self.x[chosen], self.base, self.candidates, self.right[chosen], self.block[chosen])
        return Labelled(*rows)

    def among(self, candidates: Sequence[str]) -> Labelled:
        """Return the same with some of the candidates only."""
        return replace(self, x=self.columns(candidates), candidates=tuple(candidates))

    def columns(self, signals: Sequence[str]) -> Floats:
        """Return (N, F) base features and those of some signals."""
        names = (*self.base, *self.candidates)
        return self.x[:, [names.index(name) for name in (*self.base, *signals)]]


@dataclass(frozen=True, slots=True)
class Fit:
    """A fitted model; features are in the order of ``Labelled.columns``."""

    intercept: float
    mean: Floats
    """(F,)"""
    scale: Floats
    """(F,)"""
    weight: Floats
    """(F,)"""

    def predict(self, x: Floats) -> Floats:
        """Return (N,) probabilities of (N, F) features."""
        standard = np.where(np.isnan(x), 0.0, (x - self.mean) / self.scale)
        return np.asarray(expit(self.intercept + standard @ self.weight))

    def terms(self, names: Sequence[str]) -> tuple[Term, ...]:
        """Return the terms of the file, with the names of the features."""
        rows = zip(names, self.mean.tolist(), self.scale.tolist(), self.weight.tolist(),
                   strict=True)  # fmt: skip
        return tuple(Term(feature=f, mean=m, scale=s, weight=w) for f, m, s, w in rows)


def fit(data: Labelled, signals: Sequence[str], strength: float) -> Fit:
    """Fit a logistic model; every feature but the intercept is shrunk.

    Args:
        data: labelled objects.
        signals: beside the base.
        strength: inverse of the penalty.
    """
    x = data.columns(signals)
    mean, scale = _standard(x, [name.startswith(CLASS) for name in (*data.base, *signals)])
    standard = np.where(np.isnan(x), 0.0, (x - mean) / scale)
    if data.right.all() or not data.right.any():  # in a fold, where errors are in few blocks
        share = (data.right.sum() + 0.5) / (len(data) + 1)
        return Fit(float(logit(share)), mean, scale, np.zeros(len(mean)))
    model = LogisticRegression(C=strength, solver="newton-cholesky", max_iter=MAX_ITERATIONS)
    with config_context(assume_finite=True, skip_parameter_validation=True):  # thousands of fits
        model.fit(standard, data.right)
    return Fit(float(model.intercept_[0]), mean, scale, np.asarray(model.coef_[0], np.float64))


def _standard(x: Floats, is_class: Sequence[bool]) -> tuple[Floats, Floats]:
    """Return (F,) means and scales; 0 and 1 for classes, which are shrunk towards each other."""
    known = ~np.isnan(x)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, x, 0).sum(axis=0) / count
    scale = np.sqrt((np.where(known, x - mean, 0) ** 2).sum(axis=0) / count)
    plain = np.array(is_class)
    return np.where(plain, 0, mean), np.where(plain | (scale == 0), 1, scale)


def folds(data: Labelled) -> Integers:
    """Return (N,) the fold of each object; a block is in one fold, and errors are in all."""
    fold = np.empty(len(data), np.int64)
    splits = StratifiedGroupKFold(
        min(FOLDS, len(np.unique(data.block))), shuffle=True, random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # errors may be in fewer blocks than folds
        for number, (_, held) in enumerate(splits.split(data.x, data.right, data.block)):
            fold[held] = number
    return fold


def held_out(data: Labelled, fold: Integers, signals: Sequence[str], strength: float) -> Floats:
    """Return (N,) probabilities, each by a model that has not seen the object's fold."""
    p, x = np.empty(len(data)), data.columns(signals)
    for number in np.unique(fold):
        held = fold == number
        p[held] = fit(data.take(~held), signals, strength).predict(x[held])
    return p


def choose_strength(data: Labelled, fold: Integers, signals: Sequence[str]) -> float:
    """Return the strength with the lowest held-out log-loss; of equal ones, the most shrunk."""
    losses = [
        log_losses(held_out(data, fold, signals, strength), data.right).mean()
        for strength in STRENGTHS
    ]
    return STRENGTHS[int(np.argmin(losses))]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model on the path of :func:`select`."""

    signals: tuple[str, ...]
    strength: float
    losses: Floats
    """(N,) held-out log-losses."""


def select(data: Labelled) -> Candidate:
    """Choose signals and strength by held-out log-loss, with the one-standard-error rule.

    Signals are added one by one, the best one first. Of all models on this path, the smallest one
    is taken whose loss is within a standard error of the lowest (Breiman et al. 1984): signals
    that only seem to pay are left out.
    """
    path = list(_path(data, folds(data)))
    best = min(path, key=lambda model: float(model.losses.mean()))
    for model in path:
        worse = model.losses - best.losses
        if worse.mean() <= standard_error(worse, data.block):
            break
    ordered = tuple(name for name in data.candidates if name in model.signals)
    return replace(model, signals=ordered)


def _path(data: Labelled, fold: Integers) -> Iterator[Candidate]:
    """Yield growing models; the signal with the lowest loss is added next. At least the base."""
    chosen: tuple[str, ...] = ()
    lowest, since = np.inf, 0
    while True:
        strength = choose_strength(data, fold, chosen)
        losses = log_losses(held_out(data, fold, chosen, strength), data.right)
        yield Candidate(chosen, strength, losses)
        lowest, since = min(lowest, losses.mean()), 0 if losses.mean() < lowest else since + 1
        rest = [name for name in data.candidates if name not in chosen]
        if not rest or since >= PATIENCE:
            return
        trials = [
            log_losses(held_out(data, fold, (*chosen, name), strength), data.right).mean()
            for name in rest
        ]
        chosen = (*chosen, rest[int(np.argmin(trials))])


def judged(data: Labelled) -> Floats:
    """Return (N,) held-out probabilities of the whole procedure: all choices are made again
    without the fold. Without candidates it is that of the base."""
    p, fold = np.empty(len(data)), folds(data)
    for number in np.unique(fold):
        held = fold == number
        train = data.take(~held)
        model = select(train)
        p[held] = fit(train, model.signals, model.strength).predict(
            data.take(held).columns(model.signals)
        )
    return p


@dataclass(frozen=True, slots=True)
class Trial:
    """Test of whether some candidates pay beside what is used already."""

    signals: tuple[str, ...]
    """Selected ones of the candidates."""
    gain: Estimate
    """In held-out log-loss, over what was used before."""
    pays: bool


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """The signals that are used, with held-out probabilities."""

    signals: tuple[str, ...]
    strength: float
    base: Floats
    """(N,) with confidence, area and class alone."""
    p: Floats
    """(N,) of what is used; the signals were selected without the fold."""
    trials: tuple[Trial, ...]


def choose(data: Labelled, groups: Sequence[Sequence[str]]) -> Choice:
    """Choose signals, and use them only if they pay on blocks that had no part in the choice.

    Args:
        data: with all candidates.
        groups: candidates in the order in which they are tried; the later ones are used only if
            the gain over the earlier ones exceeds its standard error.
    """
    model = select(data.among(()))
    base = p = judged(data.among(()))
    trials: list[Trial] = []
    candidates: list[str] = []
    for group in filter(None, groups):
        candidates += group
        some = data.among(candidates)
        selected, other = select(some), judged(some)
        gains = log_losses(p, data.right) - log_losses(other, data.right)
        pays = gains.mean() > standard_error(gains, data.block)
        pays &= bool(set(selected.signals) - set(model.signals))
        trials.append(Trial(selected.signals, mean_gain(gains, data.block), bool(pays)))
        if pays:
            model, p = selected, other
    return Choice(model.signals, model.strength, base, p, tuple(trials))


@dataclass(frozen=True, slots=True)
class Ablation:
    """Worth of one signal on held-out blocks: differences of the log-loss, above 0 better."""

    signal: str
    added: Estimate
    """Gain of base and signal over the base."""
    removed: Estimate
    """Gain of all candidates over all but this one."""


def ablate(data: Labelled, fold: Integers) -> list[Ablation]:
    """Return the worth of each candidate."""

    def losses(signals: Sequence[str], strength: float) -> Floats:
        return log_losses(held_out(data, fold, signals, strength), data.right)

    every = data.candidates
    few, many = choose_strength(data, fold, ()), choose_strength(data, fold, every)
    base, full = losses((), few), losses(every, many)
    return [
        Ablation(
            name,
            mean_gain(base - losses((name,), few), data.block),
            mean_gain(losses([n for n in every if n != name], many) - full, data.block),
        )
        for name in every
    ]
