"""The tables of the documentation, from the committed results: those of the README, and what only pages show."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import readme_tables


def judge_table(document: dict[str, Any]) -> str:
    """Return the Markdown table of how well judges find refusals in answers that people labelled."""
    names = ("rules: not answers", "bundled: not answers", "GPT-4 (paper)", "string match (paper)")
    files = document["files"]
    heads = (f"{name}, n {found[names[0]]['n']}" for name, found in files.items())
    lines = [
        f"| judge | {' | '.join(heads)} |",
        f"|---|{'---|' * len(files)}",
    ]
    for name in names:
        cells = (f"{f['f1']:.2f} ({f['f1_low']:.2f}-{f['f1_high']:.2f})" for f in (j[name] for j in files.values()))
        lines.append(f"| {name.removesuffix(': not answers')} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def memory_table(measured: list[dict[str, Any]]) -> str:
    """Return the Markdown table of peak memory and seconds a prompt of the parts of a run."""
    lines = [
        "| model | weights | peak memory | reading a prompt | its gradient |",
        "|---|---|---|---|---|",
    ]
    for model in measured:
        row, growth = model["rows"][-1], model["growth"]
        lines.append(
            f"| {row['parameters'] / 1e9:.2f} billion parameters, {row['dtype']} | {row['weights_gib']:.1f} GiB | "
            f"{row['peak_gib']:.1f} GiB | {growth['reading']['seconds_a_prompt']:.3f} s | "
            f"{growth['gradients']['seconds_a_prompt']:.3f} s |"
        )
    return "\n".join(lines) + "\n"


def plan_table(measured: list[dict[str, Any]]) -> str:
    """Return the Markdown table of planned and measured peak memory of a fit, step by step."""
    lines = ["| model | step | planned | measured | planned / measured |", "|---|---|---|---|---|"]
    for model in measured:
        name = f"{model['model'].split('.')[0]}, {model['dtype']}, {model['prompts']} fit prompts"
        name += f", {model['fetched']} fetched from the disk" if "fetched" in model else ""
        for step, found in {"**whole fit**": model["peak"], **model["steps"]}.items():
            sizes = " | ".join(f"{found[key] / 2**30:.2f} GiB" for key in ("planned", "measured"))
            lines.append(f"| {name} | {step} | {sizes} | {found['ratio']:.2f} |")
    return "\n".join(lines) + "\n"


def limits_table(results: dict[str, Any]) -> str:
    """Return the Markdown table of every limit of the verdict beside what the demo measured."""
    lines = ["| what is measured on test prompts | limit | the demo | prompts |", "|---|---|---|---|"]
    for limit in results["verdict"]["limits"]:
        most, measured = (_in_unit(limit[key], limit["unit"]) for key in ("limit", "measured"))
        lines.append(f"| {limit['name']} | {most} | {measured} | {limit['n']} |")
    return "\n".join(lines) + "\n"


def forms_table(results: dict[str, Any]) -> str:
    """Return the Markdown table of the patch in every form in which it was measured."""
    lines = [
        "| form | false ones left | right ones lost | guard lost | by the format | KL per token | of the format |",
        "|---|---|---|---|---|---|---|",
    ]
    for form in results["forms"]["forms"]:
        rates = (f"{form[name]['count']} of {form[name]['n']}" for name in ("targets_left", "keep_lost", "guard_lost"))
        of_format = form["kl_of_format"]
        alone, part = ("", "") if of_format is None else (str(form["guard_lost_by_format"]), f"{of_format:.4f}")
        cells = [form["form"], *rates, alone, f"{form['kl_sequence']['mean']:.4f}", part]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def engines_table(document: dict[str, Any]) -> str:
    """Return the Markdown table of refusals under llama.cpp, without and with the adapter, beside those under PEFT."""
    names = ("refused_without", "refused_with", "refused_with_under_peft", "agree_with_peft")
    lines = [
        "| test prompts | refused without the adapter | with it | with the patch under PEFT | judged alike |",
        "|---|---|---|---|---|",
    ]
    for kind, found in document["kinds"].items():
        counts = (f"{found[name]['count']} of {found['n']}" for name in names)
        lines.append(f"| {kind} | {' | '.join(counts)} |")
    return "\n".join(lines) + "\n"


def _in_unit(value: float, unit: str) -> str:
    if unit == "share":
        return f"{100 * value:.0f} %"
    return f"{value:.3f} nats" if unit == "nats" else f"{value:.2f}".removesuffix(".00")


TABLES: dict[str, tuple[str, Callable[[Any], str]]] = {
    **readme_tables.TABLES,
    "judge": ("judge_xstest.json", judge_table),
    "memory": ("speed.json", memory_table),
    "plan": ("memory.json", plan_table),
    "limits": ("demo.json", limits_table),
    "forms": ("demo_thorough.json", forms_table),
    "llama.cpp": ("llama_cpp.json", engines_table),
}
"""Tables by the name that pages call them: the file with their figures, and how it is shown."""
