"""The page itself: fields on top, and what they make below. Nothing is fetched from anywhere."""

import os
import threading
from importlib.resources import files
from typing import Any

from codd_lightning.circuits import CircuitError
from codd_lightning.demo.session import DECODERS, EOS, ORDERS, Choices, Session
from codd_lightning.demo.view import error_html, explanation_html, naming
from codd_lightning.errors import UserError

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when it is imported
import gradio as gr

TITLE = "Factorized and coupled decoding"
INTRODUCTION = (
    f"# {TITLE}\nA masked-diffusion language model fills several tokens in one step, each by itself; a circuit makes "
    "them agree. Both decoders get the same prompt and the same steps."
)
EXAMPLES = [
    "Ada has 11 coins. Ada buys 5 more. Cleo takes 2. Ada sells 8. How many coins does Ada have?",
    "Ben has 3 coins. Ada brings 9 more. Ada takes 7. How many coins does Ben have?",
]


def build_page(session: Session, title: str) -> gr.Blocks:
    """The page of a session; `title` says which backbone and circuit."""
    name = naming(session.backbone)

    def run(*chosen: Any) -> str:
        try:
            return explanation_html(session.explain(Choices(*chosen)), name)
        except (UserError, CircuitError) as error:
            return error_html(" ".join(str(error).split()))

    default = Choices(prompt=EXAMPLES[0])
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        gr.Markdown(f"{INTRODUCTION}\n\n{title}")
        prompt = gr.Textbox(default.prompt, label="Prompt", lines=2, elem_id="prompt")
        with gr.Row():
            steps = gr.Number(default.steps, label=f"Steps per block of {session.block_length} tokens", elem_id="steps")
            gamma = gr.Number(default.gamma, label="γ: the circuit acts up to this masked share", step=0.1)
            tau = gr.Number(default.tau, label="τ: 0 takes the most probable", step=0.1)
        with gr.Row():
            proposal = gr.Dropdown(list(DECODERS), value=default.proposal, label="Coupled decoder")
            remasking = gr.Dropdown(list(ORDERS), value=default.remasking, label="Order of positions")
            eos = gr.Radio(list(EOS), value=default.eos, label="EOS: at any position, or last")
        gr.Examples([[example] for example in EXAMPLES], [prompt], label="Problems")
        button = gr.Button("Decode", variant="primary", elem_id="run")
        result = gr.HTML(js_on_load=_part("page.js"), elem_id="result")
        fields = [prompt, steps, gamma, tau, proposal, remasking, eos]
        gr.on([button.click, prompt.submit], run, fields, result, api_visibility="private")
    return page


def launch(page: gr.Blocks, host: str, port: int | None, *, wait: bool = True) -> str:
    """Serves the page and returns its address; `wait` keeps it up until Ctrl-C.

    Raises:
        UserError: the port is taken, or every one that would be tried.
    """
    fonts = ["system-ui", "sans-serif"]  # the default ones are fetched
    theme = gr.themes.Default(font=fonts, font_mono=["ui-monospace", "monospace"])
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            share=False,
            ssr_mode=False,
            quiet=True,
            inbrowser=False,
            prevent_thread_lock=True,
            footer_links=[],
            theme=theme,
            css=_part("page.css"),
        )
    except OSError:  # what it says advises what our command cannot do
        raise UserError(f"{host} has no free port for the page: choose another --port") from None
    if wait:
        print(f"codd demo: {address} (Ctrl-C ends it)", flush=True)
        try:
            threading.Event().wait()
        finally:
            page.close(verbose=False)
    return str(address)


def _part(name: str) -> str:
    return files("codd_lightning.demo").joinpath(name).read_text(encoding="utf-8")
