"""A model whose layers seem to be on two GPUs, so that code that mixes tensors of several devices fails here too.

Everything is computed on the CPU. Tensors carry the device that they would be on; a function that is given tensors of
two devices fails as CUDA's would, and so does an index that is neither on the CPU nor where the indexed tensor is. What
autograd hands to hooks carries no device and fits everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary
from transformers import Cache, PreTrainedModel

CPU, FIRST, SECOND = torch.device("cpu"), torch.device("cuda", 0), torch.device("cuda", 1)
_MOVES = {torch.Tensor.to, torch.Tensor.cpu, torch.Tensor.copy_}
_INDEXING = {torch.Tensor.__getitem__, torch.Tensor.__setitem__}


class SeveralDevices(TorchFunctionMode):
    """Keeps account of where every tensor would be."""

    def __init__(self) -> None:
        super().__init__()
        self.places: Any = WeakTensorKeyDictionary()

    def __torch_function__(self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if function == torch.Tensor.device.__get__:  # another wrapper at every access
            return self.places.get(args[0], CPU)
        given = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        devices = [d for d in tree_leaves((args, kwargs)) if isinstance(d, torch.device)]
        own = [self.places[t] for t in given if t in self.places and t.dim() > 0]
        if function in _MOVES:
            place = CPU if function is torch.Tensor.cpu else devices[0] if devices else self.places.get(args[0])
        elif function in _INDEXING:
            place = self.places.get(args[0])
            if function is torch.Tensor.__getitem__ and any(d not in (CPU, place) for d in own) and place is not None:
                raise RuntimeError(f"indices should be either on cpu or on {place}")
        else:
            if len(set(own)) > 1:
                raise RuntimeError(f"{function} was given tensors on {sorted(map(str, set(own)))}")
            place = devices[0] if devices and not own else own[0] if own else None if given else CPU
        args, kwargs = tree_map_only(torch.device, lambda _: CPU, (args, kwargs))
        result = function(*args, **kwargs)
        if function in _MOVES and result is args[0] and self.places.get(result) != place:
            result = result.view_as(result)  # another tensor, as after a real move
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and place is not None and not isinstance(tensor, nn.Parameter):
                self.places[tensor] = place
        return result


@contextmanager
def spread(model: PreTrainedModel, first_layers: int) -> Iterator[None]:
    """Have embedding, head and the first layers seem to be on one GPU, all other layers and the norm on a second."""
    mode = SeveralDevices()
    decoder = model.get_decoder()
    second = [*decoder.layers[first_layers:], decoder.norm]
    for module in (model, *second):
        for tensor in (*module.parameters(), *module.buffers()):
            mode.places[tensor] = FIRST if module is model else SECOND

    def moves_to(device: torch.device) -> Callable[..., Any]:
        def move(_module: nn.Module, args: Any, kwargs: Any) -> Any:
            return tree_map_only(Tensor, lambda t: t.to(device), (args, kwargs), is_leaf=lambda x: isinstance(x, Cache))

        return move

    places = [(layer, FIRST) for layer in (*decoder.layers[:first_layers], model.get_output_embeddings())]
    places += [(module, SECOND) for module in second]
    handles = [module.register_forward_pre_hook(moves_to(d), with_kwargs=True) for module, d in places]
    try:
        with mode:
            yield
    finally:
        for handle in handles:
            handle.remove()
