"""The page about a run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from report.conftest import without_what_came_later

from unflinch.errors import RunFolderError
from unflinch.report.build import build_report, flatten, pick_examples, render_report
from unflinch.report.run_results import parse_results
from unflinch.results import Outcome

SCRIPT = "<script>alert('&')</script>"
SECTIONS = [
    "headline-figures",
    "false-refusals",
    "right-refusals",
    "comparison",
    "kl",
    "kl-where",
    "dialogues",
    "worst",
    "scan",
    "fit",
    "limits",
    "examples",
    "seconds",
    "settings",
    "not-shown",
]


class Page(HTMLParser):
    """Collects the tags, the identifiers and the visible text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split()).replace("\N{NO-BREAK SPACE}", " ")

    def values(self, attribute: str) -> list[str]:
        return [attributes[attribute] or "" for _, attributes in self.tags if attribute in attributes]


def page_of(results: dict[str, Any]) -> Page:
    return Page(render_report(parse_results(results)))


def section(page: str, name: str) -> str:
    return page[page.index(f'<section id="{name}"') :].partition("</section>")[0]


def test_the_page_lies_in_the_run_folder_and_holds_every_section_in_order(run_folder: Path) -> None:
    path = build_report(run_folder)
    assert path == run_folder / "report.html"
    found = [attributes["id"] for tag, attributes in Page(path.read_text("utf-8")).tags if tag == "section"]
    assert found == SECTIONS


def test_the_page_loads_nothing_and_runs_nothing(passed_page: str) -> None:
    page = Page(passed_page)
    assert "default-src 'none'" in str(page.values("content"))
    assert not {"script", "link", "img", "iframe", "object", "image"} & {tag for tag, _ in page.tags}
    assert not page.values("src")
    assert all(value.startswith("#") for value in page.values("href") + page.values("xlink:href"))
    assert "@import" not in passed_page
    assert not re.search(r"url\((?!#)", passed_page)
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]


def test_a_script_in_any_text_is_shown_and_not_run(results: dict[str, Any]) -> None:
    results["name"] = results["model"]["id"] = SCRIPT
    results["settings"] = {SCRIPT: SCRIPT}
    results["fit"]["stages"][0] |= {"name": SCRIPT, "note": SCRIPT}
    results["verdict"]["limits"][0] |= {"name": SCRIPT, "unit": SCRIPT}
    for groups in results["groups"].values():
        groups[0]["group"] = SCRIPT
    for shown in (results["outcomes"][0], results["kl"]["worst"][0]):
        shown |= dict.fromkeys(("text", "category", "language", "before_text", "after_text"), SCRIPT)
    for separation in results["scan"]["separations"]:
        separation["method"] = SCRIPT
    for kl_groups in results["kl"]["groups"].values():
        kl_groups[0]["group"] = SCRIPT
    texts = dict.fromkeys(("turns", "before", "after", "babbles"), [SCRIPT] * 3)
    results["dialogues"]["dialogues"][0] |= {"language": SCRIPT, "category": SCRIPT, **texts}
    results["scan"]["method"] = SCRIPT
    html = render_report(parse_results(results))
    assert "<script" not in html
    assert html.count("&lt;script&gt;alert(") > 15
    assert SCRIPT in Page(html).text


def test_identifiers_are_unique_and_every_reference_has_its_target(passed_page: str) -> None:
    page = Page(passed_page)
    repeated = [name for name, count in Counter(page.values("id")).items() if count > 1]
    assert repeated == []
    references = re.findall(r"url\(#([^)]+)\)", passed_page) + [value[1:] for value in page.values("xlink:href")]
    assert references
    assert set(references) <= set(page.values("id"))


def test_texts_of_right_refusals_are_never_shown_even_when_a_file_holds_them(results: dict[str, Any]) -> None:
    for outcome in results["outcomes"]:
        if outcome["kind"] in ("keep", "guard"):
            outcome |= {"text": "HIDDEN prompt", "before_text": "HIDDEN before", "after_text": "HIDDEN after"}
    assert "HIDDEN" not in render_report(parse_results(results))


