"""The page, built from Gradio's components."""

from __future__ import annotations

import logging
import shutil
import threading
from collections.abc import Iterator  # not only for type checking: Gradio evaluates the annotations of actions
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr
import torch

from mossformer_sb.data.audio_writing import FORMATS
from mossformer_sb.errors import InputError
from mossformer_sb.inference.output_gain import LEVELS
from mossformer_sb.web import EXAMPLE, EXAMPLE_CREDIT
from mossformer_sb.web.result_html import error_html, result_html, status_html, stopped_html
from mossformer_sb.web.separating import (
    Cancelled,
    Options,
    Progress,
    command_line,
    name_of,
    python_lines,
    separate_recording,
)

if TYPE_CHECKING:
    import gradio

    from mossformer_sb.inference.serving import Limits
    from mossformer_sb.web.models import Models
    from mossformer_sb.web.visits import Visits

logger = logging.getLogger(__name__)

PAGE_FILES = {kind: Path(__file__).parent / f"page.{kind}" for kind in ("css", "js")}
_LOOK_EVERY = 0.25  # seconds between two updates of the progress
_MOST_AT_ONCE, _MOST_WAITING = 16, 64  # maximum of separations that run or wait for their model; and in the queue
_CHANNELS = [("Mean of all", -1), ("First (left)", 0), ("Second (right)", 1), ("Third", 2), ("Fourth", 3)]
_LEVEL_NAMES = {
    "speakers": "As in the recording",
    "mixture": "One gain for all",
    "peak": "Loudest at full scale",
    "none": "Unchanged output of the network",
}


