"""The page in a real browser: linked views, keyboard, links, pixels. Nothing outside is asked for, nothing is an error.

Needs Debian's chromium (``apt-get install chromium``) and playwright, which downloads no browser of its own here.
"""

import base64
import csv
import functools
import http.server
import io
import json
import re
import shutil
import threading
import time
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.image import imread
from viewer_site import HOSTILE, N, write_study

from hf_vitstudy.viewer import export_site


CHROMIUM = shutil.which("chromium")
if CHROMIUM is None:
    pytest.skip("no chromium here; apt-get install chromium to test the page in a browser", allow_module_level=True)
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; pip install playwright")
expect = sync_api.expect
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
]


class Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *words) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    return export_site(write_study(folder / "study"), folder / "site").parent


@pytest.fixture(scope="module")
def address(site):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Silent, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/index.html"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


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

    def readout(self) -> str:
        return self.page.locator(".readout").inner_text().replace("\n", " ")

    def cell(self, of: str, i: int, j: int) -> tuple[float, float]:
        """Middle of a cell on the screen."""
        catch = self.page.locator(f".catch[data-of={of}]")
        catch.scroll_into_view_if_needed()
        box = catch.bounding_box()
        rows, columns = (self.count(side) for side in of)
        return box["x"] + (j + 0.5) * box["width"] / columns, box["y"] + (rows - i - 0.5) * box["height"] / rows

    def count(self, side: str) -> int:
        return self.page.evaluate(f"vitstudy.explore.pair.{side}.places.name.length")

    def point(self, of: str, i: int, j: int) -> None:
        self.page.mouse.move(*self.cell(of, i, j))

    def state(self) -> dict:
        return self.page.evaluate("(({a, b, view, sel, pinned}) => ({a, b, view, ...sel, pinned}))(vitstudy.state)")

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


@pytest.fixture
def visit(browser, address):
    """Open the page at an address; at the end nothing may have gone wrong."""
    opened: list[Visit] = []

    def go(search: str = "", **context) -> Visit:
        opened.append(Visit(browser, address, search, **context))
        return opened[-1]

    yield go
    for each in opened:
        each.context.close()
        assert each.wrong == []


PAIR = "?a=vit-0&b=resnet-0&view=explore"
VIT, RESNET = 3, 0


def stored(site: Path, name: str) -> dict:
    return json.loads((site / "data" / f"{name}.json").read_text(encoding="utf-8"))


def cell_text(found: dict, at: int) -> str:
    """As the page must write it, from the file."""
    value = found["cka"][at]
    if value is None:
        return "undefined"
    numbers = [
        f"{x / 1000:.3f}".replace("-", "−") for x in (value, value - found["below"][at], value + found["above"][at])
    ]
    return f"{numbers[0]} [{numbers[1]}, {numbers[2]}]"


def curve_text(curve: dict, place: int) -> str:
    if place not in curve["place"]:
        return "–"
    at = curve["place"].index(place)
    value, low, high = (
        f"{curve[name][at]:#.3g}".removesuffix(".").replace("-", "−") for name in ("value", "low", "high")
    )
    return f"{value} [{low}, {high}]"


def cross(site: Path, i: int, j: int) -> str:
    """CKA of place i of the ViT and place j of the ResNet; the file has the ResNet's places as rows."""
    return cell_text(stored(site, "pair-0-3")["map"], j * 17 + i)


# ------------------------------------------------------------------------------------------------------ linked views


def test_hover_moves_every_view_and_every_number_is_the_stored_one(visit, site):
    at, files = visit(PAIR), {"a": stored(site, "checkpoint-3"), "b": stored(site, "checkpoint-0")}
    for i, j in ((0, 0), (9, 4), (16, 8), (3, 2)):
        at.point("ab", i, j)
        names = files["a"]["places"]["name"][i], files["b"]["places"]["name"][j]
        assert at.readout() == f"{cross(site, i, j)} CKA of {names[0]} of A and {names[1]} of B, n = {N} images"
        assert at.boxed() == {"aa": [[i, i]], "ab": [[i, j]], "bb": [[j, j]]}
        assert at.rings() == {
            f"{key} {side}": rung(files[side], key, place) for key in KEYS for side, place in (("a", i), ("b", j))
        }
        rows = at.page.locator("table.here tbody tr").all()
        for row, key in zip(rows[1:5], KEYS[:4], strict=True):
            cells = [cell.inner_text() for cell in row.locator("td").all()]
            assert cells == [curve_text(files["a"]["curves"][key], i), curve_text(files["b"]["curves"][key], j)]


