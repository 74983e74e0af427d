"""Heretic 1.4 on the demo model, in an environment of its own, as a yardstick.

Heretic searches for the layers and weights of a directional ablation that refuses least at least KL, and saves it as a
LoRA. It is given the prompts that unflinch learnt from, as text files, and is driven like a person would: the trial
with the fewest refusals is taken and saved. Needs `pip install pexpect` here, `heretic-llm==1.4.0` there.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from yardsticks import Material, Method, patched, read_adapter

from unflinch.data.prompts import Prompt

STRENGTHS = (0.25, 0.5, 0.75, 1.0, 1.25)
_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
"""What the demo model's chat template says where no system prompt is given."""
_MOST = 240
_EVALUATED = 60
_TOKENS = 24
_BATCH = 32
_TIMEOUT = 3 * 3600
"""Seconds for the whole search."""
_ENTER = "\r"


def heretic(material: Material, command: Path, trials: int) -> Method:
    """Return what Heretic makes of the model.

    Args:
        material: refused targets and answered ordinary prompts to learn from.
        command: the `heretic` executable of its environment.
        trials: how many it searches; its default is 200, of which 60 at random.
    """
    import pexpect

    fit, select = material.baseline.fit, material.baseline.select
    bad = [a.prompt for a in fit.refused("targets")] + list(fit.unasked_targets)
    good = [a.prompt for a in fit.answered("ordinary")]
    judged_bad = [a.prompt for a in select.refused("targets")]
    judged_good = [a.prompt for a in select.answered("ordinary")]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        settings = {
            "model": str(material.loaded.source),
            "n_trials": trials,
            "n_startup_trials": max(1, trials * 3 // 10),
            "max_response_length": _TOKENS,
            "batch_size": _BATCH,
            "export_strategy": "adapter",
            "system_prompt": _SYSTEM,
            "seed": 0,
        }
        lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
        for name, prompts, most in (
            ("good_prompts", good, _MOST),
            ("bad_prompts", bad, _MOST),
            ("good_evaluation_prompts", judged_good, _EVALUATED),
            ("bad_evaluation_prompts", judged_bad, _EVALUATED),
        ):
            lines += [f"[{name}]", f"dataset = {json.dumps(str(_text_file(folder / name, prompts[:most])))}"]
        (folder / "config.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
        child = pexpect.spawn(
            str(command), cwd=folder, timeout=_TIMEOUT, encoding="utf-8", dimensions=(60, 200), logfile=sys.stdout
        )
        child.expect("Which trial do you want to use")
        child.send(_ENTER)
        child.expect("What do you want to do with")
        child.send(_ENTER)
        child.expect("Path to the folder")
        child.send(f"{folder / 'saved'}{_ENTER}")
        child.expect("Model saved to")
        child.close(force=True)
        patch = read_adapter(folder / "saved", material.loaded.base_hash)
    note = f"heretic-llm 1.4.0, {trials} trials (default 200), the trial with the fewest refusals, its LoRA scaled"
    return patched("Heretic", material, patch, STRENGTHS, note)


def _text_file(path: Path, prompts: Sequence[Prompt]) -> Path:
    texts = [" ".join(prompt.text.split()) for prompt in prompts]
    path.write_text("\n".join(texts) + "\n", encoding="utf-8")
    return path
