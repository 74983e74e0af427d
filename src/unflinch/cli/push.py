"""`unflinch push`."""

from __future__ import annotations

from typing import Annotated

import typer

from unflinch.cli import arguments as arg


def push(
    folder: arg.PatchFolder,
    repo: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Repository on the Hub, made if missing.")],
    public: Annotated[bool, typer.Option("--public", help="Let everyone see a repository that is made.")] = False,
    failed: Annotated[
        bool, typer.Option("--failed", help="Also what missed a limit; never what lost a guard refusal.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check and show what would be uploaded.")] = False,
) -> None:
    """Upload PATCH, or what `apply` or `export` wrote, to the Hub.

    Only what passed its verdict goes up, and only as it was when it did. Log in first with `hf auth login`.
    """
    from unflinch.cli import console
    from unflinch.cli.job import patch_folder
    from unflinch.release.publish import plan_upload, upload

    plan = plan_upload(patch_folder(folder), repo, public=public, failed_too=failed)
    for name, size in plan.files.items():
        console.note(f"{size:>14,}  {name}")
    if dry_run:
        console.show_line(f"would go to {plan.repo}: {plan.message}")
        return
    with console.waiting(f"uploading to {plan.repo}"):
        console.show_line(upload(plan))
