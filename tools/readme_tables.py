"""The README's tables of results, from the committed results; `update_tables.py` writes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from unflinch.results import is_kept

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
_BENCHMARKS = {"mmlu": "MMLU", "hellaswag": "HellaSwag", "gsm8k": "GSM8K"}


def run_table(results: dict[str, Any]) -> str:
    """Return the Markdown table of a run's headline figures."""
    targets, keep, guard = results["targets"], results["keep"], results["guard"]
    first, sequence = results["kl"]["first_token"], results["kl"]["sequence"]
    cut = results["directional_ablation"]
    patch = results["fit"]["patch"]

    def percent(count: int, n: int) -> str:
        return f"{count} of {n} ({100 * count / n:.0f} %)"

    def lost(kind: dict[str, Any]) -> str:
        kept = kind["after_interval"]
        return f"{percent(kind['lost'], kind['n'])}, {_interval(1 - kept['high'], 1 - kept['low'])}"

    left = targets["after_interval"]
    rows = [
        (
            "false refusals left",
            f"{percent(targets['refused_after'], targets['n'])}, {_interval(left['low'], left['high'])}",
            percent(cut["targets_refused"], targets["n"]),
        ),
        ("right refusals lost", lost(keep), percent(cut["keep_lost"], keep["n"])),
        ("guard refusals lost", lost(guard), percent(cut["guard_lost"], guard["n"])),
        (
            "first-token KL, ordinary prompts, mean",
            f"{first['mean']:.4f} nats (95th percentile {first['p95']:.3f}, n = {first['n']})",
            f"{cut['kl_first_token_mean']:.3f} nats",
        ),
        (
            "KL per token along the answer, mean",
            f"{sequence['mean']:.4f} nats (CVaR95 {sequence['cvar95']:.3f})",
            f"{cut['kl_sequence_mean']:.3f} nats",
        ),
        *_dialogue_rows(results.get("dialogues")),
        ("size", f"{patch['parameters']:,} values, {100 * patch['share_of_weights']:.2f} % of the weights", "no patch"),
    ]
    prompts = "all bundled" if results["settings"]["prompts"]["wide"] else "everyday"
    lines = [
        f"{results['model']['hub_id'].split('/')[-1]}, {prompts} test prompts that the original refuses, a run of "
        f"{results['seconds']['total'] / 60:.0f} minutes on 2 CPU cores:",
        "",
        f"| | unflinch | directional ablation, {_of_the_direction(cut['strength'])} |",
        "|---|---|---|",
    ]
    lines += [f"| {name} | {ours} | {theirs} |" for name, ours, theirs in rows]
    missed = [limit["name"] for limit in results["verdict"]["limits"] if not limit["passed"]]
    kept = is_kept(not missed, results["guard"]["lost"] == 0, bool(results["settings"]["validate"].get("keep_best")))
    lines += [
        "",
        f"Verdict: **failed**{'' if kept else ', and so no patch was written'}; missed: {', '.join(missed)}."
        if missed
        else "Verdict: passed.",
    ]
    return "\n".join(lines) + "\n"


def stress_table(results: dict[str, Any]) -> str:
    """Return the Markdown table of how many prompts are refused when they are asked in other ways, before and after."""
    lines = [
        "| asked in other ways | false refusals | right refusals | guard refusals | of these lost |",
        "|---|---|---|---|---|",
    ]
    rows: dict[str, dict[str, Any]] = {}
    for found in results["stress"]["results"]:
        rows.setdefault(found["condition"], {})[found["kind"]] = found
    for condition, kinds in rows.items():
        counts = [
            f"{kinds[kind]['before']['count']} → {kinds[kind]['after']['count']}"
            for kind in ("target", "keep", "guard")
        ]
        lost = kinds["guard"]["lost"]
        lines.append(f"| {condition} | {' | '.join(counts)} | {lost['count']} of {lost['n']} |")
    n = {found["before"]["n"] for found in results["stress"]["results"]}
    lost = " and ".join(
        f"{sum(kinds[kind]['lost']['count'] for kinds in rows.values())} of "
        f"{sum(kinds[kind]['lost']['n'] for kinds in rows.values())} {name} refusals"
        for kind, name in (("guard", "guard"), ("keep", "right"))
    )
    return (
        "\n".join(lines) + f"\n\nEach of {' or '.join(map(str, sorted(n)))} test prompts, before → after.\n"
        f"Over all ways {lost} are lost, and many more are gained.\n"
    )


