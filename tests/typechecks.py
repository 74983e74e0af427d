"""The run-time type checker of the tests. Like mypy and PEP 484, it takes an int where a float is wanted."""

from __future__ import annotations

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