KEYS = ("fourier", "variance", "skip", "probes", "heads")


def rung(file: dict, key: str, place: int) -> list[int]:
    """Which places a chart must ring."""
    curve = file["heads"] if key == "heads" else file["curves"][key]
    return [place] if curve and place in curve["place"] else []


def test_a_cell_within_one_network_finds_the_most_alike_in_the_other(visit, site):
    at = visit(PAIR)
    at.point("aa", 2, 14)
    found = stored(site, "pair-0-3")["map"]["cka"]
    best = [max(range(9), key=lambda j: found[j * 17 + i]) for i in (2, 14)]
    assert at.boxed() == {"aa": [[2, 14]], "ab": [[2, best[0]], [14, best[1]]], "bb": [best]}
    own = stored(site, "checkpoint-3")["map"]
    assert at.readout().startswith(cell_text(own, 2 * 17 + 14))
    assert at.rings()["fourier a"] == [2, 14]
    assert at.rings()["fourier b"] == best
    heads = [cell.inner_text() for cell in at.page.locator("table.here tbody tr").last.locator("td").all()]
    assert heads == ["–", "–"]


def test_an_undefined_cell_says_so(visit):
    at = visit(PAIR)
    at.point("aa", 3, 5)
    assert at.readout().startswith("undefined CKA of block01.attention of A")


def test_pointing_at_a_chart_moves_the_maps(visit):
    at = visit(PAIR + "&sel=ab.5.5")
    at.page.get_by_role("button", name="Unpin").click()
    chart = at.page.locator(".card.fourier .chart")
    ring = chart.locator("circle.sign").nth(11)
    chart.scroll_into_view_if_needed()
    box = ring.bounding_box()
    at.page.mouse.move(box["x"] + 2, box["y"] + 2)
    assert at.boxed() == {"aa": [[11, 11]], "ab": [[11, 5]], "bb": [[5, 5]]}


def test_one_move_takes_less_than_a_frame(visit):
    at = visit(PAIR)
    times = at.page.evaluate(
        """(() => { const times = []; for (let k = 0; k < 120; k++) { const start = performance.now();
          vitstudy.explore.select({of: "ab", i: k % 17, j: k % 9}); document.body.getBoundingClientRect();
          times.push(performance.now() - start); } return times; })()"""
    )
    assert np.quantile(times, 0.25) < 16  # the quarter that other work on the machine leaves alone


def test_pixels_are_magma_with_the_first_place_at_the_lower_left(visit, site):
    at = visit(PAIR)
    maps = {"aa": (stored(site, "checkpoint-3")["map"], 17, 17), "bb": (stored(site, "checkpoint-0")["map"], 9, 9)}
    maps["ab"] = (stored(site, "pair-0-3")["map"], 9, 17)
    for of, (found, rows, columns) in maps.items():
        cells = np.array([np.nan if x is None else x / 1000 for x in found["cka"]]).reshape(rows, columns)
        cells = cells.T if of == "ab" else cells
        text = at.page.locator(f"image[data-map={of}]").get_attribute("href")
        pixels = imread(io.BytesIO(base64.b64decode(text.split(",")[1])))
        expected = mpl.colormaps["magma"](np.ma.masked_invalid(cells[::-1]), bytes=True)
        defined = np.isfinite(cells[::-1])
        assert pixels.shape[:2] == cells.shape
        assert (np.round(pixels[defined] * 255) == expected[defined]).all()
        assert (pixels[~defined][:, 3] == 0).all()


# ---------------------------------------------------------------------------------------------------------- keyboard


