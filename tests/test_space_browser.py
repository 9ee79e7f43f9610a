"""The served comparison in a real browser: the renderer inside Gradio's page, examples, images of one's own.

Nothing outside is asked for, nothing is an error, every number is that of the stored or of the server's own answer.
"""

import base64
import io
import json
import re
import time

import numpy as np
import pytest
from browsing import Visit, launched, sync_api, violations
from conftest import smooth_images
from space_server import serving

from hf_vitstudy.space_release import EXAMPLES_FILE, default_data
from hf_vitstudy.viewer.bundle import Packed


expect = sync_api().expect
httpx = pytest.importorskip("httpx", reason="gradio is not installed; pip install 'hf_vitstudy[space]'")
PIL = pytest.importorskip("PIL.Image")
BUNDLED = """
import threading
from hf_vitstudy.space import make_app
print(make_app().launch("127.0.0.1", wait=False), flush=True)
threading.Event().wait()
"""
READY = 60_000  # of a server on a busy machine


@pytest.fixture(scope="module")
def browser():
    with launched() as started:
        yield started


class Space(Visit):
    """A visit that ends with nothing wrong."""

    def ready(self) -> None:
        self.page.wait_for_selector(".vs[data-ready=true]", timeout=READY)

    def forgive(self, *told: str) -> None:
        """What the browser itself notes of answers that a test wanted; it may come late."""
        for text in told:
            end = time.monotonic() + 10
            while not (found := [each for each in self.wrong if text in each]):
                assert time.monotonic() < end, (text, self.wrong)
                self.page.wait_for_timeout(20)
            self.wrong.remove(found[0])

    def looked(self, turn: int) -> None:
        self.page.wait_for_selector(f".image[data-looked='{turn}']", timeout=READY)
        self.page.wait_for_selector(".sweep svg", timeout=READY)

    def loaded(self) -> None:
        self.page.wait_for_selector("[data-live=ready]", timeout=READY)

    def said(self, side: str) -> str:
        return self.page.locator(f".look.{side} .said").inner_text()

    def top(self, side: str) -> list[str]:
        return self.page.locator(f".look.{side} .bars li").all_inner_texts()

    def pixels(self, side: str) -> np.ndarray:
        """What is drawn, (height, width, 4)."""
        address = self.page.evaluate(f"document.querySelector('.look.{side} canvas').toDataURL()")
        return np.array(PIL.open(io.BytesIO(base64.b64decode(address.split(",")[1]))).convert("RGBA"))


@pytest.fixture
def visit(browser, space_address):
    visits: list[Space] = []

    def go(search: str = "", **context) -> Space:
        visits.append(Space(browser, f"{space_address}/", search, **context))
        return visits[-1]

    yield go
    for each in visits:
        each.context.close()
        assert each.wrong == []


@pytest.fixture(scope="module")
def stored() -> dict:
    """The examples, by the names of their parts."""
    packed = Packed(default_data() / EXAMPLES_FILE)
    names = ["index.json", *(f"{k}{part}.json" for k in range(6) for part in ("", "-attention"))]
    return {name: json.loads(packed.read(name)) for name in names}


def shown(p: float) -> str:
    return "< 0.1 %" if p < 0.001 else f"{100 * p:.1f} %"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_ticked_box_does_not_look_empty(visit, scheme):
    """Gradio's own ticks are white on a colour that our boxes lack."""
    page = visit("?view=cka", color_scheme=scheme)
    page.ready()
    box = page.page.get_by_label("best match")
    pictures = []
    for ticked in (True, False):
        box.set_checked(ticked)
        page.page.mouse.move(0, 0)
        pixels = np.array(PIL.open(io.BytesIO(box.screenshot())).convert("L"), float)
        pictures.append(pixels[3:-3, 3:-3])
    assert np.abs(pictures[0] - pictures[1]).mean() > 50


def bars(top: list) -> list[str]:
    return [f"{name}\n{shown(p)}" for name, p in top]


# ------------------------------------------------------------------------------------------------- the page in Gradio


def test_a_link_opens_the_same_state_as_on_the_static_page(visit):
    page = visit("?a=vit-0&b=resnet-1&view=cka&sel=ab.5.3")
    assert page.state() | {"sel": 0} == {
        "a": 3,
        "b": 1,
        "view": "cka",
        "of": "ab",
        "i": 5,
        "j": 3,
        "pinned": True,
        "sel": 0,
    }
    assert page.boxed()["ab"] == [[5, 3]]
    page.page.get_by_role("tab", name="Findings").click()
    page.until("location.search.includes('view=findings')")
    assert "a=vit-0&b=resnet-1" in page.page.url


