"""How broad a set of prompts is, and writing it to a file that reads back equal."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unflinch.data.mine import Spectrum, spectrum, spectrum_warnings, write_prompts
from unflinch.data.prompts import Message, Prompt, Role, load_prompts
from unflinch.errors import RunFolderError

words = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(lambda text: text.strip() != "")
turns = st.tuples(st.sampled_from(["user", "assistant"]), words)
# Raw fields: prompts are built in the tests, as the run-time type checks would upset hypothesis inside a strategy.
fields = st.tuples(words, words, words, st.none() | words, st.none() | st.lists(turns, max_size=3), st.none() | words)
RawFields = tuple[str, str, str, str | None, list[tuple[Role, str]] | None, str | None]


def prompt_of(raw: RawFields) -> Prompt:
    """Return the prompt, a dialogue or not, with these fields."""
    text, category, language, system, earlier, contrast_of = raw
    messages = None if earlier is None else (*(Message(*turn) for turn in earlier), Message("user", text))
    return Prompt(text, category, language, system, messages, contrast_of)


def of_sizes(sizes: dict[str, int]) -> list[Prompt]:
    """Return prompts with that many of each category."""
    return [Prompt(f"{category} {i}", category, "en") for category, size in sizes.items() for i in range(size)]


@given(raw=st.lists(fields, min_size=1, max_size=8))
def test_what_is_written_reads_back_equal(raw: list[RawFields]) -> None:
    prompts = list({prompt.key: prompt for prompt in map(prompt_of, raw)}.values())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "prompts.jsonl"
        write_prompts(path, prompts)
        assert load_prompts(path) == tuple(prompts)
        assert os.listdir(folder) == ["prompts.jsonl"]


def test_a_full_disk_is_one_sentence_and_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "prompts.jsonl"
    write_prompts(path, [Prompt("old")])

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunFolderError, match="No space left on device.*free some"):
        write_prompts(path, [Prompt("new")])
    assert load_prompts(path) == (Prompt("old"),)
    assert os.listdir(tmp_path) == ["prompts.jsonl"]


def test_a_folder_that_does_not_exist_is_a_run_folder_error(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="cannot be written"):
        write_prompts(tmp_path / "missing" / "prompts.jsonl", [Prompt("a")])


def test_equally_large_categories_count_as_their_number() -> None:
    spread = spectrum(of_sizes({"a": 5, "b": 5, "c": 5, "d": 5}))
    assert spread.effective_categories == pytest.approx(4)
    assert spread.dominating_share == 0.25
    assert spread.languages == {"en": 20}


@given(sizes=st.dictionaries(words, st.integers(1, 6), min_size=1, max_size=6))
def test_effective_categories_lie_between_one_and_the_number_of_categories(sizes: dict[str, int]) -> None:
    spread = spectrum(of_sizes(sizes))
    assert spread.categories == sizes
    assert list(spread.categories.values()) == sorted(sizes.values(), reverse=True)
    assert 1 - 1e-9 <= spread.effective_categories <= len(sizes) + 1e-9
    assert spread.dominating_share >= 1 / spread.effective_categories - 1e-9


def test_no_prompts_have_an_empty_spectrum_and_one_warning() -> None:
    assert spectrum([]) == Spectrum({}, {}, 0.0, 0.0)
    assert len(spectrum_warnings(spectrum([]))) == 1


def test_a_broad_set_gives_no_warning() -> None:
    assert spectrum_warnings(spectrum(of_sizes(dict.fromkeys("abcdef", 5)))) == []


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        (dict.fromkeys("abcdefg", 4), ["Only 28 prompts, fewer than 30"]),
        (dict.fromkeys("abcde", 6), ["Only 5 categories, fewer than 6 (a, b, c, d, e)"]),
        (
            {"a": 40, "b": 1, "c": 1, "d": 1, "e": 1, "f": 1},
            ["1.69", "88.9% of the prompts are of the category a"],
        ),
        ({"a": 13, "b": 4, "c": 4, "d": 4, "e": 4, "f": 2}, ["41.9%"]),
    ],
)
def test_each_narrowness_is_one_warning_with_its_numbers(sizes: dict[str, int], expected: list[str]) -> None:
    warnings = spectrum_warnings(spectrum(of_sizes(sizes)))
    assert len(warnings) == len(expected)
    for warning, words_of_it in zip(warnings, expected, strict=True):
        assert words_of_it in warning
        assert warning.endswith(".")
