"""The comparison served by Gradio: the page of `viewer`, a tab that looks at images, an API and an MCP server.

It starts without torch, asks nothing of the internet, and takes no files. Gradio hosts one element, in which the same renderer
draws that draws the static page; the numbers come from ``vitstudy/data`` below the app's root.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from .. import hub
from ..errors import StudyError
from ..space_release import ABOUT, EXAMPLES_FILE, STUDY_FILE, default_data
from ..viewer import script, style
from ..viewer.bundle import STUDY, Packed, Pages, open_pages
from .api import endpoints
from .live import Live, check_live
from .web import Guard, Site


HERE = Path(__file__).parent
SCRIPTS = ("image.js", "host.js")
LIVE, STUDY_ASKED, SPACE = "VITSTUDY_LIVE", "VITSTUDY_STUDY", "SPACE_ID"
MOST_WAITING = 64  # requests of the API
MOST_FILE = "10mb"
ELEMENT = "<div class='vs'><p class='waiting'>The numbers are being fetched.</p></div>"
# Of the theme, in place of its own: 103 kB that nothing here shows.
FONTS = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")
# Gradio puts the renderer's script into the page, which may be loaded before it has come: it says itself when it is there.
START = """
const start = () => window.VitSpace.start(element.querySelector(".vs"), props.about);
if (window.VitSpace?.start) start(); else window.addEventListener("vitspace", start, { once: true });
"""


class App:
    """Everything that is served.

    Attributes:
        blocks: Gradio's app.
        site: our own addresses.
    """

    def __init__(
        self, pages: Pages, examples: Pages | None = None, live: Sequence[str] = (), about: Any = None
    ) -> None:
        """Build it; nothing is loaded or opened yet.

        Args:
            pages: data of the page.
            examples: stored answers about example images.
            live: two checkpoints that look at visitors' images, see `check_live`.
            about: ``study``, where on the Hub it came from, and ``repo`` of the Space.

        Raises:
            StudyError: `live` may not be loaded.
        """
        self.about = {"study": None, "repo": None, "examples": examples is not None} | dict(about or {})
        self.live = Live(live)
        code = "\n".join([script(), *((HERE / name).read_text(encoding="utf-8") for name in SCRIPTS)])
        look = style() + (HERE / "space.css").read_text(encoding="utf-8")
        self.site = Site(pages, examples, self.live, code, look)
        title = json.loads(pages.read(STUDY))["title"]
        self.blocks = self._blocks(pages, title)

    def _blocks(self, pages: Pages, title: str) -> gr.Blocks:
        with gr.Blocks(title=title, analytics_enabled=False, fill_width=True, delete_cache=(3600, 3600)) as blocks:
            gr.HTML(html_template=ELEMENT, js_on_load=START, about=self.about, apply_default_css=False)
            for function in endpoints(pages):
                gr.api(function, api_name=function.__name__, queue=False)
        blocks.queue(max_size=MOST_WAITING, default_concurrency_limit=2)
        return blocks

    def launch(self, host: str | None = None, port: int | None = None, *, wait: bool = True) -> str:
        """Serve it; returns the address, or with `wait` not before the end."""
        self.live.start()
        _, address, _ = self.blocks.launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=not wait,
            theme=gr.themes.Default(font=FONTS[0], font_mono=FONTS[1]),
            head=self.site.head,
            app_kwargs={
                "routes": self.site.routes(),
                "middleware": [Middleware(Guard)],
                "docs_url": None,
                "redoc_url": None,
            },
            mcp_server=True,
            footer_links=["api"],
            max_file_size=MOST_FILE,
            show_error=False,
            share=False,
            quiet=True,
            run_history=False,
            enable_monitoring=False,
            pwa=False,
            ssr_mode=False,
        )
        return address


def make_app(
    study: str | Path | None = None, profiles: str | Path | None = None, live: Sequence[str] | None = None
) -> App:
    """The app of a study.

    Args:
        study: see `viewer.bundle.open_pages`; by default the study and the examples that come with this package.
        profiles: see `viewer.Source`.
        live: two checkpoints that look at images, by default those of ``VITSTUDY_LIVE``, separated by a comma.

    Raises:
        StudyError: no such study or checkpoint.
    """
    if study is not None:
        pages, origin = open_pages(study, profiles)
        return App(pages, None, _live(live), {"study": origin, "repo": _space()})
    return folder_app(default_data(), live)


def folder_app(data: Path, live: Sequence[str] | None = None) -> App:
    """The app of a folder with ``study.json.xz``, as `space_folder` writes it.

    ``VITSTUDY_STUDY`` names another study, on the Hub; while that cannot be had, the folder's own is shown.
    """
    about = json.loads((data / ABOUT).read_text(encoding="utf-8")) if (data / ABOUT).is_file() else {}
    about["repo"] = _space() or about.get("repo")
    pages, origin = open_pages(data / STUDY_FILE)
    asked = os.environ.get(STUDY_ASKED)
    if asked:
        try:
            pages, origin = open_pages(asked)
        except StudyError as error:
            about["notice"] = f"{asked} could not be fetched, so the study that came with this Space is shown. {error}"
    examples = Packed(data / EXAMPLES_FILE) if (data / EXAMPLES_FILE).is_file() else None
    about["study"] = origin or about.get("study")
    return App(pages, examples, _live(about.get("live") if live is None else live), about)


def _live(named: Sequence[str] | None) -> list[str]:
    asked = os.environ.get(LIVE, "")
    return check_live(list(named or [each.strip() for each in asked.split(",") if each.strip()]))


def _space() -> str | None:
    """``org/name`` of the Space this runs in, as the Hub tells it; None elsewhere."""
    told = os.environ.get(SPACE, "")
    return told if hub.is_address(told) else None