def test_keyboard_alone_explores_pins_and_lets_go(visit, site):
    at = visit()
    at.page.get_by_role("tab", name="Findings").focus()
    at.page.keyboard.press("ArrowRight")
    expect(at.page.get_by_role("tab", name="Explore")).to_have_attribute("aria-selected", "true")
    expect(at.page.get_by_role("tab", name="Explore")).to_be_focused()
    at.page.wait_for_selector(".catch[data-of=ab]")
    for _ in range(30):
        at.page.keyboard.press("Tab")
        if at.page.evaluate("document.activeElement.dataset.of") == "ab":
            break
    before = at.state()
    for key in ("ArrowUp", "ArrowUp", "ArrowRight", "ArrowLeft", "ArrowLeft"):
        at.page.keyboard.press(key)
    after = at.state()
    assert (after["i"], after["j"]) == (before["i"] + 2, before["j"] - 1)
    assert not after["pinned"]
    at.page.keyboard.press("Enter")
    assert at.state()["pinned"]
    at.page.mouse.move(*at.cell("aa", 1, 1))
    assert at.state() == after | {"pinned": True}, "a pinned selection does not follow the pointer"
    at.page.keyboard.press("Escape")
    assert not at.state()["pinned"]
    for _ in range(40):
        at.page.keyboard.press("ArrowLeft")
    assert at.state()["j"] == 0


def test_every_control_has_a_name_and_can_be_focused(visit):
    at = visit(PAIR)
    nameless = at.page.evaluate(
        """[...document.querySelectorAll("button, select, input, [role=application]")]
          .filter((node) => node.offsetParent !== null && !(node.textContent.trim() || node.getAttribute("aria-label")
            || node.labels?.[0]?.textContent.trim()))
          .map((node) => node.outerHTML)"""
    )
    assert nameless == []
    assert at.page.locator("[role=application]").evaluate_all("nodes => nodes.map((node) => node.tabIndex)") == [
        0,
        0,
        0,
    ]


# -------------------------------------------------------------------------------------------------------------- links


@pytest.mark.parametrize(("sel", "view"), [("ab.5.7", "explore"), ("aa.2.14", "variance"), ("bb.8.0", "heads")])
def test_a_link_restores_the_exact_state(visit, sel, view):
    at = visit(f"?a=vit-0&b=resnet-1&view={view}&sel={sel}")
    of, i, j = sel.split(".")
    expected = {"a": 3, "b": 1, "view": view, "of": of, "i": int(i), "j": int(j), "pinned": True}
    assert at.state() == expected
    assert at.boxed()[of] == [[int(i), int(j)]]
    assert at.page.locator(".card.asked").count() == (view != "explore")


def test_pinning_writes_the_address_and_a_fresh_page_returns_to_it(visit, address):
    at = visit("?view=explore")
    at.page.mouse.click(*at.cell("bb", 6, 2))
    at.until("location.search.includes('sel=')")
    search = at.page.evaluate("location.search")
    assert re.fullmatch(r"\?a=[^&]*&b=[^&]*&view=explore&sel=bb\.6\.2", search)
    fresh = visit(search)
    assert fresh.state() == at.state()
    assert fresh.readout() == at.readout()
    assert fresh.boxed() == at.boxed()


def test_copy_link_gives_the_link_of_what_is_seen(visit, address):
    at = visit(PAIR, permissions=["clipboard-read", "clipboard-write"])
    at.point("ab", 4, 6)
    at.page.get_by_role("button", name="Copy link").click()
    expect(at.page.locator(".toast")).to_have_text("Link copied")
    link = at.page.evaluate("navigator.clipboard.readText()")
    assert link == f"{address}?a=vit-0&b=resnet-0&view=explore&sel=ab.4.6"


HOSTILE_SEARCHES = [
    "?a=%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E&b=%22%3E%3Cscript%3Ealert(1)%3C/script%3E",
    "?view=javascript:alert(1)&sel=ab.1.1);alert(1)",
    "?view=__proto__&claim=constructor&a=__proto__&b=toString",
    "?view=explore&sel=ab.999.999",
    "?view=explore&sel=zz.1.1&a=&b=",
    "?view=explore&sel=ab.-1.0",
    "?view=explore&sel=ab.1e3.0&a=vit-0&a=resnet-0",
    "?%00=%FF&sel=" + "9" * 5000,
]


