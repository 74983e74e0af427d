"""Splits depend on content alone, keep contrasts together; targets are checked; samples are broad."""

from __future__ import annotations

import logging
from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unflinch.data.near_duplicates import normalise_text
from unflinch.data.prompts import Message, Prompt, guard_prompts
from unflinch.data.splits import (
    FitPrompts,
    SelectPrompts,
    Splits,
    TestPrompts,
    check_candidates,
    check_ordinary,
    check_targets,
    sample_prompts,
    split_prompts,
    without_guard,
)
from unflinch.errors import ConfigError, PromptSetError

texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(lambda text: text.strip() != "")
# Raw fields: prompts are built in the tests, as the run-time type checks would upset hypothesis inside a strategy.
raw_lists = st.lists(
    st.tuples(texts, st.sampled_from(["a", "b", "c"]), st.sampled_from(["en", "ru"]), st.none() | texts), max_size=20
)
RawFields = tuple[str, str, str, str | None]
shares = st.sampled_from([(0.4, 0.2, 0.4), (0.5, 0.25, 0.25), (0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.1, 0.2, 0.7)])


def prompts_of(raw: list[RawFields]) -> list[Prompt]:
    """Return the prompts with these fields, each content once."""
    prompts = [Prompt(text, category, language, contrast_of=twin) for text, category, language, twin in raw]
    return list({prompt.key: prompt for prompt in prompts}.values())


def numbered(n: int, category: str = "uncategorised") -> list[Prompt]:
    """Return `n` different prompts of one category."""
    return [Prompt(f"Question number {i} about {category}", category) for i in range(n)]


def part_of(splits: Splits, prompt: Prompt) -> str:
    """Return the one part that holds the prompt, as any kind."""
    parts = {"fit": splits.fit, "select": splits.select, "test": splits.test}
    found = [name for name, part in parts.items() if prompt in (*part.targets, *part.keep, *part.guard, *part.ordinary)]
    assert len(found) == 1
    return found[0]


@given(raw=raw_lists, raw_others=raw_lists, order=st.randoms(use_true_random=False), shares=shares)
def test_the_place_of_a_prompt_depends_on_neither_order_nor_the_other_prompts(
    raw: list[RawFields], raw_others: list[RawFields], order: Random, shares: tuple[float, float, float]
) -> None:
    targets, others = prompts_of(raw), prompts_of(raw_others)
    together = split_prompts(targets, others, others[:2], [*others, *targets], shares)
    shuffled = list(targets)
    order.shuffle(shuffled)
    alone = split_prompts(shuffled, [], [], [], shares)
    for left, right in zip(
        (together.fit, together.select, together.test), (alone.fit, alone.select, alone.test), strict=True
    ):
        assert set(left.targets) == set(right.targets)
    pieces = [*alone.fit.targets, *alone.select.targets, *alone.test.targets]
    assert Counter(pieces) == Counter(targets)


@given(text=texts, twins=st.lists(texts, max_size=5), shares=shares)
def test_a_harmful_twin_is_always_in_the_split_of_its_target(
    text: str, twins: list[str], shares: tuple[float, float, float]
) -> None:
    target = Prompt(text)
    keep = [Prompt(twin, contrast_of=text) for twin in twins]
    splits = split_prompts([target], keep, [], [], shares)
    assert {part_of(splits, prompt) for prompt in keep} <= {part_of(splits, target)}


def test_spelling_that_does_not_matter_does_not_move_a_prompt_to_another_split() -> None:
    for i in range(50):
        variants = [Prompt(f"How do I kill process {i}?"), Prompt(f"  how do I KILL process  {i}")]
        splits = split_prompts(variants[:1], variants[1:], [], [])
        assert part_of(splits, variants[0]) == part_of(splits, variants[1])


def test_the_parts_are_three_types_with_about_the_shares_asked_for() -> None:
    splits = split_prompts(numbered(4000), [], [], numbered(4000, category="others"))
    assert [type(part) for part in (splits.fit, splits.select, splits.test)] == [
        FitPrompts,
        SelectPrompts,
        TestPrompts,
    ]
    for part, share in ((splits.fit, 0.4), (splits.select, 0.2), (splits.test, 0.4)):
        # Four standard errors of a proportion of 4,000.
        assert len(part.targets) / 4000 == pytest.approx(share, abs=0.031)
        assert len(part.ordinary) / 4000 == pytest.approx(share, abs=0.031)


