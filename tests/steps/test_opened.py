"""A patch is tried on before a run spends hours on finding one."""

from __future__ import annotations

import pytest
from tiny_models import own_logits, random_ids, tiny_model, tiny_tokenizer
from torch import equal

from unflinch.errors import ArchitectureError, PatchError
from unflinch.models.architecture import architecture_of
from unflinch.models.families import Architecture, Block
from unflinch.models.load import LoadedModel
from unflinch.options import FitOptions
from unflinch.steps.opened import check_patchable

IDS = random_ids((9,))[0]


def loaded(family: str, *blocks: Block) -> LoadedModel:
    model = tiny_model(family)
    row = Architecture(family, blocks) if blocks else architecture_of(model)
    return LoadedModel(model, tiny_tokenizer(), row, "tiny", "tiny", None, "hash")


def test_a_model_that_a_patch_fits_is_as_it_came() -> None:
    fitting = loaded("qwen3_moe")
    before = own_logits(fitting.model, IDS)
    check_patchable(fitting, FitOptions(writers="all"))
    assert equal(own_logits(fitting.model, IDS), before)


def test_writers_that_peft_takes_for_experts_are_refused_at_once() -> None:
    with pytest.raises(PatchError, match=r"'model.layers.0.mlp.down_proj', which peft takes for fused experts"):
        check_patchable(loaded("qwen3_moe", Block("named", "mlp.down_proj")), FitOptions())


def test_a_model_of_fused_experts_alone_is_refused_at_once() -> None:
    experts = Block("experts", "mlp.experts.down_proj", "mlp", "fused")
    with pytest.raises(ArchitectureError, match=r"no linear module that writes .* in layers 0, 1, 2 of model.layers"):
        check_patchable(loaded("mixtral", experts), FitOptions())
