"""Weights of decoder layers that are not held where the model computes, but fetched whenever a layer runs.

accelerate's hooks fetch them, use them and drop them again. Two things are added here: a way to read and to change such
a weight, and a way back through a layer that does not hold on to what was fetched on the way forward.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.hooks import AlignDevicesHook, SequentialHook
from accelerate.utils import PrefixedDataset
from torch import Tensor, nn

_ATTRIBUTE = "fetched_weights"
"""Of a model: its `FetchedWeights`."""


@dataclass(frozen=True)
class _View:
    """What autograd has to keep of a fetched weight: how to fetch it again."""

    name: str
    device: torch.device
    dtype: torch.dtype
    size: torch.Size
    stride: tuple[int, ...]
    offset: int


class FetchedWeights(Mapping[str, Tensor]):
    """All weights that are fetched, by their names in the model, with what was put in their place."""

    def __init__(self, source: Mapping[str, Tensor]) -> None:
        """Fetch from `source`: the CPU's memory, files, or other workers."""
        self.source = source
        self._changed: dict[str, Tensor] = {}
        self._in_use: dict[int, tuple[str, Tensor]] = {}
        """Weights that are where the model computes at the moment, by the address of their storage."""

    def __getitem__(self, name: str) -> Tensor:
        """Return a weight, wherever it is."""
        changed = self._changed.get(name)
        return self.source[name] if changed is None else changed

    def __iter__(self) -> Iterator[str]:
        """Go through the names."""
        return iter(self.source)

    def __len__(self) -> int:
        """Return the number of weights."""
        return len(self.source)

    def change(self, name: str, value: Tensor) -> None:
        """Have `value` fetched in place of a weight."""
        self._changed[name] = value

    def restore(self, name: str) -> None:
        """Have the weight fetched again that was changed."""
        self._changed.pop(name, None)

    def use(self, name: str, weight: Tensor) -> int:
        """Note that `weight` was fetched, and return by what it is forgotten."""
        address = weight.untyped_storage().data_ptr()
        self._in_use[address] = (name, weight)
        return address

    def forget(self, address: int) -> None:
        """Note that a fetched weight was dropped."""
        self._in_use.pop(address, None)

    def pack(self, tensor: Tensor) -> Tensor | _View:
        """Return what autograd keeps of a tensor: the name and shape of a fetched weight in place of its values."""
        name, weight = self._in_use.get(tensor.untyped_storage().data_ptr(), ("", None))
        if weight is None:
            return tensor
        return _View(name, weight.device, weight.dtype, tensor.size(), tensor.stride(), int(tensor.storage_offset()))

    def unpack(self, kept: Tensor | _View) -> Tensor:
        """Return the tensor again of which `pack` returned what is kept."""
        if isinstance(kept, Tensor):
            return kept
        weight = self[kept.name].to(kept.device, kept.dtype).contiguous()
        return weight.as_strided(kept.size, kept.stride, kept.offset)


class _Fetching(AlignDevicesHook):  # type: ignore[misc]  # accelerate has no types
    """accelerate's hook, which fetches what a module needs before it runs, and tells `FetchedWeights` of it."""

    def __init__(self, hook: AlignDevicesHook, fetched: FetchedWeights) -> None:
        self.__dict__.update(vars(hook))
        self._fetched, self._prefix = fetched, hook.weights_map.prefix
        self._addresses: list[int] = []
        self.weights_map = PrefixedDataset(fetched, self._prefix)

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        given = super().pre_forward(module, *args, **kwargs)
        own = module.named_parameters(recurse=False)
        self._addresses = [self._fetched.use(f"{self._prefix}{name}", weight) for name, weight in own]
        return given

    def post_forward(self, module: nn.Module, output: Any) -> Any:
        for address in self._addresses:
            self._fetched.forget(address)
        return super().post_forward(module, output)


def watch_fetched(model: nn.Module) -> None:
    """Keep account of what a model that accelerate has dispatched fetches, if anything; to be called once."""
    fetching = [(module, hook) for module in model.modules() if (hook := _fetching_hook(module))]
    if not fetching:
        return
    fetched = FetchedWeights(fetching[0][1].weights_map.dataset)
    for module, hook in fetching:
        own: Any = module._hf_hook
        other = _Fetching(hook, fetched)
        if own is hook:
            module._hf_hook = other
        else:
            own.hooks = tuple(other if part is hook else part for part in own.hooks)
    setattr(model, _ATTRIBUTE, fetched)


def _fetching_hook(module: nn.Module) -> Any:
    """Return the hook that fetches the weights of a module, None if it holds them."""
    own = getattr(module, "_hf_hook", None)
    hooks = own.hooks if isinstance(own, SequentialHook) else (own,)
    return next((hook for hook in hooks if isinstance(hook, AlignDevicesHook) and hook.offload), None)


def fetched_of(model: nn.Module) -> FetchedWeights | None:
    """Return what a model fetches; None if it holds all of its weights."""
    found = getattr(model, _ATTRIBUTE, None)
    return found if isinstance(found, FetchedWeights) else None


def computes_on(module: nn.Module) -> torch.device:
    """Return where a module computes, whether it holds its weights or fetches them."""
    hook = _fetching_hook(module)
    return next(module.parameters()).device if hook is None else torch.device(hook.execution_device)


def weight_of(model: nn.Module, name: str) -> Tensor:
    """Return the values of a parameter, fetched if the model does not hold it."""
    held, fetched = model.get_parameter(name), fetched_of(model)
    return fetched[name] if held.is_meta and fetched is not None else held.detach()


@contextmanager
@torch.no_grad()
def replaced_weight(model: nn.Module, name: str, value: Tensor) -> Iterator[None]:
    """Give a parameter other values for the time of the block, in place if the model holds it."""
    held, fetched = model.get_parameter(name), fetched_of(model)
    if held.is_meta and fetched is not None:
        fetched.change(name, value)
        try:
            yield
        finally:
            fetched.restore(name)
        return
    original = held.detach().clone()
    try:
        held.copy_(value)
        yield
    finally:
        held.copy_(original)


def fetching_again(model: nn.Module) -> AbstractContextManager[Any]:
    """Have autograd fetch weights once more on its way back through the calls inside, not keep them until then."""
    fetched = fetched_of(model)
    if fetched is None:
        return nullcontext()
    return torch.autograd.graph.saved_tensors_hooks(fetched.pack, fetched.unpack)
