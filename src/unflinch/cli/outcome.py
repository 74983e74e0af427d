"""How a command that measured a patch ends: the results shown, and an exit code that says whether it passed."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import typer

from unflinch.cli import console
from unflinch.cli.job import loading_options
from unflinch.cli.tables import run_summary
from unflinch.report.run_results import parse_results
from unflinch.run_folder import REPORT, RunFolder


def end_with(results: Mapping[str, Any], folder: Path, as_json: bool) -> None:
    """Show the results of a run.

    Args:
        results: the content of `results.json`.
        folder: the run folder.
        as_json: print them as JSON, with the places of report and patch added.

    Raises:
        typer.Exit: with code 0 if the verdict is passed, else 1.
    """
    run = parse_results(results)
    report, patch = folder / REPORT, RunFolder(folder).patch
    if as_json:
        places = {"run_folder": folder, "report_file": report, "patch_folder": patch if patch.is_dir() else None}
        console.show_json({**results, **{name: place and str(place) for name, place in places.items()}})
    else:
        console.show(run_summary(run))
        console.show_line(f"report      {report}")
        if patch.is_dir():
            console.show_line(
                f"patch in    {patch}{'' if run.verdict.holds else ' (missed a limit: marked as failed)'}"
            )
            command = ["unflinch", "chat", run.model.id, str(patch), *loading_options(run.settings.get("model", {}))]
            console.note(f"try it      {shlex.join(command)}")
        else:
            console.note("no patch was written: only one that passes is")
    raise typer.Exit(0 if run.verdict.holds else 1)
