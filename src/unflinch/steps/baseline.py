"""Step 1: who refuses what, before anything is changed, and how much KL rounding alone costs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from unflinch.data.mine import spectrum, spectrum_warnings
from unflinch.data.prompts import Prompt
from unflinch.data.splits import KINDS, LIMITED_KINDS, FitPrompts, PromptSets, SelectPrompts
from unflinch.errors import PromptSetError, RunFolderError
from unflinch.metrics.kl import kl_divergence
from unflinch.models.chat import encode
from unflinch.models.forward import logits_from_hidden, scored_hidden
from unflinch.models.load import LoadedModel
from unflinch.options import ScanOptions
from unflinch.results import Label
from unflinch.steps.progress import Progress, counter
from unflinch.validate.bundled_judge import BundledJudge
from unflinch.validate.refusal_rate import Answered, ask

logger = logging.getLogger(__name__)

MIN_TARGETS = 4
"""Fewer refused targets in `fit` or `select` do not span a subspace."""
ASKED_TOGETHER = 40
"""Prompts asked before looking whether enough are refused."""


@dataclass(frozen=True)
class Asked:
    """One prompt and what the base model did with it."""

    prompt: Prompt
    label: Label
    tokens: tuple[int, ...] = ()
    """Of the answer; empty for keeps and guards that were answered: such answers are not kept."""
    thought: tuple[int, ...] | None = ()
    """The model's own, between prompt and answer. None where it did not close, and for keeps and guards as the run
    folder holds them: their thoughts are in memory only, see `with_thoughts`."""

    @property
    def decided(self) -> bool:
        """Whether there was an answer: not where a thought did not close."""
        return self.label != "undecided"

    def before_answer(self, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
        """Return all that the model reads before the first token of its answer: the prompt, and its own thought."""
        assert self.thought is not None, "behind a thought that is not there nothing is decided"
        return (*encode(tokenizer, self.prompt), *self.thought)

    @property
    def refused(self) -> bool:
        """Whether the base model plainly refuses."""
        return self.label == "refuses"


@dataclass(frozen=True)
class BaselineSet:
    """All prompts of one split, asked."""

    targets: tuple[Asked, ...]
    keep: tuple[Asked, ...]
    guard: tuple[Asked, ...]
    ordinary: tuple[Asked, ...]
    unasked_targets: tuple[Prompt, ...] = ()
    """Targets left to the fit, which finds out by their score whether they are refused: no answer is written."""
    unasked_keep: tuple[Prompt, ...] = ()
    """The same of keeps."""
    unasked_ordinary: tuple[Prompt, ...] = ()
    """The same of ordinary prompts."""

    def decided(self, *kinds: str) -> list[Asked]:
        """Return the prompts of some kinds that were answered or refused: not those whose thought did not close."""
        return [asked for kind in kinds for asked in getattr(self, kind) if asked.decided]

    def refused(self, kind: str) -> list[Asked]:
        """Return the prompts of a kind that the base model refuses."""
        return [asked for asked in getattr(self, kind) if asked.refused]

    def answered(self, kind: str) -> list[Asked]:
        """Return the prompts of a kind that the base model plainly answers."""
        return [asked for asked in getattr(self, kind) if asked.label == "answers" and asked.tokens]

    def counts(self) -> dict[str, int]:
        """Return how many prompts of each kind were asked, how many of them are refused, and how many are unasked."""
        counts = {}
        for kind in KINDS:
            counts[kind] = len(getattr(self, kind))
            counts[f"{kind}_refused"] = len(self.refused(kind))
        for kind in LIMITED_KINDS:
            counts[f"{kind}_unasked"] = len(getattr(self, f"unasked_{kind}"))
        for kind in KINDS:
            if any(asked.prompt.thinking for asked in getattr(self, kind)):
                counts[f"{kind}_undecided"] = len(getattr(self, kind)) - len(self.decided(kind))
        return counts


@dataclass(frozen=True)
class Baseline:
    """What the base model does with `fit` and `select` prompts."""

    fit: BaselineSet
    select: BaselineSet
    noise_floor: float
    """Mean KL of the model against itself at another batch size, in nats."""


def measure_baseline(
    loaded: LoadedModel, fit: FitPrompts, select: SelectPrompts, options: ScanOptions, progress: Progress
) -> Baseline:
    """Return what the base model does with every select prompt, and with as many fit prompts as it takes.

    Raises:
        PromptSetError: see `check_baseline`.
    """
    judge = BundledJudge()
    asked = {
        name: _ask_split(loaded, sets, judge, options, name, progress)
        for name, sets in (("fit", fit), ("select", select))
    }
    baseline = Baseline(asked["fit"], asked["select"], _noise_floor(loaded, asked["select"].answered("ordinary")))
    check_baseline(baseline, loaded.model_id)
    _warn_of_undecided(baseline, loaded)
    return baseline


def to_json(baseline: Baseline) -> dict[str, Any]:
    """Return what the run folder keeps: keys, labels and tokens, no texts."""

    def rows(asked: Sequence[Asked]) -> list[dict[str, Any]]:
        kept: list[dict[str, Any]] = [{"key": a.prompt.key, "label": a.label, "tokens": list(a.tokens)} for a in asked]
        for row, a in zip(kept, asked, strict=True):
            if a.prompt.thinking:
                row["thought"] = None if a.thought is None else list(a.thought)
        return kept

    return {
        "noise_floor": baseline.noise_floor,
        **{
            name: {
                **{kind: rows(getattr(sets, kind)) for kind in KINDS},
                "unasked_targets": [p.key for p in sets.unasked_targets],
                "unasked_keep": [p.key for p in sets.unasked_keep],
                "unasked_ordinary": [p.key for p in sets.unasked_ordinary],
            }
            for name, sets in (("fit", baseline.fit), ("select", baseline.select))
        },
    }


def from_json(data: dict[str, Any], fit: FitPrompts, select: SelectPrompts) -> Baseline:
    """Return the baseline of a run folder, its prompts taken from the same splits.

    Raises:
        RunFolderError: if a prompt that was asked is no longer in its split.
    """

    def restore(stored: dict[str, Any], sets: PromptSets) -> BaselineSet:
        kinds: dict[str, Any] = {}
        for kind in KINDS:
            by_key = {prompt.key: prompt for prompt in getattr(sets, kind)}
            kinds[kind] = tuple(_asked(by_key[row["key"]], row) for row in stored[kind])
            if (unasked := f"unasked_{kind}") in stored:
                kinds[unasked] = tuple(by_key[key] for key in stored[unasked])
        return BaselineSet(**kinds)

    try:
        return Baseline(restore(data["fit"], fit), restore(data["select"], select), data["noise_floor"])
    except KeyError as error:
        raise RunFolderError(
            "the prompts have changed since this run was started: put the files back as they were, or start a new run"
        ) from error


def _asked(prompt: Prompt, row: dict[str, Any]) -> Asked:
    thought = row.get("thought", [])
    return Asked(prompt, row["label"], tuple(row["tokens"]), None if thought is None else tuple(thought))


def with_thoughts(loaded: LoadedModel, baseline: Baseline, options: ScanOptions) -> Baseline:
    """Return the baseline with the thoughts of keeps and guards, which no file holds: these are asked once more.

    Thoughts stay in memory. Rounding may carry a thought elsewhere than the first time, so that what the model does
    behind it is looked at again, too.
    """

    def known(asked: tuple[Asked, ...]) -> tuple[Asked, ...]:
        missing = [row for row, a in enumerate(asked) if a.decided and a.thought is None]
        prompts, tokens = [asked[row].prompt for row in missing], options.decision_tokens
        found = ask(loaded.model, loaded.tokenizer, prompts, BundledJudge(), tokens, thinking=loaded.thinking)
        rows = list(asked)
        for row, answer in zip(missing, found, strict=True):
            rows[row] = replace(_remembered("keep", asked[row].prompt, answer), thought=answer.thought)
        return tuple(rows)

    def both(sets: BaselineSet) -> BaselineSet:
        return replace(sets, keep=known(sets.keep), guard=known(sets.guard))

    return replace(baseline, fit=both(baseline.fit), select=both(baseline.select))


def _ask_split(
    loaded: LoadedModel, sets: PromptSets, judge: BundledJudge, options: ScanOptions, name: str, progress: Progress
) -> BaselineSet:
    kinds: dict[str, Any] = {}
    for kind in KINDS:
        prompts = getattr(sets, kind)
        advance = counter(progress, f"baseline: asking {name} {kind}", len(prompts))
        tokens = options.ordinary_tokens if kind == "ordinary" else options.decision_tokens
        some = name == "fit" and kind != "guard"
        found: list[Asked] = []
        while len(found) < len(prompts) and not (some and _enough(kind, found, len(loaded.modes), options)):
            asked = prompts[len(found) :][: ASKED_TOGETHER if some else None]
            answers = ask(
                loaded.model, loaded.tokenizer, asked, judge, tokens, thinking=loaded.thinking, advance=advance
            )
            found += [_remembered(kind, p, a) for p, a in zip(asked, answers, strict=True)]
        kinds[kind] = tuple(found)
        if some:
            kinds[f"unasked_{kind}"] = tuple(prompts[len(found) :])
    return BaselineSet(**kinds)


def _enough(kind: str, found: Sequence[Asked], modes: int, options: ScanOptions) -> bool:
    """Return whether so many of the asked prompts did what is expected of their kind that no more need asking.

    The limits are of prompts in one mode; with thinking on and off together twice as many are asked.
    """
    if kind == "ordinary":
        return sum(a.label == "answers" for a in found) >= options.enough_answered * modes
    return sum(a.refused for a in found) >= options.enough_refused * modes


def _remembered(kind: str, prompt: Prompt, answer: Answered) -> Asked:
    label = answer.judgement.label
    private = kind in {"keep", "guard"}
    tokens = () if private and label != "refuses" else answer.tokens
    return Asked(prompt, label, tokens, None if private and prompt.thinking else answer.thought)


@torch.inference_mode()
def _noise_floor(loaded: LoadedModel, ordinary: Sequence[Asked]) -> float:
    sequences = [(*a.before_answer(loaded.tokenizer), *a.tokens) for a in ordinary[:32]]
    if not sequences:
        return 0.0
    wide = scored_hidden(loaded.model, sequences, 4)
    narrow = scored_hidden(loaded.model, sequences, 4, batch_tokens=256)
    values = kl_divergence(logits_from_hidden(loaded.model, wide), logits_from_hidden(loaded.model, narrow))
    return float(values.mean())


def _warn_of_undecided(baseline: Baseline, loaded: LoadedModel) -> None:
    """Say how many thoughts did not close: their prompts count as answered keeps and as targets that bound nothing."""
    asked = [
        a
        for sets in (baseline.fit, baseline.select)
        for kind in KINDS
        for a in getattr(sets, kind)
        if a.prompt.thinking
    ]
    undecided = sum(not a.decided for a in asked)
    if undecided and loaded.thinking:
        logger.warning(
            "%d of %d thoughts did not close within %d tokens, and teach nothing; model.thinking_tokens allows more",
            undecided,
            len(asked),
            loaded.thinking.most_tokens,
        )


def check_baseline(baseline: Baseline, model_id: str) -> None:
    """Return if a patch can be fitted on what the base model did.

    Raises:
        PromptSetError: if it refuses hardly any target, no keep at all, or answers no ordinary prompt.
    """
    for name, sets in (("fit", baseline.fit), ("select", baseline.select)):
        refused = sets.refused("targets")
        if len(refused) < MIN_TARGETS:
            raise PromptSetError(
                f"{model_id} refuses {len(refused)} of the {len(sets.targets)} targets in '{name}'; expected at least "
                f"{MIN_TARGETS}: give prompts that it really refuses, see 'unflinch mine {model_id}'"
            )
        if not sets.refused("keep") + sets.refused("guard"):
            raise PromptSetError(
                f"{model_id} refuses none of the {len(sets.keep) + len(sets.guard)} keep and guard prompts in "
                f"'{name}', so there is no right refusal to protect; give another --keep file or another model"
            )
        if not sets.answered("ordinary"):
            raise PromptSetError(
                f"{model_id} plainly answers none of the {len(sets.ordinary)} ordinary prompts in '{name}', so "
                "there is nothing to hold still; give others with --ordinary"
            )
    for warning in spectrum_warnings(spectrum([a.prompt for a in baseline.fit.refused("targets")])):
        logger.warning("refused targets: %s", warning)
