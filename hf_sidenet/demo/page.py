# SPDX-License-Identifier: Apache-2.0
"""The demo page. The only file that imports gradio."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

from ..inference.engine import RowError
from ..models.errors import ArgumentError
from ..optional import require
from .batch_files import (
    MAX_BYTES,
    MAX_CHARACTERS,
    MAX_PICTURES,
    MAX_ROWS,
    MAX_TOTAL_BYTES,
    TABLES,
    UploadError,
    UploadLimit,
)
from .service import Demo


MAX_WAITING = 64
# How often to check for old files of visitors, and how long to keep them, in seconds.
LOOKED_AT, KEPT = 300, 3600
# Concurrency group for answers to a single input, which run one at a time.
ONE = "one"
FONTS = ["system-ui", "sans-serif"]
CSS = """
.sidenet-label { font-size: 1.6rem; font-weight: 600; margin: 0; }
.sidenet-curve { width: 100%; max-width: 640px; height: auto; background: white; border-radius: 8px; }
.sidenet-picture { max-width: 100%; width: 12rem; border-radius: 8px; }
.sidenet-scroll { overflow-x: auto; }
.sidenet-scroll table { border-collapse: collapse; width: 100%; }
.sidenet-scroll caption { text-align: left; padding: 0.3rem 0; }
.sidenet-scroll th, .sidenet-scroll td { border: 0 !important; border-bottom: 1px solid #8888 !important;
    padding: 0.3rem 0.2rem !important; text-align: left; font-size: 0.85rem; }
