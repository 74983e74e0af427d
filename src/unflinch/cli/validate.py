"""`unflinch validate`."""

from __future__ import annotations

import shlex

from unflinch.cli import arguments as arg


def validate(run_folder: arg.FinishedRun, json: arg.Json = False) -> None:
    """Measure the fitted patch of RUN_FOLDER on its test prompts.

    Writes the report and, if the patch passes, the patch. Exit code as for `run`.
    """
    from unflinch.cli.job import Job, carry_out, config_from, stored_settings
    from unflinch.cli.outcome import end_with
    from unflinch.errors import RunFolderError

    stored = stored_settings(run_folder)
    if not stored:
        raise RunFolderError(f"{run_folder} is no run folder; give one that `unflinch fit` made, such as runs/demo")

    from unflinch.pipeline import run_validate  # only now: a mistake above is told at once

    job = Job(
        config_from({}, stored), run_folder, resume=True, again=shlex.join(["unflinch", "validate", str(run_folder)])
    )
    end_with(carry_out(run_validate, job), run_folder, json)
