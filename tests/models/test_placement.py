"""Layers stay where the model computes from the top down; what does not fit is fetched, memory before disk."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import tiny_model

from unflinch.errors import NotEnoughMemoryError
from unflinch.models import placement
from unflinch.models.architecture import architecture_of
from unflinch.models.placement import Room, Spreading, place_layers, room_for_weights, spread_map

SIZES = st.lists(st.integers(1, 20), min_size=1, max_size=12)
GPUS = st.lists(st.integers(0, 120), min_size=1, max_size=4)


@given(layers=SIZES, others=st.integers(0, 30), gpus=GPUS, memory=st.integers(0, 100))
def test_no_device_gets_more_than_it_has_room_for(layers: list[int], others: int, gpus: list[int], memory: int) -> None:
    room = Room(tuple(enumerate(gpus)), memory, disk=True)
    if others + max(layers) > gpus[0] and (sum(layers) + others > sum(gpus) or others > gpus[0]):
        with pytest.raises(NotEnoughMemoryError, match="GiB"):
            place_layers(layers, others, room)
        return
    try:
        placed = place_layers(layers, others, room)
    except NotEnoughMemoryError:
        assert others + max(layers) > gpus[0]
        return
    assert len(placed) == len(layers)
    used = {device: sum(size for size, own in zip(layers, placed, strict=True) if own == device) for device in placed}
    running = max(layers) if {"cpu", "disk"} & used.keys() else 0
    assert used.get(0, 0) + others + running <= gpus[0]
    assert all(used.get(number, 0) <= left for number, left in enumerate(gpus) if number)
    assert used.get("cpu", 0) <= memory
    order = [{"disk": 0, "cpu": 1}.get(str(device), 2) for device in placed]
    assert order == sorted(order), "the upper layers are held"
    assert [device for device in placed if isinstance(device, int)] == sorted(
        device for device in placed if isinstance(device, int)
    )


def test_all_layers_are_held_where_they_fit_without_room_for_one_more() -> None:
    assert place_layers([5, 5], 2, Room(((0, 12),), 100, disk=True)) == [0, 0]
    assert place_layers([5, 5], 2, Room(((0, 11),), 100, disk=True)) == ["cpu", "cpu"]
    assert place_layers([5, 5, 5], 2, Room(((0, 17), ("cpu", 0)), 6, disk=True)) == [0, 0, 0]
    assert place_layers([5, 5, 5], 2, Room(((0, 12),), 6, disk=True)) == ["disk", "cpu", 0]


def test_weights_that_nothing_can_fetch_have_to_fit() -> None:
    with pytest.raises(NotEnoughMemoryError, match="fewer bits"):
        place_layers([5, 5], 2, Room(((0, 11),), 0, disk=False))
    assert place_layers([5, 5], 2, Room(((0, 7), (1, 5)), 0, disk=False)) == [0, 1]


@pytest.mark.parametrize("family", ["qwen2", "gemma3"])
def test_a_map_names_every_part_of_the_model_once(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(family)
    row = architecture_of(model)
    monkeypatch.setattr(placement, "place_layers", lambda _layers, _others, _room: ["disk", "cpu", "cpu"])
    found = spread_map(model, row, torch.device("cpu"), (4, 4.0), Spreading("devices"))
    for name in model.state_dict():
        assert sum(name == part or name.startswith(f"{part}.") for part in found) == 1, name
    assert [found[f"{row.layers}.{number}"] for number in range(3)] == ["disk", "cpu", "cpu"]
    assert {device for part, device in found.items() if row.layers not in part} == {"cpu"}


def test_what_a_model_takes_is_counted_as_its_format_holds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = tiny_model("qwen2"), []
    row = architecture_of(model)
    monkeypatch.setattr(placement, "place_layers", lambda layers, others, room: seen.append((layers, others)) or layers)
    for sizes in ((4, 4.0), (4, 1.0)):
        spread_map(model, row, torch.device("cpu"), sizes, Spreading("devices"))
    (plain, others), (packed, still) = seen
    assert sum(plain) + others == 4 * sum(p.numel() for p in model.parameters())
    assert others == still
    linear = sum(m.weight.numel() for m in model.model.layers[0].modules() if isinstance(m, torch.nn.Linear))
    assert packed[0] == plain[0] - 3 * linear


def test_room_is_what_is_allowed_and_free_less_what_everything_else_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "free_memory", lambda _device: 900)
    monkeypatch.setattr(placement, "memory_in_use", lambda _device: 100)
    cpu = torch.device("cpu")
    assert room_for_weights(cpu, Spreading("devices", 200), True) == Room((("cpu", 700),), 0, True)
    assert room_for_weights(cpu, Spreading("devices", 200, 500), True).computing == (("cpu", 200),)
    assert room_for_weights(cpu, Spreading("devices"), True).computing == (("cpu", 600),)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    gpus = room_for_weights(torch.device("cuda"), Spreading("devices", 200), True)
    assert gpus == Room(((0, 700), (1, 700)), 450, True)
    assert room_for_weights(torch.device("cuda", 1), Spreading("devices", 200), False) == Room(((1, 700),), 0, False)
