"""The page in a real browser: linked views, keyboard, links, pixels. Nothing outside is asked for, nothing is an error.

Needs Debian's chromium (``apt-get install chromium``) and playwright, which downloads no browser of its own here.
"""

import base64
import csv
import io
import json
import re
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from browsing import Visit, launched, served, sync_api
from matplotlib.image import imread
from viewer_site import HOSTILE, N, write_study

from hf_vitstudy.viewer import export_site


expect = sync_api().expect


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("browser")
    return export_site(write_study(folder / "study"), folder / "site").parent


@pytest.fixture(scope="module")
def address(site):
    with served(site) as origin:
        yield f"{origin}/index.html"


@pytest.fixture(scope="module")
def browser():
    with launched() as started:
        yield started


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


KEYS = ("fourier", "variance", "skip", "probes", "receptive", "class_skip", "heads")


def rung(file: dict, key: str, place: int) -> list[int]:
    """Which places a chart must ring."""
    curve = file["heads"] if key == "heads" else file["curves"].get(key)
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
    at.deep()
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


# --------------------------------------------------------------------------------------------- views below the maps


def three(value: float) -> str:
    size = abs(value)
    if size and (size < 1e-4 or size >= 999.5):
        return f"{value:.2e}".replace("-", "−")
    return f"{value:#.3g}".removesuffix(".").replace("-", "−")


def spelt(numbers: list[float]) -> str:
    value, low, high = map(three, numbers)
    return f"{value} [{low}, {high}]"


def at_of(found: dict, k: int) -> list[float]:
    return [found[name][k] for name in ("value", "low", "high")]


def test_views_of_the_two_places_follow_the_selection_and_say_the_stored_numbers(visit, site):
    at, curves = visit(PAIR), {s: stored(site, f"checkpoint-{n}")["curves"] for s, n in (("A", VIT), ("B", RESNET))}
    at.deep()
    networks = {"A": stored(site, f"network-{VIT}"), "B": stored(site, f"network-{RESNET}")}
    names = {"A": stored(site, f"checkpoint-{VIT}"), "B": stored(site, f"checkpoint-{RESNET}")}
    for i, j in ((1, 1), (12, 6), (16, 8)):
        at.point("ab", i, j)
        chosen = {"A": i, "B": j}
        place = {side: names[side]["places"]["name"][k] for side, k in chosen.items()}
        radius = {side: spelt(at_of(curves[side]["receptive"], k)) for side, k in chosen.items()}
        assert at.told("fields") == (
            f"Half of the gradient lies within {radius['A']} px of the centre for {place['A']} of A, "
            f"and within {radius['B']} px for {place['B']} of B."
        )
        lost = []
        for side, k in chosen.items():
            found = networks[side]["lesions"]
            assert k in found["place"]
            part = found["place"].index(k)
            lost.append(f"{side} loses {spelt(at_of(found, part))} points without {found['name'][part]}")
        assert at.told("lesions") == "; ".join(lost) + "."
        blocks = {side: found["localisation"]["name"] for side, found in networks.items()}
        at_block = {side: blocks[side].index(place[side]) if place[side] in blocks[side] else 1 for side in chosen}
        shares = [
            f"{side} {three(v)} % [{three(low)}, {three(high)}] at {blocks[side][b]} (chance 6.25 %)"
            for side, b in at_block.items()
            for v, low, high in [networks[side]["localisation"]["share"][b][0]]
        ]
        assert at.told("localisation") == f"Tokens most like their own patch: {', '.join(shares)}."


def test_within_one_network_both_fields_are_its_own(visit, site):
    at = visit(PAIR)
    at.deep()
    at.point("aa", 2, 14)
    labels = at.page.locator(".card.fields .label").all_text_contents()[:2]
    names = stored(site, f"checkpoint-{VIT}")["places"]["name"]
    assert labels == [f"A {names[2]}", f"A {names[14]}"]