@pytest.mark.parametrize("search", HOSTILE_SEARCHES, ids=range(len(HOSTILE_SEARCHES)))
def test_hostile_addresses_do_nothing(visit, search):
    at = visit(search)
    assert at.page.title() == "A <b>study</b> & more"
    assert at.page.locator(".vs img, .vs script").count() == 0
    at.page.get_by_role("tab", name="Explore").click()
    at.page.wait_for_selector(".catch")
    assert not at.state()["pinned"]
    at.point("ab", 1, 1)
    assert "CKA of" in at.readout()


def test_a_hostile_name_is_text_everywhere(visit):
    at = visit("?view=explore")
    at.page.get_by_label("Checkpoint A").select_option(label=HOSTILE)
    at.until("vitstudy.explore.has?.startsWith('4 ')")
    for tab in ("Methods", "Findings", "Explore"):
        at.page.get_by_role("tab", name=tab).click()
    assert at.page.title() == "A <b>study</b> & more"
    assert at.page.locator(".vs img").count() == 0
    assert at.page.locator("h1").inner_text() == "A <b>study</b> & more"
    at.until("location.search.includes('script')")
    assert visit(at.page.evaluate("location.search")).state()["a"] == 4


# -------------------------------------------------------------------------------------------------- choosing, evidence


def test_choosing_and_swapping_turns_the_map(visit, site):
    at = visit(PAIR + "&sel=ab.4.6")
    before = at.readout().split(" CKA")[0]
    assert before == cross(site, 4, 6)
    at.page.get_by_role("button", name="Swap A and B").click()
    at.until("vitstudy.explore.has === '0 3'")
    assert at.state() == {"a": 0, "b": 3, "view": "explore", "of": "ab", "i": 6, "j": 4, "pinned": True}
    assert at.readout().split(" CKA")[0] == before
    at.page.get_by_label("Checkpoint B").select_option(label="resnet-1")
    at.until("vitstudy.explore.has === '0 1'")
    assert set(at.boxed()) == {"aa", "ab", "bb"}
    at.page.get_by_label("Checkpoint B").select_option(label="resnet-0")
    at.until("vitstudy.explore.has === '0 0'")
    at.point("ab", 5, 5)
    assert at.readout().startswith("1.000 [1.000, 1.000]")


def test_a_late_answer_does_not_replace_a_later_choice(visit):
    at = visit(PAIR)
    held: list = []
    at.page.route("**/pair-0-4.json", lambda route: held.append(route))
    choose = at.page.get_by_label("Checkpoint A")
    choose.select_option(index=4)
    expect(at.page.locator(".status")).to_have_text("Loading …")
    choose.select_option(index=1)
    at.until("vitstudy.explore.has === '1 0'")
    held[0].continue_()
    at.until("vitstudy.files.get('pair-0-4.json').then((file) => file.b === 4)")
    at.page.wait_for_timeout(100)
    assert at.page.evaluate("vitstudy.explore.pair.a.checkpoint") == 1
    assert at.page.evaluate("vitstudy.explore.has") == "1 0"


def test_checkpoints_on_other_images_have_no_map_between_them_and_say_why(visit):
    at = visit("?a=vit-0&b=vit-elsewhere&view=explore")
    assert set(at.boxed()) == {"aa", "bb"}
    assert "different images" in at.readout()
    at.point("bb", 3, 4)
    assert "n = 32 images" in at.readout()


def test_see_evidence_opens_the_view_with_its_selection(visit):
    at = visit("?a=vit-0&b=resnet-0")
    at.page.locator("#vs-claim-R-1 .see").click()
    at.page.wait_for_selector(".catch")
    assert at.state() == {"a": 3, "b": 0, "view": "cka", "of": "aa", "i": 2, "j": 13, "pinned": True}
    at.page.get_by_role("tab", name="Findings").click()
    at.page.locator("#vs-claim-P-F2-conv .see").click()
    at.until("vitstudy.state.view === 'fourier'")
    expect(at.page.locator(".card.fourier.asked")).to_be_visible()
    assert at.page.evaluate("vitstudy.study.checkpoints[vitstudy.state.a].network") == "resnet"
    assert at.page.evaluate("vitstudy.state.a !== vitstudy.state.b")


