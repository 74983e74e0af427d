"""Results as tables of at most 80 columns that read well without colour."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from unflinch.benchmark_results import BenchmarkScore
from unflinch.data.generate_prompts import GenerationCounts
from unflinch.data.mine import Spectrum
from unflinch.report import wording
from unflinch.report.run_results import FitFacts, RunResults, ScanFacts
from unflinch.results import Agreement, Interval, LayerSeparation, RefusalCounts
from unflinch.robustness_results import Mechanism

BEST_LAYERS = 4
MOST_GROUPS = 20


def run_summary(run: RunResults) -> RenderableType:
    """Return the figures of a run beside those of directional ablation, and its verdict."""
    return Group(_figures(run), _facts(run))


def _figures(run: RunResults) -> Table:
    ablation = run.directional_ablation
    table = _table("on test prompts", "with the patch", "95 % interval", "ablation*")
    table.add_row("false refusals", *_left(run.targets), str(ablation.targets_refused))
    table.add_row("right refusals lost", *_lost(run.keep), str(ablation.keep_lost))
    table.add_row("guard refusals lost", *_lost(run.guard), str(ablation.guard_lost))
    for name, kl, theirs in (
        ("KL, first token (nats)", run.kl.first_token, ablation.kl_first_token_mean),
        ("KL per answer token", run.kl.sequence, ablation.kl_sequence_mean),
    ):
        table.add_row(name, wording.nats(kl.mean), _nats_range(kl.mean_interval), wording.nats(theirs))
    table.add_row(
        "  the same, worst 5 %", wording.nats(run.kl.sequence.cvar95), _nats_range(run.kl.sequence.cvar95_interval), ""
    )
    if run.dialogues and run.dialogues.turns:
        last = run.dialogues.turns[-1]
        name = f"  turn {last.turn} of dialogues"
        table.add_row(name, wording.nats(last.kl.mean), _nats_range(last.kl.mean_interval), "")
        for name, rate in (
            ("dialogues that babble", run.dialogues.babbling),
            ("dialogues newly refused", run.dialogues.refusing),
        ):
            found = f"{rate.count} of {rate.n} ({wording.percent(rate.value)})"
            table.add_row(name, found, wording.percent_range(rate.interval), "")
    for mode in run.modes if len(run.modes) > 1 else ():
        which = f"thinking {'on' if mode.thinking else 'off'}"
        table.add_row(f"{which}: false refusals", *_left(mode.targets), "")
        table.add_row(f"{which}: right ones lost", *_lost(mode.keep), "")
        table.add_row(f"{which}: guard lost", *_lost(mode.guard), "")
    return table


def _nats_range(interval: Interval | None) -> str:
    return f"{wording.nats(interval.low)}–{wording.nats(interval.high)}" if interval else ""


def _facts(run: RunResults) -> Table:
    patch, limits = run.fit.patch, run.verdict.limits
    lines = Table.grid(padding=(0, 2))
    lines.add_row("* ablation", "directional ablation, turned down until it leaves as many false refusals")
    share, size = wording.small_percent(patch.share_of_weights), wording.magnitude(patch.parameters)
    lines.add_row("patch", f"{size} parameters, {share} of the weights; rank {patch.rank} in {patch.modules} modules")
    lines.add_row("writers", f"considered: {wording.coverage(patch.writers)}")
    lines.add_row("time", wording.duration(run.seconds.get("total", sum(run.seconds.values()))))
    if run.verdict.holds:
        lines.add_row("verdict", Text.assemble(("PASSED", "bold green"), f", all {len(limits)} limits hold"))
        return lines
    failures = run.verdict.failures
    lines.add_row("verdict", Text.assemble(("FAILED", "bold red"), f", {len(failures)} of {len(limits)} limits missed"))
    for limit in failures:
        measured, most = (wording.limit_value(value, limit.unit) for value in (limit.measured, limit.limit))
        lines.add_row("", f"{limit.name}: {measured}, limit {most}")
    return lines


def agreement_table(pairs: Sequence[Agreement]) -> RenderableType:
    """Return how far every two judges agree."""
    table = _table("judges", "same label", "Cohen's kappa", "refusal or not")
    for pair in pairs:
        kappas = ("undefined" if kappa is None else f"{kappa:.3f}" for kappa in (pair.kappa, pair.kappa_refusal))
        table.add_row(f"{pair.first} / {pair.second}", f"{pair.same} of {pair.n}", *kappas)
    return table


def scan_summary(scan: ScanFacts) -> RenderableType:
    """Return the best layers of each method, best method first, and what was chosen."""
    by_method: defaultdict[str, list[LayerSeparation]] = defaultdict(list)
    for found in sorted(scan.separations, key=lambda found: -found.auroc):
        by_method[found.method].append(found)
    table = _table("method", *(["layer: AUROC"] + [""] * (BEST_LAYERS - 1)))
    for method, layers in by_method.items():
        best = [f"{one.layer}: {one.auroc:.3f}" for one in layers[:BEST_LAYERS]]
        style = "bold" if method == scan.method else ""
        mark = " <- chosen" if method == scan.method else ""
        table.add_row(wording.words(method) + mark, *best, *[""] * (BEST_LAYERS - len(best)), style=style)
    chosen = (
        f"chosen: {wording.words(scan.method)}, rank {scan.rank}, "
        f"layers {', '.join(map(str, scan.layers))} of {scan.number_of_layers}; "
        f"AUROC {scan.separation:.3f} at layer {scan.best_layer} on prompts held out from the fit"
    )
    return Group(table, Text(chosen))


def mechanism_summary(found: Mechanism) -> RenderableType:
    """Return how the model refuses: what is left without one direction, without two, and so on."""
    table = _table("directions taken out", "left, 1st token", "left, answer", "95 % interval")
    for one in found.ablations:
        opens, answer = one.refused_at_first_token, one.refused_in_answer
        table.add_row(
            str(one.directions),
            f"{opens.count} of {opens.n}",
            f"{answer.count} of {answer.n}",
            wording.percent_range(answer.interval),
        )
    return Group(table, Text(wording.mechanism(found)))


def fit_summary(fit: FitFacts) -> RenderableType:
    """Return what each fitting step reached on the prompts it was chosen on, and which writers the patch changes."""
    table = _table("fitting step", "targets refused", "keep lost", "guard lost", "KL, 1st token")
    for stage in fit.stages:
        shares = (stage.targets_refused_share, stage.keep_lost_share, stage.guard_lost_share)
        table.add_row(wording.words(stage.name), *map(wording.percent, shares), wording.nats(stage.kl_first_token_mean))
    return Group(table, Text(f"writers considered: {wording.coverage(fit.patch.writers)}"))


def benchmark_summary(scores: Sequence[BenchmarkScore]) -> RenderableType:
    """Return both models' scores with standard errors, and what became of the items."""
    table = _table("benchmark", "items", "base", "with the patch", "difference", "lost, gained", "p")
    for one in scores:
        table.add_row(
            wording.benchmark_metric(one),
            str(one.n),
            wording.score(one.base, one.base_error),
            wording.score(one.patched, one.patched_error),
            wording.score(one.difference, one.difference_error, sign="+"),
            f"{one.lost}, {one.gained}",
            f"{one.p_value:.2f}",
        )
    legend = "percent right \N{PLUS-MINUS SIGN} standard error; lost: only the base is right; p: exact McNemar test"
    return Group(table, Text(legend, "dim"))