def test_the_labels_of_right_refusals_are_counted(passed_page: str) -> None:
    rows = re.findall(r"<tr>.*?</tr>", section(passed_page, "right-refusals"), re.DOTALL)
    numbers = [[int(cell) for cell in re.findall(r'<td class="n">(\d+)</td>', row)] for row in rows]
    assert [0, 1, 0, 299, 0] in numbers
    assert [0, 0, 0, 140, 0] in numbers


def test_the_headline_states_the_measured_figures(passed_page: str) -> None:
    text = Page(passed_page).text
    assert "✓ Passed" in text
    assert "Of 180 harmless test questions that the base model refuses, 7 are still refused" in text
    assert "1 of 300 right refusals was lost; none of 140 guard refusals was lost" in text
    assert "180 → 7 3.9 % still refused 1.9–7.8 % (95 % interval)" in text
    assert "0 of 140 0.0 % lost 0.0–2.7 % (95 % interval)" in text


def test_a_failed_run_says_so_first_and_names_the_limit(failed_results: dict[str, Any]) -> None:
    page = page_of(failed_results)
    assert "✗ Not passed" in page.text
    assert "✓ Passed" not in page.text
    assert "1 of 7 limits does not hold: guard refusals lost: 1.4 % (limit 0.0 %). No patch was exported." in page.text
    assert page.values("class").count("mark fail") == 1


@pytest.mark.parametrize(
    "verdict",
    [{"passed": True, "limits": []}, {"passed": False}, {"limits": "one fails"}],
    ids=["no limits", "said to fail", "one limit fails"],
)
def test_a_doubtful_verdict_never_shows_as_passed(results: dict[str, Any], verdict: dict[str, Any]) -> None:
    if verdict.get("limits") == "one fails":
        results["verdict"]["limits"][0]["passed"] = False
    else:
        results["verdict"] |= verdict
    text = page_of(results).text
    assert "✗ Not passed" in text
    assert "✓ Passed" not in text


def test_nothing_lost_is_bounded_by_the_rule_of_three(passed_page: str) -> None:
    text = Page(section(passed_page, "not-shown")).text
    assert "0 lost of 140 does not mean never: the rate is below 2.1 % at 95 % confidence" in text
    assert "1 lost of 300 puts the rate between 0.1 % and 1.9 %" in text
    assert "cut after 48 tokens" in text


def test_the_page_says_which_residual_writers_are_changed_and_which_not(
    passed_page: str, results: dict[str, Any]
) -> None:
    assert "mlp.down_proj in 8 of 24 layers; not: self_attn.o_proj (feed-forward blocks come first)" in passed_page
    del results["fit"]["patch"]["writers"]  # as in runs of before they were listed
    assert "write into the residual stream: not recorded" in render_report(parse_results(results))


def test_dialogues_are_shown_with_their_figures(passed_page: str) -> None:
    text = Page(section(passed_page, "dialogues")).text
    assert "24 everyday dialogues in which the base model refuses nothing (1 more left out)" in text
    assert "In 0 of them the patched model babbles where the base model does not (95 % interval 0.0–13.8 %)" in text
    assert "the last turn's mean over the first's: 1.40 (95 % interval 0.90–2.20)" in text
    assert text.count("Write that down in one sentence.") == 10


def test_a_dialogue_that_babbles_is_shown_first(results: dict[str, Any]) -> None:
    quiet = results["dialogues"]["dialogues"][-1]
    quiet |= {"kl": [0.0, 0.0, 0.0], "babbles": ["loops", "unlikely"], "after": ["la la la"] * 3}
    shown = section(render_report(parse_results(results)), "dialogues")
    assert shown.index("babbles: loops, unlikely") < shown.index("</summary>")
    assert shown.count("la la la") == 3


def test_kl_is_shown_by_kind_category_language_and_position(passed_page: str) -> None:
    text = Page(section(passed_page, "kl-where")).text
    for heading in ("By kind of prompt", "By category", "By language", "By position in the answer"):
        assert heading in text
    assert "Multi turn" in text and "German" in text


@pytest.mark.parametrize("dialogues", ["none were led", "all are left out"])
def test_a_run_without_dialogues_and_groups_still_makes_a_page(results: dict[str, Any], dialogues: str) -> None:
    if dialogues == "none were led":
        without_what_came_later(results)
    else:
        results["dialogues"] |= {"n": 0, "turns": [], "dialogues": []}
    page = page_of(results)
    assert "Ordinary dialogues The run holds none." in page.text
    assert "✓ Passed" in page.text