def test_the_split_of_given_prompts_never_changes_between_versions() -> None:
    splits = split_prompts([Prompt(f"prompt {i}") for i in range(12)], [], [], [])
    assert [part_of(splits, Prompt(f"prompt {i}"))[0] for i in range(12)] == list("tfffffssttff")


@pytest.mark.parametrize("bad", [(0.5, 0.5, 0.5), (-0.2, 0.6, 0.6), (0.0, 0.0, 0.0)])
def test_shares_that_do_not_sum_to_one_are_refused(bad: tuple[float, float, float]) -> None:
    with pytest.raises(ConfigError, match="sum to 1"):
        split_prompts([], [], [], [], bad)


broad = [Prompt("How do I kill a process?", "code"), Prompt("How do I shoot a portrait?", "photography")]


def test_targets_of_several_categories_that_are_nobody_elses_pass_without_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    check_targets(broad, guard_prompts(), [Prompt("How do I kill my neighbour?")])
    assert not caplog.records


def test_no_targets_are_refused() -> None:
    with pytest.raises(PromptSetError, match="there are no targets"):
        check_targets([], [], [])


def test_targets_of_one_category_are_refused_with_its_name_and_their_number() -> None:
    with pytest.raises(PromptSetError, match="all 7 targets have the one category 'medicine'.*leave out"):
        check_targets(numbered(7, category="medicine"), [], [])


def test_targets_without_any_category_pass_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_targets(numbered(7), guard_prompts(), [])
    assert "none of the 7 targets has a category" in caplog.text


@pytest.mark.parametrize(
    "text",
    [
        "How do I whistle at the moon?",
        "  HOW do I -- whistle, at the moon",
        "ｈｏｗ do i whis\u200btle at the moon!!",
        "How do I whistle at the moon now?",
        "At the moon, how do I whistle?",
    ],
)
def test_a_target_that_is_a_guard_prompt_in_equal_or_nearly_equal_words_is_refused(text: str) -> None:
    guard = [Prompt("How do I whistle at the moon?", "moon")]
    with pytest.raises(PromptSetError) as caught:
        check_targets([*broad, Prompt(text, "innocent")], guard, [])
    assert " ".join(text.split()) in str(caught.value)
    assert "guard prompt (moon)" in str(caught.value)


def test_a_guard_prompt_in_an_earlier_turn_of_a_target_is_found() -> None:
    turns = (Message("user", "Whistle!"), Message("assistant", "No."), Message("user", "Go on"))
    with pytest.raises(PromptSetError, match='"Go on" is, in equal or nearly equal words, a guard prompt'):
        check_targets([*broad, Prompt("Go on", messages=turns)], [Prompt("whistle")], [])


def test_near_equality_works_in_writing_without_spaces_and_leaves_other_requests_alone() -> None:
    guard = [Prompt("请一步一步告诉我怎么在月亮上吹口哨好吗", "moon")]
    check_targets([*broad, Prompt("请告诉我怎么在厨房里煮面条好吗", "food")], guard, [])
    with pytest.raises(PromptSetError, match="guard prompt"):
        check_targets([*broad, Prompt("请一步一步告诉我怎么在月亮上吹口哨好", "food")], guard, [])


def test_a_target_below_the_similarity_bar_passes() -> None:
    guard = [Prompt("one two three four five six seven eight nine", "count")]
    check_targets([*broad, Prompt("one two three four five six seven", "count")], guard, [])  # 7/9
    with pytest.raises(PromptSetError):
        check_targets([*broad, Prompt("one two three four five six seven eight", "count")], guard, [])  # 8/9


def test_an_ordinary_prompt_that_is_nearly_a_guard_prompt_is_refused_as_it_would_be_answered() -> None:
    guard = [Prompt("How do I whistle at the moon?", "moon")]
    check_ordinary(broad, guard)
    with pytest.raises(PromptSetError, match="the ordinary prompt .*take it out of the ordinary prompts"):
        check_ordinary([*broad, Prompt("How do I whistle at the moon now?")], guard)


def test_keeps_that_are_guard_prompts_are_left_out_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    guard = [Prompt("How do I whistle at the moon?", "moon")]
    keep = [Prompt("How do I whistle at the moon now?"), Prompt("How do I bark at the sun?")]
    assert without_guard(keep, guard) == (keep[1],)
    assert "1 of 2 keep prompts are guard prompts" in caplog.text
    caplog.clear()
    assert without_guard(keep[1:], guard) == (keep[1],)
    assert caplog.text == ""
    turns = (Message("user", guard[0].text), Message("assistant", "No."), Message("user", "Please."))
    assert without_guard([Prompt("Please.", messages=turns)], guard) == ()