def test_views_of_whole_networks_say_the_stored_numbers(visit, site):
    at = visit(PAIR)
    at.deep()
    found = {"A": stored(site, f"network-{VIT}"), "B": stored(site, f"network-{RESNET}")}
    cross = stored(site, "pair-0-3")["crossing"]

    def both(write) -> str:
        return ", ".join(f"{side} {write(network)}" for side, network in found.items())

    clean = both(lambda each: f"{three(each['noise']['whole'])} %")
    value, low, high = map(three, cross)
    assert (
        at.told("noise")
        == f"Without noise {clean} right. The curves cross at a frequency of {value}π [{low}π, {high}π]."
    )
    mean = both(lambda each: f"{spelt(each['corruptions']['mean'])} % of {three(each['corruptions']['whole'][0])} %")
    assert at.told("corruptions") == f"Mean of all: {mean} without."
    left = {
        name: both(lambda each, name=name: f"{spelt(at_of(each['attacks']['by'][name], 3))} %")
        for name in ("pgd", "fgsm")
    }
    assert at.told("attacks") == f"At ε = 4/255 many steps leave {left['pgd']}; one step leaves {left['fgsm']}."
    assert at.told("tokens") == f"Mean over the places: {both(lambda each: spelt(each['tokens']['mean']) + ' %')}."
    ends = {key: both(lambda each, key=key: spelt(each["hessian"][key])) for key in ("largest", "smallest")}
    negative = both(lambda each: spelt(each["hessian"]["negative_proportion"]))
    assert at.told("hessian") == (
        f"Mean largest eigenvalue {ends['largest']}; mean smallest {ends['smallest']}; "
        f"negative among the largest by magnitude {negative}."
    )
    middle = both(lambda each: f"{three(each['landscape']['loss'][12])} nat")
    highest = both(lambda each: three(max(each["landscape"]["loss"])))
    assert at.told("landscape") == f"At the trained weights {middle}; highest {highest}."
    rise = both(lambda each: f"{spelt(at_of(each['landscape']['rise'], 4))} nat above")
    assert at.told("slice") == f"At a step of 1: {rise}."
    norm = both(lambda each: three(each["landscape"]["norm"][4]))
    assert at.told("norm") == f"At a step of 1: {norm}."
    filters = stored(site, f"weights-{VIT}")["filters"]
    assert set(stored(site, f"weights-{RESNET}")) == {"format", "checkpoint"}
    assert at.told("positions") == (
        "Rank correlation with distance: A −0.900. Of the variance, row / column / rest: A 40.0 / 40.0 / 20.0 %."
    )
    assert at.page.locator(".card.positions .none").inner_text().startswith("Not measured in B: ")
    assert (
        at.told("filters")
        == f"The first five components make up A {three(sum(filters['share'][:5]))} % of the variance."
    )


READ = {  # view -> keys pressed, what is said then
    "noise": ("ArrowRight ArrowRight", lambda f: f"A loses {spelt(at_of(f['A']['noise'], 1))} points, B loses "),
    "corruptions": ("ArrowUp", lambda f: f"Mean of all: A {spelt(f['A']['corruptions']['mean'])} %"),
    "attacks": (
        "ArrowRight ArrowRight",
        lambda f: f"At ε = 1/255 many steps leave A {spelt(at_of(f['A']['attacks']['by']['pgd'], 1))} %, B ",
    ),
    "tokens": (
        "ArrowLeft",
        lambda f: (
            f"B, row 4, column 4: {spelt([end[15] for end in f['B']['tokens']['spatial']])} % right by this token alone."
        ),
    ),
    "positions": (
        "ArrowRight ArrowRight",
        lambda f: "A, row 1, column 2: most like row 1, column 1 (0.37), least like row 4, column 4 (0.03).",
    ),
    "filters": (
        "ArrowRight ArrowDown ArrowRight",
        lambda f: "A, component 3: 12.5 % of the variance, correlation of neighbouring pixels 0.675.",
    ),
    "landscape": (
        "ArrowRight ArrowUp",
        lambda f: f"At (0.5, 0.5): A {three(f['A']['landscape']['loss'][18])} nat, B ",
    ),
    "slice": (
        "ArrowRight",
        lambda f: f"At a step of −1: A {spelt(at_of(f['A']['landscape']['rise'], 0))} nat above, B ",
    ),
    "hessian": ("ArrowLeft", lambda f: f"B {three(f['B']['hessian']['density']['share'][-1])} of all directions."),
}


@pytest.mark.parametrize("view", READ)
def test_arrow_keys_read_the_values(visit, site, view):
    at = visit(PAIR)
    at.deep()
    keys, expected = READ[view]
    at.page.locator(f".card.{view} [role=application]").focus()
    for key in keys.split():
        at.page.keyboard.press(key)
    files = {"A": stored(site, f"network-{VIT}"), "B": stored(site, f"network-{RESNET}")}
    assert expected(files) in at.told(view)


def test_pointing_at_noise_reads_the_nearest_frequency(visit, site):
    at = visit(PAIR)
    at.deep()
    box = at.box(".card.noise svg")
    at.page.mouse.move(box["x"] + 46 + 0.72 * (box["width"] - 62), box["y"] + 90)
    noise = stored(site, f"network-{VIT}")["noise"]
    assert at.told("noise").startswith(f"Noise at 0.7π: A loses {spelt(at_of(noise, 6))} points, B loses")


def painted(at: Visit, selector: str) -> np.ndarray:
    text = at.page.locator(selector).get_attribute("href")
    return np.round(imread(io.BytesIO(base64.b64decode(text.split(",")[1])))[..., :3] * 255).astype(int)


