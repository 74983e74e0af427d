"""Public benchmarks through lm-eval: base against patched model, the same items on both sides."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from unflinch.artifacts import Patch
from unflinch.benchmark_results import BenchmarkResults, BenchmarkScore
from unflinch.metrics.paired import paired_score
from unflinch.models.load import LoadedModel
from unflinch.options import BenchOptions
from unflinch.patch.attach import attached
from unflinch.run_folder import open_run, write_json
from unflinch.validate.answer_log import AnswerLog
from unflinch.validate.benchmark_items import Items, require_lm_eval

Progress = Callable[[str, int, int], None]
RESULTS = "benchmarks.json"
Right = dict[str, list[bool]]
"""Whether the model is right, by metric and item by item."""


@dataclass(frozen=True)
class Comparison:
    """A base model, its patch, and how both are asked."""

    loaded: LoadedModel
    patch: Patch
    options: BenchOptions
    strength: float = 1.0
    """Of the patch."""

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All that the answers depend on."""
        return {
            "model": self.loaded.hub_id or Path(self.loaded.model_id).name,
            "base_hash": self.loaded.base_hash,
            "dtype": self.loaded.dtype_name,
            "patch_hash": patch_hash(self.patch),
            "strength": self.strength,
            "bench": asdict(self.options),
        }

    @property
    def name(self) -> str:
        """A name for the folder of its answers, another one for other settings."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()[:12]


def measure(
    comparison: Comparison, items: Sequence[Items], folder: Path, progress: Progress | None = None
) -> BenchmarkResults:
    """Return the scores of base and patched model, and write them to `benchmarks.json` in the folder.

    Every answer is kept in the folder as it comes, and every finished benchmark in the results file: a measurement that
    was interrupted goes on where it stopped, with the same figures as one that was not.

    Args:
        comparison: models and options.
        items: what is asked, see `load_items`.
        folder: made if missing; one that holds answers must have been started with the same settings.
        progress: called with what is being done, how many requests are answered, and how many there are.

    Raises:
        InputError: if lm-eval is not installed.
        PatchError: if the patch does not fit the model.
        RunFolderError: if the folder belongs to other settings, or cannot be written.
    """
    require_lm_eval()
    loaded, options = comparison.loaded, comparison.options
    open_run(folder, comparison.settings, resume=True)
    results = BenchmarkResults((), {})
    with attached(loaded.model, comparison.patch, comparison.strength) as live:
        for one in items:
            started = time.perf_counter()
            sides = []
            for side, off in (("base", live.disabled), ("patched", nullcontext)):
                log = AnswerLog(folder / "answers" / f"{one.benchmark}_{side}.jsonl")
                with off():
                    sides.append(_right(loaded, one, options, log, _counter(progress, f"{one.benchmark}: {side}")))
            seconds = {**results.seconds, one.benchmark: round(time.perf_counter() - started, 1)}
            results = BenchmarkResults((*results.scores, *_paired(one, *sides)), seconds)
            write_json(folder / RESULTS, {"settings": comparison.settings, **asdict(results)})
    return results


def patch_hash(patch: Patch) -> str:
    """Return a SHA-256 over the names and factors of a patch."""
    digest = hashlib.sha256()
    for name, factors in sorted(patch.factors.items()):
        digest.update(name.encode())
        for factor in (factors.a, factors.b):
            digest.update(factor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _right(
    loaded: LoadedModel, items: Items, options: BenchOptions, log: AnswerLog, advance: Callable[[int, int], None]
) -> Right:
    """Return whether the model as it stands is right, item by item, in an order that depends on the items alone."""
    from lm_eval.evaluator import evaluate

    from unflinch.validate.benchmark_model import BenchmarkModel
    from unflinch.validate.benchmark_tasks import counted_metrics, make_tasks

    requests = len(items.rows) * (1 if items.benchmark == "gsm8k" else 4)
    advance(0, requests)
    with _quiet():
        tasks = make_tasks(items, options.gsm8k_tokens)
        model = BenchmarkModel(loaded.model, loaded.tokenizer, log, lambda count: advance(count, requests))
        found: Mapping[str, Any] = evaluate(
            model, tasks, bootstrap_iters=0, apply_chat_template=options.chat, fewshot_as_multiturn=options.chat
        )
    right: Right = {}
    for metric, kept in counted_metrics(items.benchmark):
        name = metric if kept == "none" else f"{metric}, {kept}"
        samples = [sample for task in tasks for sample in found["samples"][task] if sample["filter"] == kept]
        right[name] = [bool(sample[metric]) for sample in samples]
    return right


def _paired(items: Items, base: Right, patched: Right) -> Iterator[BenchmarkScore]:
    for metric, right in base.items():
        yield paired_score(items.benchmark, metric, right, patched[metric])


def _counter(progress: Progress | None, what: str) -> Callable[[int, int], None]:
    done = 0

    def advance(count: int, total: int) -> None:
        nonlocal done
        done += count
        if progress:
            progress(what, min(done, total), total)

    return advance


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep lm-eval's remarks about tasks that are not in its own files from the terminal."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