class Page:
    """The page, and the actions of its buttons.

    Arguments
    ---------
    models : mossformer_sb.web.models.Models
    visits : mossformer_sb.web.visits.Visits
    limits : mossformer_sb.inference.serving.Limits
    local : bool
        Whether only this machine can reach it, for the page's text.
    """

    def __init__(self, models: Models, visits: Visits, limits: Limits, local: bool = True) -> None:
        self.models, self.visits, self.limits, self.local = models, visits, limits, local

    def build(self) -> gradio.Blocks:
        """Build the components, and connect them.

        Returns
        -------
        gradio.Blocks
        """
        with gr.Blocks(title="Separate speakers", analytics_enabled=False) as blocks:
            gr.Markdown(self._introduction(), elem_id="ms-title")
            kind = gr.State("file")
            with gr.Tabs():
                with gr.Tab("A file") as file_tab:
                    file = gr.File(label="Recording: drop it here, or click", elem_id="ms-file", height=140)
                    example = gr.Button("Try an example: two people who talk at once", size="md", elem_id="ms-example")
                with gr.Tab("The microphone", elem_id="ms-microphone-tab") as microphone_tab:
                    microphone = gr.Audio(
                        sources=["microphone"],
                        type="filepath",
                        label="Recording from the microphone",
                        elem_id="ms-microphone",
                        editable=False,
                        buttons=[],
                    )
            model = gr.Dropdown(
                self.models.labels,
                value=self.models.labels[0],
                allow_custom_value=self.models.any_model,
                label="Model",
                info="Choose one, or type the folder of an exported model" if self.models.any_model else None,
                elem_id="ms-model",
            )
            with gr.Accordion("Options", open=False, elem_id="ms-options"), gr.Row():
                format = gr.Dropdown(list(FORMATS), value="wav", label="Format of the files", min_width=220)
                level = gr.Dropdown(
                    [(_LEVEL_NAMES.get(level, level), level) for level in LEVELS],
                    value=LEVELS[0],
                    label="Level",
                    min_width=220,
                )
                channel = gr.Dropdown(_CHANNELS, value=-1, label="Channel", min_width=220)
            with gr.Row():
                start = gr.Button("Separate", variant="primary", scale=3, elem_id="ms-start")
                stop = gr.Button("Stop", visible=False, scale=1, elem_id="ms-stop")
            output = gr.HTML(elem_id="ms-output", apply_default_css=False)
            with gr.Accordion("The same in Python and on the command line", open=False, elem_id="ms-lines"):
                code = {"interactive": False, "wrap_lines": True, "buttons": ["copy"]}
                python = gr.Code(language="python", label="Python", lines=4, **code)
                shell = gr.Code(language=None, label="Command line", lines=1, **code)
            gr.Markdown(f"The example: {EXAMPLE_CREDIT}", elem_id="ms-foot")

            for given in (file, microphone):
                given.async_move_resource_to_block_cache = _without_addresses(given.async_move_resource_to_block_cache)
            chosen = [kind, file, microphone, model, format, level, channel]
            hidden = {"show_progress": "hidden", "api_visibility": "private"}
            quick = {**hidden, "queue": False}
            separation = {
                "fn": self.separate,
                "inputs": chosen,
                "outputs": [output, start, stop],
                "concurrency_limit": _MOST_AT_ONCE,
                "concurrency_id": "separate",
                **hidden,
            }
            events = [
                start.click(**separation),
                example.click(self.take_example, None, [file, kind], **quick).then(**separation),
            ]
            stop.click(_stopped, None, [output, start, stop], cancels=events, **quick)
            file_tab.select(lambda: "file", None, kind, **quick)
            microphone_tab.select(lambda: "microphone", None, kind, **quick)
            for given in (file, microphone):
                given.change(self.keep, [file, microphone], None, **quick)
            for component in (kind, file, microphone, model, format, level, channel):
                component.change(self.lines, chosen, [python, shell], **quick)
            blocks.load(self.lines, chosen, [python, shell], **quick)
            blocks.unload(self.leave)
        blocks.queue(max_size=_MOST_WAITING, default_concurrency_limit=_MOST_AT_ONCE)
        return blocks

    def _introduction(self):
        where = (
            "It is processed on this machine."
            if self.local
            else "It is sent to this server, which deletes it when you close the page."
        )
        return (
            "# Separate speakers\n\nUpload a recording in which people talk at the same time, and listen to each of "
            f"them. {where} Up to {self.limits.minutes:g} minutes and {self.limits.megabytes:g} MB."
        )

    def separate(
        self,
        kind: str,
        file: str | None,
        microphone: str | None,
        label: str,
        format: str,
        level: str,
        channel: int,
        request: gr.Request,
    ) -> Iterator[tuple]:
        """Separate a visitor's recording. Yields updates of the display and of the buttons."""
        path = file if kind == "file" else microphone
        progress = Progress()
        busy, ready = (gr.update(interactive=False), gr.update(visible=True)), (gr.update(interactive=True), _HIDDEN)
        try:
            if not path:
                what = "record something first" if kind == "microphone" else "drop a file first, or take the example"
                raise InputError(f"There is no recording yet: {what}.")
            if not Path(path).is_file():
                raise InputError(f"{Path(path).name}: has expired and was deleted. Upload it again.")
            options = Options(format, level, None if channel == -1 else channel)
            work = _Work(self._separate, Path(path), request.session_hash, label, options, progress)
            shown = None
            while work.is_running(_LOOK_EVERY):
                now = status_html(progress.stage, progress.fraction)
                if now != shown:
                    yield now, *busy
                shown = now
            yield result_html(work.result()), *ready
        except InputError as error:
            yield error_html(str(error)), *ready
        except torch.OutOfMemoryError as error:
            yield error_html(f"{Path(path).name}: {error}"), *ready
        except Exception:
            logger.exception("a separation failed")
            yield error_html("This failed because of a bug in the program; its traceback is in the terminal."), *ready
        finally:
            progress.cancelled = True

    def _separate(self, path, visit, label, options, progress):
        folder = self.visits.new_result(visit)
        try:
            with self.visits.in_use(path, folder):
                return separate_recording(path, folder, self.models, label, options, progress, self.limits)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def take_example(self, request: gr.Request) -> tuple:
        """Select the example as the file; returns the file and the selected tab."""
        folder = self.visits.new_upload_folder()
        return str(shutil.copy(EXAMPLE, folder)), "file"

    def keep(self, file: str | None, microphone: str | None, request: gr.Request) -> None:
        """Register uploads, so that they are deleted when the visit ends."""
        self.visits.keep_uploads(request.session_hash, [path for path in (file, microphone) if path])

    def lines(
        self, kind: str, file: str | None, microphone: str | None, label: str, format: str, level: str, channel: int
    ) -> tuple:
        """The Python code and the command line for the chosen options."""
        try:
            # Visitors from other machines see only the folder's name.
            source = self.models.source(label) if self.local else self.models.public_name(label)
        except InputError as error:
            return f"# {error}", f"# {error}"
        name = name_of(file if kind == "file" else microphone)
        options = Options(format, level, None if channel == -1 else channel)
        return python_lines(source, name, options), command_line(source, name, options)

    def leave(self, request: gr.Request) -> None:
        """End a visit."""
        self.visits.end(request.session_hash)


_HIDDEN = gr.update(visible=False)


def theme() -> gr.themes.Base:
    """Gradio's theme, in blue, with system fonts."""
    plain = gr.themes.Default(
        primary_hue="blue", font=[gr.themes.Font("sans-serif")], font_mono=[gr.themes.Font("monospace")]
    )
    # Dark enough for white text.
    return plain.set(button_primary_background_fill="*primary_600", button_primary_background_fill_hover="*primary_700")


def _without_addresses(move):
    """Wraps Gradio's method that fetches files by URL, to allow only uploads."""

    async def move_upload(path):
        if path is not None and "://" in str(path):
            raise gr.Error("Only uploads are accepted.", print_exception=False)
        return await move(path)

    return move_upload


def _stopped():
    return stopped_html(), gr.update(interactive=True), _HIDDEN


class _Work:
    """A function that runs in its own thread."""

    def __init__(self, function, *arguments):
        self._function, self._arguments = function, arguments
        self._result = self._error = None
        self._thread = threading.Thread(target=self._run, name="separation", daemon=True)
        self._thread.start()

    def _run(self):
        try:
            self._result = self._function(*self._arguments)
        except Cancelled:
            pass
        except BaseException as error:  # raised in the waiting thread
            self._error = error

    def is_running(self, seconds):
        """Wait up to this many seconds for its end; return whether it is still running."""
        self._thread.join(seconds)
        return self._thread.is_alive()

    def result(self):
        """Its return value; raises its exception."""
        if self._error is not None:
            raise self._error
        return self._result
