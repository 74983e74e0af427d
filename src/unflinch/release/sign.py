"""Signatures over a whole folder, with a key file: the format of OpenSSF model signing, no network."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from unflinch.errors import InputError, PatchError, SignatureError

SIGNATURE = "model.sig"
_NOT_SIGNED = (SIGNATURE, ".cache")
"""The signature itself, and where huggingface_hub notes what it downloaded; files of git are left out as well."""


def sign_folder(folder: Path, private_key: Path) -> Path:
    """Sign every file of a folder, and return the file with the signature.

    Args:
        folder: of a patch, an export, or any model; an earlier signature is replaced.
        private_key: PEM file of an unencrypted elliptic-curve key (P-256, P-384 or P-521).

    Raises:
        InputError: if the package is missing, the key cannot be used, or the signature cannot be written.
        PatchError: if it is no folder, or one with links in it.
    """
    _check_folder(folder)
    with _explained(private_key, "private"):
        from model_signing import hashing, signing

        signer = signing.Config().use_elliptic_key_signer(private_key=private_key)
    hashes = hashing.Config().set_ignored_paths(paths=[folder / name for name in _NOT_SIGNED])
    try:
        signer.set_hashing_config(hashes).sign(folder, folder / SIGNATURE)
    except ValueError as error:
        raise PatchError(f"{folder} cannot be signed ({error}); expected plain files without links") from error
    return folder / SIGNATURE


def verify_folder(folder: Path, public_key: Path) -> None:
    """Return if the folder holds exactly the files that were signed with the key's private half.

    Args:
        folder: holds the signature as `model.sig`.
        public_key: PEM file of the signer's key, from a source that you trust.

    Raises:
        SignatureError: if a file was changed, added or removed, or the signature was made with another key.
        InputError: if there is no signature, the package is missing, or the key cannot be used.
    """
    _check_folder(folder)
    signature = folder / SIGNATURE
    if not signature.is_file():
        raise PatchError(f"{folder} is not signed: there is no {SIGNATURE} in it; ask its maker for one")
    with _explained(public_key, "public"):
        from model_signing import verifying

        verifier = verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    try:
        verifier.verify(folder, signature)
    except Exception as error:  # the package raises whatever a damaged or forged signature leads to
        reason = str(error) or "it was made with another key"
        raise SignatureError(f"the signature of {folder} does not hold ({reason}); do not use this folder") from error


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise PatchError(f"no folder {folder}; expected an adapter or model folder: check the path")


@contextmanager
def _explained(key: Path, half: str) -> Iterator[None]:
    """Tell what is wrong with a key file, or that the package is not installed."""
    if find_spec("model_signing") is None:
        raise InputError(
            "signatures need the package model-signing, which is not installed; pip install 'unflinch[sign]'"
        )
    try:
        yield
    except (OSError, ValueError, TypeError, AttributeError) as error:  # the last one of keys of another kind
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"{key} cannot be used as a {half} key ({reason}); expected a PEM file with an unencrypted elliptic-curve "
            "key: openssl ecparam -name prime256v1 -genkey -noout makes one"
        ) from error
