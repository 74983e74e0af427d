"""What the demo patch costs in abilities: MMLU, HellaSwag and GSM8K, base against patched model on the same items.

Run `python benchmarks/capabilities.py --data PATH --patch PATCH`, PATH being the folder with `mmlu_test.jsonl` and the
others; needs the extra `bench`. Answers are kept in `--answers`, so that a measurement that was stopped goes on there.
The results file holds every score with its standard error, the paired difference with its own, and the exact McNemar
test; `--fewer 50` asks a fiftieth of the items, to see what the whole will take.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from unflinch.benchmark_results import BenchmarkResults
from unflinch.models.load import load_model
from unflinch.options import BenchOptions
from unflinch.patch.save import check_base, load_patch
from unflinch.run_folder import write_json
from unflinch.validate.benchmark_items import load_items
from unflinch.validate.benchmarks import Comparison, measure

OUT = Path(__file__).parent / "results" / "capabilities.json"


def document(comparison: Comparison, results: BenchmarkResults) -> dict[str, Any]:
    """Return what is written: settings without the place of the data, scores, and seconds an item and side."""
    settings = {**comparison.settings, "bench": {**comparison.settings["bench"], "data": None}}
    asked = {one.benchmark: one.n for one in results.scores}
    scores = [
        {**{name: _rounded(value) for name, value in asdict(one).items()}, "within_one_error": one.within_one_error}
        for one in results.scores
    ]
    pace = {name: round(seconds / (2 * asked[name]), 2) for name, seconds in results.seconds.items()}
    return {"settings": settings, "scores": scores, "seconds_an_item_and_side": pace}


def _rounded(value: object) -> object:
    return round(value, 5) if isinstance(value, float) else value


def fewer(options: BenchOptions, share: int) -> BenchOptions:
    """Return the options with every limit divided, at least one item each."""
    limits = {name: max(1, getattr(options, name) // share) for name in ("mmlu", "hellaswag", "gsm8k")}
    return replace(options, **limits)


def main() -> None:
    """Measure, print a table and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, required=True, help="folder with mmlu_test.jsonl and the others")
    parser.add_argument("--patch", type=Path, required=True, help="patch folder of a run")
    parser.add_argument("--model", default="demo", help="the base model of the patch")
    parser.add_argument("--answers", type=Path, default=Path("runs/capabilities"), help="where answers are kept")
    parser.add_argument("--fewer", type=int, default=1, metavar="N", help="ask only an Nth of the items")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    options = fewer(BenchOptions(data=str(given.data)), given.fewer)
    items = load_items(options)
    loaded, patch = load_model(given.model), load_patch(given.patch)
    check_base(patch, loaded.base_hash, given.model)
    comparison = Comparison(loaded, patch, options)
    started, shown = time.perf_counter(), ""

    def progress(what: str, done: int, total: int) -> None:
        nonlocal shown
        if what != shown or done == total:
            print(f"{time.perf_counter() - started:7.0f} s  {what} {done} of {total}", flush=True)
        shown = what

    results = measure(comparison, items, given.answers / comparison.name, progress)
    print(f"{'benchmark':10} {'metric':30} {'n':>5} {'base':>14} {'patched':>14} {'difference':>15} lost gained     p")
    for one in results.scores:
        print(
            f"{one.benchmark:10} {one.metric:30} {one.n:5} {one.base:7.1%} ± {one.base_error:.1%} "
            f"{one.patched:7.1%} ± {one.patched_error:.1%} {one.difference:+8.1%} ± {one.difference_error:.1%} "
            f"{one.lost:4} {one.gained:6} {one.p_value:5.2f}"
        )
    write_json(given.out, document(comparison, results))


if __name__ == "__main__":
    main()
