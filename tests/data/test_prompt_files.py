"""Reading prompts: what is accepted, and that everything else is one clear `PromptFileError`."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import tempfile
import unicodedata
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unflinch.data import prompts as prompts_module
from unflinch.data.prompts import Message, Prompt, bundled, guard_prompts, load_prompts
from unflinch.errors import InputError, PromptFileError, PromptSetError


def write(folder: Path, content: str | bytes, name: str = "prompts.jsonl") -> Path:
    """Write a prompt file and return its path."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_a_bare_text_line_is_a_prompt_without_category_and_language(tmp_path: Path) -> None:
    assert load_prompts(write(tmp_path, '{"text": "How do I kill a process?"}')) == (
        Prompt("How do I kill a process?", category="uncategorised", language="und"),
    )


def test_all_fields_of_a_line_are_read_and_unknown_ones_ignored(tmp_path: Path) -> None:
    known = {"text": "a", "category": "c", "language": "en", "system": "s", "contrast_of": "b"} | dict.fromkeys(
        ("often_refused", "wide"), True
    )
    line = {**known, "id": 7, "x": [1]}
    assert load_prompts(write(tmp_path, json.dumps(line))) == (Prompt("a", "c", "en", "s", None, "b", True, True),)


def test_blank_and_null_optional_fields_count_as_absent(tmp_path: Path) -> None:
    line = {"text": "a", "category": "", "language": None, "system": " ", "contrast_of": None, "messages": None}
    assert load_prompts(write(tmp_path, json.dumps(line))) == (Prompt("a"),)


def test_the_text_of_a_dialogue_is_its_last_user_message(tmp_path: Path) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "Why?"},
    ]
    (prompt,) = load_prompts(write(tmp_path, json.dumps({"messages": messages})))
    assert prompt.text == "Why?"
    assert prompt.system == "Be brief."
    assert prompt.messages == (Message("user", "Hi"), Message("assistant", "Hello"), Message("user", "Why?"))
    assert prompt.conversation() == messages


def test_a_single_turn_is_laid_out_after_its_system_prompt() -> None:
    assert Prompt("a").conversation() == [{"role": "user", "content": "a"}]
    assert Prompt("a", system="s").conversation()[0] == {"role": "system", "content": "s"}


def test_the_key_depends_on_the_conversation_alone_and_not_on_its_unicode_form() -> None:
    composed, decomposed = unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café")
    assert composed != decomposed
    assert Prompt(composed, category="x", language="fr").key == Prompt(decomposed).key
    assert Prompt("a").key == Prompt("a", messages=(Message("user", "a"),), contrast_of="b").key
    assert len({Prompt("a").key, Prompt("b").key, Prompt("a", system="b").key}) == 3
    assert len(Prompt("a").key) == 64


def test_lines_may_end_in_carriage_returns_hold_line_separators_and_start_with_a_byte_order_mark(
    tmp_path: Path,
) -> None:
    content = b'\xef\xbb\xbf{"text": "a"}\r\n\r\n' + '{"text": "b\u2028c"}\r\n'.encode()
    assert [prompt.text for prompt in load_prompts(write(tmp_path, content))] == ["a", "b\u2028c"]


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.JSONL"])
def test_json_lines_are_read_under_each_of_their_names(tmp_path: Path, name: str) -> None:
    assert len(load_prompts(str(write(tmp_path, '{"text": "a"}\n{"text": "b"}\n', name)))) == 2


def test_csv_rows_equal_json_lines_with_the_same_fields(tmp_path: Path) -> None:
    rows = 'id,text,category,language,system,messages\n1,"a, ""b""\nc",x,en,,[]\n\n2,d,,,s,\n'
    assert load_prompts(write(tmp_path, rows, "x.csv")) == (
        Prompt('a, "b"\nc', "x", "en"),
        Prompt("d", system="s"),
    )


