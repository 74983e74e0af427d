"""`unflinch chat`."""

from __future__ import annotations

from unflinch.cli import arguments as arg


def chat(
    model: arg.BaseModel,
    patch: arg.PatchFolder,
    strength: arg.Strength = 1.0,
    max_tokens: arg.MaxTokens = 512,
    dtype: arg.DType = None,
    device: arg.Device = None,
    revision: arg.Revision = None,
    trust_remote_code: arg.TrustRemoteCode = None,
    layers: arg.Layers = None,
    writer: arg.Writer = None,
    load_in: arg.LoadIn = None,
    spread: arg.Spread = None,
) -> None:
    """Talk to MODEL with and without PATCH.

    Type a prompt, or: /patched, /original or /both to say who answers; /strength X; /reset; /quit. Where stdin is no
    terminal, each of its lines is one of these, and the answers are printed plainly.
    """
    from unflinch.cli.base_model import load_base
    from unflinch.cli.conversation import Conversation, talk
    from unflinch.cli.job import patch_folder
    from unflinch.patch.attach import attached
    from unflinch.patch.export import check_strength
    from unflinch.patch.save import check_base, load_patch

    check_strength(strength)
    factors = load_patch(patch_folder(patch))
    loaded = load_base(model, dtype, device, revision, trust_remote_code, layers, writer, load_in, spread)
    check_base(factors, loaded.base_hash, model)
    with attached(loaded.model, factors, strength) as live:
        talk(Conversation(loaded, live, max_tokens))
