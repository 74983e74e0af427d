"""Properties of the repository as a whole: what importing costs, who imports what, what is packaged and pinned."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "unflinch"
SOURCES = sorted(PACKAGE.rglob("*.py"))
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
HEAVY = {"accelerate", "datasets", "gradio", "lm_eval", "peft", "scipy", "sklearn", "torch", "transformers"}


def run_python(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, cwd=ROOT)


def relative(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def imports(path: Path) -> Iterator[str]:
    """Top-level names of everything that the file imports, wherever it does."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


def declared_dependencies() -> set[str]:
    project = PYPROJECT["project"]
    extras = [line for lines in project["optional-dependencies"].values() for line in lines]
    return {canonicalize_name(Requirement(line).name) for line in project["dependencies"] + extras}


@pytest.mark.parametrize(
    "module",
    ["unflinch", "unflinch.cli.main", "unflinch.errors", "unflinch.report", "unflinch.results", "unflinch.run_folder"],
)
def test_importing_a_light_module_loads_no_heavy_package(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({HEAVY!r} & set(sys.modules)))"
    answer = run_python("-c", code)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.split() == []


def test_help_answers_within_half_a_second_of_processor_time() -> None:
    seconds = []
    for _ in range(3):
        before = os.times().children_user
        answer = run_python("-m", "unflinch", "--help")
        seconds.append(os.times().children_user - before)
        assert answer.returncode == 0, answer.stderr
        assert "Usage" in answer.stdout
    assert min(seconds) < 0.5


def test_only_the_patch_folder_imports_peft() -> None:
    importers = {relative(path).partition("/")[0] for path in SOURCES if "peft" in imports(path)}
    assert importers == {"patch"}


def test_every_imported_package_is_a_declared_dependency() -> None:
    distributions = packages_distributions()
    imported = {name for path in SOURCES for name in imports(path)} - sys.stdlib_module_names - {"unflinch"}
    undeclared = {
        name
        for name in imported
        if not declared_dependencies() & {canonicalize_name(found) for found in distributions.get(name, [name])}
    }
    assert undeclared == set()


def test_every_declared_dependency_is_pinned() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"==[^+*,]+", str(pin.specifier)) for pin in pins)
    assert declared_dependencies() <= {canonicalize_name(pin.name) for pin in pins}


def test_every_data_file_is_packaged() -> None:
    patterns = PYPROJECT["tool"]["setuptools"]["package-data"]["unflinch"]
    files = [relative(path) for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    data = [name for name in files if not name.endswith(".py")]
    assert [name for name in data if not any(fnmatch(name, pattern) for pattern in patterns)] == []


def test_every_folder_of_sources_is_a_package() -> None:
    folders = {path.parent for path in SOURCES}
    assert [relative(folder) for folder in folders if not (folder / "__init__.py").exists()] == []


def test_no_source_holds_a_marker_of_unfinished_work() -> None:
    # "Not implemented" is fine with a reason: an argument that says what to do instead.
    marker = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b|raise NotImplementedError(\(\s*\))?\s*($|#)|pytest\.skip\(\)")
    found = [
        f"{relative(path)}:{number}: {line.strip()}"
        for path in SOURCES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if marker.search(line)
    ]
    assert found == []


def test_no_file_and_no_function_is_too_long() -> None:
    answer = run_python("tools/check_sizes.py")
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.mark.parametrize(
    ("source", "accepted"),
    [
        ("x = 1\n" * 400, True),
        ("x = 1\n" * 401, False),
        ("def f():\n" + "    x = 1\n" * 59, True),
        ("def f():\n" + "    x = 1\n" * 60, False),
        ("def f():  # long: one formula\n" + "    x = 1\n" * 60, True),
        ("def f():  # long: \n" + "    x = 1\n" * 60, False),
        ("class C:\n    async def f(self):\n" + "        x = 1\n" * 60, False),
    ],
)
def test_sizes_are_measured_as_documented(tmp_path: Path, source: str, accepted: bool) -> None:
    (tmp_path / "module.py").write_text(source, encoding="utf-8")
    answer = run_python("tools/check_sizes.py", tmp_path)
    assert (answer.returncode == 0) == accepted, answer.stdout + answer.stderr