def test_duplicates_are_dropped_with_a_warning_and_the_first_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines = '{"text": "a", "category": "x"}\n{"text": "b"}\n{"text": "a", "category": "y"}\n'
    with caplog.at_level(logging.WARNING):
        loaded = load_prompts(write(tmp_path, lines))
    assert [(prompt.text, prompt.category) for prompt in loaded] == [("a", "x"), ("b", "uncategorised")]
    assert "dropped 1 duplicates" in caplog.text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            '{"text": "a"}\n{"text": ',
            ["line 2", "broken JSON (Expecting value at column 10", "one whole object a line"],
        ),
        ('\n["a"]\n', ["line 2", "a list", "expected an object"]),
        ('"a"', ["line 1", "a text"]),
        ("null", ["null"]),
        ("[" * 100_000, ["line 1", "broken JSON"]),
        ("1" * 5000, ["line 1", "broken JSON"]),
        ("{}", ["line 1", "no user text"]),
        ('{"text": " \\n"}', ["line 1", "no user text"]),
        ('{"text": 3}', ['"text" is a number', "text in quotes"]),
        ('{"text": "a", "category": true}', ['"category" is true or false']),
        ('{"text": "a", "language": ["en"]}', ['"language" is a list']),
        ('{"text": "a", "system": {}}', ['"system" is an object']),
        ('{"text": "a", "contrast_of": 1.5}', ['"contrast_of" is a number']),
        ('{"text": "a", "often_refused": "yes"}', ['"often_refused" is a text', "expected true or false"]),
        ('{"text": "\\ud800"}', ["line 1", "surrogate"]),
        ('{"text": "a", "category": "\\udc00"}', ["line 1", "surrogate"]),
        (json.dumps({"text": "a" * 100_001}), ["line 1", "100,001 characters", "100,000"]),
        ('{"messages": "a"}', ['"messages" is a text']),
        ('{"messages": []}', ['"messages" is an empty list']),
        ('{"messages": ["a"]}', ["a message is a text"]),
        ('{"messages": [{"role": "tool", "content": "a"}]}', ["unknown role 'tool'", "assistant"]),
        ('{"messages": [{"role": ["user"], "content": "a"}]}', ["unknown role"]),
        ('{"messages": [{"content": "a"}]}', ["unknown role None"]),
        ('{"messages": [{"role": "user"}]}', ["a content is null"]),
        ('{"messages": [{"role": "user", "content": ""}]}', ["blank"]),
        ('{"messages": [{"role": "system", "content": "a"}]}', ["no user text"]),
        (
            '{"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]}',
            ["a late system message"],
        ),
        (
            '{"system": "s", "messages": [{"role": "system", "content": "b"}, {"role": "user", "content": "a"}]}',
            ["two system prompts"],
        ),
        (
            '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}',
            ["the last message is the assistant's", "remove"],
        ),
        ('{"text": "b", "messages": [{"role": "user", "content": "a"}]}', ["differs"]),
        ("", ["holds no prompts"]),
        ("\n \n", ["holds no prompts"]),
        (b'{"text": "a"}\n{"text": "\xff"}', ["line 2", "not UTF-8"]),
        ('{"text": "a"}'.encode("utf-16"), ["line 1", "not UTF-8"]),
    ],
)
def test_a_bad_line_is_one_sentence_that_names_the_file_and_what_was_expected(
    tmp_path: Path, content: str | bytes, words: list[str]
) -> None:
    with pytest.raises(PromptFileError) as caught:
        load_prompts(write(tmp_path, content))
    message = str(caught.value)
    assert "prompts.jsonl" in message
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["holds no prompts"]),
        ("text\n", ["holds no prompts"]),
        ("prompt;category\na;b\n", ['no column "text"', "prompt;category"]),
        ("text,category\na,b\n,c\n", ["line 3", "no user text"]),
        ('text\n"never closed\nb\nc\n', ["broken CSV", "double quotes"]),
        ("text\n" + "a" * 200_000, ["line 2", "broken CSV"]),
        (b"text\na\n\xff\n", ["line 3", "not UTF-8"]),
    ],
)
def test_a_bad_csv_file_is_one_sentence_that_says_where_and_what(
    tmp_path: Path, content: str | bytes, words: list[str]
) -> None:
    with pytest.raises(PromptFileError) as caught:
        load_prompts(write(tmp_path, content, "x.csv"))
    for word in ["x.csv", *words]:
        assert word in str(caught.value)


def test_what_is_not_a_prompt_file_is_named_as_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(PromptFileError, match="does not exist"):
        load_prompts(tmp_path / "missing.jsonl")
    with pytest.raises(PromptFileError, match="is a folder"):
        load_prompts(tmp_path)
    with pytest.raises(PromptFileError, match=r"expected \.jsonl, \.json .* or \.csv"):
        load_prompts(write(tmp_path, "a", "x.txt"))
    with pytest.raises(PromptFileError, match="does not exist|cannot be read"):
        load_prompts("a\0b.jsonl")
    with pytest.raises(PromptFileError, match="cannot be read"):
        load_prompts("a" * 5000 + ".jsonl")