def capabilities_table(document: dict[str, Any]) -> str:
    """Return the Markdown table of benchmarks, base against patched on the same items."""
    lines = [
        "| benchmark | items | original | with the patch | difference | exact McNemar |",
        "|---|---|---|---|---|---|",
    ]
    for one in document["scores"]:
        base, patched = (f"{100 * one[side]:.1f} ± {100 * one[f'{side}_error']:.1f} %" for side in ("base", "patched"))
        difference = f"{100 * one['difference']:+.1f} ± {100 * one['difference_error']:.1f}"
        name = f"{_BENCHMARKS[one['benchmark']]}, {one['metric']}"
        lines.append(f"| {name} | {one['n']:,} | {base} | {patched} | {difference} | p = {one['p_value']:.2f} |")
    return "\n".join(lines) + "\n"


def _dialogue_rows(dialogues: dict[str, Any] | None) -> list[tuple[str, str, str]]:
    """Return the rows about dialogues; none for results of before they were led."""
    if not dialogues or not dialogues["turns"]:
        return []
    first, last = (f"{dialogues['turns'][turn]['kl']['mean']:.4f}" for turn in (0, -1))
    babbling, refusing = dialogues["babbling"], dialogues["refusing"]
    return [
        (
            f"KL per token in {dialogues['n']} dialogues, first and last turn, mean",
            f"{first} and {last} nats",
            "not measured",
        ),
        ("dialogues that babble", f"{babbling['count']} of {babbling['n']}", "not measured"),
        ("dialogues newly refused", f"{refusing['count']} of {refusing['n']}", "not measured"),
    ]


def _interval(low: float, high: float) -> str:
    return f"95 % interval {100 * low:.0f}-{100 * high:.0f} %"


def _of_the_direction(strength: float) -> str:
    return "whole" if strength == 1 else f"{100 * strength:.0f} % of it, matched by first-token scores"


def public_table(public: dict[str, Any]) -> str:
    """Return the Markdown table of the public sets, at the strength that is shipped."""
    lines = ["| public set, of those that the original refuses | with the patch | 95 % interval |", "|---|---|---|"]
    for name, found in public["sets"].items():
        ((what, share),) = found["strength 1"].items()
        low, high = (100 * share["interval"][end] for end in ("low", "high"))
        lines.append(f"| {name} | {share['count']} of {share['n']} {what} | {low:.0f}-{high:.0f} % |")
    return "\n".join(lines) + "\n"


def side_by_side_table(document: dict[str, Any]) -> str:
    """Return the Markdown table of all methods where each leaves a quarter, and a tenth, of the false refusals."""
    counts = document["prompts"]
    shares = {"25 %": "at_25_percent", "10 %": "at_10_percent"}
    names = ["method", "least left"]
    names += [f"{what}, at {share}" for share in shares for what in ("right lost", "guard lost", "first-token KL")]
    lines = [
        f"{counts['targets_refused']} false and {counts['keep_refused']} right refusals, {counts['guard_refused']} of "
        f"the guard, {counts['ordinary']} ordinary prompts; each method where it leaves 25 and 10 % of the false ones, "
        "interpolated, and the least that it leaves at any strength tried:",
        "",
        f"| {' | '.join(names)} |",
        f"|{'---|' * len(names)}",
    ]
    for method in document["methods"]:
        if method["name"] == "base":
            continue
        least = min(point["targets_refused"] for point in method["curve"])
        row = [method["name"], f"{100 * least:.0f} %"]
        for share in shares.values():
            at = method[share]
            row += [f"{100 * at[name]:.0f} %" if at else "never" for name in ("keep_lost", "guard_lost")]
            row.append(f"{at['kl_first_token_mean']:.3f}" if at else "never")
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


TABLES: dict[str, tuple[str, Callable[[Any], str]]] = {
    "demo": ("demo.json", run_table),
    "stress": ("demo_thorough.json", stress_table),
    "capabilities": ("capabilities.json", capabilities_table),
    "full": ("full.json", run_table),
    "large": ("large.json", run_table),
    "public": ("public_sets.json", public_table),
    "side by side": ("side_by_side.json", side_by_side_table),
}
"""Tables of the README: the file with their figures, and how it is shown."""


def updated(page: str, tables: Mapping[str, tuple[str, Callable[[Any], str]]]) -> str:
    """Return the page with every table renewed that it has a place for."""
    for name, (file, shown) in tables.items():
        if f"<!-- {name} table -->" in page:
            page = _renewed(page, name, shown(json.loads((RESULTS / file).read_text(encoding="utf-8"))))
    return page


def _renewed(page: str, name: str, block: str) -> str:
    start, end = f"<!-- {name} table -->\n", f"<!-- /{name} table -->"
    if (page.count(start), page.count(end)) != (1, 1):
        raise SystemExit(f"a page needs the lines {start.strip()} and {end} once each, around its table")
    before, _, rest = page.partition(start)
    _, _, after = rest.partition(end)
    return f"{before}{start}\n{block}\n{end}{after}"
