"""`unflinch init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="TOML file to write.")] = Path("unflinch.toml"),
) -> None:
    """Write a settings file from three answers.

    Asks for the model, for the prompts to be answered, and for how much ordinary answers may move. Then run it:
    unflinch run --config FILE.
    """
    import json
    import shlex

    from unflinch.cli import console
    from unflinch.config import make_config
    from unflinch.errors import ConfigError
    from unflinch.options import FitOptions

    if file.exists() or not file.parent.is_dir():
        raise ConfigError(f"{file} is there already, or its folder is not; give a new FILE in an existing folder")
    command = shlex.join(["unflinch", "run", "--config", str(file)])
    model = typer.prompt("Model: Hub id, model folder, .gguf file, or 'demo'", err=True)
    targets = typer.prompt("Harmless prompts to be answered: a file, or nothing for the bundled ones", "", err=True)
    budget = typer.prompt("Most KL on ordinary prompts, in nats", FitOptions.kl_budget, type=float, err=True)
    if targets and not targets.startswith("hub:") and not Path(targets).is_file():
        raise ConfigError(f"no file {targets}; expected a .jsonl or .csv file, or hub:owner/name:split:column")
    make_config({"model": {"model": model}, "fit": {"kl_budget": budget}})
    prompts = f"targets = {json.dumps(targets, ensure_ascii=False)}" if targets else '# targets = "mine.jsonl"'
    file.write_text(
        f"# {command}\n\n"
        f"[model]\nmodel = {json.dumps(model, ensure_ascii=False)}\n\n"
        f'[prompts]\n{prompts}\n# keep = "refusals_that_are_right.jsonl"\n\n'
        f"[fit]\nkl_budget = {budget}\n",
        encoding="utf-8",
    )
    console.show_line(str(file))
    console.note(f"run it      {command}")
