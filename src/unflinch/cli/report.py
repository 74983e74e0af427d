"""`unflinch report`."""

from __future__ import annotations

from unflinch.cli import arguments as arg


def report(run_folder: arg.FinishedRun) -> None:
    """Build report.html of RUN_FOLDER again.

    It is made from results.json alone; prints its path.
    """
    from unflinch.cli import console
    from unflinch.report.build import build_report

    console.show_line(str(build_report(run_folder)))
