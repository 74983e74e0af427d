"""Before work starts: what the run will need of memory, and a refusal if it cannot fit, with what would."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from transformers import PreTrainedTokenizerBase

from unflinch.config import RunConfig, with_model
from unflinch.data.prompts import Prompt
from unflinch.data.splits import KINDS, LIMITED_KINDS, PromptSets, Splits
from unflinch.errors import NotEnoughMemoryError
from unflinch.launch import workers
from unflinch.models.batches import PADDING_ID
from unflinch.models.chat import encode
from unflinch.models.load import Description, pick_device, pick_dtype
from unflinch.models.loading import loading
from unflinch.models.memory import GIB, free_memory, in_gib, memory_in_use
from unflinch.models.memory_parts import Holding, ModelShape, Workload
from unflinch.models.memory_plan import MemoryPlan, plan_memory, prompt_lengths, read_shape
from unflinch.models.placement import MEMORY_SHARE, computing_devices
from unflinch.models.quantised import can_quantise, linear_bytes
from unflinch.models.thinking import read_thinking, thinking_modes
from unflinch.steps.baseline import ASKED_TOGETHER
from unflinch.steps.fit import SHARES
from unflinch.steps.openings import MOST_BEGUN
from unflinch.steps.prepare import splits_in_modes
from unflinch.subspace.select import SEPARATING_SHARE

Sets = TypeVar("Sets", bound=PromptSets)

Sampled = Mapping[tuple[str, str], Sequence[Sequence[int]]]
"""Ids of some prompts by split and kind."""

_PARTS = ("fit", "select", "test")
_NAMED = 4
"""Settings that an error names as fitting; more would not be read."""
_SAMPLED = 8
"""Prompts of a kind and split whose lengths are taken, from the shortest text to the longest."""


def plan_run(config: RunConfig, splits: Splits, described: Description) -> MemoryPlan:
    """Return what a run needs of memory where its model will be, and what there is.

    Raises:
        ModelError: if its config is of no model that is known.
        NotEnoughMemoryError: if it cannot fit; names what would.
    """
    options = config.model
    with loading(options.model):
        shape = read_shape(described.config, options, config.fit.writers)
    modes = thinking_modes(read_thinking(described.tokenizer), options.thinking, options.model)
    splits = splits_in_modes(splits, modes, options.system_prompt)
    sampled = {
        (part, kind): _read(described.tokenizer, _sample(getattr(getattr(splits, part), kind)), options.thinking_tokens)
        for part in _PARTS
        for kind in KINDS
    }
    plan = plan_for(config, splits, shape, sampled)
    if not plan.fits:
        raise NotEnoughMemoryError(
            f"the run needs {in_gib(plan.needs)} of memory on {plan.device} and has {in_gib(plan.has)}; "
            f"{_advice(config, splits, shape, sampled)}, or say how much it may use with max_memory"
        )
    return plan


def plan_for(config: RunConfig, splits: Splits, shape: ModelShape, sampled: Sampled) -> MemoryPlan:
    """Return the plan of a run with a model of this shape."""
    options = config.model
    device = pick_device(options.device)
    size = pick_dtype(options.dtype, device).itemsize
    used = memory_in_use(device)
    has = int(options.max_memory * GIB) if options.max_memory else used + free_memory(device)
    linear = linear_bytes(options.load_in, shape.stored_linear_bytes) or float(size)
    held = Holding(size, linear, used)
    beside = None if device.type in {"cpu", "mps"} else free_memory(torch.device("cpu"))
    if beside is not None and options.spread == "devices":
        beside -= int(MEMORY_SHARE * beside)
    work = workload(config, splits, sampled)
    elsewhere = [min(has, free_memory(further)) for further in computing_devices(device)[1:]]
    return plan_memory(shape, work, held, str(device), has, SEPARATING_SHARE, beside, options.spread, elsewhere)


def workload(config: RunConfig, splits: Splits, sampled: Sampled) -> Workload:
    """Return how many prompts the steps of a run work on at once."""
    scan, fit, validate = config.scan, config.fit, config.validate
    of_fit = {kind: len(getattr(splits.fit, kind)) for kind in KINDS}
    of_fit["guard"] += len(splits.select.guard)
    a_step = sum(
        min(count, int(share * fit.batch_size)) for count, share in zip(of_fit.values(), SHARES.values(), strict=True)
    )
    answered = []
    for (part, kind), sequences in sampled.items():
        prompts = len(getattr(getattr(splits, part), kind))
        some = part == "fit" and kind != "guard"
        answered.append((min(prompts, ASKED_TOGETHER) if some else prompts, max(map(len, sequences), default=0)))
    longest_target = max(map(len, sampled["fit", "targets"]), default=0)
    return Workload(
        lengths=prompt_lengths([sequence for sequences in sampled.values() for sequence in sequences]),
        answered=tuple(answered),
        begun=(MOST_BEGUN, longest_target + scan.decision_tokens),
        answer_tokens=max(scan.decision_tokens, scan.ordinary_tokens, validate.answer_tokens, validate.kl_tokens),
        fitted=sum(of_fit.values()),
        measured=len(splits.select.ordinary),
        fit_tokens=fit.answer_tokens,
        fine_tuned=a_step if fit.fine_tune_steps else 0,
        kl_tokens=validate.kl_tokens,
    )


def _sample(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Return some of the prompts, from the shortest text to the longest."""
    ascending = sorted(prompts, key=lambda prompt: len(prompt.text))
    places = {round(place * (len(ascending) - 1) / (_SAMPLED - 1)) for place in range(_SAMPLED)}
    return [ascending[place] for place in sorted(places) if ascending]


def _read(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[Prompt], most_thought: int) -> list[tuple[int, ...]]:
    """Return what is read of prompts before the answer: with thinking on, a thought as long as it may be."""
    thought = (PADDING_ID,) * most_thought
    return [encode(tokenizer, prompt) + thought * bool(prompt.thinking) for prompt in prompts]


def _advice(config: RunConfig, splits: Splits, shape: ModelShape, sampled: Sampled) -> str:
    """Return which other settings would fit."""
    few = Splits(_fewer(splits.fit), _fewer(splits.select), _fewer(splits.test))
    settings: list[dict[str, str]] = [{"dtype": "bfloat16"}]
    if can_quantise(pick_device(config.model.device)) and shape.stored_linear_bytes is None:
        settings += [{"load_in": "8bit"}, {"load_in": "4bit"}]
    if config.model.spread is None and config.model.load_in is None:
        settings += [{"spread": "devices"}] + [{"spread": "workers"}] * (workers() > 1)
    tries = [(changes, splits, "") for changes in settings] + [({}, few, "a quarter of the prompts")]
    tries += [(changes, few, " and a quarter of the prompts") for changes in settings]
    fitting = []
    for changes, prompts, more in tries:
        plan = plan_for(with_model(config, **changes), prompts, shape, sampled)
        if plan.fits:
            named = " ".join(f"{name} {value}" for name, value in changes.items())
            fitting.append(f"{named}{more} ({in_gib(plan.needs)})")
    return f"would fit: {', '.join(fitting[:_NAMED])}" if fitting else "take a smaller model or a larger machine"


def _fewer(sets: Sets) -> Sets:
    """Return a quarter of the prompts; the guard stays whole."""
    return replace(sets, **{kind: getattr(sets, kind)[::4] for kind in LIMITED_KINDS})