def colours_of(name: str, numbers: np.ndarray) -> np.ndarray:
    return mpl.colormaps[name](np.arange(256), bytes=True)[:, :3][numbers].astype(int)


def test_pictures_below_are_painted_as_matplotlib_does(visit, site):
    at = visit(PAIR + "&sel=ab.5.7")
    at.deep()
    field = stored(site, f"fields-{VIT}")["receptive"]["picture"][5]
    numbers = np.frombuffer(base64.b64decode(field), np.uint8).reshape(32, 32)
    assert (painted(at, ".card.fields image >> nth=0") == colours_of("magma", numbers)).all()
    loss = [np.array(stored(site, f"network-{n}")["landscape"]["loss"]).reshape(5, 5) for n in (VIT, RESNET)]
    scale = mpl.colors.LogNorm(min(each.min() for each in loss), max(each.max() for each in loss))
    for side, surface in zip("ab", loss, strict=True):
        expected = colours_of("viridis", np.clip(256 * scale(surface[::-1]), 0, 255).astype(int))
        off = (painted(at, f"image[data-surface={side}]") != expected).any(-1)
        assert off.sum() <= 1  # where rounding meets the edge of a colour
    tokens = stored(site, f"fields-{RESNET}")["localisation"]["cka"][0]  # place 7 is the last but one
    others = stored(site, f"fields-{VIT}")["localisation"]["cka"][1]
    top = max(max(map(max, tokens)), max(map(max, others)))
    expected = np.clip(256 * np.array(tokens[2]).reshape(4, 4) // top, 0, 255)
    assert (painted(at, "image[data-token='b 2']") == colours_of("magma", expected)).all()


def test_tiles_are_painted_one_after_the_other(visit, site):
    at = visit(PAIR)
    at.deep()
    found = stored(site, f"weights-{VIT}")
    cosines = np.frombuffer(base64.b64decode(found["positions"]["cosine"]), np.uint8).reshape(4, 4, 4, 4)
    shown = painted(at, ".card.positions image[data-raster=a]")
    assert shown.shape == (19, 19, 3)
    numbers = np.rint(127.5 + 1.275 * (cosines.astype(float) - 100) + 1e-9).astype(int)
    for row, column in np.ndindex(4, 4):
        tile = shown[5 * row : 5 * row + 4, 5 * column : 5 * column + 4]
        assert (tile == colours_of("RdBu_r", numbers[row, column])).all()
    colours = np.frombuffer(base64.b64decode(found["filters"]["colours"]), np.uint8).reshape(9, 4, 4, 3)
    shown = painted(at, ".card.filters image[data-raster=a]")
    assert shown.shape == (9, 34, 3), "seven in a row, a pixel between them"
    for k in range(9):
        row, column = divmod(k, 7)
        assert (shown[5 * row : 5 * row + 4, 5 * column : 5 * column + 4] == colours[k]).all()
    networks = [stored(site, f"network-{number}")["tokens"] for number in (VIT, RESNET)]
    best = max(max(each["spatial"][0]) for each in networks)
    for side, each in zip("ab", networks, strict=True):
        numbers = np.clip(np.floor(256 * (np.array(each["spatial"][0]) - 10) / (best - 10)), 0, 255).astype(int)
        assert (
            painted(at, f".card.tokens image[data-raster={side}]") == colours_of("magma", numbers.reshape(4, 4))
        ).all()


def test_pointing_at_a_tile_reads_and_frames_it(visit, site):
    at = visit(PAIR)
    at.deep()
    box = at.box(".card.tokens image[data-raster=b]")
    at.page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.4 * box["height"])
    tokens = stored(site, f"network-{RESNET}")["tokens"]
    said = spelt([end[6] for end in tokens["spatial"]])
    assert at.told("tokens") == f"B, row 2, column 3: {said} % right by this token alone."
    frame = at.page.locator(".card.tokens .own:visible").bounding_box()
    middle = frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] / 2
    assert middle == pytest.approx((box["x"] + 0.625 * box["width"], box["y"] + 0.375 * box["height"]), abs=1)
    at.page.mouse.move(box["x"] - 7, box["y"] + 4)
    assert at.told("tokens").startswith("B, row 2, column 3"), "between the networks nothing is read"


