"""Checks that no file and no function has grown too long to read in one go.

A file has at most 400 lines. A function has at most 60, signature and docstring included, unless a comment
`# long: reason` stands on its def line.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator
from pathlib import Path

FILE_LINES = 400
FUNCTION_LINES = 60
FOLDERS = ("src", "tests", "tools", "benchmarks", "examples")
EXCUSE = "# long: "


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("paths", nargs="*", type=Path, help=f"files or folders; default: {', '.join(FOLDERS)}")
    paths: list[Path] = parser.parse_args().paths or [Path(folder) for folder in FOLDERS]
    complaints = [complaint for file in python_files(paths) for complaint in too_long(file)]
    print("\n".join(complaints) or "Sizes are fine.")
    return 1 if complaints else 0


def python_files(paths: list[Path]) -> list[Path]:
    return sorted(file for path in paths for file in ([path] if path.is_file() else path.rglob("*.py")))


def too_long(path: Path) -> Iterator[str]:
    source = path.read_text(encoding="utf-8")
    lines = source.splitlines()
    if len(lines) > FILE_LINES:
        yield f"{path}: {len(lines)} lines, at most {FILE_LINES}: split it by step or method"
    for node in ast.walk(ast.parse(source, filename=str(path))):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or node.end_lineno is None:
            continue
        length = node.end_lineno - node.lineno + 1
        _, marker, reason = lines[node.lineno - 1].partition(EXCUSE)
        if length > FUNCTION_LINES and not (marker and reason.strip()):
            yield (
                f"{path}:{node.lineno}: {node.name} has {length} lines, at most {FUNCTION_LINES}: "
                f"split it, or give the reason on its def line: '{EXCUSE}...'"
            )


if __name__ == "__main__":
    sys.exit(main())
