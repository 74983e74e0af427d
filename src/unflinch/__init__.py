"""unflinch: stop a local language model from refusing harmless questions, and measure what else changed."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unflinch.config import RunConfig as RunConfig
    from unflinch.pipeline import run as run

__version__ = version("unflinch")
__all__ = ["RunConfig", "__version__", "run"]


def __getattr__(name: str) -> Any:
    """Import the public names on first use, so that `import unflinch` does not import torch."""
    if name == "run":
        from unflinch.pipeline import run

        return run
    if name == "RunConfig":
        from unflinch.config import RunConfig

        return RunConfig
    raise AttributeError(f"module 'unflinch' has no attribute {name!r}")
