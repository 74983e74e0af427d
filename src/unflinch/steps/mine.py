"""Which candidates a model really refuses: targets for a run."""

from __future__ import annotations

from unflinch.data.mine import MinedPrompts, spectrum, spectrum_warnings
from unflinch.data.prompts import Prompt, guard_prompts
from unflinch.data.splits import check_candidates
from unflinch.models.load import LoadedModel
from unflinch.options import ScanOptions
from unflinch.steps.progress import Progress, counter
from unflinch.validate.bundled_judge import BundledJudge
from unflinch.validate.refusal_rate import ask


def mine_prompts(
    loaded: LoadedModel, candidates: tuple[Prompt, ...], options: ScanOptions, progress: Progress
) -> MinedPrompts:
    """Return the candidates that the model refuses, with thinking on or off.

    Raises:
        PromptSetError: if there are no candidates, or one is a guard prompt.
    """
    check_candidates(candidates, guard_prompts())
    asked = loaded.in_modes(candidates)
    advance = counter(progress, "mine: asking candidates", len(asked))
    answers = ask(
        loaded.model,
        loaded.tokenizer,
        asked,
        BundledJudge(),
        options.decision_tokens,
        thinking=loaded.thinking,
        advance=advance,
    )
    refuses = [a.judgement.label == "refuses" for a in answers]
    modes = len(loaded.modes)
    refused = tuple(p for row, p in enumerate(candidates) if any(refuses[row * modes : (row + 1) * modes]))
    return MinedPrompts(refused, len(candidates), spectrum_warnings(spectrum(refused)))
