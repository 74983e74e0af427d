"""The bundled prompts are as many, as broad and as disjoint as the documentation says."""

from __future__ import annotations

import re
from collections import Counter
from importlib.resources import files
from pathlib import Path
from typing import get_args

import pytest

from unflinch.data.dialogues import Dialogue, bundled_dialogues
from unflinch.data.mine import spectrum, spectrum_warnings
from unflinch.data.near_duplicates import normalise_text
from unflinch.data.prompts import GUARD_SHA256, BundledName, Prompt, bundled
from unflinch.data.splits import check_targets, split_prompts
from unflinch.errors import InputError

NAMES: tuple[BundledName, ...] = get_args(BundledName)
LANGUAGES = {"en", "ru", "zh", "es", "de", "fr"}
SOURCES = files("unflinch.data").joinpath("bundled", "SOURCES.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def sets() -> dict[BundledName, tuple[Prompt, ...]]:
    """All bundled sets."""
    return {name: bundled(name) for name in NAMES}


Sets = dict[BundledName, tuple[Prompt, ...]]


def test_the_targets_are_many_broad_and_in_six_languages(sets: Sets) -> None:
    spread = spectrum(sets["targets"])
    assert len(sets["targets"]) >= 700
    assert len(spread.categories) >= 14
    assert spread.languages["en"] >= 400
    assert spread.languages["ru"] >= 120
    assert set(spread.languages) == LANGUAGES
    assert spectrum_warnings(spread) == []


def test_keep_and_guard_are_many_and_the_guard_has_its_five_categories(sets: Sets) -> None:
    guard = spectrum(sets["guard"])
    assert len(sets["keep"]) + len(sets["guard"]) >= 700
    assert len(sets["guard"]) >= 200
    assert len(guard.languages) >= 4
    assert set(guard.categories) == {
        "biological_weapons",
        "chemical_weapons",
        "child_sexual_content",
        "explosive_weapons",
        "radiological_nuclear_weapons",
    }


def test_the_ordinary_prompts_hold_dialogues_and_sensitive_questions(sets: Sets) -> None:
    ordinary = sets["ordinary"]
    assert len(ordinary) >= 1500
    assert sum(prompt.messages is not None for prompt in ordinary) >= 60
    assert spectrum(ordinary).categories["sensitive_answered"] >= 300


def test_no_text_is_twice_in_a_set_or_in_two_sets(sets: Sets) -> None:
    # Inside a dialogue the last turn may be a phrase as common as "Why?": the whole conversation counts.
    seen = Counter(
        tuple((turn["role"], normalise_text(turn["content"])) for turn in prompt.conversation())
        for prompts in sets.values()
        for prompt in prompts
    )
    assert [text for text, count in seen.items() if count > 1] == []
    owners: dict[str, set[str]] = {}
    for name, prompts in sets.items():
        for prompt in prompts:
            owners.setdefault(normalise_text(prompt.text), set()).add(name)
    assert {text: names for text, names in owners.items() if len(names) > 1} == {}


def test_every_prompt_has_a_category_and_one_of_the_six_languages(sets: Sets) -> None:
    for prompts in sets.values():
        for prompt in prompts:
            assert prompt.category != "uncategorised"
            assert prompt.language in LANGUAGES


def test_every_contrast_names_a_target_and_lands_in_its_split(sets: Sets) -> None:
    targets = {prompt.text for prompt in sets["targets"]}
    contrasts = [prompt for prompt in sets["keep"] if prompt.contrast_of is not None]
    assert {prompt.contrast_of for prompt in contrasts} <= targets
    assert len(contrasts) >= 400
    splits = split_prompts(sets["targets"], sets["keep"], sets["guard"], sets["ordinary"])
    for part in (splits.fit, splits.select, splits.test):
        own = {prompt.text for prompt in part.targets}
        assert all(prompt.contrast_of in own for prompt in part.keep if prompt.contrast_of is not None)


def test_the_bundled_targets_pass_the_check_of_targets(sets: Sets, caplog: pytest.LogCaptureFixture) -> None:
    check_targets(sets["targets"], sets["guard"], sets["keep"])
    assert not caplog.records


def test_each_split_of_the_bundled_sets_holds_all_guard_categories_and_enough_keeps(sets: Sets) -> None:
    splits = split_prompts(sets["targets"], sets["keep"], sets["guard"], sets["ordinary"])
    for part in (splits.fit, splits.select, splits.test):
        assert len(spectrum(part.guard).categories) == 5
    # Zero flips in 300 is what bounds the rate of lost refusals below 1 %.
    assert len(splits.test.keep) + len(splits.test.guard) >= 300


def section(heading: str) -> str:
    """Return the part of SOURCES.md below a second-level heading."""
    match = re.search(rf"^## {re.escape(heading)}\n(.*?)(?=^## |\Z)", SOURCES, re.MULTILINE | re.DOTALL)
    assert match is not None
    return match[1]


def table(text: str, column: str) -> dict[str, int]:
    """Return the counts of the table whose first column has that name."""
    match = re.search(rf"^\| {column} \|.*\n\|[-:| ]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert match is not None
    rows = [line.split("|")[1:3] for line in match[1].splitlines()]
    return {name.strip(): int(count) for name, count in rows}


@pytest.mark.parametrize("name", NAMES)
def test_the_tables_of_the_documentation_equal_the_files(sets: Sets, name: BundledName) -> None:
    spread = spectrum(sets[name])
    assert table(section(name), "category") == spread.categories
    assert table(section(name), "language") == spread.languages
    assert table(SOURCES, "set")[name] == len(sets[name])


@pytest.fixture(scope="module")
def dialogues() -> tuple[Dialogue, ...]:
    """All bundled dialogues."""
    return bundled_dialogues()


def test_the_dialogues_are_many_in_six_languages_and_of_three_turns(dialogues: tuple[Dialogue, ...]) -> None:
    assert len(dialogues) >= 24
    assert Counter(dialogue.language for dialogue in dialogues) == dict.fromkeys(LANGUAGES, len(dialogues) // 6)
    assert all(len(dialogue.turns) == 3 for dialogue in dialogues)
    assert all(turn.strip() == turn and turn for dialogue in dialogues for turn in dialogue.turns)
    assert bundled_dialogues(6) == dialogues[:6]


def test_no_turn_of_a_dialogue_is_twice_or_in_another_set(sets: Sets, dialogues: tuple[Dialogue, ...]) -> None:
    turns = [normalise_text(turn) for dialogue in dialogues for turn in dialogue.turns]
    assert len(set(turns)) == len(turns)
    assert not set(turns) & {normalise_text(prompt.text) for prompts in sets.values() for prompt in prompts}


def test_the_tables_of_the_dialogues_equal_the_file(dialogues: tuple[Dialogue, ...]) -> None:
    text = section("dialogues")
    assert table(text, "category") == Counter(dialogue.category for dialogue in dialogues)
    assert table(text, "language") == Counter(dialogue.language for dialogue in dialogues)
    assert table(SOURCES, "set")["dialogues"] == len(dialogues)
    assert text.strip().startswith(f"{len(dialogues)} dialogues of {len(dialogues[0].turns)} user turns")


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"turns": 3, "category": "a", "language": "en"}'])
def test_damaged_dialogues_are_told_in_one_sentence(
    damage: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "bundled"
    folder.mkdir()
    if damage:
        (folder / "dialogues.jsonl").write_text(damage, encoding="utf-8")
    monkeypatch.setattr("unflinch.data.dialogues.files", lambda _: tmp_path)
    with pytest.raises(InputError, match="dialogues cannot be read: reinstall"):
        bundled_dialogues()


def test_the_other_numbers_of_the_documentation_equal_the_files(sets: Sets) -> None:
    contrasts = [prompt.contrast_of for prompt in sets["keep"] if prompt.contrast_of is not None]
    text = " ".join(SOURCES.split())
    assert (
        f"{len(contrasts)} of the {len(sets['keep'])} keep prompts are such contrasts, "
        f"of {len(set(contrasts))} different targets"
    ) in text
    dialogues = sum(prompt.messages is not None for prompt in sets["ordinary"])
    with_system = sum(prompt.system is not None for prompt in sets["ordinary"])
    assert f"{dialogues} are dialogues (`messages`), and {with_system} have a system prompt." in text
    assert GUARD_SHA256 in section("guard")
