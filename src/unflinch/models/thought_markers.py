"""What opens and closes a model's thought in the text that it writes. Free of torch: the judge reads it, too."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ThoughtMarkers:
    """Text around a thought; what follows `closing` is the answer."""

    opening: str
    closing: str


THOUGHT_MARKERS = (
    ThoughtMarkers("<think>", "</think>"),
    ThoughtMarkers("<thinking>", "</thinking>"),
    ThoughtMarkers("<thought>", "</thought>"),
    ThoughtMarkers("<reasoning>", "</reasoning>"),
    ThoughtMarkers("<seed:think>", "</seed:think>"),
    ThoughtMarkers("[THINK]", "[/THINK]"),
    ThoughtMarkers("◁think▷", "◁/think▷"),
    ThoughtMarkers("<|channel|>analysis<|message|>", "<|channel|>final<|message|>"),
    ThoughtMarkers("<|channel>thought", "<channel|>"),
)
"""All that are known. A model whose template shows none of them is taken for one that does not think."""
