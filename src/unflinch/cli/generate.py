"""`unflinch generate`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from unflinch.chat_endpoint import ChatEndpoint
from unflinch.cli import arguments as arg
from unflinch.data.generate_prompts import GeneratedPrompts
from unflinch.options import GeneratedKind, GenerateOptions

KEY_VARIABLE = "UNFLINCH_GENERATE_KEY"

Endpoint = Annotated[
    str, typer.Option(metavar="URL", help="OpenAI-compatible endpoint, such as http://localhost:8080/v1.")
]
EndpointModel = Annotated[
    str,
    typer.Option(metavar="NAME", help=f"Model to ask there. Its key, if it wants one, is read from ${KEY_VARIABLE}."),
]
Out = Annotated[Path, typer.Option(metavar="FILE", help="The .jsonl file for them, written as they come.")]
Refused = Annotated[
    Path | None, typer.Option(metavar="FILE", help="New .jsonl file for those that MODEL refuses; needs MODEL.")
]
Kind = Annotated[
    GeneratedKind,
    typer.Option(metavar="KIND", help="targets: harmless but alarming at first sight; or ordinary: everyday ones."),
]
Categories = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="A category, bundled or new; may be given again. [default: all bundled ones]"),
]
Languages = Annotated[
    list[str] | None,
    typer.Option(metavar="CODE", help="en, de, es, fr, ru or zh; may be given again. [default: en]"),
]
PerCategory = Annotated[int, typer.Option(metavar="N", help="Prompts wanted in each category and language.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with --out FILE; what it holds counts.")]
Timeout = Annotated[float, typer.Option(metavar="SECONDS", help="Longest wait for one reply.")]


def generate(
    endpoint: Endpoint,
    endpoint_model: EndpointModel,
    out: Out,
    model: arg.Model = None,
    refused: Refused = None,
    kind: Kind = "targets",
    category: Categories = None,
    language: Languages = None,
    per_category: PerCategory = GenerateOptions.per_category,
    resume: Resume = False,
    timeout: Timeout = 180.0,
    config: arg.Config = None,
    dtype: arg.DType = None,
    device: arg.Device = None,
    revision: arg.Revision = None,
    trust_remote_code: arg.TrustRemoteCode = None,
    json: arg.Json = False,
) -> None:
    """Have a language model write new harmless prompts.

    Near-duplicates are dropped, also of bundled prompts, and so is what is close to a keep or guard prompt. That is
    statistical: read what was written before you use it. With MODEL and --refused, those that MODEL refuses get a file
    of their own, for `run --targets`.
    """
    given = locals()  # every parameter by name

    from unflinch.cli import console, tables
    from unflinch.cli.job import config_from
    from unflinch.cli.mining import mine_to, mined_facts, show_mined
    from unflinch.errors import InputError
    from unflinch.run_folder import plain

    languages = tuple(language or GenerateOptions.languages)
    options = GenerateOptions(kind, tuple(category or ()), languages, per_category)
    _check_files(options, out, refused, resume)
    if (model or config) and not refused:
        raise InputError("MODEL and --config are read for --refused FILE; give that too, or leave them out")
    settings = config_from(given, {}) if refused else None
    writer = ChatEndpoint(endpoint, endpoint_model, key=os.environ.get(KEY_VARIABLE, ""), timeout=timeout)
    found = _ask(writer, options, out)
    for (name, code), n in found.missing.items():
        console.warning(f"{n} of {per_category} prompts are missing in {name}, {code}: no more that can be kept came")
    mined = mine_to(refused, settings, found.prompts) if refused and settings and found.prompts else None
    if json:
        facts = plain(found.counts) | {
            "before": found.before,
            "written": len(found.prompts),
            "out": str(out) if found.prompts else None,
        }
        console.show_json(facts | ({"mined": mined_facts(mined, refused)} if mined and refused else {}))
        return
    console.show(tables.generation_summary(found.counts))
    n = len(found.prompts)
    console.show_line(f"{n} prompts are in {out}, {found.before} of them from before" if n else "nothing was written")
    if mined and refused:
        show_mined(mined, refused)


def _check_files(options: GenerateOptions, out: Path, refused: Path | None, resume: bool) -> None:
    """Raise `InputError` if prompts cannot be written where they should be, or those for --refused not be mined."""
    from unflinch.cli.mining import check_new, check_prompt_file
    from unflinch.errors import InputError

    if resume:
        check_prompt_file(out, "--out")
    else:
        check_new(out, "--out")
    if not refused:
        return
    check_new(refused, "--refused")
    if options.kind != "targets" or len(options.categories) == 1:
        raise InputError("--refused FILE goes with --kind targets and more than one category")
    if refused.resolve() == out.resolve():
        raise InputError(f"--out and --refused are both {out}; give each a file of its own")


def _ask(writer: ChatEndpoint, options: GenerateOptions, out: Path) -> GeneratedPrompts:
    """Return the prompts that are in the file in the end, with progress shown."""
    from unflinch.cli import console
    from unflinch.cli.job import stoppable
    from unflinch.data.prompts import bundled
    from unflinch.data.splits import PromptSets
    from unflinch.errors import EndpointError
    from unflinch.steps.generate import generate_prompts

    kept = "what was written is kept; the same command with --resume goes on"
    sets = PromptSets(bundled("targets"), bundled("keep"), bundled("guard"), bundled("ordinary"))
    try:
        with stoppable(kept) as progress:
            return generate_prompts(writer, options, out, sets, progress)
    except EndpointError:
        if out.exists():
            console.note(kept)
        raise
