"""A signature holds for exactly the files that were signed, and only with the signer's key."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("model_signing", reason="model-signing is not installed")

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from unflinch.errors import InputError, PatchError, SignatureError
from unflinch.release.sign import sign_folder, verify_folder

_PEM = serialization.Encoding.PEM


def write_keys(folder: Path, name: str, curve: ec.EllipticCurve | None = None) -> tuple[Path, Path]:
    """Write a pair of keys as openssl does, and return the files of the private and the public one."""
    key = ec.generate_private_key(curve or ec.SECP256R1())
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    plain = serialization.NoEncryption()
    private.write_bytes(key.private_bytes(_PEM, serialization.PrivateFormat.TraditionalOpenSSL, plain))
    public.write_bytes(key.public_key().public_bytes(_PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return write_keys(tmp_path, "mine")


@pytest.fixture
def signed(patch_folder: Path, keys: tuple[Path, Path]) -> Path:
    sign_folder(patch_folder, keys[0])
    return patch_folder


@pytest.mark.parametrize("curve", [ec.SECP256R1(), ec.SECP384R1(), ec.SECP521R1()])
def test_what_was_signed_is_verified_wherever_it_lies(
    patch_folder: Path, tmp_path: Path, curve: ec.EllipticCurve
) -> None:
    private, public = write_keys(tmp_path, "own", curve)
    assert sign_folder(patch_folder, private) == patch_folder / "model.sig"
    verify_folder(patch_folder, public)
    moved = tmp_path / "elsewhere" / "under another name"
    shutil.copytree(patch_folder, moved)
    verify_folder(moved, public)


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


CHANGES: dict[str, Callable[[Path], object]] = {
    "weights": lambda folder: flip(folder / "adapter_model.safetensors"),
    "card": lambda folder: (folder / "README.md").write_text("Passed."),
    "file removed": lambda folder: (folder / "provenance.json").unlink(),
    "file added": lambda folder: (folder / "adapter_model.bin").write_bytes(b"more"),
    "file renamed": lambda folder: (folder / "README.md").rename(folder / "README.txt"),
    "file linked": lambda folder: (folder / "copy.md").symlink_to(folder / "README.md"),
    "signature": lambda folder: flip(folder / "model.sig"),
    "signature emptied": lambda folder: (folder / "model.sig").write_text(""),
    "signature of nothing": lambda folder: (folder / "model.sig").write_text("{}"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_any_change_breaks_the_signature(signed: Path, keys: tuple[Path, Path], name: str) -> None:
    verify_folder(signed, keys[1])
    CHANGES[name](signed)
    with pytest.raises(SignatureError, match="does not hold"):
        verify_folder(signed, keys[1])


def test_another_key_does_not_verify(signed: Path, tmp_path: Path) -> None:
    _, public = write_keys(tmp_path, "other")
    with pytest.raises(SignatureError, match="does not hold"):
        verify_folder(signed, public)


def test_what_downloading_adds_does_not_count(signed: Path, keys: tuple[Path, Path]) -> None:
    (signed / ".cache" / "huggingface").mkdir(parents=True)
    (signed / ".cache" / "huggingface" / "download.lock").touch()
    (signed / ".gitattributes").write_text("*.safetensors filter=lfs")
    verify_folder(signed, keys[1])


def test_signing_again_replaces_the_signature(signed: Path, keys: tuple[Path, Path]) -> None:
    (signed / "README.md").write_text("corrected")
    sign_folder(signed, keys[0])
    verify_folder(signed, keys[1])


def test_a_folder_with_links_is_not_signed(patch_folder: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    (patch_folder / "key.json").symlink_to(keys[0])
    with pytest.raises(PatchError, match="cannot be signed"):
        sign_folder(patch_folder, keys[0])


def test_keys_of_another_kind_are_refused_with_what_to_do(patch_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "text.pem").write_text("no key")
    locked, rsa_key = tmp_path / "locked.pem", tmp_path / "rsa.pem"
    form = serialization.PrivateFormat.PKCS8
    password = serialization.BestAvailableEncryption(b"secret")
    locked.write_bytes(ec.generate_private_key(ec.SECP256R1()).private_bytes(_PEM, form, password))
    rsa_key.write_bytes(rsa.generate_private_key(65537, 2048).private_bytes(_PEM, form, serialization.NoEncryption()))
    for key in (tmp_path / "nowhere.pem", tmp_path / "text.pem", locked, rsa_key):
        with pytest.raises(InputError, match=f"{key.name} cannot be used as a private key .*openssl ecparam"):
            sign_folder(patch_folder, key)
    assert not (patch_folder / "model.sig").exists()


def test_an_unsigned_folder_and_no_folder_are_refused(patch_folder: Path, keys: tuple[Path, Path]) -> None:
    with pytest.raises(PatchError, match="is not signed"):
        verify_folder(patch_folder, keys[1])
    with pytest.raises(PatchError, match="no folder"):
        verify_folder(patch_folder / "nowhere", keys[1])


def test_the_signature_is_the_format_s_own_tool_s(signed: Path, keys: tuple[Path, Path]) -> None:
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(signed)]
    options = ["--signature", str(signed / "model.sig"), "--public_key", str(keys[1])]
    answer = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