def test_copy_link_is_that_of_the_space(browser, visit):
    page = visit("?a=vit-0&b=resnet-0&view=cka&sel=ab.2.1", permissions=["clipboard-read", "clipboard-write"])
    page.page.get_by_role("button", name="Copy link").click()
    expect(page.page.locator(".toast")).to_have_text("Link copied")
    copied = page.page.evaluate("navigator.clipboard.readText()")
    assert copied == "https://huggingface.co/spaces/org/space?a=vit-0&b=resnet-0&view=cka&sel=ab.2.1"


def test_snippets_name_what_is_selected_and_work(visit, space_address):
    page = visit("?a=vit-0&b=resnet-1&view=cka&sel=ab.5.3")
    page.page.get_by_role("tab", name="Methods").click()
    text = page.page.locator("#vs-methods").inner_text()
    names = page.page.evaluate("['a', 'b'].map((side) => vitstudy.explore.pair[side].places.name)")
    words = ["vit-0", "resnet-1", names[0][5], names[1][3]]
    assert 'Client("org/space")' in text
    assert ", ".join(json.dumps(word) for word in words) in text
    body = re.search(r"-d '(.*?)'\n?", text)[1]
    assert json.loads(body) == {"data": words}
    answer = httpx.post(
        f"{space_address}/gradio_api/run/cka", content=body, headers={"Content-Type": "application/json"}, timeout=60
    )
    found = json.loads(answer.json()["data"][0])
    assert page.page.locator("#vs-methods pre").count() >= 6
    page.page.get_by_role("tab", name="Explore").click()
    assert page.readout().startswith(f"{found['cka']:.3f} [{found['low']:.3f}, {found['high']:.3f}]")
    assert f"{space_address}/gradio_api/mcp/" in text


HOSTILE_LINKS = [
    "?a=%3Cimg%20src%3Dx%20onerror%3Dalert(1)%3E&view=image&sel=ab.999.999",
    "?view=constructor&a=__proto__&b=toString&claim=%3Cscript%3E&sel=aa.-1.0",
    "?view=image&a=" + "a" * 5000,
    "?__theme=dark&__sign=x&view=%00",
]


@pytest.mark.parametrize("search", HOSTILE_LINKS, ids=lambda text: text[:24])
def test_a_hostile_link_opens_the_page(visit, search):
    page = visit(search)
    assert page.state()["a"] in (3, 4)
    assert page.page.title() == "A <b>study</b> & more"
    assert page.page.locator("img[src=x]").count() == 0


# ------------------------------------------------------------------------------------------------------------ examples


def test_examples_are_drawn_from_stored_answers(visit, stored):
    page = visit("?view=image")
    page.looked(1)
    assert page.page.locator(".example").count() == 6
    for turn, number in enumerate((0, 4), 2):
        page.page.locator(".example").nth(number).click()
        page.looked(turn)
        first = stored[f"{number}.json"]["first"]["sides"]
        assert [page.top(side) for side in "ab"] == [bars(side["top"]) for side in first]
    expect(page.page.locator(".example").nth(4)).to_have_attribute("aria-pressed", "true")


def attention(answer: dict, query: int, head: int | None) -> np.ndarray:
    shape = answer["heads"], answer["tokens"], answer["tokens"]
    weights = np.frombuffer(base64.b64decode(answer["weights"]), np.uint8).reshape(shape) / 255
    peak = np.frombuffer(base64.b64decode(answer["peak"]), "<f4").reshape(shape[:2])
    rows = (weights * peak[..., None])[:, query]
    return rows.mean(0) if head is None else rows[head]


