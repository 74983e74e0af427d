"""Upload of a patch, or an export of one, to the Hugging Face Hub: only with a verdict that passed."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import HfApi

from unflinch.errors import ConfigError, InputError, PatchError, VerdictError
from unflinch.provenance import Provenance
from unflinch.release.inspect import inspect_folder

_KINDS = frozenset((".gguf", ".jinja", ".json", ".md", ".model", ".safetensors", ".sig", ".txt"))


@dataclass(frozen=True)
class Upload:
    """What goes where."""

    folder: Path
    repo: str
    public: bool
    files: dict[str, int]
    """Name and bytes of every file."""
    message: str


def plan_upload(folder: Path, repo: str, *, public: bool = False, failed_too: bool = False) -> Upload:
    """Return what an upload would do, after checking that it may be done; nothing is sent.

    Args:
        folder: of a patch that unflinch made, or of an export of one.
        repo: `owner/name` on the Hub.
        public: whether a repository that is made for it can be seen by everyone.
        failed_too: also upload what missed a limit. What lost a guard refusal is never uploaded.

    Raises:
        ConfigError: if the repository cannot be called so.
        PatchError: if the folder is not one of unflinch's, was changed since, or holds something that is no part of it.
        VerdictError: if its verdict forbids it.
    """
    _check_name(repo)
    facts = inspect_folder(folder)
    origin = facts.provenance
    if origin is None:
        raise PatchError(
            f"{folder} has no provenance.json, so nothing is known about its guard; only unflinch's own go up"
        )
    if facts.kind == "no model":
        raise PatchError(
            f"{folder} holds no adapter and no model; expected the folder of a patch, or of an export of one"
        )
    if facts.changed:
        raise PatchError(
            f"{folder}: {', '.join(facts.changed)} changed since the verdict was given; export the patch again"
        )
    if facts.dangers:
        raise PatchError(f"{folder} holds what no patch needs: {'; '.join(facts.dangers)}; remove it first")
    _check_verdict(origin, failed_too)
    files = {file.name: file for file in sorted(folder.iterdir()) if not file.name.startswith(".")}
    foreign = [name for name, file in files.items() if not file.is_file() or file.suffix not in _KINDS]
    if foreign or "README.md" not in files:
        what = f"{foreign[0]} is no part of a patch" if foreign else "README.md, its model card, is missing"
        raise PatchError(f"{folder}: {what}; put it right first")
    _check_base_name(folder, origin)
    message = f"{origin.kind} for {origin.base.name}, made by unflinch {origin.unflinch}"
    return Upload(folder, repo, public, {name: file.stat().st_size for name, file in files.items()}, message)


def upload(plan: Upload) -> str:
    """Make the repository if it is not there, upload the files in one commit, and return the address.

    Raises:
        InputError: if the Hub cannot be reached or does not accept it.
    """
    api = HfApi()
    try:
        address = api.create_repo(plan.repo, private=not plan.public, exist_ok=True)
        api.upload_folder(
            repo_id=plan.repo,
            folder_path=plan.folder,
            allow_patterns=list(plan.files),
            commit_message=plan.message,
        )
    except Exception as error:  # the network or the Hub: any class, some of them of libraries below
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"cannot upload to {plan.repo} ({reason}); check connection and name, and log in with `hf auth login`"
        ) from error
    return str(address)


def _check_name(repo: str) -> None:
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", repo, re.ASCII):
        raise ConfigError(f"repository '{repo}'; expected owner/name on the Hub, such as me/my-patch")


def _check_verdict(origin: Provenance, failed_too: bool) -> None:
    verdict = origin.verdict
    if verdict is None or not verdict.guard_holds:
        raise VerdictError("the guard did not hold, or was not measured: such a patch is never uploaded")
    if not 0 <= origin.strength <= 1:
        raise VerdictError(
            f"strength {origin.strength:g} goes beyond the patch whose guard was measured; only strengths up to 1 go up"
        )
    if not (origin.passed or failed_too):
        missed = ", ".join(limit.name for limit in verdict.failures) or "no complete verdict"
        raise VerdictError(
            f"the verdict is failed ({missed}); --failed uploads it all the same, with its card saying so"
        )


def _check_base_name(folder: Path, origin: Provenance) -> None:
    """Raise `PatchError` if the config of an adapter names its base model by a path on this computer."""
    file = folder / "adapter_config.json"
    if not file.is_file():
        return
    base = str(json.loads(file.read_bytes()).get("base_model_name_or_path"))
    if Path(base).is_absolute() or Path(base).exists():
        raise PatchError(
            f"{file} names the base model by its place on this computer, where nobody else finds it; set "
            f"base_model_name_or_path to its id on the Hub{f' ({origin.base.name})' if origin.base.on_hub else ''}"
        )