@pytest.mark.skipif(not Path("/dev/null").exists(), reason="needs a device file")
def test_a_device_is_not_read_as_a_file(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").symlink_to("/dev/zero")
    with pytest.raises(PromptFileError, match="not a regular file"):
        load_prompts(tmp_path / "x.jsonl")


def test_a_file_above_the_size_limit_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "large.jsonl"
    with path.open("wb") as stream:
        stream.truncate(257 * 2**20)  # sparse: takes no space
    with pytest.raises(PromptFileError, match="257 MiB; the limit is 256 MiB"):
        load_prompts(path)


def test_an_error_of_the_operating_system_while_reading_is_a_prompt_file_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = write(tmp_path, '{"text": "a"}')
    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(PromptFileError, match="cannot be read: Permission denied"):
        load_prompts(path)


@given(content=st.binary() | st.text().map(str.encode), suffix=st.sampled_from([".jsonl", ".json", ".csv"]))
def test_garbage_bytes_give_prompts_or_a_prompt_file_error(content: bytes, suffix: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            assert load_prompts(write(Path(folder), content, "x" + suffix))
        except PromptFileError as error:
            assert "x" + suffix in str(error)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["text", "messages", "role", "content", "system"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(value=json_values)
def test_any_json_value_gives_prompts_or_a_prompt_file_error(value: object) -> None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            assert load_prompts(write(Path(folder), json.dumps(value)))
        except PromptFileError as error:
            assert "x.jsonl" in str(error) or "prompts.jsonl" in str(error)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Prompt(" "),
        lambda: Prompt("a", category=""),
        lambda: Prompt("a", system=""),
        lambda: Prompt("a", contrast_of=" "),
        lambda: Prompt("a\udc00"),
        lambda: Prompt("b", messages=(Message("user", "a"),)),
        lambda: Prompt("a", messages=(Message("assistant", "a"),)),
        lambda: Prompt("a", messages=(Message("user", " "), Message("user", "a"))),
        lambda: Prompt("a", system="s" * 100_000),
    ],
)
def test_no_prompt_can_be_made_that_could_not_be_read_back(make: object) -> None:
    assert callable(make)
    with pytest.raises(PromptSetError):
        make()


class FakeRows(dict[str, list[object]]):
    """As much of a `datasets.Dataset` as is used."""

    @property
    def column_names(self) -> list[str]:
        """The names of the columns."""
        return list(self)


def install_datasets(monkeypatch: pytest.MonkeyPatch, load: object) -> None:
    """Put a stand-in for the package `datasets` in place."""
    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load))


def test_one_column_of_a_data_set_of_the_hub_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []

    def load(name: str, split: str) -> FakeRows:
        asked.append((name, split))
        return FakeRows(question=["a", "b", "a"], other=[1, 2, 3])

    install_datasets(monkeypatch, load)
    assert load_prompts("hub:owner/name:train[:10%]:question") == (Prompt("a"), Prompt("b"))
    assert asked == [("owner/name", "train[:10%]")]
    with pytest.raises(PromptFileError, match="no column 'text'; expected one of"):
        load_prompts("hub:owner/name:train:text")
    with pytest.raises(PromptFileError, match='row 1: "text" is a number'):
        load_prompts("hub:owner/name:train:other")


def test_a_data_set_that_cannot_be_loaded_is_a_prompt_file_error_with_its_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load(name: str, split: str) -> FakeRows:
        raise ConnectionError("no network")

    install_datasets(monkeypatch, load)
    with pytest.raises(PromptFileError, match="ConnectionError: no network.*check its name"):
        load_prompts("hub:owner/name:train:text")


def test_without_the_package_datasets_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(PromptFileError, match=r"pip install 'unflinch\[hub\]'"):
        load_prompts("hub:owner/name:train:text")


@pytest.mark.parametrize("source", ["hub:", "hub:name:train:text", "hub:a/b:train", "hub:a/b::text", "hub:a/b/c:d:e"])
def test_a_malformed_hub_source_is_told_the_right_form(source: str) -> None:
    with pytest.raises(PromptFileError, match="expected hub:owner/name:split:column"):
        load_prompts(source)


def test_reading_prompts_loads_neither_torch_nor_datasets() -> None:
    modules = "unflinch.data.prompts, unflinch.data.splits, unflinch.data.mine"
    code = f"import sys, {modules}; sys.exit(bool({{'torch', 'transformers', 'datasets'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_altered_guard_file_stops_everything_that_asks_for_the_guard(monkeypatch: pytest.MonkeyPatch) -> None:
    assert bundled("guard") == guard_prompts()
    original = prompts_module._read_bundled("guard")
    monkeypatch.setattr(prompts_module, "_read_bundled", lambda name: original.split(b"\n", 1)[1])
    with pytest.raises(InputError, match="altered.*reinstall"):
        guard_prompts()
    with pytest.raises(InputError, match="altered.*reinstall"):
        bundled("guard")


def test_a_missing_bundled_file_asks_to_reinstall(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(prompts_module, "files", lambda _: tmp_path)
    with pytest.raises(InputError, match="reinstall"):
        guard_prompts()
    with pytest.raises(InputError, match="reinstall"):
        bundled("keep")
