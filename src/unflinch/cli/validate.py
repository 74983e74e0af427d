"""`unflinch validate`."""

from __future__ import annotations

import shlex
from functools import partial

from unflinch.cli import arguments as arg


def validate(run_folder: arg.FinishedRun, thorough: arg.Thorough = True, json: arg.Json = False) -> None:
    """Measure the patch of RUN_FOLDER on test prompts in every way.

    Writes the report and, if the patch passes, the patch. A patch that misses a limit, for example because one form of
    it loses a guard refusal, is deleted, also where a run that looked at fewer forms had written it; after `run
    --keep-best` only a lost guard refusal deletes it. Exit code as for `run`.
    """
    from unflinch.cli.job import Job, carry_out, config_from, stored_settings
    from unflinch.cli.outcome import end_with
    from unflinch.errors import RunFolderError

    stored = stored_settings(run_folder)
    if not stored:
        raise RunFolderError(f"{run_folder} is no run folder; give one that `unflinch fit` made, such as runs/demo")

    from unflinch.pipeline import run_validate  # only now: a mistake above is told at once

    again = shlex.join(["unflinch", "validate", *([] if thorough else ["--brief"]), str(run_folder)])
    job = Job(config_from({}, stored), run_folder, resume=True, again=again)
    end_with(carry_out(partial(run_validate, thorough=thorough), job), run_folder, json)