def test_attention_follows_the_pointer_the_layer_and_the_head(visit, stored):
    page = visit("?view=image")
    page.looked(1)
    about, answers = stored["index.json"]["sides"][0], stored[f"{stored['index.json']['start']}-attention.json"]
    rows, columns = about["grid"]
    canvas = page.page.locator(".look.a canvas")
    box = canvas.bounding_box()
    page.page.mouse.move(box["x"] + box["width"] * 2.5 / columns, box["y"] + box["height"] * 3.5 / rows)
    page.page.get_by_label("Attention layer").fill("9")
    page.page.get_by_role("button", name="Head 2").click()
    page.page.mouse.move(box["x"] + box["width"] * 2.5 / columns, box["y"] + box["height"] * 3.5 / rows)
    row = attention(answers["attention"][0][9], about["prefix"] + 3 * columns + 2, 1)[about["prefix"] :]
    at = int(row.argmax())
    expected = f"Row 4, column 3 looks most at row {at // columns + 1}, column {at % columns + 1}: {shown(row.max())}"
    expect(page.page.locator(".look.a .said")).to_contain_text(expected)
    light = (
        page.pixels("a")
        .astype(float)
        .sum(2)
        .reshape(rows, 384 // rows, columns, -1)[:, 12:-12, :, 12:-12]
        .mean((1, 3))
    )
    page.page.mouse.move(0, 0)
    shade = row.reshape(rows, columns) / row.max()
    assert np.corrcoef(light.ravel(), shade.ravel())[0, 1] > 0.5
    assert page.said("a").startswith("The class token looks most at")


def test_a_renderer_that_comes_after_the_page_is_loaded_draws_it(browser, space_address):
    context = browser.new_context()
    page = context.new_page()
    held: list = []
    page.route("**/viz.js", lambda route: held.append(route))
    page.goto(f"{space_address}/?view=findings")
    page.wait_for_load_state("load")
    page.wait_for_selector(".vs .waiting", timeout=READY)
    assert len(held) == 1
    held[0].continue_()
    page.wait_for_selector(".vs[data-ready=true]", timeout=READY)
    context.close()


@pytest.mark.parametrize("answer", [lambda route: route.abort(), lambda route: route.fulfill(status=503, body="{}")])
def test_numbers_that_did_not_come_are_asked_for_again(browser, space_address, answer):
    context = browser.new_context()
    page = context.new_page()
    page.route("**/study.json", answer)
    page.goto(f"{space_address}/?view=findings")
    expect(page.locator(".vs")).to_have_text("The numbers could not be fetched. Try again", timeout=READY)
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".vs")).to_have_text("The numbers could not be fetched. Try again", timeout=READY)
    page.unroute("**/study.json")
    page.get_by_role("button", name="Try again").click()
    page.wait_for_selector(".vs[data-ready=true]", timeout=READY)
    assert page.locator(".waiting").count() == 0
    context.close()


def test_layers_that_did_not_come_are_asked_for_again(visit):
    page = visit("?view=image")
    page.looked(1)
    page.page.route("**/*-attention.json", lambda route: route.abort())
    slider = page.page.get_by_label("Attention layer")
    slider.fill("9")
    told = page.page.locator(".image > .told")
    expect(told).to_have_text("The server did not answer. Please try again.")
    page.page.unroute("**/*-attention.json")
    slider.fill("8")
    expect(page.page.locator(".look.a .said")).to_contain_text("(block08, ")
    expect(told).to_have_text("")
    assert page.wrong.pop().startswith("Failed to load resource")


def test_a_place_is_kept_and_moved_by_keys_in_both_networks(visit, stored):
    page = visit("?view=image")
    page.looked(1)
    page.page.locator(".look.a canvas").focus()
    for key in ("ArrowUp", "ArrowLeft", "ArrowLeft"):
        page.page.keyboard.press(key)
    expect(page.page.locator(".look.a .said")).to_contain_text("Row 3, column 2 looks most")
    field = stored[f"{stored['index.json']['start']}.json"]["field"][1]
    block = int(page.page.get_by_role("slider", name="Block").input_value())
    radius = field[block][2 * 6 + 1]["radius"]
    text = f"half of its gradient from within {radius[0]:g} px, 95 % from within {radius[1]:g} px"
    expect(page.page.locator(".look.b .said")).to_contain_text(text)
    page.page.keyboard.press("Escape")
    expect(page.page.locator(".look.a .said")).to_contain_text("The class token looks most")


def test_the_slider_moves_both_predictions(visit, stored):
    page = visit("?view=image")
    page.looked(1)
    slider = page.page.get_by_label("Frequencies kept")
    for stop in (2, 15, 8):
        slider.fill(str(stop))
        for side in (0, 1):
            expected = bars(stored[f"{stored['index.json']['start']}.json"]["sweep"][side][stop]["top"])
            expect(page.page.locator(f".look.{'ab'[side]} .bars li .name")).to_have_text(
                [text.split("\n")[0] for text in expected]
            )
            assert page.top("ab"[side]) == expected
    expect(slider).to_have_attribute("aria-valuetext", "as it is")


# ------------------------------------------------------------------------------------------------------ one's own image


