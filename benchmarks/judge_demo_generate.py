"""Makes the answers that `judge_demo.py` measures on: the demo model's, to harmless bundled prompts in six languages.

Run `python benchmarks/judge_demo_generate.py --out FILE` once; the labels are then written by hand into each
line. Most answers are greedy, of 32 or 64 tokens; a few are sampled at a temperature at which the model babbles, or
begin with an unfinished thought. Only targets and ordinary prompts are asked, so that no answer is harmful.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path

import torch

from unflinch.data.prompts import Prompt, bundled
from unflinch.models.chat import encode, encode_all
from unflinch.models.generate import generate
from unflinch.models.load import LoadedModel, load_model

LANGUAGES = ("en", "de", "fr", "es", "ru", "zh")
REFUSED, TARGETS, ORDINARY, HOT = 14, 10, 5, 5
"""Prompts a language: targets that are often refused, other targets, ordinary prompts, prompts answered hot."""
TOKENS = (32, 64)
TEMPERATURES = (1.5, 2.2, 3.0)


def chosen(language: str, generator: random.Random) -> dict[str, list[Prompt]]:
    """Single-turn prompts of one language, drawn blindly."""
    targets = [p for p in bundled("targets") if p.language == language and not p.wide and not p.system]
    refused = [p for p in targets if p.often_refused]
    refused = generator.sample(refused, min(REFUSED, len(refused)))
    others = generator.sample([p for p in targets if p not in refused], TARGETS + REFUSED - len(refused))
    ordinary = [p for p in bundled("ordinary") if p.language == language and p.messages is None and not p.system]
    picked = generator.sample(ordinary, ORDINARY + HOT)
    return {"targets": refused + others, "ordinary": picked[:ORDINARY], "hot": picked[ORDINARY:]}


def greedy(loaded: LoadedModel, prompts: Sequence[Prompt]) -> list[str]:
    """Greedy answers, alternately of the lengths in TOKENS."""
    answers = [""] * len(prompts)
    for turn, most in enumerate(TOKENS):
        rows = range(turn, len(prompts), len(TOKENS))
        sequences = encode_all(loaded.tokenizer, [prompts[row] for row in rows])
        produced = generate(loaded.model, loaded.tokenizer, sequences, most)
        for row, tokens in zip(rows, produced, strict=True):
            answers[row] = str(loaded.tokenizer.decode(list(tokens), skip_special_tokens=True))
    return answers


def sampled(loaded: LoadedModel, prompt: Prompt, temperature: float) -> str:
    """One answer of 40 tokens at a temperature."""
    ids = torch.tensor([encode(loaded.tokenizer, prompt)], device=loaded.model.device)
    produced = loaded.model.generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=True,
        temperature=temperature,
        top_k=0,
        top_p=1.0,
        repetition_penalty=1.0,
        max_new_tokens=40,
    )
    return str(loaded.tokenizer.decode(produced[0, ids.shape[1] :].tolist(), skip_special_tokens=True))


def main() -> None:
    parser = argparse.ArgumentParser(description="Answers of the demo model, to be labelled by hand.")
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    generator = random.Random(4)
    torch.manual_seed(4)
    loaded = load_model("demo")
    lines = []
    for language in LANGUAGES:
        picked = chosen(language, generator)
        prompts = picked["targets"] + picked["ordinary"]
        for prompt, answer in zip(prompts, greedy(loaded, prompts), strict=True):
            lines.append({"language": language, "made": "greedy", "prompt": prompt.text, "answer": answer})
        for number, prompt in enumerate(picked["hot"]):
            temperature = TEMPERATURES[number % len(TEMPERATURES)]
            answer = sampled(loaded, prompt, temperature)
            lines.append({"language": language, "made": f"hot {temperature}", "prompt": prompt.text, "answer": answer})
    generator.shuffle(lines)
    out.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main()
