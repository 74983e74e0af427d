"""docs/cli.md says what the commands' own help says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_about_the_command_line_is_up_to_date() -> None:
    command = [sys.executable, "tools/make_cli_docs.py", "--check"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    assert answer.returncode == 0, answer.stdout + answer.stderr