def encoded(seed: int, size: int = 48) -> bytes:
    file = io.BytesIO()
    PIL.fromarray(smooth_images(1, size, seed)[0]).save(file, "PNG")
    return file.getvalue()


def send(page: Space, content: bytes, name: str = "mine.png", kind: str = "image/png") -> None:
    page.page.set_input_files("input[type=file]", {"name": name, "mimeType": kind, "buffer": content})


def test_an_image_of_ones_own_is_looked_at(visit, space_address):
    page = visit("?view=image")
    page.looked(1)
    page.loaded()
    send(page, encoded(3))
    page.looked(2)
    told = httpx.post(f"{space_address}/vitstudy/look?want=all&layer=1", content=encoded(3), timeout=60).json()
    assert [page.top(side) for side in "ab"] == [bars(side["top"]) for side in told["sides"]]
    assert [page.page.locator(f".look.{side} h2").inner_text() for side in "ab"] == ["small-vit", "small-resnet"]
    page.page.locator(".look.b canvas").click(position={"x": 40, "y": 40})
    expect(page.page.locator(".look.b .said")).to_contain_text("At row 1, column 1, ")
    page.page.get_by_label("Frequencies kept").fill("0")
    expect(page.page.locator(".frequencies .said")).to_contain_text("only frequencies below 0.05 π kept")


def test_a_map_that_comes_late_is_not_that_of_the_next_image(visit):
    page = visit("?view=image")
    page.looked(1)
    held: list = []
    page.page.route("**/*-attention.json", lambda route: held.append(route))
    slider = page.page.get_by_label("Attention layer")
    slider.fill("0")
    page.page.wait_for_timeout(100)
    page.page.locator(".example").last.click()
    page.looked(2)
    assert len(held) == 1
    page.page.unroute("**/*-attention.json")  # lets go of it
    page.page.wait_for_timeout(300)
    slider.fill("0")
    expect(page.page.locator(".look.a .said")).to_contain_text("(block00, ")
    fresh = visit("?view=image")
    fresh.looked(1)
    fresh.page.locator(".example").last.click()
    fresh.looked(2)
    fresh.page.get_by_label("Attention layer").fill("0")
    expect(fresh.page.locator(".look.a .said")).to_contain_text("(block00, ")
    assert page.said("a") == fresh.said("a")
    assert (page.pixels("a") == fresh.pixels("a")).all()


def test_a_map_that_comes_late_is_not_painted_over_a_filtered_image(visit):
    page = visit("?view=image")
    page.looked(1)
    held: list = []
    page.page.route("**/*-attention.json", lambda route: held.append(route))
    page.page.get_by_label("Attention layer").fill("0")
    page.page.wait_for_timeout(100)
    page.page.get_by_label("Frequencies kept").fill("0")
    before = page.pixels("a")
    assert held
    page.page.unroute("**/*-attention.json")
    page.page.wait_for_timeout(400)
    assert (page.pixels("a") == before).all()
    assert page.said("a") == ""


def test_a_chosen_first_block_stays_chosen(visit):
    page = visit("?view=image")
    page.looked(1)
    block = page.page.get_by_role("slider", name="Block")
    block.fill("0")
    page.page.locator(".example").last.click()
    page.looked(2)
    assert block.input_value() == "0"


def test_of_fewer_heads_the_one_that_is_shown_is_pressed(visit):
    page = visit("?view=image")
    page.looked(1)
    page.loaded()
    heads = page.page.locator(".look.a .attention-head")
    before = heads.count()
    heads.last.click()
    send(page, encoded(3))
    page.looked(2)
    assert heads.count() < before
    pressed = page.page.locator(".look.a .attention-head[aria-pressed=true]")
    assert f"head {pressed.inner_text()})" in page.said("a")


def test_the_credit_of_an_example_goes_with_it_and_stays_where_a_file_is_refused(visit):
    page = visit("?view=image")
    page.looked(1)
    page.loaded()
    credit, pressed = page.page.locator(".credits span"), page.page.locator(".example[aria-pressed=true]")
    before = credit.inner_text()
    assert before
    send(page, b"no image")
    expect(page.page.locator(".image > .told")).to_contain_text("cannot be read as an image")
    assert (credit.inner_text(), pressed.count()) == (before, 1)
    page.forgive("422")
    send(page, encoded(3))
    page.looked(3)
    assert (credit.inner_text(), pressed.count()) == ("", 0)