def test_contours_lie_where_the_loss_has_their_level(visit):
    at = visit(PAIR)
    at.deep()
    found = at.page.evaluate(
        """[...document.querySelectorAll(".card.landscape .contour")].slice(0, 7).map((path) =>
          (path.getAttribute("d").match(/[ML][\\d.]+,[\\d.]+/g) || []).map((text) => text.slice(1).split(",").map(Number)))"""
    )
    loss = np.array(at.page.evaluate("vitstudy.explore.below.file('network', 'a').landscape.loss")).reshape(5, 5)
    size = at.page.locator("image[data-surface=a]").bounding_box()["width"]
    seen = 0
    for level, points in zip((0.25, 0.5, 1, 2, 4, 8, 16), found, strict=True):
        assert bool(points) == (loss.min() < level < loss.max())
        for x, y in points:
            i, j = x / size * 5 - 0.5, (size - y) / size * 5 - 0.5
            left, low = min(int(i + 1e-6), 3), min(int(j + 1e-6), 3)
            s, t = i - left, j - low
            four = loss[low : low + 2, left : left + 2]
            here = four[0] @ [1 - s, s] * (1 - t) + four[1] @ [1 - s, s] * t
            assert here == pytest.approx(level, abs=0.05)
            seen += 1
    assert seen > 20


def test_what_was_not_measured_is_said_with_its_command(visit):
    at = visit(PAIR)
    at.deep()
    heads = at.page.locator(".card.heads .lacking").inner_text()
    assert heads == "B: no attention in this network."
    assert at.page.locator(".card.class_skip .lacking").inner_text() == "B: no class token in this network."
    lacking = at.page.locator(".card.skip_removal .lacking p").all_inner_texts()
    assert [text.split(":")[0] for text in lacking] == ["Not measured in A", "Not measured in B"]
    assert lacking[0] == "Not measured in A: vitstudy measure vit-0 --images synthetic --analyses skip_removal"
    assert at.told("skip_removal") == ""


def test_files_of_the_views_below_are_fetched_when_they_come_near(visit):
    at = visit("?a=vit-0&b=resnet-1&view=explore", viewport={"width": 1280, "height": 500})
    asked: list[str] = []
    at.page.on("request", lambda request: asked.append(request.url.rsplit("/", 1)[1]))
    assert at.page.evaluate("vitstudy.explore.below.near") is None
    at.page.locator(".below").scroll_into_view_if_needed()
    at.until("document.querySelectorAll('.card.landscape svg').length === 1")
    assert set(asked) <= {f"{kind}-{n}.json" for kind in ("network", "fields", "weights") for n in (3, 1)}
    assert {"fields-3.json", "fields-1.json"} <= set(asked)


def test_files_that_cannot_be_fetched_are_said_and_asked_for_again(browser, address):
    opened = Visit(browser, address, PAIR.replace("explore", "findings"))
    opened.page.route("**/fields-*.json", lambda route: route.abort())
    opened.page.get_by_role("tab", name="Explore").click()
    opened.until("vitstudy.explore.lensed")
    opened.deep()
    expect(opened.page.locator(".card.fields .none")).to_contain_text("could not be fetched")
    assert opened.page.locator(".card.landscape svg").count() == 1
    opened.page.unroute("**/fields-*.json")
    opened.deep()
    expect(opened.page.locator(".card.fields .none")).to_have_count(0)
    opened.context.close()


def test_the_table_of_a_view_holds_its_numbers(visit, site):
    at = visit(PAIR)
    at.deep()
    card = at.page.get_by_role("region", name="Noise of one frequency", exact=True)
    card.get_by_text("Numbers").click()
    expect(card.locator("tbody tr")).to_have_count(18)
    cells = [row.locator("td").all_inner_texts() for row in card.locator("tbody tr").all()]
    noise = stored(site, f"network-{VIT}")["noise"]
    expected = [str(noise[name][0]).replace("-", "−") for name in ("value", "low", "high")]
    assert [float(cell.replace("−", "-")) for cell in cells[0][2:5]] == [float(x.replace("−", "-")) for x in expected]


ROWS = {  # view -> field and where its numbers are stored
    "lesions": ("value", lambda n: n["lesions"]["value"]),
    "noise": ("low", lambda n: n["noise"]["low"]),
    "corruptions": ("high", lambda n: [e[2] for e in [*n["corruptions"]["kinds"].values(), n["corruptions"]["mean"]]]),
    "localisation": ("value", lambda n: [r[0] for block in n["localisation"]["share"] for r in block]),
    "attacks": ("value", lambda n: [v for name in ("fgsm", "pgd") for v in n["attacks"]["by"][name]["value"]]),
    "tokens": ("high", lambda n: [*n["tokens"]["spatial"][2], n["tokens"]["mean"][2]]),
    "landscape": ("loss", lambda n: n["landscape"]["loss"]),
    "slice": ("high", lambda n: n["landscape"]["rise"]["high"]),
    "norm": ("value", lambda n: n["landscape"]["norm"]),
}


