"""What the page shows: which run, a chat with both models, the report, the scan map, and two runs compared."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import gradio as gr

from unflinch.web.actions import SIDES, Actions, nothing_said
from unflinch.web.runs import Runs
from unflinch.web.speaker import Speaker

STYLE_SHEET = "/unflinch.css"
HEAD = f'<link rel="stylesheet" href="{STYLE_SHEET}">'
STRONGEST = 1.5


_COLOURS = {
    "body_background_fill": "page",
    "body_text_color": "ink",
    "body_text_color_subdued": "muted",
    "background_fill_primary": "page",
    "background_fill_secondary": "raised",
    "block_background_fill": "page",
    "block_label_background_fill": "page",
    "block_label_text_color": "muted",
    "block_title_text_color": "ink",
    "block_info_text_color": "muted",
    "block_border_color": "grid",
    "border_color_primary": "grid",
    "border_color_accent": "grid",
    "border_color_accent_subdued": "grid",
    "input_background_fill": "page",
    "input_background_fill_focus": "page",
    "input_border_color": "grid",
    "input_border_color_focus": "muted",
    "input_placeholder_color": "muted",
    "button_secondary_background_fill": "raised",
    "button_secondary_background_fill_hover": "grid",
    "button_secondary_border_color": "grid",
    "button_secondary_text_color": "ink",
    "color_accent_soft": "raised",
    "slider_color": "after",
    "panel_background_fill": "page",
    "panel_border_color": "grid",
    "table_border_color": "grid",
}
"""Gradio's colours by the names that the report has for its own, which are right in the light and in the dark."""


def theme() -> gr.themes.Base:
    """Return gradio's plainest theme in the report's colours and in the fonts of the system: none is fetched."""
    fonts = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "sans-serif")
    made = gr.themes.Base(primary_hue="blue", font=fonts, font_mono=("ui-monospace", "monospace"))
    colours = {gradios: f"var(--{own})" for gradios, own in _COLOURS.items()}
    return made.set(
        color_accent="var(--after)", **colours, **{f"{name}_dark": value for name, value in colours.items()}
    )


def style_sheet() -> str:
    """Return the style of the page: the report's for what it shares with it, and its own."""
    report = files("unflinch.report") / "templates"
    own = (files("unflinch.web") / "page.css").read_text(encoding="utf-8")
    palette, style = ((report / name).read_text(encoding="utf-8") for name in ("palette.css", "style.css"))
    return f"{palette}\n.run-page {{\n{style}\n}}\n{own}"


def build_page(runs: Runs, first: str, speaker: Speaker) -> gr.Blocks:
    """Return the page.

    Args:
        runs: the runs to choose from.
        first: name of the one to begin with.
        speaker: answers.
    """
    actions = Actions(runs, speaker)
    names = runs.names()
    page = gr.Blocks(title="unflinch", analytics_enabled=False)
    with page:
        with gr.Row(elem_id="head"):
            gr.HTML("<h1>unflinch</h1><p>the original model and the patched one</p>", elem_id="name")
            run = gr.Dropdown(names, value=first, label="Run", elem_id="run", scale=0, min_width=260)
        summary = gr.HTML(elem_classes="run-page", elem_id="summary", apply_default_css=False)
        with gr.Tabs():
            with gr.Tab("Chat"):
                chat = _chat()
            with gr.Tab("Report"):
                report = gr.HTML(elem_id="report")
            with gr.Tab("Scan"):
                scan = gr.HTML(elem_classes="run-page", elem_id="scan", apply_default_css=False)
            with gr.Tab("Compare"):
                other = gr.Dropdown(
                    names, value=next((n for n in names if n != first), first), label="Beside", elem_id="other"
                )
                comparison = gr.HTML(elem_classes="run-page", elem_id="comparison", apply_default_css=False)
        answering = _connect(chat, run, actions)
        choose: dict[str, Any] = {"fn": actions.show, "inputs": run, "outputs": [summary, report, *chat.of_a_run]}
        for event in (
            page.load(lambda: [gr.Dropdown(choices=runs.names())] * 2, None, [run, other]).then(**choose),
            run.input(**choose, cancels=answering),
        ):
            event.then(actions.draw_scan, run, scan).then(actions.compare, [run, other], comparison)
        other.input(actions.compare, [run, other], comparison)
    return page


@dataclass(frozen=True)
class _Chat:
    """The parts of the chat."""

    dial: gr.Slider
    original: gr.Chatbot
    patched: gr.Chatbot
    status: gr.HTML
    prompt: gr.Textbox
    stop: gr.Button
    anew: gr.Button
    offered: gr.Dataset
    said: gr.State

    @property
    def of_a_run(self) -> list[gr.components.Component]:
        """What another run replaces."""
        return [self.offered, self.prompt, *self.shown]

    @property
    def shown(self) -> list[gr.components.Component]:
        """What an answer changes as it grows."""
        return [self.original, self.patched, self.said, self.status]


def _chat() -> _Chat:
    prompt = gr.Textbox(
        placeholder="Ask both models ...",
        show_label=False,
        submit_btn=True,
        autofocus=True,
        max_lines=8,
        elem_id="prompt",
    )
    offered = gr.Dataset(
        components=[gr.Textbox(visible=False)],
        samples=[],
        label="Harmless, and refused by the original: try one",
        elem_id="offered",
    )
    with gr.Row(elem_id="controls"):
        dial = gr.Slider(
            0,
            STRONGEST,
            value=1,
            step=0.05,
            label="Strength of the patch",
            info="0 is the original, 1 the patch as it was measured. Move it, and the patched side answers again.",
            elem_id="dial",
            scale=1,
        )
        stop = gr.Button("Stop", size="sm", scale=0, min_width=90, elem_id="stop")
        anew = gr.Button("New conversation", size="sm", scale=0, min_width=150, elem_id="anew")
    status = gr.HTML(elem_id="status")
    with gr.Row(elem_id="answers"):
        original, patched = (
            gr.Chatbot(
                label=side.title(),
                elem_id=side,
                elem_classes="side",
                height="52vh",
                min_height=240,
                render_markdown=False,  # what was typed, and what the model wrote, is shown as it is
                buttons=[],
                layout="panel",
                feedback_options=None,
            )
            for side in SIDES
        )
    return _Chat(dial, original, patched, status, prompt, stop, anew, offered, gr.State(nothing_said))


def _connect(chat: _Chat, run: gr.Dropdown, actions: Actions) -> list[dict[str, Any]]:
    """Connect the chat's parts, and return the events in which a model answers: one of them at a time."""
    one_at_a_time: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1, "show_progress": "hidden"}
    inputs = [run, chat.dial, chat.said]
    typed = chat.prompt.submit(actions.ask, [chat.prompt, *inputs], chat.shown, **one_at_a_time)
    chat.prompt.submit(lambda: "", None, chat.prompt, show_progress="hidden")
    picked = chat.offered.click(actions.ask_offered, [chat.offered, *inputs], chat.shown, **one_at_a_time)
    moved = chat.dial.release(actions.answer_again, inputs, chat.shown, trigger_mode="always_last", **one_at_a_time)
    answering: list[dict[str, Any]] = [typed, picked, moved]
    chat.stop.click(actions.stopped, None, chat.status, cancels=answering)
    chat.anew.click(actions.forget, None, chat.shown, cancels=answering)
    return answering