def test_an_image_sent_before_the_examples_come_is_not_dropped_for_them(visit):
    page = visit("?view=findings")
    held: list = []
    page.page.route("**/examples/index.json", lambda route: held.append(route))
    page.page.get_by_role("tab", name="Your image").click()
    page.loaded()
    send(page, encoded(3))
    page.page.unroute("**/examples/index.json")
    page.looked(1)
    page.page.wait_for_selector(".example")
    page.page.wait_for_timeout(300)
    assert page.page.locator(".look.a h2").inner_text() == "small-vit"
    assert page.page.locator(".example[aria-pressed=true]").count() == 0


def test_a_refused_file_does_not_stop_the_sweep_of_the_image_before(visit):
    page = visit("?view=image")
    page.looked(1)
    page.loaded()
    page.page.route("**/look?want=sweep*", lambda route: None)
    send(page, encoded(3))
    page.page.wait_for_selector(".image[data-looked='2']")
    expect(page.page.locator(".frequencies")).to_contain_text("Being looked at")
    send(page, b"no image")
    expect(page.page.locator(".image > .told")).to_contain_text("cannot be read as an image")
    page.forgive("422")
    page.page.unroute("**/look?want=sweep*")
    page.page.wait_for_selector(".sweep svg", timeout=READY)


def test_what_did_not_come_is_said_and_can_be_had_later(visit):
    page = visit("?view=findings")
    told = page.page.locator(".image > .told")
    page.page.route("**/vitstudy/live", lambda route: route.abort())
    page.page.route("**/examples/index.json", lambda route: route.abort())
    page.page.get_by_role("tab", name="Your image").click()
    expect(told).to_have_text("The examples could not be fetched. Try again")
    expect(page.page.locator(".why")).to_have_text("The server does not answer; it is asked again.")
    page.page.unroute("**/examples/index.json")
    page.page.unroute("**/vitstudy/live")
    told.get_by_role("button").click()
    page.looked(1)
    page.loaded()
    page.page.route("**/examples/2.json", lambda route: route.abort())
    page.page.locator(".example").nth(2).click()
    expect(told).to_have_text("This example could not be fetched. Please try again.")
    page.page.route(
        "**/look?want=all*", lambda route: route.fulfill(status=502, body="<html>", content_type="text/html")
    )
    send(page, encoded(3))
    expect(told).to_have_text("The server did not answer. Please try again.")
    page.forgive("502", *["net::ERR_FAILED"] * sum("net::ERR_FAILED" in text for text in page.wrong))


def test_that_people_wait_is_not_said_when_they_no_longer_do(visit):
    page = visit("?view=image")
    page.looked(1)
    page.loaded()
    busy = {"error": "Many people are looking.", "again": 0.5}
    turns: list = []

    def answer(route) -> None:
        turns.append(route)
        route.fulfill(status=503, json=busy) if len(turns) == 1 else route.continue_()

    page.page.route("**/look?want=sweep*piece=1*", answer)
    send(page, encoded(3))
    page.looked(2)
    page.page.wait_for_timeout(500)
    assert len(turns) > 1
    expect(page.page.locator(".image > .told")).to_have_text("")
    page.forgive("503")


def test_an_answer_takes_back_only_its_own_complaint(visit):
    """A map that arrives must not wipe what was said of a refused file."""
    page = visit("?view=image")
    page.looked(1)
    page.loaded()
    send(page, encoded(3))
    page.looked(2)
    held: list = []
    page.page.route("**/look?want=field*", lambda route: held.append(route))
    page.page.get_by_role("slider", name="Block").fill("1")
    page.page.wait_for_timeout(300)
    assert held
    send(page, b"no image")
    told = page.page.locator(".image > .told")
    expect(told).to_contain_text("cannot be read as an image")
    page.page.unroute("**/look?want=field*")
    page.page.wait_for_timeout(500)
    expect(told).to_contain_text("cannot be read as an image")
    page.forgive("422")


def test_the_chart_of_frequencies_is_never_stretched(visit):
    page = visit("?view=image")
    page.looked(1)
    page.page.set_viewport_size({"width": 390, "height": 844})
    page.page.wait_for_timeout(300)
    box = page.page.locator(".sweep circle").first.bounding_box()
    assert box["width"] == pytest.approx(box["height"], rel=0.1)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_where_an_image_is_looked_at(visit, scheme, width):
    page = visit("?view=image", color_scheme=scheme, viewport={"width": width, "height": 900})
    page.looked(1)
    assert violations(page, ".vs") == []
    page.loaded()
    send(page, encoded(3))
    page.looked(2)
    page.page.locator(".look.b canvas").click(position={"x": 40, "y": 40})
    assert violations(page, ".vs") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_our_views_as_gradio_hosts_them(visit, scheme):
    page = visit("?a=vit-0&b=resnet-1&view=cka&sel=ab.5.3", color_scheme=scheme)
    page.deep()
    assert violations(page, ".vs") == []
    page.page.get_by_role("tab", name="Findings").click()
    assert violations(page, ".vs") == []


