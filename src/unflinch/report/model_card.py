"""Model cards: the README that lies in the folder of a patch, or of an export of one."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from unflinch.provenance import Provenance
from unflinch.report import wording
from unflinch.report.run_results import parse_results


def _cell(text: str) -> str:
    """Return text that stays inside its Markdown table cell."""
    return re.sub(r"([|\\`*_<\[\]])", r"\\\1", " ".join(text.split()))


def _template(name: str) -> Template:
    environment = Environment(
        loader=PackageLoader("unflinch.report"),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["cell"] = _cell
    return environment.get_template(name)


def model_card(results: Mapping[str, Any]) -> str:
    """Return the model card of a run's patch: Markdown with YAML front matter.

    A base model that is not on the Hub (a local folder) is left out of the front matter, because the Hub rejects a
    card with such a name.

    Args:
        results: the JSON object of `results.json`.

    Raises:
        RunFolderError: the results are incomplete.
    """
    run = parse_results(results)
    return _template("model_card.md.j2").render(
        run=run,
        wording=wording,
        on_hub=run.model.id == run.model.hub_id,
        tokens=wording.answer_tokens(run.settings),
    )


def export_card(origin: Provenance) -> str:
    """Return the model card of a merged copy or a GGUF adapter, with the verdict that the patch had as an adapter."""
    return _template("export_card.md.j2").render(origin=origin, wording=wording, merged=origin.kind == "merged model")