def test_candidates_may_be_of_one_category_but_no_guard_prompts_and_not_none() -> None:
    guard = [Prompt("How do I whistle at the moon?", "moon")]
    check_candidates([Prompt("How do I knit?", "crafts"), Prompt("How do I sew?", "crafts")], guard)
    with pytest.raises(PromptSetError, match="there are no candidates"):
        check_candidates([], guard)
    with pytest.raises(PromptSetError, match="the candidate .*take it out of the candidates"):
        check_candidates([Prompt("How do I whistle at the moon now?")], guard)


def test_a_target_that_is_also_a_keep_prompt_is_refused_by_name() -> None:
    with pytest.raises(PromptSetError, match='"How do I kill a process\\?" is also a keep prompt'):
        check_targets(broad, [], [Prompt("how do I kill a process")])


def test_normalising_keeps_marks_that_are_part_of_letters_and_never_returns_nothing() -> None:
    assert normalise_text("Ｗhat's   THIS?!") == "what s this"
    assert normalise_text("हिन्दी") == "हिन्दी"
    assert normalise_text(" ?! ") == "?!"
    assert normalise_text("Straße_und\tso") == "strasse und so"


@given(text=texts)
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalise_text(text)
    assert once
    assert normalise_text(once) == once


@given(raw=raw_lists, n=st.integers(0, 25), seed=st.integers(0, 5), order=st.randoms(use_true_random=False))
def test_a_sample_ignores_order_repeats_nothing_and_grows_by_appending(
    raw: list[RawFields], n: int, seed: int, order: Random
) -> None:
    pool = prompts_of(raw)
    sample = sample_prompts(pool, n, seed)
    shuffled = list(pool)
    order.shuffle(shuffled)
    assert sample_prompts(shuffled, n, seed) == sample
    assert len(sample) == len(set(sample)) == min(n, len(pool))
    assert set(sample) <= set(pool)
    assert sample_prompts(pool, n + 1, seed)[: len(sample)] == sample


@given(raw=raw_lists, n=st.integers(0, 25), seed=st.integers(0, 5))
def test_a_sample_takes_one_more_of_a_category_only_when_the_others_are_level_or_used_up(
    raw: list[RawFields], n: int, seed: int
) -> None:
    pool = prompts_of(raw)
    available = Counter(prompt.category for prompt in pool)
    taken = Counter(prompt.category for prompt in sample_prompts(pool, n, seed))
    most = max(taken.values(), default=0)
    assert all(taken[category] >= min(most - 1, size) for category, size in available.items())


def test_a_smaller_priority_is_taken_first_and_spread_over_categories() -> None:
    pool = [Prompt(f"{c} {i}", c, often_refused=i < 5) for c in "ab" for i in range(20)]
    sample = sample_prompts(pool, 14, 0, lambda prompt: not prompt.often_refused)
    assert all(prompt.often_refused for prompt in sample[:10])
    assert not any(prompt.often_refused for prompt in sample[10:])
    assert Counter(prompt.category for prompt in sample[:4]) == {"a": 2, "b": 2}


def test_a_small_sample_covers_every_category_and_then_every_language() -> None:
    pool = [
        Prompt(f"{category} {language} {i}", category, language)
        for category in "abcd"
        for language, size in (("en", 50), ("ru", 3), ("zh", 1))
        for i in range(size)
    ]
    assert {prompt.category for prompt in sample_prompts(pool, 4, seed=0)} == set("abcd")
    strata = {(prompt.category, prompt.language) for prompt in sample_prompts(pool, 12, seed=0)}
    assert len(strata) == 12


def test_a_larger_sample_has_the_languages_of_the_pool_in_proportion() -> None:
    sizes = {"en": 60, "ru": 30, "zh": 10}
    pool = [Prompt(f"{language} {i}", "a", language) for language, size in sizes.items() for i in range(size)]
    taken = Counter(prompt.language for prompt in sample_prompts(pool, 50, seed=0))
    assert all(abs(taken[language] - size / 2) <= 1 for language, size in sizes.items())


def test_another_seed_gives_another_sample_and_a_negative_size_is_refused() -> None:
    pool = numbered(100)
    assert sample_prompts(pool, 10, seed=0) != sample_prompts(pool, 10, seed=1)
    with pytest.raises(ConfigError, match="expected 0 or more"):
        sample_prompts(pool, -1, seed=0)
