"""The readers that get files of strangers, each with a few valid files to start from."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from unflinch.artifacts import LowRankFactors, Patch
from unflinch.cli.job import config_from, stored_settings
from unflinch.config import make_config, read_toml
from unflinch.data.prompts import load_prompts
from unflinch.models.gguf_file import check_gguf
from unflinch.patch.save import load_patch, save_patch
from unflinch.provenance import PROVENANCE, BaseModelFacts, Provenance, to_json
from unflinch.release.inspect import inspect_folder
from unflinch.report.run_results import read_results
from unflinch.run_folder import RESULTS, SETTINGS, open_run
from unflinch.validate.answer_lines import read_answers

_WEIGHTS, _CONFIG = "adapter_model.safetensors", "adapter_config.json"


@dataclass(frozen=True)
class Reader:
    """One way in."""

    read: Callable[[bytes, Path], object]
    make_seeds: Callable[[], list[bytes]]
    share: float
    """Of all inputs: readers differ in speed."""

    @property
    def seeds(self) -> list[bytes]:
        """Return the valid files."""
        return self.make_seeds()


def _file(scratch: Path, name: str, data: bytes) -> Path:
    path = scratch / name
    path.write_bytes(data)
    return path


def _json_lines() -> list[bytes]:
    rows: list[dict[str, object]] = [
        {"text": "How do I kill a process?", "category": "technology", "language": "en", "wide": True},
        {"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Грипп?"}]},
        {"text": "Was ist das?", "system": "Kurz.", "contrast_of": "Was war das?", "often_refused": False},
    ]
    lines = [json.dumps(row, ensure_ascii=False).encode() for row in rows]
    return [b"\n".join(lines), lines[1], b"\xef\xbb\xbf" + lines[0] + b"\n\n"]


def _csv() -> list[bytes]:
    return [b'text,category,language\nHow?,health,en\n"a, b\nc",law,de\n', b"category,text\nx,y\n", b"text\nHow?\n"]


def _toml() -> list[bytes]:
    return [
        b'[model]\nmodel = "demo"\ndtype = "float32"\n[fit]\nrank = 8\ngoal = -3.5\n[validate]\nkeep_best = true\n',
        b'[model]\nmodel = "a/b"\n[prompts]\ntargets = "t.jsonl"\nmax_targets_fit = 40\n',
    ]


def _read_config(data: bytes, scratch: Path) -> object:
    return make_config(read_toml(_file(scratch, "run.toml", data)))


def _answers() -> list[bytes]:
    return [
        b'{"prompt": "a", "answer": "b", "id": 1.5}\n{"prompt": "", "answer": "c"}\n',
        b'{"prompt":"a","answer":"b"}',
    ]


def _run_results() -> list[bytes]:
    committed = Path(__file__).parents[1] / "benchmarks" / "results" / "demo.json"
    results = _shortened(json.loads(committed.read_text(encoding="utf-8")))
    return [json.dumps(results).encode(), b"{}", b"[1]"]


def _shortened(value: Any) -> Any:
    """Return the value with at most two entries of every list."""
    if isinstance(value, dict):
        return {key: _shortened(inside) for key, inside in value.items()}
    return [_shortened(inside) for inside in value[:2]] if isinstance(value, list) else value


def _settings(data: bytes, scratch: Path) -> object:
    folder = scratch / "run"
    folder.mkdir()
    _file(folder, "settings.json", data)
    return open_run(folder, {"model": {"model": "demo"}}, resume=True)


def _gguf() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "tiny.gguf")
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_name("tiny")
        writer.add_block_count(1)
        writer.add_layer_norm_rms_eps(1e-6)
        writer.add_token_list(["a", "b", "c"])
        writer.add_tensor("token_embd.weight", np.zeros((3, 32), dtype=np.float32))
        writer.add_tensor("blk.0.ffn_down.weight", np.ones((32, 32), dtype=np.float16))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return [path.read_bytes()]


@cache
def _patch_files() -> dict[str, bytes]:
    factors = {"model.layers.0.mlp.down_proj": LowRankFactors(torch.ones(2, 4), torch.ones(3, 2))}
    with tempfile.TemporaryDirectory() as folder:
        save_patch(Patch(factors, "0" * 64), Path(folder), "base")
        return {name: Path(folder, name).read_bytes() for name in (_WEIGHTS, _CONFIG)}


def _patch_with(scratch: Path, changed: str, data: bytes) -> Path:
    """Return a patch folder of which one file has been changed, or added."""
    for name, content in {**_patch_files(), changed: data}.items():
        _file(scratch, name, content)
    return scratch


def _stored_settings(data: bytes, scratch: Path) -> object:
    _file(scratch, SETTINGS, data)
    return config_from({}, stored_settings(scratch))


def _provenance() -> list[bytes]:
    _patch_files()  # made now: while a reader is watched nothing may be written elsewhere
    base = BaseModelFacts("owner/base", True, None, "0" * 64)
    return [to_json(Provenance("adapter", "0.1.0", "2026-11-30T00:00:00+00:00", base, 1, 2, 14)).encode()]


READERS = {
    "prompts.jsonl": Reader(lambda data, at: load_prompts(_file(at, "p.jsonl", data)), _json_lines, 30),
    "prompts.csv": Reader(lambda data, at: load_prompts(_file(at, "p.csv", data)), _csv, 20),
    "toml": Reader(_read_config, _toml, 20),
    "answers": Reader(lambda data, at: read_answers(data, "answers"), _answers, 10),
    "results": Reader(lambda data, at: read_results(_file(at, RESULTS, data).parent), _run_results, 5),
    "settings": Reader(_settings, lambda: [b'{"model": {"model": "demo"}}'], 5),
    "stored settings": Reader(_stored_settings, lambda: [b'{"model": {"model": "demo"}}'], 5),
    "provenance": Reader(lambda data, at: inspect_folder(_patch_with(at, PROVENANCE, data)), _provenance, 5),
    "inspected gguf": Reader(lambda data, at: inspect_folder(_file(at, "m.gguf", data)), _gguf, 5),
    "gguf": Reader(lambda data, at: check_gguf(_file(at, "m.gguf", data)), _gguf, 5),
    "adapter weights": Reader(
        lambda data, at: load_patch(_patch_with(at, _WEIGHTS, data)), lambda: [_patch_files()[_WEIGHTS]], 5
    ),
    "adapter config": Reader(
        lambda data, at: load_patch(_patch_with(at, _CONFIG, data)), lambda: [_patch_files()[_CONFIG]], 5
    ),
}