def spectrum_summary(found: Spectrum) -> RenderableType:
    """Return how many prompts there are of each category, and of each language."""
    table = _table("category", "prompts", "share")
    n = sum(found.categories.values())
    groups = list(found.categories.items())
    for name, count in groups[:MOST_GROUPS]:
        table.add_row(wording.words(name), str(count), wording.percent(count / n))
    rest = groups[MOST_GROUPS:]
    if rest:
        count = sum(count for _, count in rest)
        table.add_row(f"{len(rest)} more", str(count), wording.percent(count / n))
    languages = ", ".join(f"{wording.language(code)} {count}" for code, count in found.languages.items())
    breadth = f"as broad as {found.effective_categories:.1f} categories of equal size; languages: {languages}"
    return Group(table, Text(breadth)) if n else Text("no prompts")


def generation_summary(counts: GenerationCounts) -> RenderableType:
    """Return what became of the prompts that were asked for."""
    table = _table("prompts", "")
    rows = {
        "asked for": counts.asked,
        "received": counts.received,
        "  malformed": counts.malformed,
        "  in another language": counts.wrong_language,
        "  too close to keep or guard": counts.too_close,
        "  near-duplicates": counts.duplicates,
        "  not needed any more": counts.surplus,
        "  kept": counts.kept,
    }
    for name, n in rows.items():
        table.add_row(name, f"{n:,}")
    return Group(table, Text(f"{counts.replies:,} replies, {counts.unreadable_replies:,} of them list no prompts"))


def _table(first: str, *others: str) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1), header_style="bold")
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _left(counts: RefusalCounts) -> tuple[str, str]:
    if not counts.n:
        return "none before", ""
    share = wording.percent(counts.refused_after / counts.n)
    left = f"{counts.refused_before} \N{RIGHTWARDS ARROW} {counts.refused_after} ({share})"
    return left, wording.percent_range(counts.after_interval)


def _lost(counts: RefusalCounts) -> tuple[str, str]:
    if not counts.n:
        return "none tested", ""
    lost = f"{counts.lost} of {counts.n} ({wording.percent(counts.lost / counts.n)})"
    return lost, wording.percent_range(wording.lost_interval(counts))
