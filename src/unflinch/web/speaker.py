"""The model behind the page: loaded when it is first asked, with the patch of the chosen run attached live."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event

from unflinch.config import make_config
from unflinch.models.load import LoadedModel
from unflinch.patch.answer import Side, answer
from unflinch.patch.attach import AttachedPatch, attached
from unflinch.patch.save import check_base, load_patch
from unflinch.report.run_results import RunResults
from unflinch.run_folder import RunFolder
from unflinch.steps.opened import load_from

_UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""Stands for the first bytes of a character whose last ones are not written yet."""


@dataclass(frozen=True)
class SpeakerOptions:
    """How models are loaded and asked."""

    max_tokens: int = 512
    """Most tokens of an answer."""
    device: str = "auto"
    trust_remote_code: bool = False


@dataclass(frozen=True)
class _Open:
    """What answers at present."""

    run: Path
    loaded: LoadedModel
    live: AttachedPatch


@dataclass(frozen=True)
class _Said:
    turns: Sequence[dict[str, str]]
    system_prompt: str | None
    thinking: bool | None

    def conversation(self) -> list[dict[str, str]]:
        """Return the messages, under the run's system prompt if it had one."""
        above = [{"role": "system", "content": self.system_prompt}] if self.system_prompt else []
        return [*above, *self.turns]


class Speaker:
    """One model at a time, with one patch; all that touches them happens in one thread."""

    def __init__(self, options: SpeakerOptions) -> None:
        """Load nothing yet."""
        self.options = options
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="model")
        self._patched = ExitStack()
        self._open: _Open | None = None
        self._closing = Event()

    def ready(self, run: Path) -> bool:
        """Whether the next answer of this run begins without loading anything."""
        return self._open is not None and self._open.run == run

    def answers(
        self, run: Path, results: RunResults, turns: Sequence[dict[str, str]], side: Side, strength: float
    ) -> Iterator[str]:
        """Yield the answer as it grows; closing the iterator ends it.

        Args:
            run: the run folder that holds the patch.
            results: of that run: they say how its base model was held and asked.
            turns: the conversation as chat templates expect it; the user speaks last.
            side: who answers, the model with its patch or without.
            strength: of the patch: 0 is the base model, 1 the patch as it was validated.

        Raises:
            UnflinchError: if the model or its patch cannot be loaded, or does not take the conversation.
        """
        grown: SimpleQueue[str | None] = SimpleQueue()
        stop = Event()

        def grow(text: str) -> bool:
            grown.put(text)
            return stop.is_set() or self._closing.is_set()

        def work() -> str:
            try:
                opened = self._opened(run, results)
                opened.live.set_strength(strength)
                said = _Said(turns, opened.loaded.system_prompt, opened.loaded.modes[-1])
                return answer(opened.loaded, opened.live, said, side, self.options.max_tokens, grow)
            finally:
                grown.put(None)

        done = self._thread.submit(work)
        try:
            while (text := _newest(grown)) is not None:
                yield text.rstrip(_UNFINISHED)
            yield done.result()
        finally:
            stop.set()

    def close(self) -> None:
        """End the answer that is being written, detach the patch and end the thread."""
        self._closing.set()
        self._thread.submit(self._patched.close)
        self._thread.shutdown()

    def _opened(self, run: Path, results: RunResults) -> _Open:
        """Return the run's model, held as it was there, with its patch attached, in place of what was open before."""
        if self._open is not None and self._open.run == run:
            return self._open
        patch = load_patch(RunFolder(run).patch)
        self._patched.close()
        self._open = None  # before the next model is loaded: two may not fit
        held = make_config({"model": results.settings["model"]}).model
        loaded = load_from(
            replace(
                held,
                spread="devices" if held.spread else None,  # the page has no other workers
                model=results.model.id,
                dtype=results.model.dtype,  # the one that the figures are of
                revision=results.model.revision,
                device=self.options.device,
                trust_remote_code=self.options.trust_remote_code,
                max_memory=None,
            )
        )
        check_base(patch, loaded.base_hash, results.model.id)
        self._open = _Open(run, loaded, self._patched.enter_context(attached(loaded.model, patch)))
        return self._open


def _newest(grown: SimpleQueue[str | None]) -> str | None:
    """Wait for a text and return the newest there is: a fast model writes more often than a page is drawn."""
    text = grown.get()
    while text is not None:
        try:
            text = grown.get_nowait()
        except Empty:
            break
    return text
