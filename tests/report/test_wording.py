"""Numbers and sentences of the report."""

from __future__ import annotations

import pytest

from unflinch.metrics.intervals import rate
from unflinch.report import wording
from unflinch.results import Interval, Limit, RefusalCounts, WriterCoverage
from unflinch.robustness_results import Ablation, Mechanism


def plain(text: str) -> str:
    return text.replace(wording.NO_BREAK, " ")


@pytest.mark.parametrize(
    ("value", "written"),
    [(0.0, "0.0000"), (0.00312, "0.0031"), (1.24, "1.2400"), (0.000031, "3.1 × 10⁻⁵"), (float("nan"), "–")],
)
def test_a_small_kl_is_not_rounded_away(value: float, written: str) -> None:
    assert plain(wording.nats(value)) == written


@pytest.mark.parametrize(
    ("share", "written"), [(0.0, "0.0 %"), (0.00034, "0.034 %"), (0.0026, "0.26 %"), (0.042, "4.2 %"), (0.5, "50.0 %")]
)
def test_a_small_share_keeps_two_digits(share: float, written: str) -> None:
    assert plain(wording.small_percent(share)) == written


@pytest.mark.parametrize(
    ("value", "written"), [(1.0, "1"), (0.1325, "0.13"), (0.00234, "0.0023"), (0.0000061, "6.1 × 10⁻⁶")]
)
def test_small_p_values_are_powers_of_ten(value: float, written: str) -> None:
    assert plain(wording.p_value(value)) == written


@pytest.mark.parametrize(
    ("seconds", "written"),
    [(3.14, "3.1 s"), (48.4, "48 s"), (59.7, "1 min 00 s"), (400.0, "6 min 40 s"), (3725.0, "1 h 02 min")],
)
def test_durations_read_as_a_person_says_them(seconds: float, written: str) -> None:
    assert wording.duration(seconds) == written


@pytest.mark.parametrize(
    ("ours", "theirs", "written"),
    [
        (0.003, 0.21, "70 times lower"),
        (0.05, 0.21, "4.2 times lower"),
        (0.3, 0.1, "3.0 times higher"),
        (0.1, 0.1, "about the same"),
        (0.0, 0.1, "–"),
        (float("nan"), 0.1, "–"),
    ],
)
def test_a_comparison_says_its_direction(ours: float, theirs: float, written: str) -> None:
    assert wording.compared(ours, theirs) == written


def test_a_count_comparison_says_its_direction() -> None:
    assert [wording.count_difference(1, 203), wording.count_difference(7, 4), wording.count_difference(0, 0)] == [
        "202 fewer",
        "3 more",
        "the same",
    ]


def test_the_interval_of_the_lost_is_the_complement_of_the_kept() -> None:
    lost = wording.lost_interval(RefusalCounts(100, 100, 90, Interval(0.83, 0.94)))
    assert [lost.low, lost.high] == pytest.approx([0.06, 0.17])


@pytest.mark.parametrize(
    ("after", "written"), [(300, "none of 300 keeps was"), (299, "1 of 300 keeps was"), (7, "293 of 300 keeps were")]
)
def test_losses_are_counted_in_words(after: int, written: str) -> None:
    assert written in wording.losses(RefusalCounts(300, 300, after, Interval(0.0, 1.0)), "keep")


def test_a_limit_is_written_in_its_unit() -> None:
    def line(unit: str, value: float) -> str:
        interval = Interval(value / 2, 2 * value)
        limit = Limit("name", value, value, interval, 10, True, unit)
        return plain(f"{wording.limit_value(value, unit)} in {wording.limit_range(limit)}")

    assert line("%", 0.04) == "4.0 % in 2.0–8.0 %"
    assert line("nats", 0.004) == "0.0040 in 0.0020–0.0080"
    assert line("points", 61.5) == "61.5 points in 30.75–123"
    assert line("", 3.0) == "3 in 1.5–6"


def test_a_limit_without_interval_shows_none() -> None:
    assert wording.limit_range(Limit("p99", 0.1, 0.2, None, 10, True, "nats")) == "–"


def test_the_length_of_answers_is_found_in_the_validate_settings_first() -> None:
    assert wording.answer_tokens({"baseline": {"max_new_tokens": 16}, "validate": {"max_new_tokens": 48}}) == 48
    assert wording.answer_tokens({"baseline": {"deep": {"max_new_tokens": 16}}, "validate": {}}) == 16
    assert wording.answer_tokens({"rank": 3}) is None


def test_what_is_said_of_writers_names_every_one_as_changed_or_not_and_why() -> None:
    rows = [
        WriterCoverage("mlp.down_proj", "feed-forward", 8, 24, ""),
        WriterCoverage("self_attn.o_proj", "attention", 2, 24, "feed-forward blocks come first"),
        WriterCoverage("mlp.experts.down_proj", "experts", 0, 20, "fused experts, each for a few of the tokens"),
        WriterCoverage("mamba.out_proj", "Mamba", 0, 4, ""),
    ]
    assert wording.coverage(rows) == (
        "mlp.down_proj in 8 of 24 layers, self_attn.o_proj in 2 of 24 layers; not: mlp.experts.down_proj "
        "(fused experts, each for a few of the tokens), mamba.out_proj (in no chosen layer)"
    )
    assert wording.coverage(()) == "not recorded"


def mechanism(*left: tuple[int, int]) -> Mechanism:
    """How a model refuses of whose 20 right refusals so many are left, by first token and in the answer."""
    ablations = [Ablation(i + 1, 14, rate(first, 20), rate(answer, 20)) for i, (first, answer) in enumerate(left)]
    return Mechanism(7, (0.5, 0.9), rate(9, 10), rate(0, 10), rate(1, 10), tuple(ablations))


@pytest.mark.parametrize(
    ("left", "needed", "said"),
    [
        (((0, 1),), 1, "one mechanism"),
        (((12, 12), (0, 0)), 2, "Refusing is redundant: one direction taken out leaves 60.0"),
        (((12, 12), (6, 6), (5, 5), (4, 4)), None, "outlasts 4 directions"),
    ],
)
def test_refusing_is_said_to_be_one_mechanism_or_several(
    left: tuple[tuple[int, int], ...], needed: int | None, said: str
) -> None:
    found = mechanism(*left)
    assert found.independent_directions == needed
    assert said in wording.mechanism(found)
    assert "layer 7" in wording.mechanism(found)


def test_refusals_that_come_back_late_are_said() -> None:
    assert "comes back later in the answer in 8 of 20" in wording.mechanism(mechanism((1, 9), (0, 1)))
    assert "comes back" not in wording.mechanism(mechanism((2, 1)))
