"""Temporary looks into and changes of a model's residual stream; the model leaves as it came."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import PreTrainedModel

from unflinch.errors import ArchitectureError
from unflinch.models.families import OVERRIDE, Architecture
from unflinch.models.layers import decoder_layers, decoder_of, residual_outputs

Record = Callable[[str, Tensor], None]


@contextmanager
def recorded_layer_outputs(model: PreTrainedModel, architecture: Architecture) -> Iterator[list[Tensor]]:
    """Collect the residual stream `(rows, tokens, width)` behind every decoder layer of the calls made inside."""
    outputs: list[Tensor] = []

    def hook(_module: nn.Module, _args: Any, output: Any) -> None:
        outputs.append(output[0] if isinstance(output, tuple) else output)

    with _hooks([layer.register_forward_hook(hook) for layer in decoder_layers(model, architecture)]):
        yield outputs


@contextmanager
def recorded_inputs(modules: Mapping[str, nn.Module], record: Record) -> Iterator[None]:
    """Call `record(name, input)` with the input `(rows, tokens, features)` of each named module."""

    def hook_for(name: str) -> Callable[[nn.Module, Any], None]:
        return lambda _module, args: record(name, args[0])

    with _hooks([m.register_forward_pre_hook(hook_for(name)) for name, m in modules.items()]):
        yield


@contextmanager
def ablated_direction(
    model: PreTrainedModel, architecture: Architecture, direction: Float[Tensor, " width"], strength: float = 1.0
) -> Iterator[None]:
    """Remove `strength` times the component along a direction from everything written to the residual stream.

    Equals projecting the direction out of the embedding and of every residual writer's output (directional ablation);
    where a family has a norm behind a writer, out of that norm's output, and of a mixture of experts as a whole.
    """
    unit = direction / direction.norm()

    def without(states: Tensor) -> Tensor:
        r = unit.to(states)
        removed: Tensor = strength * (states @ r).unsqueeze(-1) * r
        return states - removed

    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        # A mixture may return its routing as well.
        return (without(output[0]), *output[1:]) if isinstance(output, tuple) else without(output)

    modules = [model.get_input_embeddings()]
    for layer in decoder_layers(model, architecture):
        modules += residual_outputs(layer, architecture)
    with _hooks([module.register_forward_hook(hook) for module in modules]):
        yield


@torch.no_grad()
def check_writers(model: PreTrainedModel, architecture: Architecture) -> None:
    """Check that nothing but the outputs named by `architecture` enters the residual stream, by silencing them.

    For families that are not in the table, whose rows are tested.

    Raises:
        ArchitectureError: if a layer changes what it is given although all of its blocks are silent.
    """
    layers = decoder_layers(model, architecture)
    given: list[Tensor] = []

    def silence(_module: nn.Module, _args: Any, output: Any) -> Any:
        return (output[0] * 0, *output[1:]) if isinstance(output, tuple) else output * 0

    def enter(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given.append(args[0] if args else kwargs["hidden_states"])

    handles = [layers[0].register_forward_pre_hook(enter, with_kwargs=True)]
    handles += [m.register_forward_hook(silence) for layer in layers for m in residual_outputs(layer, architecture)]
    with _hooks(handles), recorded_layer_outputs(model, architecture) as outputs:
        decoder_of(model)(input_ids=torch.tensor([[5, 3, 6, 1]], device=model.device))
    changed = [number for number, output in enumerate(outputs) if not torch.equal(output, given[0])]
    if changed:
        raise ArchitectureError(
            f"model type '{architecture.model_type}': {', '.join(b.writer for b in architecture.blocks)} of layers in "
            f"{architecture.layers} are not all that layer {changed[0]} writes into the residual stream; {OVERRIDE}"
        )


@contextmanager
def _hooks(handles: list[RemovableHandle]) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass
class CapturedModule:
    """Input of a linear module and gradient at its output, `(rows, tokens, features)`."""

    inputs: Tensor
    gradient: Tensor


@contextmanager
def captured_gradients(
    model: PreTrainedModel, architecture: Architecture, modules: Sequence[str], shape: Sequence[int]
) -> Iterator[dict[str, CapturedModule]]:
    """Collect inputs and output gradients of the named modules for calls whose tokens have `shape` (rows, tokens).

    The graph starts at the first layer that holds one of the modules: nothing below is differentiated, and no parameter
    is, not even those of a patch in training. Mixtures of experts hand their modules all tokens as one row.

    Raises:
        ArchitectureError: inside, if a module does not get every token.
    """
    captured: dict[str, CapturedModule] = {}
    layers = decoder_layers(model, architecture)
    first = layers[min(map(architecture.layer_of, modules))]

    def start(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
        if args:
            return (args[0].detach().requires_grad_(), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": kwargs["hidden_states"].detach().requires_grad_()}

    def hook_for(name: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def hook(_module: nn.Module, args: Any, output: Tensor) -> None:
            if output.shape[:-1].numel() != shape[0] * shape[1]:
                raise ArchitectureError(
                    f"'{name}' gets {output.shape[:-1].numel()} tokens of a batch of {shape[0]} times {shape[1]}; "
                    "expected a linear module that every token passes: name another writer"
                )
            x = args[0].detach().reshape(*shape, -1)

            def keep(gradient: Tensor) -> None:
                captured[name] = CapturedModule(x, gradient.detach().reshape(*shape, -1))

            output.register_hook(keep)

        return hook

    handles = [first.register_forward_pre_hook(start, with_kwargs=True)]
    handles += [model.get_submodule(name).register_forward_hook(hook_for(name)) for name in modules]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with _hooks(handles):
        try:
            for parameter in trainable:
                parameter.requires_grad_(False)
            yield captured
        finally:
            for parameter in trainable:
                parameter.requires_grad_(True)
