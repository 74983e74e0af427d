"""Prompts, and the files they come from: JSON lines, CSV, the Hugging Face Hub, and the bundled sets."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from typing import Literal, cast

from unflinch.errors import InputError, PromptFileError, PromptSetError

logger = logging.getLogger(__name__)

BundledName = Literal["targets", "keep", "guard", "ordinary"]
Role = Literal["user", "assistant"]
Record = Mapping[str, object]
"""One line or row, as read: column name -> value."""

GUARD_SHA256 = "aa0a94dfb7ce7198f00254812fd46c55a18c6781cdfe1c482378f760de5ce731"
"""SHA-256 of `bundled/guard.jsonl`; `bundled/SOURCES.md` says how to change it on purpose."""

UNCATEGORISED = "uncategorised"
MAX_FILE_BYTES = 256 * 1024 * 1024
MAX_PROMPT_CHARACTERS = 100_000
"""Most characters of one conversation: far above any prompt, far below what would exhaust memory later."""

_HUB_SOURCE = re.compile(r"hub:(?P<name>[\w.-]+/[\w.-]+):(?P<split>[^:\[]+(?:\[[^\]]*\])?):(?P<column>.+)")
_SURROGATE = re.compile("[\ud800-\udfff]")
_JSON_EXAMPLE = '{"text": "..."}'


@dataclass(frozen=True)
class Message:
    """One turn of a dialogue."""

    role: Role
    content: str


@dataclass(frozen=True)
class Prompt:
    """One prompt: a single user turn, or a dialogue that ends with one.

    Raises:
        PromptSetError: if a field or a turn is blank, the whole is too long or holds broken Unicode, or
            `messages` does not end with a user message that equals `text`.
    """

    text: str
    """The user turn to be answered; for a dialogue the last one."""
    category: str = UNCATEGORISED
    language: str = "und"
    """A language code such as `en`; `und` is undetermined."""
    system: str | None = None
    messages: tuple[Message, ...] | None = None
    """The whole dialogue without the system prompt; None for a single turn."""
    contrast_of: str | None = None
    """The text of the target of which this prompt is the harmful twin."""
    often_refused: bool = False
    """Whether a reference model refuses it, or an ordinary prompt nearly: such prompts come first."""
    wide: bool = False
    """Whether it belongs to the borderline part of a set, which a run can leave out."""
    thinking: bool | None = None
    """Whether the model is to think before it answers; None where it knows no thinking. Set by the run."""

    def __post_init__(self) -> None:
        """Check what every later step relies on."""
        turns = self.messages or (Message("user", self.text),)
        if turns[-1].role != "user":
            raise PromptSetError("the last message is the assistant's; expected the user's: remove it")
        if turns[-1].content != self.text:
            raise PromptSetError('"text" differs from the last user message; give only one of the two')
        length = sum(len(turn.content) for turn in turns) + len(self.system or "")
        if length > MAX_PROMPT_CHARACTERS:
            raise PromptSetError(
                f"the prompt has {length:,} characters; the limit is {MAX_PROMPT_CHARACTERS:,}: shorten it"
            )
        optional = [value for value in (self.system, self.contrast_of) if value is not None]
        strings = [self.category, self.language, *optional, *(turn.content for turn in turns)]
        if not all(string.strip() for string in strings):
            raise PromptSetError("a field or a message is blank; expected words: fill it, or leave it out")
        if any(_SURROGATE.search(string) for string in strings):
            raise PromptSetError("the prompt holds half of a surrogate pair; expected \\uXXXX\\uXXXX")

    def conversation(self) -> list[dict[str, str]]:
        """Return the system prompt, if any, and the turns, as chat templates expect them."""
        turns = self.messages or (Message("user", self.text),)
        system = [{"role": "system", "content": self.system}] if self.system is not None else []
        return system + [{"role": turn.role, "content": turn.content} for turn in turns]

    @cached_property
    def key(self) -> str:
        """SHA-256 (hex) of the conversation, NFC-normalised, and `thinking`: equal keys are the same prompt."""
        turns: list[object] = [
            {"role": turn["role"], "content": unicodedata.normalize("NFC", turn["content"])}
            for turn in self.conversation()
        ]
        if self.thinking is not None:
            turns.append({"thinking": self.thinking})
        canonical = json.dumps(turns, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


def load_prompts(source: str | Path) -> tuple[Prompt, ...]:
    """Return the prompts of a file or data set, in order, each once.

    Args:
        source: a `.jsonl` or `.json` file with one object a line (`text` or `messages`; optional: `category`,
            `language`, `system`, `contrast_of`, `often_refused`, `wide`), a `.csv` file with the same columns
            except `messages` and the last two, or `hub:owner/name:split:column`. Blank and null fields count as absent,
            unknown ones are ignored.

    Raises:
        PromptFileError: if the source cannot be read, or a line is not a prompt; names the file and the line.
    """
    name = str(source)
    if name.startswith("hub:"):
        return _collect(_hub_records(name), name)
    path = Path(source)
    readers = {".jsonl": _json_records, ".json": _json_records, ".csv": _csv_records}
    reader = readers.get(path.suffix.lower())
    _check_file(path)
    if reader is None:
        raise PromptFileError(f"{name}: unknown kind of file; expected .jsonl, .json (JSON lines) or .csv")
    try:
        with path.open("rb") as stream:
            return _collect(reader(_decoded_lines(stream, name), name), name)
    except OSError as error:
        raise PromptFileError(f"{name} cannot be read: {error.strerror}") from error


def bundled(name: BundledName) -> tuple[Prompt, ...]:
    """Return the prompts of a set that is shipped with the package; the guard set is verified first.

    Raises:
        InputError: if the file is missing, or is the guard file and was altered.
    """
    if name == "guard":
        return guard_prompts()
    return _parse_bundled(name, _read_bundled(name))


def guard_prompts() -> tuple[Prompt, ...]:
    """Return the guard set, after verifying the SHA-256 of its file against `GUARD_SHA256`.

    Raises:
        InputError: if the file is missing or altered: a run without its guard must not start.
    """
    data = _read_bundled("guard")
    found = hashlib.sha256(data).hexdigest()
    if found != GUARD_SHA256:
        raise InputError(
            f"the bundled guard prompts were altered (SHA-256 {found[:12]}..., expected "
            f"{GUARD_SHA256[:12]}...); nothing runs without them: reinstall unflinch"
        )
    return _parse_bundled("guard", data)


def _read_bundled(name: BundledName) -> bytes:
    try:
        return files("unflinch.data").joinpath("bundled", f"{name}.jsonl").read_bytes()
    except OSError as error:
        raise InputError(f"the bundled set {name!r} cannot be read: reinstall unflinch") from error


@cache  # of what the file holds: a process reads 25,000 prompts once
def _parse_bundled(name: BundledName, data: bytes) -> tuple[Prompt, ...]:
    where = f"bundled {name}.jsonl"
    return _collect(_json_records(_decoded_lines(io.BytesIO(data), where), where), where)


def _check_file(path: Path) -> None:
    """Raise `PromptFileError` unless `path` is a regular file below the size limit."""
    try:
        if not path.exists():
            raise PromptFileError(f"{path} does not exist; expected a prompt file: check the path")
        if path.is_dir():
            raise PromptFileError(f"{path} is a folder; expected a prompt file: name one file inside it")
        if not path.is_file():
            raise PromptFileError(f"{path} is not a regular file: save the prompts to one")
        size = path.stat().st_size
    except (OSError, ValueError) as error:
        raise PromptFileError(f"{str(path)!r} cannot be read: {error}") from error
    if size > MAX_FILE_BYTES:
        raise PromptFileError(
            f"{path} has {size // 2**20:,} MiB; the limit is {MAX_FILE_BYTES // 2**20} MiB: use a part of it"
        )


def _decoded_lines(stream: Iterable[bytes], name: str) -> Iterator[str]:
    """Yield the lines as text, without a byte order mark; only a line feed ends a line."""
    for number, raw in enumerate(stream, start=1):
        try:
            yield (raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw).decode()
        except UnicodeDecodeError as error:
            raise PromptFileError(
                f"{name}, line {number}: byte {error.start + 1} is not UTF-8; expected UTF-8 text: "
                "save the file with that encoding"
            ) from error


def _json_records(lines: Iterable[str], name: str) -> Iterator[tuple[str, Record]]:
    """Yield the place and the object of every line that is not blank."""
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{name}, line {number}"
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as bad:
            # The decoder's own sentence would call this line 1.
            reason = f"{bad.msg} at column {bad.colno}" if isinstance(bad, json.JSONDecodeError) else bad
            raise PromptFileError(
                f"{where}: broken JSON ({reason}); expected one whole object a line, such as {_JSON_EXAMPLE}"
            ) from bad
        if not isinstance(value, dict):
            raise PromptFileError(f"{where}: {_kind(value)}; expected an object, such as {_JSON_EXAMPLE}")
        yield where, value


def _csv_records(lines: Iterable[str], name: str) -> Iterator[tuple[str, Record]]:
    """Yield the place and the fields of every row; strict, so that an open quote cannot swallow the rest."""
    reader = csv.reader(lines, strict=True)
    try:
        header = [column.strip() for column in next(filter(None, reader), ["text"])]
        if "text" not in header:
            raise PromptFileError(f'{name}: no column "text" among {header[:8]}; expected it in line 1')
        for row in reader:
            if row:
                fields = dict(zip(header, row, strict=False))
                for column in ("messages", "often_refused", "wide"):  # no text in a cell: such columns are not ours
                    fields.pop(column, None)
                yield f"{name}, line {reader.line_num}", fields
    except csv.Error as error:
        raise PromptFileError(
            f"{name}, line {reader.line_num}: broken CSV ({error}); expected comma-separated cells, "
            "those with commas, quotes or line breaks in double quotes"
        ) from error


def _hub_records(source: str) -> Iterator[tuple[str, Record]]:
    """Yield the place and the text of every row of one column of a data set."""
    match = _HUB_SOURCE.fullmatch(source)
    if match is None:
        raise PromptFileError(f"{source!r} is not a data set; expected hub:owner/name:split:column")
    name, split, column = match["name"], match["split"], match["column"]
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise PromptFileError(f"{source} needs datasets ({error}): pip install 'unflinch[hub]'") from error
    try:
        rows = load_dataset(name, split=split)
        columns = list(rows.column_names)
    except Exception as error:  # the network, the Hub, or the data set's own files: any class
        reason = " ".join(str(error).split())
        raise PromptFileError(
            f"{source} cannot be loaded ({type(error).__name__}: {reason:.300}); expected a data set that "
            "you may read: check its name, the split, the network and, for a gated one, `hf auth login`"
        ) from error
    if column not in columns:
        raise PromptFileError(f"{source}: no column {column!r}; expected one of {columns}")
    for number, text in enumerate(rows[column], start=1):
        yield f"{source}, row {number}", {"text": text}


def _collect(records: Iterable[tuple[str, Record]], name: str) -> tuple[Prompt, ...]:
    """Return the prompts of the records, each content once, the first kept."""
    prompts: dict[str, Prompt] = {}
    count = 0
    for where, record in records:
        prompt = _prompt(record, where)
        prompts.setdefault(prompt.key, prompt)
        count += 1
    if not prompts:
        raise PromptFileError(f"{name} holds no prompts; expected at least one, such as {_JSON_EXAMPLE}")
    if count > len(prompts):
        logger.warning("%s: dropped %d duplicates, kept %d prompts", name, count - len(prompts), len(prompts))
    return tuple(prompts.values())


def _prompt(record: Record, where: str) -> Prompt:
    """Return the prompt of one record; blank and null fields count as absent."""
    fields = {name: _optional_text(record, name, where) for name in ("text", "system", "contrast_of")}
    turns = _turns(record.get("messages"), where)
    system = fields["system"]
    if turns and turns[0][0] == "system":
        if system is not None:
            raise PromptFileError(f'{where}: two system prompts; expected "system" or a system message')
        system = turns.pop(0)[1]
    if any(role == "system" for role, _ in turns):
        raise PromptFileError(f"{where}: a late system message; expected it first, and once")
    messages = tuple(Message(cast(Role, role), content) for role, content in turns)
    text = fields["text"]
    if text is None:
        users = [message.content for message in messages if message.role == "user"]
        if not users:
            raise PromptFileError(f'{where}: no user text; expected words in "text" or in a user message')
        text = users[-1]
    try:
        return Prompt(
            text=text,
            category=_optional_text(record, "category", where) or UNCATEGORISED,
            language=_optional_text(record, "language", where) or "und",
            system=system,
            messages=messages or None,
            contrast_of=fields["contrast_of"],
            often_refused=_flag(record, "often_refused", where),
            wide=_flag(record, "wide", where),
        )
    except PromptSetError as error:
        raise PromptFileError(f"{where}: {error}") from error


def _turns(value: object, where: str) -> list[tuple[str, str]]:
    """Return the (role, content) pairs of the field `messages`; empty where it is absent."""
    if value is None:
        return []
    if not isinstance(value, list) or not value:
        raise PromptFileError(f'{where}: "messages" is {_kind(value)}; expected a list of messages')
    turns = []
    for message in value:
        if not isinstance(message, dict):
            raise PromptFileError(f"{where}: a message is {_kind(message)}; expected role and content")
        role, content = message.get("role"), message.get("content")
        if role not in ("system", "user", "assistant"):
            raise PromptFileError(f"{where}: unknown role {role!r:.40}; expected system, user or assistant")
        if not isinstance(content, str):
            raise PromptFileError(f"{where}: a content is {_kind(content)}; expected text in quotes")
        turns.append((role, content))
    return turns


def _optional_text(record: Record, name: str, where: str) -> str | None:
    value = record.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise PromptFileError(f'{where}: "{name}" is {_kind(value)}; expected text in quotes')
    return value if value.strip() else None


def _flag(record: Record, name: str, where: str) -> bool:
    value = record.get(name)
    if value is None or isinstance(value, bool):
        return bool(value)
    raise PromptFileError(f'{where}: "{name}" is {_kind(value)}; expected true or false')


def _kind(value: object) -> str:
    """Return what a JSON value is, in words."""
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    names = {
        type(None): "null",
        dict: "an object",
        str: "a text",
        bool: "true or false",
        int: "a number",
        float: "a number",
    }
    return names.get(type(value), f"of type {type(value).__name__}")
