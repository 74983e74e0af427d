"""Only what unflinch measured, and what passed, is uploaded; nothing here reaches the network."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from huggingface_hub.errors import LocalTokenNotFoundError
from release.conftest import Make
from report.conftest import fail_guard, make_results

from unflinch.errors import ConfigError, InputError, PatchError, VerdictError
from unflinch.provenance import read_provenance, write_provenance
from unflinch.release import publish
from unflinch.release.publish import plan_upload, upload

REPO = "owner/patch"


class FakeHub:
    """Notes what it is asked for."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def __call__(self) -> FakeHub:
        return self

    def create_repo(self, repo_id: str, **options: Any) -> str:
        if self.error:
            raise self.error
        self.calls.append(("create_repo", {"repo_id": repo_id, **options}))
        return f"https://huggingface.co/{repo_id}"

    def upload_folder(self, **options: Any) -> None:
        self.calls.append(("upload_folder", options))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub()
    monkeypatch.setattr(publish, "HfApi", fake)
    return fake


def failed_results() -> dict[str, Any]:
    results = make_results()
    results["verdict"]["passed"] = False
    results["verdict"]["limits"][0]["passed"] = False
    return results


def at_strength(folder: Path, strength: float) -> Path:
    record = read_provenance(folder)
    assert record is not None
    write_provenance(folder, replace(record, strength=strength))
    return folder


def test_a_passed_patch_is_planned_with_every_file(patch_folder: Path) -> None:
    plan = plan_upload(patch_folder, REPO)
    assert set(plan.files) == {"README.md", "adapter_config.json", "adapter_model.safetensors", "provenance.json"}
    assert plan.files["README.md"] == (patch_folder / "README.md").stat().st_size
    assert not plan.public
    assert "Qwen/Qwen2.5-Coder-0.5B-Instruct" in plan.message


def test_the_planned_files_go_up_in_one_commit(patch_folder: Path, hub: FakeHub) -> None:
    (patch_folder / ".cache").mkdir()
    plan = plan_upload(patch_folder, REPO)
    assert upload(plan) == "https://huggingface.co/owner/patch"
    (_, made), (_, sent) = hub.calls
    assert made == {"repo_id": REPO, "private": True, "exist_ok": True}
    assert sorted(sent["allow_patterns"]) == sorted(plan.files)
    assert (sent["repo_id"], sent["folder_path"]) == (REPO, patch_folder)


def test_planning_asks_nothing_of_the_hub(patch_folder: Path, hub: FakeHub) -> None:
    plan_upload(patch_folder, REPO, public=True)
    assert hub.calls == []


def test_a_missed_limit_needs_the_flag(make_patch: Make) -> None:
    folder = make_patch(failed_results())
    with pytest.raises(VerdictError, match=r"the verdict is failed \(targets still refused\)"):
        plan_upload(folder, REPO)
    assert plan_upload(folder, REPO, failed_too=True).files


@pytest.mark.parametrize("failed_too", [False, True])
def test_a_lost_guard_refusal_is_never_uploaded(make_patch: Make, failed_too: bool) -> None:
    results = make_results()
    fail_guard(results)
    folder = make_patch(results)
    with pytest.raises(VerdictError, match="guard did not hold"):
        plan_upload(folder, REPO, failed_too=failed_too)


@pytest.mark.parametrize("failed_too", [False, True])
def test_an_unmeasured_guard_is_never_uploaded(make_patch: Make, failed_too: bool) -> None:
    results = make_results()
    del results["verdict"]["limits"][2]
    with pytest.raises(VerdictError, match="guard did not hold, or was not measured"):
        plan_upload(make_patch(results), REPO, failed_too=failed_too)
    folder = make_patch()
    (folder / "provenance.json").unlink()
    with pytest.raises(PatchError, match=r"has no provenance\.json"):
        plan_upload(folder, REPO, failed_too=failed_too)


@pytest.mark.parametrize("failed_too", [False, True])
def test_a_strength_beyond_the_measured_one_is_never_uploaded(patch_folder: Path, failed_too: bool) -> None:
    with pytest.raises(VerdictError, match=r"strength 1\.2 goes beyond"):
        plan_upload(at_strength(patch_folder, 1.2), REPO, failed_too=failed_too)
    assert plan_upload(at_strength(patch_folder, 0.7), REPO).files


def test_weights_changed_after_the_verdict_are_not_uploaded(patch_folder: Path) -> None:
    file = patch_folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(PatchError, match="changed since the verdict was given"):
        plan_upload(patch_folder, REPO)


@pytest.mark.parametrize("name", ["adapter_model.bin", "notes.docx", "subfolder/"])
def test_what_is_no_part_of_a_patch_is_not_uploaded(patch_folder: Path, name: str) -> None:
    (patch_folder / name).mkdir() if name.endswith("/") else (patch_folder / name).touch()
    with pytest.raises(PatchError, match=name.rstrip("/")):
        plan_upload(patch_folder, REPO)


def test_a_private_key_behind_a_link_is_not_uploaded(patch_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text("private")
    (patch_folder / "notes.md").symlink_to(tmp_path / "key.pem")
    with pytest.raises(PatchError, match="leads out of the folder"):
        plan_upload(patch_folder, REPO)


def test_a_record_without_weights_is_not_uploaded(patch_folder: Path) -> None:
    (patch_folder / "adapter_config.json").write_text("[]")
    with pytest.raises(PatchError, match="holds no adapter and no model"):
        plan_upload(patch_folder, REPO)


def test_a_patch_without_its_card_is_not_uploaded(patch_folder: Path) -> None:
    (patch_folder / "README.md").unlink()
    with pytest.raises(PatchError, match=r"README\.md, its model card, is missing"):
        plan_upload(patch_folder, REPO)


def test_a_base_model_named_by_its_place_on_this_computer_is_not_uploaded(patch_folder: Path, tmp_path: Path) -> None:
    file = patch_folder / "adapter_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "base_model_name_or_path": str(tmp_path)}))
    with pytest.raises(PatchError, match=r"names the base model by its place on this computer.*Qwen/Qwen2"):
        plan_upload(patch_folder, REPO)


@pytest.mark.parametrize("repo", ["patch", "owner/", "../patch", "owner/a/b", "owner/ patch", "https://x/y"])
def test_a_repository_that_cannot_be_called_so_is_refused(patch_folder: Path, repo: str) -> None:
    with pytest.raises(ConfigError, match="expected owner/name"):
        plan_upload(patch_folder, repo)


@pytest.mark.parametrize(
    "error",
    [LocalTokenNotFoundError("Token is required"), httpx.ConnectError("Token is required")],
    ids=["no login", "no network"],
)
def test_what_keeps_an_upload_from_happening_is_told_with_what_to_do(
    patch_folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(publish, "HfApi", FakeHub(error))
    with pytest.raises(InputError, match=r"cannot upload to owner/patch \(Token is required\).*hf auth login"):
        upload(plan_upload(patch_folder, REPO))