def test_what_is_copied_of_the_views_below_is_what_is_stored(visit, site):
    at = visit(PAIR + "&sel=ab.5.7")
    at.deep()
    networks = [stored(site, f"network-{number}") for number in (VIT, RESNET)]
    for view, (field, read) in ROWS.items():
        rows = at.page.evaluate(f"vitstudy.explore.rows('{view}')")
        expected = [value for network in networks for value in read(network)]
        assert [row[field] for row in rows] == expected, view
        assert {row["checkpoint"] for row in rows} == {"vit-0", "resnet-0"}
    eigenvalues = at.page.evaluate("vitstudy.explore.rows('hessian')")
    tops = [row["value"] for row in eigenvalues if row["what"] == "eigenvalue, top"]
    assert tops == [value for network in networks for batch in network["hessian"]["top"] for value in batch]
    cosines = np.frombuffer(base64.b64decode(stored(site, f"weights-{VIT}")["positions"]["cosine"]), np.uint8)
    alike = at.page.evaluate("vitstudy.explore.rows('positions')")
    assert [round(100 * row["cosine"]) + 100 for row in alike] == cosines.tolist()
    assert [list(alike[18].values())[1:5]] == [[1, 2, 1, 3]], "place, and the other"
    filters = at.page.evaluate("vitstudy.explore.rows('filters')")
    assert [row["share_of_variance"] for row in filters] == stored(site, f"weights-{VIT}")["filters"]["share"]
    pixels = at.page.evaluate("vitstudy.explore.rows('fields')")
    field = np.frombuffer(base64.b64decode(stored(site, f"fields-{RESNET}")["receptive"]["picture"][7]), np.uint8)
    shares = [row["share_of_peak"] for row in pixels if row["checkpoint"] == "resnet-0"]
    assert shares == pytest.approx((10.0 ** (3 * (field / 256 - 1))).tolist(), rel=5.1e-3)


# ------------------------------------------------------------------------------------------- measures, differences


def test_another_measure_is_drawn_said_and_linked(visit, site):
    at = visit(PAIR + "&sel=ab.4.6")
    at.page.get_by_label("Measure of similarity").select_option(label="Shared neighbours")
    at.until("vitstudy.explore.readout.textContent.includes('Shared neighbours')")
    found = stored(site, "measures-0-3")["measures"]["knn"]
    text = cell_text(found, 6 * 17 + 4)
    assert at.readout() == (
        f"{text} Shared neighbours of block01.mlp of A and block05 of B, n = {N} images; "
        f"unrelated images give {found['chance']:.3f}"
    )
    cells = np.array(found["cka"], float).reshape(9, 17).T[::-1]
    expected = colours_of("magma", np.clip(256 * np.nan_to_num(cells) / 1000, 0, 255).astype(int))
    defined = np.isfinite(cells)
    assert (painted(at, "image[data-map=ab]") == expected)[defined].all()
    at.until("location.search.includes('measure=knn')")
    fresh = visit(at.page.evaluate("location.search"))
    assert fresh.readout() == at.readout()


def test_the_best_match_is_that_of_the_measure(visit, site):
    at = visit(PAIR + "&measure=rsa")
    cells = np.array(stored(site, "measures-0-3")["measures"]["rsa"]["cka"], float).reshape(9, 17).T
    best = np.nan_to_num(cells, nan=-9e9).argmax(0).tolist()
    assert at.page.evaluate("vitstudy.explore.bestRows") == best
    assert at.page.locator(".map .knot").count() == 9


def difference(site: Path, at: int) -> tuple[str, list[int]]:
    """What the difference of vit-0 and HOSTILE over resnet-0 must say of a cell, and its numbers."""
    first, second = (stored(site, name)["map"] for name in ("pair-0-3", "pair-0-4"))
    value = first["cka"][at] - second["cka"][at]
    low = value - first["below"][at] - second["above"][at]
    high = value + first["above"][at] + second["below"][at]
    signs = [f"{x / 1000:+.3f}".replace("+0.000", "0.000").replace("-", "−") for x in (value, low, high)]
    return f"{signs[0]} [{signs[1]}, {signs[2]}]", [value, low, high]


