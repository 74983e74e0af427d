"""How far judges agree with one another: Cohen's kappa of every two."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from itertools import combinations
from math import isfinite
from typing import Final

from sklearn.metrics import cohen_kappa_score

from unflinch.results import Agreement, Label

REFUSALS: Final = frozenset({"partly", "evades", "refuses"})


def agreements(labels: Mapping[str, Sequence[Label]]) -> tuple[Agreement, ...]:
    """Return the agreement of every two judges over the same answers.

    Cohen's kappa is (p - e) / (1 - e), p being the share of equal labels and e the share expected of two judges
    that label independently with these frequencies; it is undefined where e = 1.

    Args:
        labels: what each judge says of the same answers, in the same order, by the judge's name.
    """
    return tuple(_agreement(*first, *second) for first, second in combinations(labels.items(), 2))


def _agreement(first: str, ours: Sequence[Label], second: str, theirs: Sequence[Label]) -> Agreement:
    same = sum(one == other for one, other in zip(ours, theirs, strict=True))
    refusing = _kappa([label in REFUSALS for label in ours], [label in REFUSALS for label in theirs])
    return Agreement(first, second, len(ours), same, _kappa(ours, theirs), refusing)


def _kappa(ours: Sequence[Label] | Sequence[bool], theirs: Sequence[Label] | Sequence[bool]) -> float | None:
    if not ours:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where it is undefined, scikit-learn warns and returns no number
        kappa = float(cohen_kappa_score(ours, theirs))
    return kappa if isfinite(kappa) else None