def test_findings_show_every_number_of_a_claim_and_filter(visit, site):
    at = visit("?a=vit-0&b=resnet-0&claim=R-1")
    study = stored(site, "study")
    for claim in (claim for claim in study["claims"] if "agreement" in claim):
        value, low, high = claim["agreement"]["estimate"]
        text = at.page.locator(f"#vs-claim-{claim['id']} .effect b").inner_text()
        numbers = [f"{x:#.3g}".removesuffix(".").replace("-", "−") for x in (value, low, high) if x is not None]
        assert text == (numbers[0] if low is None else f"{numbers[0]} [{numbers[1]}, {numbers[2]}]")
    row = at.page.locator("#vs-claim-R-1")
    expect(row.locator(".more")).to_be_visible()
    choices = [each for each in study["judgements"]["R-1"] if each[2] is not None]
    assert row.locator("tbody tr").count() == len(choices) == 4
    assert row.locator(".strip .mark").count() == 4
    row.get_by_role("button", name="Close").click()
    expect(row.locator(".more")).to_be_hidden()
    button = at.page.locator(".count").first
    button.click()
    expect(button).to_have_attribute("aria-pressed", "true")
    assert at.page.locator("section.group:visible").count() == 1
    button.click()
    assert at.page.locator("section.group:visible").count() == at.page.locator("section.group").count()


def test_methods_name_the_chosen_checkpoints(visit, site):
    at = visit("?a=vit-0&b=resnet-1&view=methods")
    text = at.page.locator("#vs-methods").inner_text()
    for word in ("data/pair-1-3.json", 'load_profile("profiles/d")', "vit 0 vit-0", "200 bootstrap draws with seed 0"):
        assert word in text


# ---------------------------------------------------------------------------------------------------------- take away


def test_data_are_copied_as_json_and_csv(visit, site):
    at = visit(PAIR, permissions=["clipboard-read", "clipboard-write"])
    at.page.get_by_role("button", name="Copy the data of Which places are alike as JSON").click()
    expect(at.page.locator(".toast")).to_have_text("JSON copied")
    cells = json.loads(at.page.evaluate("navigator.clipboard.readText()"))
    assert len(cells) == 17 * 17 + 17 * 9 + 9 * 9
    one = next(
        cell for cell in cells if (cell["map"], cell["row"], cell["column"]) == ("ab", "block02.mlp", "block03")
    )
    found, at_cell = stored(site, "pair-0-3")["map"], 4 * 17 + 6
    assert one["cka"] == found["cka"][at_cell] / 1000
    assert one["low"] == pytest.approx((found["cka"][at_cell] - found["below"][at_cell]) / 1000)
    at.page.get_by_role("button", name="Copy the data of Variance as CSV").click()
    expect(at.page.locator(".toast")).to_have_text("CSV copied")
    rows = list(csv.DictReader(io.StringIO(at.page.evaluate("navigator.clipboard.readText()"))))
    curve = stored(site, "checkpoint-3")["curves"]["variance"]
    assert [float(row["value"]) for row in rows if row["checkpoint"] == "vit-0"] == curve["value"]
    assert len(rows) == 17 + 9


def test_where_the_clipboard_is_refused_copying_still_works(visit):
    at = visit(PAIR)
    at.page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    at.page.get_by_role("button", name="Copy link").click()
    expect(at.page.locator(".toast")).to_have_text("Link copied")
    assert at.page.locator("textarea").count() == 0


@pytest.mark.parametrize("title", ["Which places are alike", "High frequencies"])
def test_pictures_are_saved_in_double_size_with_their_colours(visit, title, tmp_path):
    at = visit(PAIR)
    card = at.page.get_by_role("region", name=title)
    with at.page.expect_download() as caught:
        card.get_by_role("button", name="as PNG").click()
    caught.value.save_as(tmp_path / "picture.png")
    assert re.fullmatch(r"vit-0-resnet-0-(cka|fourier)\.png", caught.value.suggested_filename)
    picture = imread(tmp_path / "picture.png")
    box = card.locator(".body svg").bounding_box()
    assert picture.shape[:2] == (round(2 * (box["height"] + 40)), round(2 * box["width"]))
    colours = {tuple(pixel) for pixel in np.round(picture[..., :3].reshape(-1, 3) * 255).astype(int).tolist()}
    assert (255, 255, 255) in colours
    wanted = {tuple(pixel) for pixel in mpl.colormaps["magma"](np.linspace(0.5, 1, 129), bytes=True)[:, :3].tolist()}
    assert len(colours & wanted) > 20 if title.startswith("Which") else (0, 114, 178) in colours


