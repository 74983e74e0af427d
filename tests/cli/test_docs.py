"""Pages that are made from the code say what the code says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("tool", ["make_cli_docs.py", "make_models_docs.py"])
def test_a_page_made_from_the_code_is_up_to_date(tool: str) -> None:
    command = [sys.executable, f"tools/{tool}", "--check"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert answer.returncode == 0, answer.stdout + answer.stderr
