"""Heretic 1.4 on the model of a run, in an environment of its own, as a yardstick.

Heretic searches for the layers and weights of a directional ablation that refuses least at least KL. It is given the
prompts that unflinch learnt from, as text files, and is driven like a person would: of the trials that it offers, the
one with the fewest refusals and the middle one are saved as LoRA. Needs `pip install pexpect` here, and there
`heretic-llm==1.4.0`.

What it writes answers to are harmless targets only; of right refusals it sees no more than the states that are read
before the first token. It runs in float32: in bfloat16 on a CPU, torch copies the frozen output matrix for every row of
a batch whose last position alone is wanted, a quarter of a gigabyte and a second a prompt here.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from yardsticks import TRAINED, Material, describe

from unflinch.data.prompts import Prompt

_SYSTEM = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
"""What the demo model's chat template says where no system prompt is given."""
_CHARACTERS = 300
"""Longer prompts are left out."""
_MOST = 96
"""Prompts from which its directions are taken, for each of targets, keeps and ordinary ones."""
_EVALUATED = 32
_TOKENS = 12
"""Of an answer that it judges; its default is 100."""
_BATCH = 32
_TIMEOUT = 3 * 3600
"""Seconds for the whole search."""
_ENTER, _UP, _DOWN = "\r", "\x1b[A", "\x1b[B"
_OFFERED = re.compile(r"\[Trial +(\d+)\] Refusals: +(\d+)/(\d+), KL divergence: ([\d.]+)")


def search(material: Material, command: Path, trials: int, work: Path) -> None:
    """Let Heretic search, and write two of its trials as adapters.

    An interrupted search goes on; its own process takes SIGINT as the wish to end with the trials it has.

    Args:
        material: refused targets and keeps, and answered ordinary prompts, to learn from.
        command: the `heretic` executable of its environment.
        trials: how many it searches; its default is 200, of which 60 at random.
        work: gets a folder for the search and one for each adapter.
    """
    import pexpect

    folder = work / "heretic_search"
    folder.mkdir(parents=True, exist_ok=True)
    learnt = _write_settings(material, trials, folder)
    child = pexpect.spawn(
        str(command.absolute()),
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        timeout=_TIMEOUT,
        encoding="utf-8",
        dimensions=(60, 200),
        logfile=sys.stdout,
    )
    if child.expect(["Which trial do you want to use", "How would you like to proceed"]):
        child.send(_ENTER)  # go on
        child.expect("Which trial do you want to use")
    searched = max((int(number) for number in re.findall(r"Running trial (\d+)", plain(child.before))), default=trials)
    child.expect("Exit program")
    front = offered(child.before)
    for name, place in {"Heretic": 0, "Heretic, middle trial": len(front) // 2}.items():
        saved = work / TRAINED[name]
        shutil.rmtree(saved, ignore_errors=True)
        child.send(_DOWN * place + _ENTER)
        child.expect("What do you want to do with")
        child.send(_ENTER)
        child.expect("Path to the folder")
        child.send(f"{saved.absolute()}{_ENTER}")
        child.expect("Model saved to")
        child.expect("What do you want to do with")
        child.send(_UP + _ENTER)  # around to the last choice: back to the trials
        child.expect("Which trial do you want to use")
        trial, refused, of, kl = front[place]
        note = (
            f"heretic-llm 1.4.0, {searched} trials (default 200); trial {trial}, {refused}/{of} refusals at KL {kl} by "
            f"its own count: number {place + 1} of the {len(front)} it offers, its LoRA scaled"
        )
        describe(saved, material, note, learnt)
    child.close(force=True)


def offered(menu: str) -> list[tuple[str, ...]]:
    """Return the trials of a menu, as number, refusals, prompts and KL, from the fewest refusals to the least KL."""
    return list(dict.fromkeys(_OFFERED.findall(plain(menu))))


def plain(shown: str) -> str:
    """Return what a terminal shows, without colours and movements of the cursor."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)


def _write_settings(material: Material, trials: int, folder: Path) -> list[Prompt]:
    """Write Heretic's settings and prompts; return what it learns from."""
    fit, select = material.baseline.fit, material.baseline.select
    refused = {kind: _short(a.prompt for a in fit.refused(kind))[:_MOST] for kind in ("targets", "keep")}
    prompts = {
        "good_prompts": _short(a.prompt for a in fit.answered("ordinary"))[:_MOST],
        "bad_prompts": [*refused["targets"], *refused["keep"]],
        "good_evaluation_prompts": _short(a.prompt for a in select.answered("ordinary"))[:_EVALUATED],
        "bad_evaluation_prompts": _short(a.prompt for a in select.refused("targets"))[:_EVALUATED],
    }
    settings: dict[str, Any] = {
        "model": str(material.loaded.source),
        "dtypes": ["float32"],
        "n_trials": trials,
        "n_startup_trials": max(1, trials * 3 // 10),
        "response_prefix": "",  # else it writes answers, to find what all of them begin with
        "max_response_length": _TOKENS,
        "batch_size": _BATCH,
        "export_strategy": "adapter",
        "system_prompt": _SYSTEM,
        "seed": 0,
    }
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    for name, chosen in prompts.items():
        file = folder / f"{name}.txt"
        file.write_text("".join(f"{' '.join(p.text.split())}\n" for p in chosen), encoding="utf-8")
        lines += [f"[{name}]", f"dataset = {json.dumps(str(file.absolute()))}"]
    (folder / "config.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [prompt for chosen in prompts.values() for prompt in chosen]


def _short(prompts: Iterable[Prompt]) -> list[Prompt]:
    """Return the single turns that are not long, without a system prompt of their own."""
    return [p for p in prompts if len(p.text) <= _CHARACTERS and p.messages is None and p.system is None]
