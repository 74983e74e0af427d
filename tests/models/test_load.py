"""A model folder is loaded as it is, or refused with what is wrong and what to do."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import CHATML, DEPTH, own_logits, save_model, tiny_config, tiny_model
from transformers import AutoModelForImageTextToText, PreTrainedModel

from unflinch.errors import ArchitectureError, ConfigError, ModelError
from unflinch.models import load
from unflinch.models.fingerprint import weight_hash
from unflinch.models.forward import logits_from_hidden, scored_hidden
from unflinch.models.load import load_model, pick_device, pick_dtype

IDS = (5, 9, 30, 7)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_model(tiny_model("llama"), tmp_path / "model")


def change_config(folder: Path, name: str = "config.json", **changes: Any) -> None:
    file = folder / name
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_a_saved_model_comes_back_frozen_and_with_the_same_logits(folder: Path) -> None:
    loaded = load_model(str(folder), dtype="float32", device="cpu")
    assert torch.equal(own_logits(loaded.model, IDS), own_logits(tiny_model("llama"), IDS))
    assert not loaded.model.training
    assert not any(parameter.requires_grad for parameter in loaded.model.parameters())
    assert (loaded.model_id, loaded.revision, loaded.depth) == (str(folder), None, DEPTH)
    assert loaded.architecture.source == "table"
    assert loaded.base_hash == weight_hash(tiny_model("llama"))
    assert loaded.tokenizer.chat_template == CHATML


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_weights_are_held_in_the_type_asked_for(folder: Path, dtype: str) -> None:
    loaded = load_model(str(folder), dtype=dtype, device="cpu")
    assert {str(parameter.dtype) for parameter in loaded.model.parameters()} == {f"torch.{dtype}"}


def test_auto_is_bfloat16_exactly_where_the_processor_computes_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    for native, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda native=native: native)
        assert pick_dtype("auto", cpu) == expected


def test_every_worker_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name, value in (("WORLD_SIZE", "4"), ("RANK", "3"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert pick_device("auto") == torch.device("cuda", 1)


def test_auto_takes_the_first_device_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device("auto") == torch.device("cpu")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device("auto") == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto") == torch.device("cuda")


def test_an_unknown_type_is_refused_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "resolve_source", lambda _: pytest.fail("looked for the model"))
    with pytest.raises(ConfigError, match="dtype 'int4' is unknown; expected auto, float32"):
        load_model("owner/name", dtype="int4", device="cpu")


@pytest.mark.parametrize("device", ["gpu", "cuda:77", "meta", ""])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(ConfigError, match=f"device '{device}' is not usable here"):
        pick_device(device)


def test_pickled_weights_alone_are_refused_without_being_opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(tiny_model("llama").state_dict(), folder / "pytorch_model.bin")
    monkeypatch.setattr(torch, "load", lambda *_args, **_kwargs: pytest.fail("unpickled"))
    with pytest.raises(ModelError, match="no .safetensors file; pickled weights are not loaded"):
        load_model(str(folder), device="cpu")


def test_pickled_weights_are_not_taken_where_the_safetensors_are_not_the_models(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "model.safetensors").rename(folder / "adapter.safetensors")
    torch.save(tiny_model("llama").state_dict(), folder / "pytorch_model.bin")
    monkeypatch.setattr(torch, "load", lambda *_args, **_kwargs: pytest.fail("unpickled"))
    with pytest.raises(ModelError, match="cannot load the model"):
        load_model(str(folder), dtype="float32", device="cpu")


def test_pickled_weights_beside_safetensors_are_left_alone(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"no pickle at all")
    monkeypatch.setattr(torch, "load", lambda *_args, **_kwargs: pytest.fail("unpickled"))
    load_model(str(folder), dtype="float32", device="cpu")


def test_a_model_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    folder = save_model(tiny_model("llama"), tmp_path / "base", chat_template=None)
    with pytest.raises(ModelError, match="has no chat template, so it is a base model"):
        load_model(str(folder), device="cpu")


@pytest.mark.parametrize(
    ("model_id", "message"),
    [
        ("{tmp}/nothing", "is no model folder"),
        ("./nothing", "is no model folder"),
        ("a/b/c", "is no model folder"),
        ("{tmp}/nothing.gguf", "expected a GGUF model file"),
        ("{tmp}/empty", "has no config.json"),
        ("{tmp}/empty/file.txt", "is no model folder"),
    ],
)
def test_a_path_that_leads_to_no_model_is_refused(tmp_path: Path, model_id: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "file.txt").write_text("nothing")
    with pytest.raises(ModelError, match=message):
        load_model(model_id.format(tmp=tmp_path), device="cpu")


def test_a_hub_model_that_cannot_be_reached_is_a_model_error() -> None:
    with pytest.raises(ModelError, match="cannot load the model 'owner/no-such-model'"):
        load_model("owner/no-such-model", device="cpu")


def remove_weight(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.down_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def cut_weights(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


DAMAGES = {
    "weights cut off": (cut_weights, "cannot load the model"),
    "empty weights": (lambda folder: (folder / "model.safetensors").write_bytes(b""), "cannot load the model"),
    "a missing weight": (remove_weight, "1 are missing or of another shape, model.layers.1.mlp.down_proj.weight"),
    "weights of another shape": (
        lambda folder: change_config(folder, intermediate_size=40),
        "9 are missing or of another shape",
    ),
    "a config of another kind": (
        lambda folder: change_config(folder, hidden_size="wide"),
        "field 'hidden_size': TypeError: ",
    ),
    "an unknown model type": (lambda folder: change_config(folder, model_type="new_model"), "cannot load the model"),
    "a config that is no JSON": (lambda folder: (folder / "config.json").write_text("{"), "cannot load the model"),
    "a config that is a list": (
        lambda folder: (folder / "config.json").write_text("[]"),
        "config.json holds no JSON object",
    ),
    "no heads": (lambda folder: change_config(folder, num_attention_heads=0), "cannot load the model"),
    "a tokenizer config that is a list": (
        lambda folder: (folder / "tokenizer_config.json").write_text("[]"),
        "tokenizer_config.json holds no JSON object",
    ),
    "a tokenizer that is a list": (
        lambda folder: (folder / "tokenizer.json").write_text("[]"),
        "tokenizer.json holds no JSON object",
    ),
    "a damaged tokenizer": (lambda folder: (folder / "tokenizer.json").write_text("{}"), "cannot load the model"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_model_is_refused_in_one_sentence(folder: Path, name: str) -> None:
    damage, message = DAMAGES[name]
    damage(folder)
    with pytest.raises(ModelError, match=message) as caught:
        load_model(str(folder), dtype="float32", device="cpu")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("place", ["config.json", "tokenizer_config.json"])
def test_code_that_comes_with_a_model_runs_only_where_it_is_trusted(
    folder: Path, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = tmp_path / "executed"
    (folder / "own_code.py").write_text(f"from pathlib import Path\nPath({str(trace)!r}).touch()\n")
    if place == "config.json":
        auto_map: dict[str, Any] = {"AutoConfig": "own_code.Config", "AutoModelForCausalLM": "own_code.Model"}
        change_config(folder, place, model_type="own_model", auto_map=auto_map)
    else:
        auto_map = {"AutoTokenizer": [None, "own_code.OwnTokenizer"]}
        change_config(folder, place, tokenizer_class="OwnTokenizer", auto_map=auto_map)
        change_config(folder, "config.json", model_type="own_model")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(ModelError, match="custom code .* trust_remote_code allows it"):
        load_model(str(folder), device="cpu")
    assert not trace.exists()
    with pytest.raises(AttributeError, match="own_code"):  # the module lacks the class, but it ran
        load_model(str(folder), device="cpu", trust_remote_code=True)
    assert trace.exists()


def test_a_family_without_a_row_is_loaded_after_its_logits_were_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_model(tiny_model("cohere"), tmp_path / "cohere")
    checked: list[PreTrainedModel] = []
    original = load.check_forward
    monkeypatch.setattr(load, "check_forward", lambda model: (checked.append(model), original(model)))
    loaded = load_model(str(folder), dtype="float32", device="cpu")
    assert loaded.architecture.source == "structure"
    assert checked == [loaded.model]


def test_a_family_that_cannot_be_read_is_an_architecture_error(tmp_path: Path) -> None:
    folder = save_model(tiny_model("gpt2"), tmp_path / "gpt2")
    with pytest.raises(
        ArchitectureError, match="MODELS.md lists the known families: name them yourself with --layers and --writer"
    ):
        load_model(str(folder), dtype="float32", device="cpu")


@pytest.mark.parametrize("family", ["gemma3", "qwen3_vl", "qwen3_5"])
def test_the_text_part_of_a_model_that_sees_images_is_found_where_it_is(family: str, tmp_path: Path) -> None:
    whole = AutoModelForImageTextToText.from_config(tiny_config(family), dtype=torch.float32).eval()
    loaded = load_model(str(save_model(whole, tmp_path / family)), dtype="float32", device="cpu")
    assert loaded.architecture.source == "table"
    assert loaded.depth == DEPTH
    logits = logits_from_hidden(loaded.model, scored_hidden(loaded.model, [IDS], len(IDS)))[0]
    torch.testing.assert_close(logits, own_logits(whole, IDS), rtol=1e-4, atol=1e-4)


def test_modules_that_the_user_names_are_those_of_the_loaded_model(folder: Path) -> None:
    loaded = load_model(str(folder), dtype="float32", device="cpu", writers=("self_attn.o_proj",))
    assert [(block.kind, block.writer) for block in loaded.architecture.blocks] == [("named", "self_attn.o_proj")]
    with pytest.raises(ArchitectureError, match="found no module list there; module lists are model.layers"):
        load_model(str(folder), dtype="float32", device="cpu", layers="layers")
