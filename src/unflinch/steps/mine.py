"""Which candidates a model really refuses: targets for a run."""

from __future__ import annotations

from unflinch.data.mine import MinedPrompts, spectrum, spectrum_warnings
from unflinch.data.prompts import Prompt, guard_prompts
from unflinch.data.splits import check_targets
from unflinch.models.load import LoadedModel
from unflinch.options import ScanOptions
from unflinch.steps.progress import Progress, counter
from unflinch.validate.bundled_judge import BundledJudge
from unflinch.validate.refusal_rate import ask


def mine_prompts(
    loaded: LoadedModel, candidates: tuple[Prompt, ...], options: ScanOptions, progress: Progress
) -> MinedPrompts:
    """Return the candidates that the model refuses.

    Raises:
        PromptSetError: if there are no candidates, or one is a guard prompt.
    """
    check_targets(candidates, guard_prompts(), ())
    advance = counter(progress, "mine: asking candidates", len(candidates))
    answers = ask(loaded.model, loaded.tokenizer, candidates, BundledJudge(), options.decision_tokens, advance=advance)
    refused = tuple(p for p, a in zip(candidates, answers, strict=True) if a.judgement.label == "refuses")
    return MinedPrompts(refused, len(candidates), spectrum_warnings(spectrum(refused)))
