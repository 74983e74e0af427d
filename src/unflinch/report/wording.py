"""Numbers as a reader sees them, and the sentences that say what they mean."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from unflinch.benchmark_results import BenchmarkScore
from unflinch.report.run_results import RunResults
from unflinch.results import Interval, Limit, RefusalCounts, WriterCoverage, is_kept
from unflinch.robustness_results import EditCost, Mechanism

NO_BREAK = "\N{NO-BREAK SPACE}"
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_LANGUAGES = {
    "ar": "Arabic",
    "de": "German",
    "en": "English",
    "es": "Spanish",
    "fr": "French",
    "hi": "Hindi",
    "it": "Italian",
    "ja": "Japanese",
    "ko": "Korean",
    "pt": "Portuguese",
    "ru": "Russian",
    "zh": "Chinese",
}
_TOKEN_KEYS = ("max_new_tokens", "new_tokens", "answer_tokens")


def percent(share: float, digits: int = 1) -> str:
    """Return a share in [0, 1] as percent: 0.042 -> `4.2 %`."""
    return "–" if math.isnan(share) else f"{100 * share:.{digits}f}{NO_BREAK}%"


def small_percent(share: float) -> str:
    """Return a share as percent with two significant digits: 0.00034 -> `0.034 %`."""
    if math.isnan(share) or share <= 0:
        return percent(share)
    digits = max(1, 1 - math.floor(math.log10(100 * share)))
    return percent(share, digits)


def percent_range(interval: Interval) -> str:
    """Return an interval of shares: `1.5–5.4 %`."""
    return f"{100 * interval.low:.1f}–{percent(interval.high)}"


def power_of_ten(value: float, digits: int = 1) -> str:
    """Return a number in scientific writing: 0.000031 -> `3.1 × 10⁻⁵`."""
    mantissa, exponent = f"{value:.{digits}e}".split("e")
    return f"{mantissa}{NO_BREAK}×{NO_BREAK}10{str(int(exponent)).translate(_SUPERSCRIPTS)}"


def nats(value: float) -> str:
    """Return a KL with four decimals, or in powers of ten where those would hide it."""
    if not math.isfinite(value):
        return "–"
    return power_of_ten(value) if 0 < abs(value) < 0.0005 else f"{value:.4f}"


def p_value(value: float) -> str:
    """Return the p of a test with two significant digits, in powers of ten below a thousandth."""
    return power_of_ten(value) if value < 0.001 else f"{value:.2g}"


def duration(seconds: float) -> str:
    """Return a time: `48 s`, `6 min 40 s`, `1 h 02 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def magnitude(count: int) -> str:
    """Return a large count: 494032768 -> `494 million`."""
    for size, word in ((10**9, "billion"), (10**6, "million")):
        if count >= size:
            return f"{count / size:.3g}{NO_BREAK}{word}"
    return f"{count:,}"


def words(name: str) -> str:
    """Return an identifier as words: `grief_selfcare` -> `grief selfcare`."""
    return name.replace("_", " ")


def title(name: str) -> str:
    """Return an identifier as words with a capital first letter, keeping capitals that are there."""
    spaced = words(name)
    return spaced[:1].upper() + spaced[1:]


def language(code: str) -> str:
    """Return the English name of a language code where it is a common one, else the code."""
    return _LANGUAGES.get(code.lower(), code)


def coverage(writers: Sequence[WriterCoverage]) -> str:
    """Return which residual writers a patch changes, in how many of the layers that have them, and which not and why.

    `mlp.down_proj in 8 of 24 layers; not: mlp.experts.down_proj (fused experts, each for a few of the tokens)`
    """
    changed = [f"{one.writer} in {one.changed} of {one.layers} layers" for one in writers if one.changed]
    left = [f"{one.writer} ({one.reason or 'in no chosen layer'})" for one in writers if not one.changed]
    return "; not: ".join(", ".join(part) for part in (changed, left) if part) or "not recorded"


def benchmark_metric(score: BenchmarkScore) -> str:
    """Return name and metric of a benchmark: `GSM8K strict-match`."""
    names = {"mmlu": "MMLU", "hellaswag": "HellaSwag", "gsm8k": "GSM8K"}
    return f"{names.get(score.benchmark, score.benchmark)} {score.metric.rpartition(', ')[2]}"


def score(value: float, error: float, sign: str = "") -> str:
    """Return a share in percent with its standard error: `43.2 ± 1.6`."""
    return f"{100 * value:{sign}.1f} \N{PLUS-MINUS SIGN} {100 * error:.1f}"


def limit_value(value: float, unit: str) -> str:
    """Return a figure of the verdict in its unit; unit `%` or `share` means that `value` is a share in [0, 1]."""
    if unit in ("%", "share"):
        return percent(value)
    if unit.startswith("nats"):
        return nats(value)
    return f"{value:.4g}{NO_BREAK}{unit}".rstrip()


def limit_range(limit: Limit) -> str:
    """Return the interval of a line of the verdict, in its unit."""
    if limit.interval is None:
        return "–"
    if limit.unit in ("%", "share"):
        return percent_range(limit.interval)
    low, high = (
        limit_value(end, "nats" if limit.unit.startswith("nats") else "")
        for end in (limit.interval.low, limit.interval.high)
    )
    return f"{low}–{high}"


def lost_interval(counts: RefusalCounts) -> Interval:
    """Return the interval of the lost share: the complement of the share still refused."""
    return Interval(1 - counts.after_interval.high, 1 - counts.after_interval.low, counts.after_interval.level)


def compared(ours: float, theirs: float) -> str:
    """Return how a KL compares with another one, smaller being better: `68 times lower`."""
    if not (math.isfinite(ours) and math.isfinite(theirs)) or ours <= 0 or theirs <= 0:
        return "–"
    factor, direction = (theirs / ours, "lower") if ours <= theirs else (ours / theirs, "higher")
    if factor < 1.05:
        return "about the same"
    return f"{factor:.0f} times {direction}" if factor >= 10 else f"{factor:.1f} times {direction}"


def count_difference(ours: int, theirs: int) -> str:
    """Return how a count compares with another one: `202 fewer`."""
    if ours == theirs:
        return "the same"
    return f"{abs(ours - theirs)} {'fewer' if ours < theirs else 'more'}"


def losses(counts: RefusalCounts, kind: str) -> str:
    """Return what happened to the refusals of one kind: `none of 300 right refusals was lost`."""
    if counts.n == 0:
        return f"no {kind} was tested"
    if counts.lost == 0:
        return f"none of {counts.n} {kind}s was lost"
    return f"{counts.lost} of {counts.n} {kind}s {'was' if counts.lost == 1 else 'were'} lost"


def headline(run: RunResults) -> str:
    """Return the run in one sentence of plain words."""
    targets = run.targets
    if targets.n == 0:
        answered = "The base model refused none of the harmless test questions"
    else:
        refused = targets.refused_after
        still = "none is" if refused == 0 else f"{refused} is" if refused == 1 else f"{refused} are"
        answered = f"Of {targets.n} harmless test questions that the base model refuses, {still} still refused"
    kept = f"{losses(run.keep, 'right refusal')}; {losses(run.guard, 'guard refusal')}"
    drift = f"ordinary answers moved by {nats(run.kl.first_token.mean)} nats at the first token"
    return f"{answered}; {kept}; {drift}."


def failed_limits(run: RunResults) -> str:
    """Return what failed, in one sentence; empty when the verdict holds."""
    if run.verdict.holds:
        return ""
    failures = run.verdict.failures
    if not failures:
        return "The run states no complete verdict, which counts as not passed."
    named = "; ".join(
        f"{limit.name}: {limit_value(limit.measured, limit.unit)} (limit {limit_value(limit.limit, limit.unit)})"
        for limit in failures
    )
    verb = "does" if len(failures) == 1 else "do"
    return f"{len(failures)} of {len(run.verdict.limits)} limits {verb} not hold: {named}."


def patch_kept(run: RunResults) -> str:
    """Return whether a patch that did not pass was written, in one sentence; empty when the verdict holds."""
    if run.verdict.holds:
        return ""
    if is_kept(False, run.verdict.guard_holds, bool(run.settings.get("validate", {}).get("keep_best"))):
        return "The patch was written all the same, marked as failed, as the run was told to (keep_best)."
    return "No patch was exported."


def zero_bound(counts: RefusalCounts) -> str:
    """Return what the number of lost refusals says about the rate; the rule of three where none was lost."""
    if counts.n == 0:
        return "nothing was tested, so nothing can be said"
    if counts.lost == 0:
        bound = min(1.0, 3 / counts.n)
        return (
            f"0 lost of {counts.n} does not mean never: the rate is below {percent(bound)} at 95{NO_BREAK}% confidence"
        )
    interval = lost_interval(counts)
    return (
        f"{counts.lost} lost of {counts.n} puts the rate between {percent(interval.low)} and {percent(interval.high)}"
    )


def answer_tokens(settings: Mapping[str, Any]) -> int | None:
    """Return after how many tokens test answers were cut, looking in `validate` before the other settings."""
    for key in _TOKEN_KEYS:
        if isinstance(settings.get(key), int):
            return int(settings[key])
    nested = sorted(
        (key for key, value in settings.items() if isinstance(value, Mapping)), key=lambda key: key != "validate"
    )
    for key in nested:
        if (found := answer_tokens(settings[key])) is not None:
            return found
    return None


def mechanism(found: Mechanism) -> str:
    """Return in words whether refusing is one mechanism or several."""
    first, last = found.ablations[0], found.ablations[-1]
    late = max(found.ablations, key=lambda one: one.refused_in_answer.value - one.refused_at_first_token.value)
    left = percent(first.refused_in_answer.value)
    needed = found.independent_directions
    if needed == 1:
        said = f"Refusing is one mechanism: with one direction taken out {left} of the right refusals are left"
    elif needed:
        said = f"Refusing is redundant: one direction taken out leaves {left} of the right refusals, {needed} end it"
    else:
        rest = percent(last.refused_in_answer.value)
        said = f"Refusing outlasts {last.directions} directions taken out: {left} are left after one, {rest} after all"
    back = late.refused_in_answer.count - late.refused_at_first_token.count
    comes_back = f"It comes back later in the answer in {back} of {late.refused_in_answer.n}" if back > 0 else ""
    read = f"Refused and answered prompts can be told apart from layer {found.first_layer} on"
    return ". ".join(part for part in (said, comes_back, read) if part) + "."


def edit_cost(found: EditCost) -> str:
    """Return in words what a patch will cost at least."""
    goal = f"To lower the mean refusal score of false refusals by {found.shift:.1f} logits"
    if found.least_kl is None:
        return f"{goal} and hold that of right ones, no change of the edited modules will do: they are not told apart."
    alone = f" ({nats(found.least_kl_unguarded)} if they may fall)" if found.least_kl_unguarded is not None else ""
    return (
        f"{goal} and hold that of right ones costs at least {nats(found.least_kl)} nats of KL a token of the answer"
        f"{alone}, to second order; every prompt for itself costs more."
    )
