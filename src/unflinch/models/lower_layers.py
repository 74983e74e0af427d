"""The layers below a patch: what they make of a prompt is the same at every patch, so that it is computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from unflinch.models.batches import PaddedBatch
from unflinch.models.families import Architecture
from unflinch.models.layers import decoder_layers

MOST_BYTES = 512 * 2**20
"""That the kept states may take; prompts beyond pass through all layers each time."""


class LowerLayers:
    """The residual stream behind the layers below the first patched one, of the sequences that it was asked to keep."""

    def __init__(self, model: PreTrainedModel, architecture: Architecture, modules: Sequence[str]) -> None:
        """Keep nothing yet.

        Args:
            model: the model; patches of it must not change anything below the lowest of `modules`.
            architecture: where its decoder layers are.
            modules: names of linear modules inside these layers.
        """
        layers = list(decoder_layers(model, architecture))
        depth = min(map(architecture.layer_of, modules))
        self._below, self._above = layers[:depth], layers[depth:]
        self._kept: dict[tuple[int, ...], Tensor] = {}
        self._left = MOST_BYTES
        self._in_tuple = False
        """Whether layers return a tuple that begins with the stream."""

    @property
    def none(self) -> bool:
        """Whether nothing can be left out: the first layer is patched, or the model cannot go on from the middle."""
        return not self._below

    def forget(self) -> None:
        """Drop all that is kept, and keep nothing more: the model cannot go on from the middle."""
        self._kept.clear()
        self._below = []

    @contextmanager
    def kept(self, batch: PaddedBatch) -> Iterator[None]:
        """Keep the stream of a batch in the decoder's next call, which leaves out the layers above."""

        def keep(_module: nn.Module, _args: Any, output: Any) -> None:
            self._in_tuple = isinstance(output, tuple)
            states = (output[0] if self._in_tuple else output).detach()
            for row, sequence in enumerate(batch.sequences):
                own = states[row, batch.padding(row) :].clone()
                if own.nbytes <= self._left:
                    self._left -= own.nbytes
                    self._kept[tuple(sequence)] = own

        def unchanged(hidden_states: Tensor, *_args: Any, **_kwargs: Any) -> Any:
            return self._as_output(hidden_states)

        handle = self._below[-1].register_forward_hook(keep)
        try:
            with _computing(self._above, unchanged):
                yield
        finally:
            handle.remove()

    @contextmanager
    def skipped(self, batch: PaddedBatch) -> Iterator[None]:
        """Leave the layers out of the decoder's calls inside if all of the batch's rows are kept."""
        states = self._states(batch)
        if states is None:
            yield
            return
        output = self._as_output(states)
        with _computing(self._below, lambda *_args, **_kwargs: output):
            yield

    def _states(self, batch: PaddedBatch) -> Float[Tensor, "rows tokens width"] | None:
        """Return the stream that enters the first patched layer, zero at padding; None if some of it is not known."""
        found = [self._kept.get(tuple(sequence)) for sequence in batch.sequences]
        rows, tokens = batch.input_ids.shape
        entering: Tensor | None = None
        for row, states in enumerate(found):
            own = tokens - batch.padding(row)
            if states is None or len(states) < own:
                return None
            if entering is None:
                entering = states.new_zeros(rows, tokens, states.shape[-1])
            entering[row, tokens - own :] = states[len(states) - own :]
        return entering

    def _as_output(self, states: Tensor) -> Any:
        return (states,) if self._in_tuple else states


@contextmanager
def _computing(layers: Sequence[nn.Module], forward: Callable[..., Any]) -> Iterator[None]:
    """Let layers compute something else for the time of the block."""
    before = [vars(layer).get("forward") for layer in layers]
    try:
        for layer in layers:
            vars(layer)["forward"] = forward
        yield
    finally:
        for layer, own in zip(layers, before, strict=True):
            if own is None:
                del vars(layer)["forward"]
            else:
                vars(layer)["forward"] = own
