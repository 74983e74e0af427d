"""The documentation builds without a warning, loads nothing from elsewhere, and all its code works."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from documents import DOCS, MODEL, README, ROOT, blocks, command_lines, inline_code, options, parsed, script
from planted_model import config_for

from unflinch import config as config_module
from unflinch.config import RunConfig, as_settings, make_config, read_toml
from unflinch.data.prompts import load_prompts

pytestmark = pytest.mark.xdist_group("planted")
"""One process trains the planted model and runs it, for all tests here and in the other files of this group."""

GENERATED, HISTORY = DOCS / "cli.md", DOCS / "LOG.md"
"""Not read: its own test compares the first with the commands; the second names what has been taken out since."""
PAGES = [README, *sorted(set(DOCS.rglob("*.md")) - {GENERATED, HISTORY})]
QUICK_START = DOCS / "quickstart.md"
RESULTS = ROOT / "benchmarks" / "results"
RUNNABLE = {"chat", "apply"}
"""Commands of the quick start that take a second here. The page about Python calls `run`, other tests the rest."""


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def pages_with(*languages: str) -> list[Path]:
    return [page for page in PAGES if any(block.language in languages for block in blocks(page))]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONWARNINGS": "default"}
    answer = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    assert (answer.returncode, answer.stderr) == (0, ""), answer.stdout + answer.stderr
    return folder


@pytest.fixture
def workplace(planted: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as a user stands in it, but for a finished run called `mine`."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished, tmp_path / "runs" / "mine")
    return tmp_path


def test_every_page_is_built(site: Path) -> None:
    built = {path.relative_to(site).with_suffix(".md") for path in site.rglob("*.html")} - {Path("404.md")}
    assert built == {path.relative_to(DOCS) for path in DOCS.rglob("*.md")}


def test_the_site_loads_nothing_from_elsewhere(site: Path) -> None:
    loading = re.compile(
        r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"?(?:https?:)?//|<link\b[^>]*href=\"?(?:https?:)?//"
    )
    imported = re.compile(r"(?:url\(|@import )[\"']?(?:https?:)?//")
    texts = {path: path.read_text(encoding="utf-8") for path in site.rglob("*") if path.suffix in {".html", ".css"}}
    assert len(texts) > len(PAGES)
    assert [path.name for path, text in texts.items() if loading.search(text) or imported.search(text)] == []


def test_tables_of_the_pages_equal_the_committed_results() -> None:
    tool = script(ROOT / "tools" / "update_tables.py")
    assert README in tool.PAGES and set(tool.PAGES) > set(DOCS.rglob("*.md"))
    assert tool.outdated() == []
    changed = tool.updated("<!-- judge table -->\n<!-- /judge table -->", tool.TABLES)
    assert "| rules |" in changed  # what is written into a page that has the place


def test_tables_and_figures_stand_in_their_places(site: Path) -> None:
    results = (site / "budgets.html").read_text(encoding="utf-8")
    assert "first-token KL, ordinary, mean" in results
    concepts = (site / "concepts.html").read_text(encoding="utf-8")
    figures = len(re.findall(r"<!-- [\w -]+ figure -->", (DOCS / "concepts.md").read_text(encoding="utf-8")))
    drawings = len(list((DOCS / "figures").glob("*.svg"))) - 1  # one is the icon
    assert (figures, drawings) == (3, 2)
    assert concepts.count('class="figure') == 2 * figures + drawings  # in two widths each
    for path in site.rglob("*.html"):
        assert "figures/" not in re.sub(r"figures/favicon\.svg", "", path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize("page", pages_with("", "bash"), ids=name_of)
def test_every_command_line_is_understood(page: Path) -> None:
    for words in command_lines(page):
        parsed(words)
    targets = [target for words in command_lines(page, "make") for target in words]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert [target for target in targets if not re.search(rf"^{target}:", makefile, re.MULTILINE)] == []


OTHER_PROGRAMS = ("python ", "torchrun ", "accelerate ", "vllm ", "llama-", "hf ")
"""What code in a line of text begins with if its options are not ours."""


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_option_setting_and_extra_in_the_text_exists(page: Path) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    sections = as_settings(make_config({"model": {"model": "demo"}}))
    settings = {f"{section}.{option}" for section, values in sections.items() for option in values}
    for code in inline_code(page):
        if code.startswith(OTHER_PROGRAMS):
            continue
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", code))
        command = re.match(r"unflinch (\w+)", code)
        assert named <= options(command[1] if command else None), code
        assert set(re.findall(r"\.\[([\w,-]+)\]", code)) <= {*extras, ""}, code
        if re.fullmatch(r"(fit|validate|scan|prompts)\.[a-z_0-9]+", code):
            assert code in settings or (ROOT / f"src/unflinch/{code.replace('.', '/')}.py").is_file(), code


def test_what_pages_conclude_from_the_results_still_holds() -> None:
    read = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in RESULTS.glob("*.json")}
    # faq.md and comparison.md: the demo passes with its guard whole; of the larger runs one lost guard prompts, and the
    # other one, at less KL than ablation, left too many false refusals.
    assert read["demo"]["verdict"]["passed"] and read["demo"]["guard"]["lost"] == 0
    # README: of the patch in every form one limit is missed, that on the guard in the worst of them.
    thorough = read["demo_thorough"]
    assert [x["name"] for x in thorough["verdict"]["limits"] if not x["passed"]] == ["guard refusals lost, worst form"]
    assert thorough["targets"] == read["demo"]["targets"] and thorough["kl"] == read["demo"]["kl"]
    missed = {
        name: [limit["name"] for limit in read[name]["verdict"]["limits"] if not limit["passed"]]
        for name in ("full", "large")
    }
    assert missed == {"full": ["guard refusals lost"], "large": ["false refusals left"]}
    assert read["full"]["guard"]["lost"] == 2 and read["large"]["guard"]["lost"] == 0
    large = read["large"]["directional_ablation"]
    assert large["kl_first_token_mean"] > 3 * read["large"]["kl"]["first_token"]["mean"]
    # faq.md: ablation that leaves about as many loses many right refusals where the patch loses few, at no more KL.
    ablation = read["demo"]["directional_ablation"]
    assert ablation["keep_lost"] > 10 * read["demo"]["keep"]["lost"]
    assert ablation["kl_first_token_mean"] <= read["demo"]["kl"]["first_token"]["mean"]
    # comparison.md: what is said about single methods.
    methods = {method["name"]: method for method in read["side_by_side"]["methods"]}
    least = {name: min(point["targets_refused"] for point in one["curve"]) for name, one in methods.items()}
    assert least["directional ablation"] == least["SFT LoRA"] == 0 < least["unflinch"]
    direction = methods["orthogonalised direction"]["curve"]
    assert least["orthogonalised direction"] > least["unflinch"] and max(p["keep_lost"] for p in direction) <= 0.1
    at = {name: one["at_25_percent"] for name, one in methods.items()}
    for name in ("directional ablation", "norm-preserving ablation"):
        assert at[name]["kl_first_token_mean"] < at["unflinch"]["kl_first_token_mean"]
        assert at[name]["keep_lost"] > 10 * at["unflinch"]["keep_lost"]
    assert at["system prompt"]["keep_lost"] > 0.5
    assert at["system prompt"]["kl_first_token_mean"] == max(one["kl_first_token_mean"] for one in at.values() if one)


def test_the_russian_quick_start_shows_the_same_commands() -> None:
    english = command_lines(QUICK_START)
    assert [words for words in english if words[0] not in {"validate", "bench"}] == command_lines(
        DOCS / "ru/quickstart.md"
    )


def test_defaults_in_tables_are_the_defaults() -> None:
    rows = re.findall(r"^\| `(\w+)\.(\w+)` \| ([\d.]+) \|", (DOCS / "budgets.md").read_text(encoding="utf-8"), re.M)
    config = make_config({"model": {"model": "demo"}})
    assert len(rows) >= 6
    assert [row for row in rows if getattr(getattr(config, row[0]), row[1]) != float(row[2])] == []


@pytest.mark.parametrize("page", pages_with("toml", "json", "csv"), ids=name_of)
def test_every_file_that_is_shown_is_read(page: Path, tmp_path: Path) -> None:
    for block in blocks(page):
        if block.title:
            path = tmp_path / block.title
            path.write_text(block.code, encoding="utf-8")
            if block.language == "toml":
                make_config(read_toml(path))
            else:
                assert len(load_prompts(path)) == len(block.code.splitlines()) - (block.language == "csv")


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft's
@pytest.mark.parametrize("page", pages_with("python"), ids=name_of)
def test_every_python_block_runs_and_prints_what_it_says(
    page: Path, planted: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoModelForCausalLM

    def planted_config(content: dict[str, Any]) -> RunConfig:
        make_config(content)  # what the page says must be a config, though not the one of this model
        return config_for(planted)

    monkeypatch.setattr(config_module, "make_config", planted_config)
    names: dict[str, Any] = {"base_model": AutoModelForCausalLM.from_pretrained(planted)} if page == README else {}
    for block in blocks(page):
        if block.language != "python":
            continue
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(compile(block.code.replace(MODEL, str(planted)), name_of(page), "exec"), names)
        said = re.findall(r"# (.*)$", block.code, re.MULTILINE)
        if said and printed.getvalue():
            assert printed.getvalue().splitlines() == said


def test_the_quick_start_runs(
    planted: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from unflinch.cli.main import main

    shown = {}
    for words in command_lines(QUICK_START):
        if words[0] not in RUNNABLE:
            continue
        monkeypatch.setattr(sys, "stdin", io.StringIO("/both\nHow do I kill a process?\n/quit\n"))
        with pytest.raises(SystemExit) as stop:
            main([str(planted) if word == MODEL else word for word in words])
        shown[words[0]] = capsys.readouterr()
        assert not stop.value.code, shown[words[0]].err
    assert set(shown) == RUNNABLE
    assert "original" in shown["chat"].out
    assert (workplace / "out" / "model.safetensors").is_file()


def test_mining_on_the_page_about_prompts_runs(planted: Path, workplace: Path) -> None:
    from unflinch.cli.main import main

    page = DOCS / "prompts.md"
    (shown,) = (block for block in blocks(page) if block.title == "mine.jsonl")
    (workplace / shown.title).write_text(shown.code, encoding="utf-8")
    (words,) = (words for words in command_lines(page) if words[0] == "mine")
    with pytest.raises(SystemExit) as stop:
        main([str(planted) if word == MODEL else word for word in words])
    assert not stop.value.code