def test_what_is_no_image_is_said_and_the_last_one_stays(visit):
    page = visit("?view=image")
    page.looked(1)
    page.loaded()
    before = page.top("a")
    told = page.page.locator(".image > .told")
    send(page, b"<html><script>document.title='hit'</script></html>", "x.png")
    expect(told).to_contain_text("This file cannot be read as an image.")
    assert page.wrong.pop().startswith("Failed to load resource: the server responded with a status of 422")
    send(page, bytes(11_000_000), "big.png")
    expect(told).to_contain_text("up to 10 MB")
    assert page.top("a") == before
    assert page.page.title() == "A <b>study</b> & more"
    send(page, encoded(5))
    page.looked(3)
    expect(told).to_have_text("")


def test_when_many_wait_it_is_asked_again(visit):
    page = visit("?view=image")
    page.looked(1)
    page.loaded()
    turns = []

    def busy(route):
        turns.append(route.request.url)
        if len(turns) < 3:
            told = {"error": "Many people are looking at images just now.", "again": 0.2}
            route.fulfill(status=503, json=told)
        else:
            route.continue_()

    page.page.route("**/vitstudy/look?want=all*", busy)
    send(page, encoded(6))
    page.looked(2)
    assert len(turns) == 3
    assert [page.wrong.pop()[:60] for _ in range(2)] == [
        "Failed to load resource: the server responded with a status "
    ] * 2


# -------------------------------------------------------------------------------------------------------------- quality


@pytest.mark.parametrize("view", ["findings", "cka", "image", "methods"])
def test_a_phone_shows_all_without_scrolling_sideways(visit, view):
    page = visit(f"?view={view}", viewport={"width": 390, "height": 844})
    if view == "image":
        page.looked(1)
    assert page.page.evaluate("document.documentElement.scrollWidth") == 390


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_colours_are_those_of_the_system(visit, scheme):
    page = visit("?view=image", color_scheme=scheme)
    page.looked(1)
    colour = page.page.evaluate("getComputedStyle(document.querySelector('.vs')).backgroundColor")
    body = page.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert colour == body == {"light": "rgb(255, 255, 255)", "dark": "rgb(18, 19, 23)"}[scheme]


def test_all_can_be_reached_by_keys(visit):
    """From the tabs on, Tab reaches every control, and each says what it is."""
    page = visit("?view=image")
    page.looked(1)
    page.loaded()
    page.page.get_by_role("tab", name="Your image").focus()
    reached = []
    for _ in range(24):
        page.page.keyboard.press("Tab")
        reached.append(
            page.page.evaluate(
                "(({ariaLabel, textContent, tagName}) => ariaLabel || textContent || tagName)(document.activeElement)"
            )
        )
    wanted = [
        "Copy link",
        "Choose an image",
        "Attention layer",
        "Mean of all heads",
        "Head 1",
        "Block",
        "Frequencies kept",
    ]
    assert [name for name in wanted if name not in reached] == []
    assert len({name for name in reached if name.startswith("Example: ")}) == 6
    assert sum(name.startswith("Image: arrow keys") for name in reached) >= 2


@pytest.fixture(scope="module")
def bundled_address():
    """The app with the study that comes with the package."""
    with serving("-c", BUNDLED) as address:
        yield address


@pytest.mark.parametrize(
    ("view", "there"), [("findings", ".claim .effect"), ("cka", ".readout b"), ("image", ".image[data-looked='1']")]
)
def test_the_page_is_light(browser, bundled_address, view, there):
    """What goes over the wire until the study that comes with the package is there, in bytes."""
    context = browser.new_context()
    page = context.new_page()
    session = context.new_cdp_session(page)
    session.send("Network.enable")
    sizes: list[int] = []
    session.on("Network.loadingFinished", lambda told: sizes.append(told["encodedDataLength"]))
    page.goto(f"{bundled_address}/?view={view}")
    page.wait_for_selector(".vs[data-ready=true]", timeout=READY)
    page.wait_for_selector(there, timeout=READY)
    page.wait_for_load_state("networkidle")
    context.close()
    assert len(sizes) > 20
    assert sum(sizes) < 400_000