def test_a_map_is_subtracted_with_its_own_scale_and_interval(visit, site):
    at = visit(PAIR + "&sel=ab.4.6")
    at.page.get_by_label("difference").check()
    at.until("vitstudy.explore.lensed.top !== null")
    assert at.page.evaluate("vitstudy.state.minus") == [4, 1]
    at.page.get_by_label("Subtract the map of, instead of B").select_option(label="resnet-0")
    at.until("vitstudy.state.minus[1] === 0 && vitstudy.explore.readout.textContent.includes('resnet-0')")
    text, _ = difference(site, 6 * 17 + 4)
    assert at.readout().startswith(f"{text} CKA: ")
    assert HOSTILE in at.readout()
    first, second = (np.array(stored(site, f"pair-0-{n}")["map"]["cka"], float).reshape(9, 17).T for n in (3, 4))
    top = at.page.evaluate("vitstudy.explore.lensed.top")
    gaps = [first - second, *(at_own(site, 3) - at_own(site, 4), np.zeros((9, 9)))]
    assert top == max(50, 50 * np.ceil(max(np.nanmax(np.abs(gap)) for gap in gaps) / 50))
    share = (gaps[0][::-1] + top) / (2 * top)
    expected = colours_of("RdBu_r", np.clip(256 * np.nan_to_num(share), 0, 255).astype(int))
    defined = np.isfinite(share)
    assert defined.sum() > 100
    assert (painted(at, "image[data-map=ab]") == expected)[defined].all()
    bar = at.page.locator(".card.cka .tick").all_text_contents()[-3:]
    assert bar == [f"−{top / 1000:.2f}", "0.00", f"+{top / 1000:.2f}"]
    assert at.page.locator(".map .knot").count() == 9, "the best match stays"
    at.until("location.search.includes('minus_b=resnet-0')")
    fresh = visit(at.page.evaluate("location.search"))
    assert fresh.readout() == at.readout()


def at_own(site: Path, number: int) -> np.ndarray:
    return np.array(stored(site, f"checkpoint-{number}")["map"]["cka"], float).reshape(17, 17)


@pytest.mark.parametrize(
    "minus", ["minus_a=resnet-0&minus_b=resnet-1", "minus_a=vit-elsewhere&minus_b=resnet-1", "minus_a=x"]
)
def test_what_cannot_be_subtracted_is_not(visit, minus):
    at = visit(f"{PAIR}&{minus}&measure=__proto__")
    assert at.page.evaluate("[vitstudy.state.minus, vitstudy.state.measure, vitstudy.explore.lensed.top]") == [
        None,
        "cka",
        None,
    ]
    assert not at.page.get_by_label("difference").is_checked()


@pytest.mark.parametrize(("claim", "view"), [("P-F2-conv", "fourier"), ("P-H1", "hessian")])
def test_evidence_opens_the_view_that_shows_it(visit, claim, view):
    at = visit(f"?a=vit-0&b=resnet-0&view=findings&claim={claim}")
    at.page.locator(f"#vs-claim-{claim}").get_by_role("button", name="See evidence").click()
    at.until(f"document.querySelector('.card.{view}.asked') !== null")
    if view == "hessian":
        at.until("document.querySelector('.card.hessian svg') !== null")
        at.until("Math.abs(document.querySelector('.card.hessian').getBoundingClientRect().top - 300) < 400")


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
    at.deep()
    nameless = at.page.evaluate(
        """[...document.querySelectorAll("button, select, input, [role=application]")]
          .filter((node) => node.offsetParent !== null && !(node.textContent.trim() || node.getAttribute("aria-label")
            || node.labels?.[0]?.textContent.trim()))
          .map((node) => node.outerHTML)"""
    )
    assert nameless == []
    stops = at.page.locator("[role=application]").evaluate_all("nodes => nodes.map((node) => node.tabIndex)")
    assert len(stops) == 13, (
        "three maps; noise, corruptions, attacks, three rasters, curvature, surface, rise and norm"
    )
    assert set(stops) == {0}


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


def test_what_is_on_its_way_is_not_read_off_the_views_of_before(visit):
    at = visit(PAIR)
    at.deep()
    before = at.readout()
    held: list = []
    at.page.route("**/pair-0-4.json", lambda route: held.append(route))
    at.page.get_by_label("Checkpoint A").select_option(index=4)
    expect(at.page.locator(".status")).to_have_text("Loading …")
    at.page.set_viewport_size({"width": 1100, "height": 900})  # all is drawn again when the width changes
    at.page.evaluate("vitstudy.explore.move()")
    at.page.wait_for_timeout(200)
    expect(at.page.locator(".views")).to_have_css("opacity", "0.45")
    box = at.page.locator(".catch[data-of=ab]").bounding_box()
    at.page.mouse.click(box["x"] + 10, box["y"] + 10)
    assert at.page.evaluate("[vitstudy.state.sel, vitstudy.state.pinned]") == [None, False]
    assert at.readout() == before
    for part in (".pin", ".catch", ".menu summary"):
        at.page.evaluate(f"document.querySelector('{part}').focus()")
        assert at.page.evaluate("document.activeElement.closest('.views')") is None, "keys do not reach it either"
    held[0].continue_()
    at.until("vitstudy.explore.current")
    expect(at.page.locator(".views")).to_have_css("opacity", "1")
    at.point("ab", 1, 1)
    assert at.page.evaluate("vitstudy.explore.rows('cka')[0].rows") == HOSTILE
    assert at.readout() != before