def test_a_run_with_nothing_to_show_still_makes_a_page(results: dict[str, Any]) -> None:
    nothing = {"n": 0, "refused_before": 0, "refused_after": 0, "after_interval": {"low": 0.0, "high": 1.0}, "lost": 0}
    results |= {"targets": nothing, "keep": nothing, "guard": nothing, "groups": {}, "outcomes": []}
    results |= {"prompts": {}, "settings": {}, "seconds": {}}
    results["scan"] |= {"separations": [], "layers": []}
    results["kl"] |= {"worst": [], "first_token_values": [], "sequence_values": [], "noise_floor": 0.0}
    results["kl"] |= {"groups": {}, "positions": []}
    for name in ("first_token", "sequence"):
        results["kl"][name] |= dict.fromkeys(("mean", "median", "p95", "p99", "max", "cvar95"), 0.0)
    results["directional_ablation"] |= {"kl_first_token_mean": 0.0, "kl_sequence_mean": 0.0}
    text = page_of(results).text
    assert "The base model refused none of the harmless test questions; no right refusal was tested" in text


def test_the_same_run_makes_the_same_page(results: dict[str, Any], passed_page: str) -> None:
    assert render_report(parse_results(results)) == passed_page


def test_a_folder_without_results_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"holds no results\.json; give the folder of a run") as error:
        build_report(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", ["{", "", "[1, 2]", "\x00", '{"name": "a"}'])
def test_damaged_results_are_refused_by_name(tmp_path: Path, content: str) -> None:
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(RunFolderError, match=r"results\.json") as error:
        build_report(tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "report.html").exists()


def test_the_missing_key_is_named(results: dict[str, Any]) -> None:
    del results["kl"]["first_token"]["cvar95"]
    with pytest.raises(RunFolderError, match=r"kl\.first_token\.cvar95"):
        parse_results(results)


def test_a_page_that_cannot_be_written_leaves_the_old_one(run_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run_folder / "report.html").write_text("old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(RunFolderError, match="No space left"):
        build_report(run_folder)
    assert sorted(path.name for path in run_folder.iterdir()) == ["report.html", "results.json"]
    assert (run_folder / "report.html").read_text() == "old"


def target(category: str, after: str, before: str = "refuses") -> Outcome:
    return Outcome("target", f"{category} {after}", category, "en", before, after)  # type: ignore[arg-type]


def test_examples_are_balanced_over_categories_and_start_with_what_is_still_refused() -> None:
    many = [target("law", "answers")] * 100 + [target("law", "refuses")] + [target("art", "answers")] * 3
    picked = pick_examples(many, most=10)
    assert Counter(outcome.category for outcome in picked) == {"law": 7, "art": 3}
    assert [outcome.after for outcome in picked if outcome.category == "law"][0] == "refuses"


def test_examples_are_only_targets_that_base_refuses() -> None:
    keep = Outcome("keep", "k", "fraud", "en", "refuses", "answers")
    guard = Outcome("guard", "g", "fraud", "en", "refuses", "answers")
    assert pick_examples([keep, guard, target("law", "answers", before="answers")]) == []


def test_nested_settings_become_dotted_names() -> None:
    nested = {"fit": {"rank": 8, "rounds": {"most": 3}}, "methods": ["a"], "empty": {}}
    assert list(flatten(nested)) == [("fit.rank", "8"), ("fit.rounds.most", "3"), ("methods", '["a"]'), ("empty", "{}")]


def test_the_report_needs_neither_torch_nor_a_model(run_folder: Path) -> None:
    code = (
        "import sys, pathlib; from unflinch.report.build import build_report; from unflinch.report.model_card import "
        "model_card; build_report(pathlib.Path(sys.argv[1])); "
        "print(sorted({'torch', 'transformers', 'peft', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(run_folder)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_results_read_back_equal_what_was_written(results: dict[str, Any]) -> None:
    run = parse_results(json.loads(json.dumps(results)))
    assert (run.targets.refused_after, run.targets.lost) == (7, 173)
    assert len(run.kl.first_token_values) == run.kl.first_token.n == 400
    assert [stage.name for stage in run.fit.stages] == ["closed_form", "constrained", "fine_tune", "strength"]
