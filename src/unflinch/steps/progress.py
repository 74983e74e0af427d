"""How steps tell how far they are; the library itself neither prints nor draws."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many are done, and how many there are."""


def silent(_what: str, _done: int, _total: int) -> None:
    """Show nothing."""


def counter(progress: Progress, what: str, total: int) -> Callable[[int], None]:
    """Return a function that adds to a count and reports it; it reports 0 at once."""
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        progress(what, min(done, total), total)

    advance(0)
    return advance