# ------------------------------------------------------------------------------------------------------- look and size


def contrast(first: str, second: str) -> float:
    """WCAG's contrast ratio of two rgb(...) colours."""
    levels = []
    for text in (first, second):
        parts = np.array([int(part) for part in re.findall(r"\d+", text)[:3]]) / 255
        linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        levels.append(float(linear @ [0.2126, 0.7152, 0.0722]))
    return (max(levels) + 0.05) / (min(levels) + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_legible_in_light_and_dark(visit, scheme):
    at = visit(PAIR, color_scheme=scheme)
    at.page.evaluate(
        "for (const panel of document.querySelectorAll('[role=tabpanel]')) panel.hidden = false; vitstudy.methods.show()"
    )
    found = at.page.evaluate(
        """[...document.querySelectorAll(".vs *")]
          .filter((node) => node.offsetParent !== null && !node.closest("svg")
            && [...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim()))
          .map((node) => {
            const behind = (at) => {
              const colour = at ? getComputedStyle(at).backgroundColor : "rgb(255, 255, 255)";
              return colour === "rgba(0, 0, 0, 0)" ? behind(at.parentElement) : colour;
            };
            return [getComputedStyle(node).color, behind(node), node.className];
          })"""
    )
    assert len(found) > 100
    assert {name for ink, paper, name in found if contrast(ink, paper) < 4.5} == set()
    paper = at.page.evaluate("getComputedStyle(document.querySelector('.vs')).backgroundColor")
    assert contrast(paper, "rgb(0, 0, 0)") > 15 if scheme == "light" else contrast(paper, "rgb(255, 255, 255)") > 15


@pytest.mark.parametrize("view", ["findings", "explore", "methods"])
def test_a_phone_needs_no_sideways_scrolling(visit, view):
    at = visit(
        f"?a=vit-0&b=resnet-0&view={view}&claim=R-1",
        viewport={"width": 390, "height": 844},
        has_touch=True,
        is_mobile=True,
    )
    assert at.page.evaluate("document.documentElement.scrollWidth") <= 390
    cut = at.page.evaluate(
        """[...document.querySelectorAll(".vs button, .vs select, .vs svg, .vs h3")]
          .filter((node) => node.offsetParent !== null || node.closest("svg"))
          .map((node) => [node.getBoundingClientRect(), node.className.baseVal ?? node.className])
          .filter(([box]) => box.width && (box.right > 391 || box.left < -1)).map(([, name]) => name)"""
    )
    assert cut == []


def test_a_finger_selects_on_a_phone(visit):
    at = visit(PAIR, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    at.page.touchscreen.tap(*at.cell("ab", 10, 3))
    state = at.state()
    assert (state["of"], state["i"], state["j"], state["pinned"]) == ("ab", 10, 3, True)


def test_the_page_opens_from_a_disk_with_its_first_pair(browser, site):
    opened = Visit(browser, (site / "index.html").as_uri(), "?view=explore")
    opened.point("ab", 1, 1)
    assert "CKA of" in opened.readout()
    opened.page.get_by_label("Checkpoint A").select_option(index=2)
    expect(opened.page.locator(".status")).to_contain_text("python -m http.server")
    opened.context.close()


def test_a_file_that_cannot_be_fetched_is_said_and_asked_for_again(browser, address):
    opened = Visit(browser, address, "?view=explore")
    opened.page.route("**/checkpoint-2.json", lambda route: route.abort())
    opened.page.get_by_label("Checkpoint A").select_option(label="vit-elsewhere")
    expect(opened.page.locator(".status")).to_contain_text("could not be fetched")
    opened.page.unroute("**/checkpoint-2.json")
    opened.page.get_by_role("tab", name="Methods").click()
    opened.page.get_by_role("tab", name="Explore").click()
    expect(opened.page.locator(".status")).to_have_text("")
    opened.point("aa", 2, 2)
    assert "n = 32 images" in opened.readout()
    opened.context.close()
