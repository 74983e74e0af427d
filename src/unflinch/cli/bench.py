"""`unflinch bench`."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated

import typer

from unflinch.cli import arguments as arg
from unflinch.options import BenchOptions

Data = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        help="Folder with mmlu_test.jsonl, mmlu_dev.jsonl, hellaswag_val.jsonl, gsm8k_test.jsonl. [default: the Hub]",
    ),
]
Out = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Folder for answers and results; what was answered is not asked again. [default: bench beside PATCH]",
    ),
]
Mmlu = Annotated[int, typer.Option(metavar="N", help="Items of MMLU; 0 leaves it out.")]
HellaSwag = Annotated[int, typer.Option("--hellaswag", metavar="N", help="Items of HellaSwag; 0 leaves it out.")]
Gsm8k = Annotated[int, typer.Option("--gsm8k", metavar="N", help="Items of GSM8K; 0 leaves it out.")]
MmluShots = Annotated[int, typer.Option(metavar="N", help="Examples before an MMLU question.")]
Gsm8kShots = Annotated[int, typer.Option("--gsm8k-shots", metavar="N", help="Examples before a GSM8K question.")]
Gsm8kTokens = Annotated[int, typer.Option("--gsm8k-tokens", metavar="N", help="Most tokens of a GSM8K answer.")]
Chat = Annotated[bool, typer.Option("--chat", help="Ask through the chat template in place of plain text.")]
Seed = Annotated[int, typer.Option(metavar="N", help="Of the choice of items; 0 if not given.")]


def bench(
    model: arg.BaseModel,
    patch: arg.PatchFolder,
    data: Data = None,
    out: Out = None,
    mmlu: Mmlu = BenchOptions.mmlu,
    hellaswag: HellaSwag = BenchOptions.hellaswag,
    gsm8k: Gsm8k = BenchOptions.gsm8k,
    mmlu_shots: MmluShots = BenchOptions.mmlu_shots,
    gsm8k_shots: Gsm8kShots = BenchOptions.gsm8k_shots,
    gsm8k_tokens: Gsm8kTokens = BenchOptions.gsm8k_tokens,
    chat: Chat = False,
    seed: Seed = BenchOptions.seed,
    strength: arg.Strength = 1.0,
    dtype: arg.DType = None,
    device: arg.Device = None,
    revision: arg.Revision = None,
    trust_remote_code: arg.TrustRemoteCode = None,
    layers: arg.Layers = None,
    writer: arg.Writer = None,
    load_in: arg.LoadIn = None,
    spread: arg.Spread = None,
    json: arg.Json = False,
) -> None:
    """Compare MODEL with and without PATCH on three benchmarks.

    These are MMLU, HellaSwag and GSM8K. Shows scores with standard errors, their paired difference, and whether chance
    explains it (exact McNemar test). Needs lm-eval (`pip install 'unflinch[bench]'`). Continues where it was stopped.
    """
    given = locals()  # every parameter by name

    from unflinch.cli import console
    from unflinch.cli.job import patch_folder, stoppable
    from unflinch.cli.tables import benchmark_summary
    from unflinch.patch.export import check_strength
    from unflinch.run_folder import plain
    from unflinch.validate.benchmark_items import load_items, require_lm_eval

    check_strength(strength)
    place = patch_folder(patch)
    require_lm_eval()
    options = BenchOptions(**{field.name: given[field.name] for field in fields(BenchOptions)})
    items = load_items(options)

    from unflinch.cli.base_model import load_base  # only now: a mistake above is told at once
    from unflinch.patch.save import check_base, load_patch
    from unflinch.validate.benchmarks import Comparison, measure

    factors = load_patch(place)
    loaded = load_base(model, dtype, device, revision, trust_remote_code, layers, writer, load_in, spread)
    check_base(factors, loaded.base_hash, model)
    comparison = Comparison(loaded, factors, options, strength)
    folder = (out or place.parent / "bench") / comparison.name
    with stoppable(f"answers are kept in {folder}, the same command continues") as progress:
        results = measure(comparison, items, folder, progress)
    if json:
        console.show_json({"settings": comparison.settings, **plain(results), "folder": str(folder)})
        return
    console.show(benchmark_summary(results.scores))
    console.show_line(f"results in  {folder}")