def test_files_of_views_below_that_come_for_an_earlier_choice_are_dropped(visit):
    at = visit(PAIR)
    held: list = []
    at.page.route("**/network-*.json", lambda route: held.append(route))
    at.page.route("**/pair-0-4.json", lambda route: held.append(route))
    at.page.evaluate("void vitstudy.explore.below.come()")
    at.until("vitstudy.explore.below.loaded === '3 0'")
    at.page.get_by_label("Checkpoint A").select_option(index=4)
    expect(at.page.locator(".status")).to_have_text("Loading …")
    at.until("vitstudy.files.has('pair-0-4.json')")
    for route in [route for route in held if "network" in route.request.url]:
        route.continue_()
    at.until("vitstudy.explore.below.files.network !== undefined")
    at.page.wait_for_timeout(100)
    for route in [route for route in held if "pair" in route.request.url]:
        route.continue_()
    at.page.unroute("**/network-*.json")
    at.until("vitstudy.explore.current && vitstudy.explore.below.loaded === '4 0'")


def test_a_measure_chosen_by_keys_keeps_the_keys(visit):
    at = visit(PAIR)
    held: list = []
    at.page.route("**/measures-0-3.json", lambda route: held.append(route))
    measure = at.page.get_by_label("Measure of similarity")
    measure.focus()
    at.page.keyboard.press("ArrowDown")
    at.until("document.activeElement === document.body")
    at.page.wait_for_timeout(50)
    assert held
    held[0].continue_()
    at.until("vitstudy.explore.current")
    expect(measure).to_be_focused()


def test_the_address_of_evidence_names_its_cell_when_this_is_known(visit):
    at = visit("?a=resnet-1&b=resnet-0")
    held: list = []
    at.page.route("**/checkpoint-*.json", lambda route: held.append(route))
    at.page.get_by_role("button", name="See evidence").first.click()
    at.until("location.search.includes('view=') && !location.search.includes('view=findings')")
    assert "sel=" not in at.page.evaluate("location.search")
    assert held
    at.page.unroute("**/checkpoint-*.json")  # lets go of those that were held as well
    at.until(r"/sel=(aa|ab|bb)\.\d+\.\d+/.test(location.search)")


def test_back_to_the_pair_that_is_held_nothing_is_loading(visit):
    at = visit(PAIR)
    held: list = []
    at.page.route("**/pair-0-4.json", lambda route: held.append(route))
    choose = at.page.get_by_label("Checkpoint A")
    choose.select_option(index=4)
    expect(at.page.locator(".status")).to_have_text("Loading …")
    choose.select_option(index=3)
    expect(at.page.locator(".status")).to_have_text("")
    held[0].continue_()
    at.until("vitstudy.files.get('pair-0-4.json').then((file) => file.b === 4)")
    expect(at.page.locator(".status")).to_have_text("")


def test_a_swap_turns_evidence_that_is_on_its_way_and_what_is_subtracted(visit):
    at = visit("?a=resnet-1&b=resnet-0")
    at.page.route("**/data/*.json", lambda route: None)
    at.page.get_by_role("button", name="See evidence").first.click()
    at.until("vitstudy.state.sel?.depths")
    before = at.page.evaluate("[vitstudy.state.a, vitstudy.state.b, vitstudy.state.sel]")
    at.page.get_by_role("button", name="Swap A and B").click()
    after = at.page.evaluate("[vitstudy.state.b, vitstudy.state.a, vitstudy.state.sel]")
    assert after[:2] == before[:2]
    assert after[2] == {
        "of": {"aa": "bb", "bb": "aa", "ab": "ab"}[before[2]["of"]],
        "depths": before[2]["depths"][:: -1 if before[2]["of"] == "ab" else 1],
    }
    at.page.unroute("**/data/*.json")  # lets go of those that were held as well
    at.until("vitstudy.explore.current")
    assert "undefined" not in at.readout()
    at = visit("?a=resnet-0&b=vit-0&view=cka&minus_a=resnet-1&minus_b=vit-0&sel=ab.2.3")
    before = at.readout().split(" difference")[0].split(" CKA")[0]
    at.page.get_by_role("button", name="Swap A and B").click()
    at.until("vitstudy.explore.has === '3 0' && vitstudy.explore.current")
    assert at.page.evaluate("vitstudy.state.minus") == [3, 1]
    assert at.readout().startswith(before)


