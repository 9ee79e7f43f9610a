"""A real browser for the tests: Debian's chromium, through playwright, which downloads none of its own here.

Where one of the two is missing, what imports this is skipped with the reason. In CI, where ``CI`` is set, that is a failure:
`make test` installs both.
"""

import contextlib
import functools
import http.server
import os
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
]


def _missing(what: str) -> None:
    """Skip the module that asks; fail in CI."""
    if os.environ.get("CI"):
        pytest.fail(f"CI must test the page in a browser, and {what}", pytrace=False)
    pytest.skip(what, allow_module_level=True)


def chromium() -> str:
    """Path of the browser."""
    found = shutil.which("chromium")
    if found is None:
        _missing("there is no chromium; apt-get install chromium to test the page in a browser")
    return str(found)


def sync_api():
    """playwright's module of that name, for a module to ask at its head."""
    chromium()
    try:
        import playwright.sync_api as found
    except ImportError:
        _missing("playwright is not installed; pip install playwright")
    return found


@contextlib.contextmanager
def launched() -> Iterator:
    """The browser."""
    with sync_api().sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield started
        started.close()


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words) -> None:
        pass


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a folder on this machine."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Silent, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


class Visit:
    """One page, and what went wrong on it."""

    def __init__(self, browser, address: str, search: str = "", **context) -> None:
        self.context = browser.new_context(
            **({"viewport": {"width": 1280, "height": 900}, "reduced_motion": "reduce"} | context)
        )
        self.wrong: list[str] = []
        self.page = self.context.new_page()
        self.origin = address.rsplit("/", 1)[0]
        self.page.on(
            "console", lambda told: self.wrong.append(told.text) if told.type in ("error", "warning") else None
        )
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("request", self._asked)
        self.page.on("dialog", lambda dialog: self.wrong.append(f"dialog {dialog.message}") or dialog.dismiss())
        self.page.goto(address + search)
        self.ready()

    def _asked(self, request) -> None:
        if not request.url.startswith((self.origin, "data:", "blob:")):
            self.wrong.append(f"asked for {request.url}")

    def ready(self) -> None:
        self.page.wait_for_selector(".vs[data-ready=true]", timeout=15_000)

    def until(self, expression: str) -> None:
        """Wait until it holds; playwright's own way is text run by the page, which its policy forbids."""
        end = time.monotonic() + 10
        while not self.page.evaluate(expression):
            assert time.monotonic() < end, expression
            self.page.wait_for_timeout(20)

    def take(self, title: str, what: str) -> None:
        """Choose from the menu of a view."""
        card = self.page.get_by_role("region", name=title, exact=True)
        card.locator(".menu summary").click()
        card.locator(".menu .items").get_by_role("button").filter(has_text=what).click()

    def readout(self) -> str:
        return self.page.locator(".readout").inner_text().replace("\n", " ")

    def cell(self, of: str, i: int, j: int) -> tuple[float, float]:
        """Middle of a cell on the screen."""
        box = self.box(f".catch[data-of={of}]")
        rows, columns = (self.count(side) for side in of)
        return box["x"] + (j + 0.5) * box["width"] / columns, box["y"] + (rows - i - 0.5) * box["height"] / rows

    def box(self, selector: str) -> dict[str, float]:
        """Where an element lies on the screen, brought into view."""
        node = self.page.locator(selector)
        node.scroll_into_view_if_needed()
        return node.bounding_box()

    def count(self, side: str) -> int:
        return self.page.evaluate(f"vitstudy.explore.pair.{side}.places.name.length")

    def point(self, of: str, i: int, j: int) -> None:
        self.page.mouse.move(*self.cell(of, i, j))

    def state(self) -> dict:
        return self.page.evaluate("(({a, b, view, sel, pinned}) => ({a, b, view, ...sel, pinned}))(vitstudy.state)")

    def deep(self) -> None:
        """Come to the views below the maps, whose files are fetched then or on their way; wait until these are drawn."""
        self.page.evaluate("vitstudy.explore.below.come()")
        self.until(
            "['network', 'fields', 'weights'].every((of) => vitstudy.explore.below.trouble(of) !== 'Loading …')"
        )

    def told(self, view: str) -> str:
        """What a view says."""
        return self.page.locator(f".card.{view} .told").inner_text()

    def boxed(self) -> dict[str, list[list[int]]]:
        """The cells marked in every map, read off the drawing."""
        return self.page.evaluate(
            """Object.fromEntries(vitstudy.explore.maps.map((map) => [map.of,
              (map.boxes[1].getAttribute("d").match(/M[\\d.]+,[\\d.]+/g) || []).map((text) => {
                const [x, y] = text.slice(1).split(",").map(Number);
                return [map.rows - 1 - y / map.cell, x / map.cell];
              })]))"""
        )

    def rings(self) -> dict[str, list[int]]:
        """Places ringed on the charts: ``fourier a`` -> places."""
        return self.page.evaluate(
            """Object.fromEntries(vitstudy.explore.charts.flatMap((chart) => ["a", "b"].map((side) =>
              [`${chart.card.key} ${side}`,
               [...chart.node.querySelectorAll(`.ring.${side}`)].map((ring) => Number(ring.dataset.place))])))"""
        )


# ------------------------------------------------------------------------------------------------------- accessibility


def axe() -> str:
    """axe-core's one file, which comes with a package, so that nothing is fetched."""
    import axe_playwright_python

    return (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")


def violations(at, within: str = "html") -> list[str]:
    """What axe-core finds of WCAG 2 A and AA in what is open, below an element."""
    at.page.evaluate(axe())
    found = at.page.evaluate(
        f"""axe.run({within!r}, {{runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa'], preload: false,
           resultTypes: ['violations']}})"""
    )
    assert len(found["passes"]) > 10, "axe looked at the page"
    return [
        f"{each['id']}: {node['html'][:200]} {node['failureSummary']}"
        for each in found["violations"]
        for node in each["nodes"]
    ]
