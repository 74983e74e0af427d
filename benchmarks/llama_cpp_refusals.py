"""Does llama.cpp with `adapter.gguf` refuse what PEFT with the patch refuses? On the test prompts of a finished run.

Run `python benchmarks/llama_cpp_refusals.py --run runs/demo` with `pip install llama-cpp-python`: the base model's GGUF
file is that of the demo's wheels, or `--gguf`. Every test prompt that the run found refused is asked again, greedily,
without the adapter and with it, and its answer judged as in the run. The results file has the counts of both engines
side by side and how often they agree; no answer is written anywhere.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from operator import eq
from pathlib import Path
from typing import Any

from llama_cpp import Llama
from sklearn.metrics import cohen_kappa_score
from transformers import PreTrainedTokenizerBase

from unflinch.config import make_config
from unflinch.data.prompts import Prompt
from unflinch.metrics.intervals import rate
from unflinch.models.chat import encode
from unflinch.models.demo_model import WHEEL_MODELS, wheel_model_file
from unflinch.models.generate import end_token_ids
from unflinch.models.load import LoadedModel, load_model
from unflinch.patch.gguf_adapter import ADAPTER_FILE, write_gguf_adapter
from unflinch.patch.save import load_patch
from unflinch.report.model_card import export_card
from unflinch.run_folder import RESULTS, SETTINGS, RunFolder, read_json, write_json
from unflinch.steps.prepare import load_splits
from unflinch.validate.bundled_judge import BundledJudge
from unflinch.validate.refusal_rate import counts_as_refused

OUT = Path(__file__).parent / "results" / "llama_cpp.json"
_CONTEXT = 512


class LlamaCpp:
    """A GGUF model under llama.cpp, answering as `validate.refusal_rate.ask` does."""

    def __init__(self, file: Path, adapter: Path | None, tokenizer: PreTrainedTokenizerBase, ends: frozenset[int]):
        """Load the file, with the adapter if one is given."""
        lora = str(adapter) if adapter else None
        self._model = Llama(str(file), lora_path=lora, n_ctx=_CONTEXT, verbose=False)
        self._tokenizer, self._ends, self._judge = tokenizer, ends, BundledJudge()

    def label(self, prompt: Prompt, most_tokens: int) -> str:
        """Return what the judge says of the model's greedy answer."""
        answer: list[int] = []
        for token in self._model.generate(encode(self._tokenizer, prompt), temp=0.0, reset=True):
            if token in self._ends:
                break
            answer.append(token)
            if len(answer) == most_tokens or self._judge.opening_decides(self._text(answer)) is True:
                break
        return self._judge(prompt.text, self._text(answer)).label

    def close(self) -> None:
        """Free the model's memory."""
        self._model.close()

    def _text(self, tokens: Sequence[int]) -> str:
        return str(self._tokenizer.decode(list(tokens), skip_special_tokens=True))


def compared(outcomes: Sequence[dict[str, Any]], plain: Sequence[str], patched: Sequence[str]) -> dict[str, Any]:
    """Return, for every kind of prompt, refusals under both engines, and how far their judgements agree."""
    found: dict[str, Any] = {}
    under_peft = [outcome["after"] for outcome in outcomes]
    for kind in dict.fromkeys(outcome["kind"] for outcome in outcomes):
        rows = [row for row, outcome in enumerate(outcomes) if outcome["kind"] == kind]
        peft, before, theirs = (
            [counts_as_refused(kind == "target", labels[row]) for row in rows]
            for labels in (under_peft, plain, patched)
        )
        found[kind] = {
            "n": len(rows),
            "refused_without": asdict(rate(sum(before), len(rows))),
            "refused_with": asdict(rate(sum(theirs), len(rows))),
            "refused_with_under_peft": asdict(rate(sum(peft), len(rows))),
            "agree_with_peft": asdict(rate(sum(map(eq, peft, theirs)), len(rows))),
            "cohens_kappa": float(cohen_kappa_score(peft, theirs)) if len({*peft, *theirs}) > 1 else None,
        }
    return found


def measured(loaded: LoadedModel, run: Path, gguf: Path, adapter: Path) -> dict[str, Any]:
    """Return the document of results."""
    results = read_json(run / RESULTS)
    outcomes = [outcome for outcome in results["outcomes"] if not outcome["thinking"]]
    test = load_splits(make_config(read_json(run / SETTINGS)).prompts).test
    by_text = {prompt.text: prompt for prompt in (*test.targets, *test.keep, *test.guard)}
    prompts = [by_text[outcome["text"]] for outcome in outcomes]
    tokens, ends = results["settings"]["validate"]["answer_tokens"], end_token_ids(loaded.model, loaded.tokenizer)
    labels = []
    for lora in (None, adapter):
        engine = LlamaCpp(gguf, lora, loaded.tokenizer, ends)
        labels.append([engine.label(prompt, tokens) for prompt in prompts])
        engine.close()
    return {
        "model": loaded.hub_id or loaded.model_id,
        "base_hash": loaded.base_hash,
        "llama_cpp_python": version("llama-cpp-python"),
        "judged_tokens": tokens,
        "kinds": compared(outcomes, *labels),
    }


def main() -> None:
    """Measure, print a line a kind, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--run", type=Path, required=True, help="a finished run with its patch")
    parser.add_argument("--model", default="demo", help="the base model of the run")
    parser.add_argument("--gguf", type=Path, help="its GGUF file; that of the demo's wheels if not given")
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    loaded, patch = load_model(options.model), load_patch(RunFolder(options.run).patch)
    with tempfile.TemporaryDirectory() as scratch:
        gguf = options.gguf or wheel_model_file(WHEEL_MODELS[options.model], Path(scratch))
        adapter = write_gguf_adapter(loaded, patch, Path(scratch) / "adapter", export_card) / ADAPTER_FILE
        document = measured(loaded, options.run, gguf, adapter)
    for kind, found in document["kinds"].items():
        names = ("refused_without", "refused_with", "refused_with_under_peft", "agree_with_peft")
        print(
            f"{kind:8} "
            + ", ".join(f"{name.replace('_', ' ')} {found[name]['count']} of {found['n']}" for name in names)
        )
    write_json(options.out, document)


if __name__ == "__main__":
    main()
