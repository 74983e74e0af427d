"""With thinking on, everything that is asked is decided, judged and compared behind the model's own thought."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from thinking_models import ANSWER, ENDLESS, FORBIDDEN, REFUSAL, thinking_model, thinking_tokenizer

from unflinch.data.dialogues import Dialogue
from unflinch.data.prompts import Prompt
from unflinch.metrics.refusal_score import RefusalOpenings
from unflinch.models.architecture import architecture_of
from unflinch.models.chat import encode
from unflinch.models.load import LoadedModel
from unflinch.models.thinking import read_thinking
from unflinch.options import ScanOptions
from unflinch.steps.baseline import Asked, Baseline, BaselineSet, with_thoughts
from unflinch.steps.decisions import decisions
from unflinch.steps.mine import mine_prompts
from unflinch.steps.progress import silent
from unflinch.validate.dialogues import lead
from unflinch.validate.judges import RuleJudge
from unflinch.validate.refusal_rate import ask, counts_as_refused

PLAIN, REFUSED, UNDECIDED = "Draw a cat.", f"Draw {FORBIDDEN} fruit.", f"Draw {ENDLESS} seas."
THOUGHT = "<think>hm</think>\n\n"


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    tokenizer = thinking_tokenizer()
    model, thinking = thinking_model(tokenizer), read_thinking(tokenizer)
    assert thinking is not None
    thinking = replace(thinking, most_tokens=16)
    row = architecture_of(model)
    return LoadedModel(model, tokenizer, row, "tiny", "tiny", None, "hash", thinking=thinking, modes=(False, True))


def ids_of(loaded: LoadedModel, text: str) -> tuple[int, ...]:
    return tuple(loaded.tokenizer.encode(text, add_special_tokens=False))


def test_the_judge_reads_the_final_answer_and_an_unclosed_thought_counts_against_the_patch(
    loaded: LoadedModel,
) -> None:
    prompts = loaded.in_modes([Prompt(PLAIN), Prompt(REFUSED), Prompt(UNDECIDED)])
    answers = ask(loaded.model, loaded.tokenizer, prompts, RuleJudge(), 8, thinking=loaded.thinking)
    assert [a.text for a in answers] == [ANSWER, ANSWER, REFUSAL, REFUSAL, ANSWER, ""]
    thoughts = [a.thought and str(loaded.tokenizer.decode(list(a.thought))) for a in answers]
    assert thoughts == [(), THOUGHT, (), THOUGHT, (), None]
    labels = [a.judgement.label for a in answers]
    assert labels == ["answers", "answers", "refuses", "refuses", "answers", "undecided"]
    assert counts_as_refused(True, "undecided")
    assert not counts_as_refused(False, "undecided")


def test_a_refusal_is_decided_at_the_first_token_of_the_final_answer_in_both_modes(loaded: LoadedModel) -> None:
    prompts = loaded.in_modes([Prompt(REFUSED)])
    answers = ask(loaded.model, loaded.tokenizer, prompts, RuleJudge(), 8, thinking=loaded.thinking)
    (sorry,) = ids_of(loaded, REFUSAL)
    openings = RefusalOpenings(torch.nn.functional.one_hot(torch.tensor(sorry), len(loaded.tokenizer)).float())
    asked = [Asked(p, a.judgement.label, a.tokens, a.thought) for p, a in zip(prompts, answers, strict=True)]
    off, on = decisions(loaded.tokenizer, asked, openings)
    assert off.ids == encode(loaded.tokenizer, prompts[0])
    assert on.ids == (*encode(loaded.tokenizer, prompts[1]), *ids_of(loaded, THOUGHT))
    for decision in (off, on):
        with torch.no_grad():
            logits = loaded.model(input_ids=torch.tensor([decision.ids])).logits[:, -1]
        assert logits.argmax() == sorry
        assert openings.score(logits) > 0


def test_thoughts_that_no_file_holds_are_written_again_and_unclosed_ones_are_undecided(loaded: LoadedModel) -> None:
    keep = tuple(Asked(p, "refuses", (1,), () if not p.thinking else None) for p in loaded.in_modes([Prompt(REFUSED)]))
    guard = (Asked(Prompt(UNDECIDED, thinking=True), "answers", (), None),)
    targets = (Asked(Prompt(PLAIN, thinking=True), "undecided", (), None),)
    some = BaselineSet(targets, keep, guard, ())
    found = with_thoughts(loaded, Baseline(some, some, 0.0), ScanOptions())
    assert found.fit == found.select
    assert [a.thought for a in found.fit.keep] == [(), ids_of(loaded, THOUGHT)]
    assert [a.label for a in found.fit.guard] == ["undecided"]
    assert found.fit.targets == targets
    assert with_thoughts(loaded, found, ScanOptions()) == found


def test_what_a_model_does_behind_a_thought_that_is_written_again_is_looked_at_again(loaded: LoadedModel) -> None:
    refused, answered = (Asked(Prompt(text, thinking=True), "refuses", (1,), None) for text in (REFUSED, PLAIN))
    some = BaselineSet((), (refused, answered), (), ())
    found = with_thoughts(loaded, Baseline(some, some, 0.0), ScanOptions()).fit.keep
    assert [a.label for a in found] == ["refuses", "answers"]
    assert [a.tokens for a in found] == [ids_of(loaded, REFUSAL), ()]  # of answers to keeps nothing is kept
    assert [a.thought for a in found] == [ids_of(loaded, THOUGHT)] * 2


def test_tokens_are_chosen_for_every_prompt_by_its_own_place_and_for_its_thought_by_another(
    loaded: LoadedModel,
) -> None:
    places: list[list[int]] = []

    def choose(logits: torch.Tensor, own: Sequence[int]) -> torch.Tensor:
        places.append(sorted(own))
        return logits.argmax(-1)

    prompts = [Prompt(UNDECIDED, thinking=True), Prompt(PLAIN, thinking=False), Prompt(REFUSED, thinking=True)]
    ask(loaded.model, loaded.tokenizer, prompts, RuleJudge(), 8, thinking=loaded.thinking, choose=choose)
    seen = {place for some in places for place in some}
    assert {place for place in seen if place < len(prompts)} == {1, 2}  # the first has no answer
    assert {place - 2**32 for place in seen if place >= len(prompts)} == {0, 2}


def test_a_dialogue_goes_on_from_the_answer_without_its_thought(loaded: LoadedModel) -> None:
    off, on = loaded.in_modes([Dialogue((PLAIN, PLAIN), "everyday", "en")])
    led = lead(loaded.model, loaded.tokenizer, [off, on], 8, thinking=loaded.thinking)
    assert [transcript.texts for transcript in led] == [(ANSWER, ANSWER)] * 2
    for transcript, mode in zip(led, (False, True), strict=True):
        texts = [str(loaded.tokenizer.decode(list(read))) for read in transcript.contexts]
        assert [text.count("hm") for text in texts] == [int(mode), int(mode)]
        assert texts[1].count(ANSWER) == 1


def test_a_candidate_is_mined_once_if_it_is_refused_in_either_mode(loaded: LoadedModel) -> None:
    candidates = tuple(Prompt(text, category=f"group {n % 2}") for n, text in enumerate((PLAIN, REFUSED, UNDECIDED)))
    found = mine_prompts(loaded, candidates, ScanOptions(), silent)
    assert (found.refused, found.asked) == (candidates[1:2], 3)


def test_the_system_prompt_of_a_run_stands_before_prompts_that_have_none(loaded: LoadedModel) -> None:
    under = replace(loaded, system_prompt="Be kind.", modes=(None,))
    asked = under.in_modes([Prompt(PLAIN), Prompt(PLAIN, system="Be brief.")])
    assert asked == (Prompt(PLAIN, system="Be kind."), Prompt(PLAIN, system="Be brief."))


def test_the_same_prompt_in_two_modes_is_two_prompts(loaded: LoadedModel) -> None:
    plain = Prompt(PLAIN)
    off, on = loaded.in_modes([plain])
    assert len({plain.key, off.key, on.key}) == 3
    assert replace(on, thinking=None).key == plain.key
