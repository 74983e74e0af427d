"""`unflinch web`."""

from __future__ import annotations

import os
from contextlib import closing, suppress
from pathlib import Path
from typing import Annotated

import typer

from unflinch.cli import arguments as arg


def web(
    run_folder: Annotated[
        Path | None,
        typer.Argument(metavar="RUN_FOLDER", help="Run to begin with. [default: the demo's, else the newest]"),
    ] = None,
    runs: arg.Runs = Path("runs"),
    port: Annotated[int, typer.Option(metavar="N", min=0, max=65535, help="0 takes any free one.")] = 7860,
    max_tokens: arg.MaxTokens = 512,
    device: arg.Device = None,
    trust_remote_code: arg.TrustRemoteCode = None,
) -> None:
    """Open a page on this computer: chat, reports, two runs compared.

    Original and patched model answer side by side, with a dial for the strength of the patch. Only this computer
    reaches the page, and nothing is fetched from elsewhere: a model from the Hub must be in its cache. Needs
    'unflinch[web]'; ends with Ctrl-C.
    """
    # Read when these libraries are imported.
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

    from unflinch.cli import console
    from unflinch.errors import ConfigError
    from unflinch.web.runs import Runs

    given = run_folder and run_folder.resolve()
    folder = Runs(given.parent if given else runs)
    first = given.name if given else folder.first()
    folder.results(first)
    try:
        import gradio as _gradio  # noqa: F401
    except ImportError as error:
        raise ConfigError("the page needs gradio; install it: pip install 'unflinch[web]'") from error

    from unflinch.web.server import ADDRESS, make_server, open_port
    from unflinch.web.speaker import Speaker, SpeakerOptions

    listening = open_port(port)
    port = listening.getsockname()[1]
    speaker = Speaker(SpeakerOptions(max_tokens, device or "auto", bool(trust_remote_code)))
    server = make_server(folder, first, speaker, port)
    console.show_line(f"http://{ADDRESS}:{port}")
    console.note("only this computer reaches it; Ctrl-C ends it")
    with closing(speaker), suppress(KeyboardInterrupt):
        server.run(sockets=[listening])