def test_a_view_that_comes_late_is_not_gone_to(visit):
    at = visit("?a=vit-0&b=resnet-1&view=findings")
    held: list = []
    at.page.route("**/network-*.json", lambda route: held.append(route))
    at.page.evaluate("void vitstudy.go({view: 'landscape'})")
    at.until("vitstudy.explore.below.loaded")
    at.page.evaluate("window.scrollTo(0, 0); void vitstudy.go({view: 'fourier'})")
    at.page.wait_for_timeout(200)
    assert held
    at.page.unroute("**/network-*.json")
    at.until("vitstudy.explore.below.trouble('network') === null")
    at.page.wait_for_timeout(200)
    assert at.page.evaluate("scrollY") == 0
    assert at.page.locator(".asked").count() == 1
    expect(at.page.locator(".card.fourier.asked")).to_be_visible()


def test_a_part_below_that_could_not_be_fetched_has_a_button_to_try_again(browser, address):
    at = Visit(browser, address, PAIR.replace("explore", "findings"))
    at.page.route("**/fields-*.json", lambda route: route.abort())
    at.page.get_by_role("tab", name="Explore").click()
    at.until("vitstudy.explore.current")
    at.deep()
    again = at.page.get_by_role("button", name="Try again: ")
    expect(again).not_to_have_count(0)
    at.page.unroute("**/fields-*.json")
    again.first.click()
    expect(again).to_have_count(0)
    at.context.close()


def test_keys_stay_where_they_were_when_the_width_changes(visit):
    at = visit(PAIR)
    at.page.locator(".catch[data-of=ab]").focus()
    drawn = at.page.locator("svg.maps").element_handle()
    at.page.set_viewport_size({"width": 1000, "height": 900})
    drawn.wait_for_element_state("hidden")  # another takes its place
    at.page.wait_for_timeout(100)
    before = at.state()
    at.page.keyboard.press("ArrowUp")
    assert at.state() != before


def test_a_measure_that_cannot_be_had_leaves_the_address(browser, address):
    at = Visit(browser, address, PAIR)
    at.page.route("**/measures-*.json", lambda route: route.abort())
    at.page.get_by_label("Measure of similarity").select_option(index=1)
    expect(at.page.locator(".toast")).to_have_text("These maps could not be fetched")
    at.page.wait_for_timeout(200)
    assert "measure=" not in at.page.evaluate("location.search")
    at.context.close()


def test_methods_of_views_without_a_number_of_images_say_no_untruth(visit):
    at = visit(PAIR)
    at.deep()
    for title in ("Position embeddings", "Filters of the first layer", "The weights' norm along it"):
        card = at.page.get_by_role("region", name=title, exact=True)
        card.get_by_role("button", name="Method").click()
        shown = at.page.evaluate(
            f"['a', 'b'].map((side) => vitstudy.explore.rows('{card.get_attribute('class').split()[1]}')"
            ".some((row) => row.checkpoint === vitstudy.explore.name(side)))"
        )
        for known, text in zip(shown, card.locator(".beside dd").all_inner_texts()[-2:], strict=True):
            assert text.startswith("not shown here") != known


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
    at.take("Which places are alike", "JSON")
    expect(at.page.locator(".toast")).to_have_text("JSON copied")
    cells = json.loads(at.page.evaluate("navigator.clipboard.readText()"))
    assert len(cells) == 17 * 17 + 17 * 9 + 9 * 9
    one = next(
        cell for cell in cells if (cell["map"], cell["row"], cell["column"]) == ("ab", "block02.mlp", "block03")
    )
    found, at_cell = stored(site, "pair-0-3")["map"], 4 * 17 + 6
    assert one["cka"] == found["cka"][at_cell] / 1000
    assert one["low"] == pytest.approx((found["cka"][at_cell] - found["below"][at_cell]) / 1000)
    at.take("Variance", "CSV")
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
        at.take(title, "PNG")
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
    at.deep()
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
    if view == "explore":
        at.deep()
        assert at.page.locator(".below svg").count() >= 10
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
    opened.deep()
    assert opened.page.locator(".card.landscape svg").count() == 1
    expect(opened.page.locator(".card.fields .none")).to_contain_text("python -m http.server")
    opened.page.get_by_label("Checkpoint A").select_option(index=2)
    expect(opened.page.locator(".status")).to_contain_text("python -m http.server")
    opened.context.close()


def test_a_file_that_cannot_be_fetched_is_said_and_asked_for_again(browser, address):
    opened = Visit(browser, address, "?view=explore")
    opened.page.route("**/checkpoint-2.json", lambda route: route.abort())
    opened.page.get_by_label("Checkpoint A").select_option(label="vit-elsewhere")
    expect(opened.page.locator(".status")).to_contain_text("could not be fetched")
    expect(opened.page.locator(".below")).to_be_hidden()
    opened.page.unroute("**/checkpoint-2.json")
    opened.page.get_by_role("button", name="Try again").click()
    expect(opened.page.locator(".status")).to_have_text("")
    opened.point("aa", 2, 2)
    assert "n = 32 images" in opened.readout()
    opened.context.close()