.sidenet-scroll small { font-weight: 400; }
.sidenet-answered { background: #8883; }
.sidenet-answered td { font-weight: 600; }
.sidenet-later td, .sidenet-later th { font-weight: 400; font-style: italic; }
"""


@dataclass(frozen=True)
class Page:
    """Page that can be launched.

    Args:
        blocks (`gradio.Blocks`): the user interface.
        demo ([`Demo`]): the service behind it.
    """

    blocks: Any
    demo: Demo

    def close(self) -> None:
        """Stop serving."""
        self.demo.stop()
        self.blocks.close(verbose=False)


def build_demo(
    checkpoint: str | os.PathLike,
    *,
    is_pair: bool = False,
    title: str | None = None,
    examples: Sequence[Any] = (),
    labels: Sequence[str] | None = None,
    trust_remote_code: bool = False,
) -> Page:
    """Build a gradio page for a checkpoint: one input and a slider for θ, and a second tab for files.

    Args:
        checkpoint (`str`): folder or Hub id of a checkpoint with SideNets, loaded with this package's own code.
        is_pair (`bool`, *optional*, defaults to `False`): whether a row is a pair of texts.
        title (`str`, *optional*): title of the page, by default the name of the checkpoint.
        examples (`Sequence`, *optional*): texts, text pairs or picture paths to click on.
        labels (`Sequence[str]`, *optional*): names of the outputs in files, in order.
        trust_remote_code (`bool`, *optional*, defaults to `False`): whether the MainNet's own code may run.

    Returns:
        [`Page`]: page for [`launch`].

    Raises:
        ImportError: gradio is not installed.
        ValueError: the checkpoint or an example cannot be used.
    """
    gr = require("gradio", "space")
    require("matplotlib", "plots")
    demo = Demo(str(checkpoint), is_pair, labels, trust_remote_code)
    missing = [each for each in examples if not demo.reads_texts and not Path(each).is_file()]
    if missing:
        raise ArgumentError("examples", "must be existing pictures", missing[0])
    title = title or Path(str(checkpoint)).resolve().name
    with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(LOOKED_AT, KEPT)) as page:
        gr.Markdown(
            f"# {title}\nA classifier with early exits: if a SideNet is confident enough, it answers, and the rest of "
            "the MainNet never runs. θ is the confidence that is required."
        )
        with gr.Row():
            with gr.Column(min_width=300):
                dial = gr.Slider(
                    0,
                    len(demo.dial.positions) - 1,
                    demo.dial.chosen,
                    step=1,
                    label="Setting of θ, from careful to fast",
                    info="Left: the MainNet answers everything. Right: the fastest setting.",
                    elem_id="dial",
                )
                theta = gr.HTML(demo.move(demo.dial.chosen)[0], elem_id="theta")
            with gr.Column(min_width=300):
                curve = gr.HTML(demo.curve(demo.dial.chosen), elem_id="curve")
        with gr.Tab("One input" if demo.reads_texts else "One picture"):
            _one(gr, demo, dial, examples)
        with gr.Tab("A file"):
            _many(gr, demo, dial)
        dial.change(
            demo.move, dial, [theta, curve], show_progress="hidden", trigger_mode="always_last", api_name="theta"
        )
    return Page(page, demo)


def launch(page: Page, *, host: str = "127.0.0.1", port: int | None = None, block: bool = True) -> str:
    """Serve a page, which loads nothing from other servers.

    Args:
        page ([`Page`]): page from [`build_demo`].
        host (`str`, *optional*, defaults to `"127.0.0.1"`): address to listen on; `"0.0.0.0"` for all.
        port (`int`, *optional*): port, by default the first free one from 7860.
        block (`bool`, *optional*, defaults to `True`): serve until Ctrl-C or SIGTERM.

    Returns:
        `str`: URL of the page.

    Raises:
        OSError: the port is taken.
    """
    gr = require("gradio", "space")
    middleware = require("starlette.middleware", "space")
    limit = middleware.Middleware(UploadLimit, folder=Path(page.blocks.GRADIO_CACHE), most=MAX_TOTAL_BYTES)
    try:
        _, address, _ = page.blocks.queue(max_size=MAX_WAITING, default_concurrency_limit=1).launch(
            server_name=host,
            server_port=port,
            share=False,
            prevent_thread_lock=True,
            max_file_size=MAX_BYTES,
            theme=gr.themes.Default(font=FONTS, font_mono=["monospace"]),
            css=CSS,
            footer_links=["api"],
            ssr_mode=False,
            app_kwargs={"middleware": [limit]},
        )
    except OSError as error:
        raise OSError(f"`port` must be free on {host}, got {port or 'none from 7860'}: {error}") from error
    if block:
        # So that uploads are deleted on SIGTERM too.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        page.blocks.block_thread()
        page.demo.stop()
    return address


def _one(gr: Any, demo: Demo, dial: Any, examples: Sequence[Any]) -> None:
    with gr.Row():
        with gr.Column(min_width=300):
            if not demo.reads_texts:
                # Not gr.Image, which fails without a message if the file is not a picture.
                given = [gr.File(label="Picture", file_types=["image"], elem_id="given")]
            elif demo.is_pair:
                given = [gr.Textbox(label=f"{name} text", lines=2) for name in ("First", "Second")]
            else:
                given = [gr.Textbox(label="Text", lines=3, placeholder="Type a sentence", elem_id="given")]
            button = gr.Button("Answer", variant="primary")
            if examples:
                gr.Examples([list(each) if demo.is_pair else [each] for each in examples], given)
        with gr.Column(min_width=300):
            answer = gr.HTML(elem_id="answer", label="Answer")
    asked = [button.click] + ([each.submit for each in given] if demo.reads_texts else [given[0].upload])
    gr.on(asked, _told(gr, demo.answer), [dial, *given], answer, api_name="answer", concurrency_id=ONE)
    dial.change(
        demo.again,
        [dial, *given],
        answer,
        show_progress="hidden",
        trigger_mode="always_last",
        api_visibility="private",
        concurrency_id=ONE,
    )


def _many(gr: Any, demo: Demo, dial: Any) -> None:
    megabytes = MAX_BYTES // 2**20
    if demo.reads_texts:
        gr.Markdown(
            f"A csv or tsv file with a header line, up to {MAX_ROWS:,} rows of {MAX_CHARACTERS:,} characters, "
            f"{megabytes} MB. With a column `label`, the answers are also counted right or wrong."
        )
        given = gr.File(label="Table", file_types=list(TABLES), elem_id="table")
    else:
        gr.Markdown(f"Up to {MAX_PICTURES} pictures of up to {megabytes} MB.")
        given = gr.File(label="Pictures", file_types=["image"], file_count="multiple", elem_id="table")
    button = gr.Button("Answer all", variant="primary")
    summary = gr.HTML(elem_id="summary")
    answers = gr.File(label="Answers", interactive=False, elem_id="answers")

    def run(index: float, paths: Any, progress: Any = gr.Progress()) -> Iterator[tuple[str, str]]:  # noqa: B008
        start = perf_counter()
        with TemporaryDirectory() as folder, _telling(gr):
            found, path = demo.batch(index, paths, Path(folder), lambda done, of: progress((done, of), unit="rows"))
            # Gradio copies the file before resuming this generator.
            yield f"{found}<p>{perf_counter() - start:.1f} s here.</p>", str(path)

    button.click(run, [dial, given], [summary, answers], api_name="batch")


def _told(gr: Any, handler: Callable[..., str]) -> Callable[..., str]:
    """Wrap a handler to show its errors to the visitor."""

    def told(*given: Any) -> str:
        with _telling(gr):
            return handler(*given)

    return told


@contextmanager
def _telling(gr: Any) -> Iterator[None]:
    try:
        yield
    except (UploadError, RowError) as error:
        # Shown as HTML, and may contain the visitor's file and column names.
        message = escape(str(error).removeprefix("row 0: "), quote=False)
        raise gr.Error(message, duration=None, title="Not answered", print_exception=False) from error
