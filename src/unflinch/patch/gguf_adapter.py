"""A patch as a GGUF adapter: what llama.cpp, and Ollama with it, adds to a GGUF model while it runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from torch import Tensor
from transformers import PreTrainedConfig

from unflinch.artifacts import Patch
from unflinch.errors import PatchError
from unflinch.models.load import LoadedModel
from unflinch.patch.attach import check_fits
from unflinch.patch.export import check_strength, new_folder, provenance_of
from unflinch.patch.save import check_base
from unflinch.provenance import GGUF_KEY, Provenance, to_json, write_provenance

ADAPTER_FILE = "adapter.gguf"


@dataclass(frozen=True)
class GGUFFamily:
    """How llama.cpp's converter writes the linear modules of a model family."""

    architecture: gguf.MODEL_ARCH
    interleaved: bool = False
    """Whether rows of query and key projections are reordered, from rotary halves to neighbouring pairs."""


_ARCH = gguf.MODEL_ARCH
GGUF_FAMILIES: dict[str, GGUFFamily] = {
    "llama": GGUFFamily(_ARCH.LLAMA, interleaved=True),
    "mistral": GGUFFamily(_ARCH.LLAMA, interleaved=True),
    "smollm3": GGUFFamily(_ARCH.SMOLLM3, interleaved=True),
    "granite": GGUFFamily(_ARCH.GRANITE, interleaved=True),
    "qwen2": GGUFFamily(_ARCH.QWEN2),
    "qwen3": GGUFFamily(_ARCH.QWEN3),
    "gemma2": GGUFFamily(_ARCH.GEMMA2),
    "gemma3_text": GGUFFamily(_ARCH.GEMMA3),
    "olmo2": GGUFFamily(_ARCH.OLMO2),
    "phi3": GGUFFamily(_ARCH.PHI3),
    "stablelm": GGUFFamily(_ARCH.STABLELM),
    "cohere": GGUFFamily(_ARCH.COMMAND_R),
}
"""By exact `config.model_type`. Source: llama.cpp, the classes in `conversion/` and their `undo_permute`."""


def write_gguf_adapter(
    loaded: LoadedModel, patch: Patch, out: Path, card: Callable[[Provenance], str], strength: float = 1.0
) -> Path:
    """Write the patch as `adapter.gguf` with README and provenance into a new folder, and return the folder.

    llama.cpp adds (alpha / rank) * b @ a to a weight, with one alpha for the whole file, here the largest rank; b is
    scaled so that this is strength * b @ a for modules of any rank. Factors are stored in float32.

    Args:
        loaded: the base model.
        patch: made for it.
        out: new or empty folder.
        card: returns the text of its README.
        strength: 1 is the patch as it was validated; llama.cpp can scale it further when it loads the adapter.

    Raises:
        PatchError: the patch belongs to another model, or one of its modules has no name in GGUF.
        ConfigError: the strength is not finite.
        InputError: the folder is in use, or cannot be written.
    """
    check_strength(strength)
    check_base(patch, loaded.base_hash, loaded.model_id)
    check_fits(loaded.model, patch)
    family = _family_of(loaded)
    alpha = max(factors.a.shape[0] for factors in patch.factors.values())
    tensors = gguf_tensors(patch, loaded.model.config, family, strength, alpha)
    provenance = provenance_of(patch, loaded, "GGUF adapter", strength)
    with new_folder(out, loaded.model_id) as folder:
        _write(folder / ADAPTER_FILE, family, tensors, alpha, provenance)
        write_provenance(folder, provenance)
        (folder / "README.md").write_text(card(provenance), encoding="utf-8")
    return out


def gguf_tensors(
    patch: Patch, config: PreTrainedConfig, family: GGUFFamily, strength: float, alpha: int
) -> dict[str, np.ndarray]:
    """Return the factors under llama.cpp's names, `blk.N.ffn_down.weight.lora_a` `(rank, input)` and so on.

    Args:
        patch: at strength 1.
        config: of the base model; says how many layers and heads there are.
        family: the base model's.
        strength: put into b, as is the scaling that llama.cpp applies: alpha / rank.
        alpha: of the whole file.

    Raises:
        PatchError: if a module has no name there.
    """
    names = gguf.get_tensor_name_map(family.architecture, config.num_hidden_layers)
    tensors: dict[str, np.ndarray] = {}
    for module, factors in patch.factors.items():
        name = names.get_name(module)
        if name is None:
            raise PatchError(
                f"the patch changes '{module}', which has no name in GGUF files of {family.architecture.name.lower()} "
                "models; use the patch with peft, or merge it with `unflinch apply` and convert the copy"
            )
        heads = _heads(config, module) if family.interleaved else None
        b = factors.b * (strength * factors.a.shape[0] / alpha)
        tensors[f"{name}.weight.lora_a"] = _plain(factors.a)
        tensors[f"{name}.weight.lora_b"] = _plain(_interleaved(b, heads) if heads else b)
    return tensors


def _family_of(loaded: LoadedModel) -> GGUFFamily:
    kind = loaded.model.config.model_type
    if kind not in GGUF_FAMILIES:
        raise PatchError(
            f"models of type '{kind}' have no row in the table of GGUF adapters ({', '.join(GGUF_FAMILIES)}); "
            "use the patch with peft, or merge it with `unflinch apply` and convert the copy"
        )
    return GGUF_FAMILIES[kind]


def _heads(config: PreTrainedConfig, module: str) -> int | None:
    """Return how many heads a module's output rows belong to, if these rows are turned by rotary embeddings."""
    own = module.rpartition(".")[2]
    counts = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    return counts.get(own)


def _interleaved(b: Tensor, heads: int) -> Tensor:
    """Return rows of every head reordered from (first half, second half) to neighbouring pairs."""
    rows, rank = b.shape
    return b.reshape(heads, 2, rows // heads // 2, rank).transpose(1, 2).reshape(rows, rank)


def _plain(factor: Tensor) -> np.ndarray:
    array: np.ndarray = factor.detach().float().cpu().contiguous().numpy()
    return array


def _write(
    file: Path, family: GGUFFamily, tensors: Mapping[str, np.ndarray], alpha: int, provenance: Provenance
) -> None:
    writer = gguf.GGUFWriter(file, gguf.MODEL_ARCH_NAMES[family.architecture])
    writer.add_type(gguf.GGUFType.ADAPTER)
    writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
    writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(alpha))
    writer.add_name(f"{provenance.base.name.rpartition('/')[2]}, fewer false refusals")
    writer.add_base_model_count(1)
    writer.add_base_model_name(0, provenance.base.name)
    if provenance.base.on_hub:
        writer.add_base_model_repo_url(0, f"https://huggingface.co/{provenance.base.name}")
    writer.add_string(GGUF_KEY, to_json(provenance))
    for name, tensor in tensors.items():
        writer.add_tensor(name, tensor)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
