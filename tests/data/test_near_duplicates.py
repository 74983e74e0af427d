"""Near duplicates are found as by comparing every pair."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from unflinch.data.near_duplicates import NearDuplicates, normalise_text

words = st.lists(st.sampled_from("one two three four five six".split()), min_size=1, max_size=7).map(" ".join)


@given(st.lists(words, max_size=12), words, st.sampled_from([0.3, 0.5, 0.6, 0.75, 0.8, 1.0]))
def test_the_index_finds_what_comparing_every_pair_finds(texts: list[str], text: str, similarity: float) -> None:
    def alike(other: str) -> bool:
        left, right = set(text.split()), set(other.split())
        return len(left & right) >= similarity * len(left | right) - 1e-12

    found = NearDuplicates(similarity, texts).find(text)
    assert (found is not None) == any(map(alike, texts))
    if found is not None:
        assert alike(texts[found])


def test_an_equal_text_is_found_before_an_earlier_near_one_and_case_and_punctuation_do_not_matter() -> None:
    known = NearDuplicates(0.5, ["where is the moon now", "Where is the moon?"])
    assert known.find("WHERE is the moon!") == 1
    assert known.find("who ate my sandwich") is None


def test_a_text_that_was_added_is_found() -> None:
    known = NearDuplicates(0.8)
    assert known.find("月亮上有什么") is None
    known.add("月亮上有什么？")
    assert known.find("月亮上有什么") == 0


def test_texts_without_words_are_near_duplicates_only_if_equal() -> None:
    known = NearDuplicates(0.5, ["?!"])
    assert (known.find(" ?! "), known.find("..."), normalise_text(" ?! ")) == (0, None, "?!")
