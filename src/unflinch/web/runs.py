"""The finished runs of a folder, and what of them a page shows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from unflinch.errors import RunFolderError
from unflinch.report.run_results import RunResults, read_results
from unflinch.results import Outcome
from unflinch.run_folder import RESULTS

DEMO = "demo"
LONGEST_EXAMPLE = 70
"""Characters of a prompt that is offered to be tried."""


class Runs:
    """Run folders beside each other, such as those in `runs`."""

    def __init__(self, root: Path) -> None:
        """Refer to the folder that holds the run folders."""
        self.root = root

    def names(self) -> list[str]:
        """Return the names of all runs that hold results, the newest first."""
        found = {file.parent.name: file.stat().st_mtime for file in self.root.glob(f"*/{RESULTS}")}
        return sorted(found, key=lambda name: (-found[name], name))

    def folder(self, name: str) -> Path:
        """Return a run's folder.

        Raises:
            RunFolderError: if there is no finished run of that name, as for every name that leads elsewhere.
        """
        if name not in self.names():
            raise RunFolderError(f"{self.root} holds no finished run '{name}'; choose another one")
        return self.root / name

    def results(self, name: str) -> RunResults:
        """Return a run's results.

        Raises:
            RunFolderError: if there is no such run, or its results are damaged.
        """
        folder = self.folder(name)
        return _read(folder, (folder / RESULTS).stat().st_mtime_ns)

    def first(self) -> str:
        """Return the run to begin with: the demo's, else the newest.

        Raises:
            RunFolderError: if there is none.
        """
        names = self.names()
        if not names:
            raise RunFolderError(f"{self.root} holds no finished run; make one with unflinch demo, or give --runs")
        return DEMO if DEMO in names else names[0]


@lru_cache(maxsize=8)
def _read(folder: Path, changed: int) -> RunResults:
    """Return the results that a folder holds since the time `changed`."""
    return read_results(folder)


def examples(outcomes: Sequence[Outcome], most: int = 4) -> list[str]:
    """Return short test prompts that the original refuses and the patched model answers, of different categories."""
    freed = [one for one in outcomes if (one.kind, one.before, one.after) == ("target", "refuses", "answers")]
    short = sorted((one for one in freed if len(one.text) <= LONGEST_EXAMPLE), key=lambda one: one.language != "en")
    by_category: dict[str, str] = {}
    for one in short:
        by_category.setdefault(one.category, one.text)
    return list(dict.fromkeys(by_category.values()))[:most]
