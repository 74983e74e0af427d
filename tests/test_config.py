"""Options from TOML and from the command line: known names, right types, values in range; the command line wins."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from unflinch.config import RunConfig, as_settings, make_config, read_toml, with_model
from unflinch.errors import ConfigError, UnflinchError
from unflinch.options import FitOptions, ModelOptions, PromptOptions, ScanOptions, ValidateOptions

MODEL = {"model": {"model": "demo"}}


def toml(tmp_path: Path, text: str) -> Path:
    (tmp_path / "run.toml").write_text(text, encoding="utf-8")
    return tmp_path / "run.toml"


def config_of(section: str, **values: Any) -> RunConfig:
    return make_config({**MODEL, section: {**MODEL.get(section, {}), **values}})


def test_the_model_alone_gives_the_defaults_of_every_step() -> None:
    config = make_config(MODEL)
    assert config == RunConfig(ModelOptions(model="demo"))
    assert config.fit == FitOptions()
    assert config.prompts == PromptOptions()


def test_a_file_sets_what_it_names_and_leaves_the_rest(tmp_path: Path) -> None:
    file = toml(
        tmp_path, '[model]\nmodel = "owner/name"\n[fit]\nrank = 2\nkl_budget = 0.5\n[validate]\nkeep_best = true\n'
    )
    config = make_config(read_toml(file))
    assert config.model.model == "owner/name"
    assert config.fit == FitOptions(rank=2, kl_budget=0.5)
    assert config.validate == ValidateOptions(keep_best=True)
    assert config.scan == ScanOptions()


def test_every_option_can_be_set_by_its_own_name(tmp_path: Path) -> None:
    default = as_settings(make_config(MODEL))
    lines = []
    for section, values in default.items():
        lines.append(f"[{section}]")
        for name, value in values.items():
            if value is not None:
                value = list(value) if isinstance(value, tuple) else value
                lines.append(f"{name} = {str(value).lower() if isinstance(value, bool) else repr(value)}")
    read = make_config(read_toml(toml(tmp_path, "\n".join(lines))))
    assert as_settings(read) == default
    assert set(default) == {field.name for field in fields(RunConfig)}


def test_the_fit_cannot_ask_for_more_of_an_answer_than_is_written() -> None:
    make_config({**MODEL, "fit": {"answer_tokens": 12}, "scan": {"ordinary_tokens": 12}})
    with pytest.raises(ConfigError, match="fit.answer_tokens is 9, but scan.ordinary_tokens 8.*raise the second"):
        config_of("fit", answer_tokens=9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[fit]\nranks = 4", r"run.toml has the unknown option 'fit.ranks'; known here are .*rank"),
        ("[fits]\nrank = 4", r"run.toml has the unknown option 'fits'; known here are fit, model"),
        ("rank = 4", "run.toml has the unknown option 'rank'"),
        ("fit = 4", r"run.toml: 'fit' is a section; write \[fit\] and its options below it"),
        ("[fit.rank]\nvalue = 4", r"option fit.rank: .*"),
    ],
)
def test_an_unknown_name_is_refused_with_those_that_are_known(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_config({**read_toml(toml(tmp_path, text)), **MODEL})


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"[fit\nrank = 4", "is no valid TOML"), (b'[model]\nmodel = "\xff"', "is no valid TOML")],
)
def test_a_file_that_is_no_toml_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "run.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=f"run.toml {message}"):
        read_toml(tmp_path / "run.toml")


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(ConfigError, match="cannot read .* expected a TOML file: check the path"):
            read_toml(path)


WRONG: list[tuple[str, str, Any, str]] = [
    ("fit", "rank", "four", "option fit.rank: .* given 'four'"),
    ("fit", "rank", 2.5, "option fit.rank: .* given 2.5"),
    ("fit", "kl_budget", [0.1], r"option fit.kl_budget: .* given \[0.1\]"),
    ("model", "trust_remote_code", "perhaps", "option model.trust_remote_code: .* given 'perhaps'"),
    ("prompts", "targets", 5, "option prompts.targets: .* given 5"),
    ("fit", "rank", 0, "option fit.rank is 0; expected at least 1"),
    ("fit", "learning_rate", 0.0, "option fit.learning_rate is 0.0; expected more than 0"),
    ("fit", "kl_budget", -0.1, "option fit.kl_budget is -0.1; expected more than 0"),
    ("scan", "rank", 0, "option scan.rank is 0; expected at least 1"),
    ("scan", "decision_tokens", 3, "option scan.decision_tokens is 3; expected at least 4"),
    ("scan", "shrinkage", 1.5, "option scan.shrinkage is 1.5; expected a share between 0 and 1"),
    ("prompts", "max_targets_fit", 3, "option prompts.max_targets_fit is 3; expected at least 4"),
    ("prompts", "fit_share", -0.1, "option prompts.fit_share is -0.1; expected a share"),
    ("prompts", "select_share", 0.9, "leave nothing to test; their sum must be < 1"),
    ("prompts", "seed", -1, "option prompts.seed is -1; expected a whole number from 0 to"),
    ("fit", "seed", 2**63, "option fit.seed is 9223372036854775808; expected a whole number from 0 to"),
    ("validate", "answer_tokens", 2, "option validate.answer_tokens is 2; expected at least"),
    ("validate", "dialogues", 5, "option validate.dialogues is 5; expected at least 6"),
    ("validate", "dialogue_tokens", 4, "option validate.dialogue_tokens is 4; expected at least 8"),
    ("validate", "max_kl_p99", 0.0, "option validate.max_kl_p99 is 0.0; expected more than 0"),
    ("validate", "max_perplexity_ratio", 0.0, "option validate.max_perplexity_ratio is 0.0; expected more than 0"),
    ("validate", "max_dialogues_babbling", 2.0, "option validate.max_dialogues_babbling is 2.0; expected a share"),
    ("validate", "max_keep_lost", 2.0, "option validate.max_keep_lost is 2.0; expected a share"),
    ("validate", "max_targets_refused", float("nan"), "option validate.max_targets_refused is nan; expected a share"),
]


@pytest.mark.parametrize(("section", "name", "value", "message"), WRONG)
def test_a_wrong_type_or_a_value_out_of_range_names_option_and_value(
    section: str, name: str, value: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        config_of(section, **{name: value})
    assert isinstance(caught.value, UnflinchError)
    assert caught.value.exit_code == 2


def test_what_is_given_besides_the_file_wins() -> None:
    content = {"model": {"model": "demo", "dtype": "float32"}, "fit": {"rank": 2, "seed": 5}}
    config = make_config(content, {"model": {"dtype": "bfloat16"}, "fit": {"rank": 8}, "scan": {"rank": 1}})
    assert (config.model.model, config.model.dtype) == ("demo", "bfloat16")
    assert config.fit == FitOptions(rank=8, seed=5)
    assert config.scan == ScanOptions(rank=1)
    assert content == {"model": {"model": "demo", "dtype": "float32"}, "fit": {"rank": 2, "seed": 5}}


def test_what_is_not_given_changes_nothing() -> None:
    content = {**MODEL, "fit": {"rank": 2}}
    nothing = {"model": {"dtype": None, "revision": None}, "fit": {"rank": None}, "prompts": {"targets": None}}
    assert make_config(content, nothing) == make_config(content) == make_config(content, {})


def test_false_and_zero_are_given_and_win() -> None:
    content = {**MODEL, "validate": {"keep_best": True}, "fit": {"seed": 5}}
    config = make_config(content, {"validate": {"keep_best": False}, "fit": {"seed": 0}})
    assert (config.validate.keep_best, config.fit.seed) == (False, 0)


@pytest.mark.parametrize("content", [{}, {"model": {}}, {"model": {"model": ""}}])
def test_a_run_without_a_model_is_refused(content: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="no model given; expected a Hub id, a folder, a .gguf file or 'demo'"):
        make_config(content)
    assert make_config(content, {"model": {"model": "demo"}}).model.model == "demo"


def test_a_changed_model_leaves_the_other_options_alone() -> None:
    config = config_of("fit", rank=2)
    other = with_model(config, device="cpu")
    assert (other.model.model, other.model.device, other.fit) == ("demo", "cpu", config.fit)
    assert config.model.device == "auto"
