"""The provenance of a run's patch, from `results.json`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from unflinch.provenance import BaseModelFacts, Provenance
from unflinch.report.run_results import parse_results

_MADE_BY = ("scan", "fit", "validate")
"""Sections of the settings that are kept; the others name files on the maker's disk."""


def patch_provenance(results: Mapping[str, Any]) -> Provenance:
    """Return where the patch of a run comes from.

    Args:
        results: the JSON object of `results.json`.

    Raises:
        RunFolderError: the results are incomplete.
    """
    run = parse_results(results)
    model, patch = run.model, run.fit.patch
    return Provenance(
        kind="adapter",
        unflinch=run.unflinch,
        created=run.created,
        base=BaseModelFacts(model.name, model.hub_id is not None, model.revision, model.base_hash),
        modules=patch.modules,
        rank=patch.rank,
        parameters=patch.parameters,
        verdict=run.verdict,
        data=run.data,
        settings={name: run.settings[name] for name in _MADE_BY if name in run.settings},
    )
