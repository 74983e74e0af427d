"""`unflinch sign` and `unflinch verify`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of a patch, an export, or any model.")]


def sign(
    folder: Folder,
    key: Annotated[Path, typer.Option(metavar="PEM", help="Your private key, an elliptic-curve key without password.")],
) -> None:
    """Sign every file of FOLDER with your key, in FOLDER/model.sig.

    It says that the files are as you left them, not that they are good. `docs/EXPORTS.md` says how to make a key.
    Needs `pip install 'unflinch[sign]'`, and no network.
    """
    from unflinch.cli import console
    from unflinch.cli.job import patch_folder
    from unflinch.release.sign import sign_folder

    console.show_line(str(sign_folder(patch_folder(folder), key)))


def verify(
    folder: Folder,
    key: Annotated[Path, typer.Option(metavar="PEM", help="The signer's public key, from a source that you trust.")],
) -> None:
    """Check that FOLDER holds exactly the files that were signed.

    Exit code: 0 it does, 1 a file was changed, added or removed, or the key is another one, 2 bad input.
    """
    from unflinch.cli import console
    from unflinch.cli.job import patch_folder
    from unflinch.release.sign import verify_folder

    where = patch_folder(folder)
    verify_folder(where, key)
    console.show_line(f"{where} is as it was signed")
