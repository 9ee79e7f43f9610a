"""What leaves the page: reports in one file, pictures, citations, code, the tour; and that everybody can use it.

Accessibility is what axe-core finds of WCAG 2 A and AA; its one file comes with a package, so nothing is fetched.
"""

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from browsing import Visit, launched, served, sync_api, violations
from synthetic import synthetic_profile
from viewer_site import write_study

from hf_vitstudy import make_report
from hf_vitstudy.profile import Profile
from hf_vitstudy.viewer import export_site
from hf_vitstudy.viewer.methods import VIEWS


expect = sync_api().expect
PAIR = "?a=vit-0&b=resnet-0&view=explore"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> Path:
    return write_study(tmp_path_factory.mktemp("sharing") / "study")


@pytest.fixture(scope="module")
def site(study) -> Path:
    return export_site(study, study.parent / "site").parent


@pytest.fixture(scope="module")
def report():
    """A report of few measurements: all parts of the page, and a warning."""
    vit, resnet = (synthetic_profile(kind, n=64) for kind in ("vit", "resnet"))
    share = np.full((64, 17), 0.9, np.float32)
    strong = Profile(vit.data.assign(top_channel_share=(("image", "block"), share)), vit.provenance)
    return make_report(strong, resnet, draws=50)


@pytest.fixture(scope="module")
def page(report, tmp_path_factory) -> str:
    """A report as a file on a disk."""
    return report.save(tmp_path_factory.mktemp("report") / "report.html").as_uri()


@pytest.fixture(scope="module")
def browser():
    with launched() as started:
        yield started


@pytest.fixture(scope="module")
def address(site):
    with served(site) as origin:
        yield f"{origin}/index.html"


@pytest.fixture
def visit(browser, address):
    """Open an address, by default of the site; at the end nothing may have gone wrong."""
    opened: list[Visit] = []

    def go(search: str = "", at: str = "", **context) -> Visit:
        opened.append(Visit(browser, at or address, search, **context))
        return opened[-1]

    yield go
    for each in opened:
        each.context.close()
        assert each.wrong == []


# ------------------------------------------------------------------------------------------------------- accessibility


def everything(at: Visit, view: str) -> None:
    """Open what is folded away."""
    at.page.get_by_role("tab", name=view).click()
    at.ready()
    panel = at.page.get_by_role("tabpanel")
    panel.evaluate(
        "node => node.querySelectorAll('details:not(.menu):not(.numbers)').forEach((each) => { each.open = true })"
    )
    if view == "Explore":
        at.page.evaluate("vitstudy.explore.below.come()")
        at.page.get_by_role("button", name="How Variance was measured").click()
        at.page.locator(".card.fourier .numbers summary").click()
        at.page.locator(".card.cka .menu summary").click()
    if view == "Findings":
        at.page.evaluate("vitstudy.findings.open('R-1', true)")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", ["Findings", "Explore", "Methods"])
def test_axe_finds_nothing_on_the_site(visit, view, scheme):
    at = visit(PAIR, color_scheme=scheme)
    everything(at, view)
    assert violations(at) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("view", ["Findings", "Explore", "Figures", "Methods"])
def test_axe_finds_nothing_in_a_report(visit, page, view, scheme):
    at = visit("", page, color_scheme=scheme)
    everything(at, view)
    assert violations(at) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_the_still_page(browser, report, scheme, tmp_path):
    bare = re.sub(r"<script.*?</script>", "", report.html, flags=re.DOTALL)
    (tmp_path / "still.html").write_text(bare, encoding="utf-8")
    context = browser.new_context(color_scheme=scheme)
    opened = context.new_page()
    opened.goto((tmp_path / "still.html").as_uri())
    assert opened.locator("h1").inner_text() == report.title
    at = type("At", (), {"page": opened})()
    assert violations(at) == []
    context.close()


def test_axe_finds_what_is_wrong(visit):
    at = visit(PAIR)
    at.page.evaluate("document.querySelector('select').removeAttribute('aria-label')")
    at.page.evaluate("document.querySelector('label.pick').replaceWith(document.querySelector('label.pick select'))")
    assert any(each.startswith("select-name") for each in violations(at))


# ------------------------------------------------------------------------------------------------------------- reports


def test_a_report_opens_from_a_disk_and_holds_all_it_shows(visit, page, report):
    at = visit("", page)
    expect(at.page.get_by_role("tab", name="Findings")).to_have_attribute("aria-selected", "true")
    judged = [judgement for judgement in report.judgements if judgement.estimate]
    assert at.page.locator("article.claim").count() == len(judged)
    row = at.page.locator("#vs-claim-R-2 .effect")
    (of,) = [judgement.estimate for judgement in judged if judgement.claim.id == "R-2"]
    assert row.locator("b").inner_text() == f"{of.value:#.3g} [{of.low:#.3g}, {of.high:#.3g}]"
    assert "over 64 images" in row.inner_text()
    for sentence in report.findings[1:]:
        assert sentence in at.page.locator(".words").text_content()
    at.page.get_by_role("tab", name="Explore").click()
    at.point("ab", 4, 6)
    cells = report_cells(report)
    assert at.readout().startswith(" ".join(f"{cells['pair-0-1.json']['map']['cka'][4 * 9 + 6] / 1000:.3f}".split()))


def report_cells(report) -> dict:
    return json.loads(re.search(r'id="vitstudy-data">(.*?)</script>', report.html, re.DOTALL)[1])["files"]


def test_figures_and_provenance_of_a_report_are_parts_of_its_page(visit, page, report):
    at = visit("?view=figures", page)
    panel = at.page.get_by_role("tabpanel")
    assert panel.locator("section h3").all_inner_texts() == re.findall(r"<section>\s*<h3>(.*?)</h3>", report.still)
    folded = panel.locator("details.doubled")
    assert folded.count() == 3
    assert folded.locator("svg:visible").count() == 0, "what Explore shows is folded away"
    panel.get_by_role("link", name="Attention").click()
    assert at.page.evaluate("location.hash") == "#vitstudy-attention"
    expect(at.page.get_by_role("tab", name="Figures")).to_have_attribute("aria-selected", "true")
    at.page.get_by_role("tab", name="Methods").click()
    expect(at.page.get_by_role("heading", name="Provenance")).to_be_visible()
    assert "data/study.json" not in at.page.locator("#vs-methods").inner_text()
    assert at.page.locator("h1").count() == 1


@pytest.mark.parametrize("width", [390, 1280])
def test_a_report_without_scripts_is_the_still_page(browser, page, report, width):
    context = browser.new_context(java_script_enabled=False, viewport={"width": width, "height": 844})
    opened = context.new_page()
    opened.goto(page)
    assert opened.locator("h1").inner_text() == report.title
    judged = [judgement for judgement in report.judgements if judgement.estimate]
    assert opened.locator("table.claims tbody > tr").count() == len(judged)
    assert opened.locator("details.doubled svg:visible").count() > 3
    box = opened.locator(".vs").bounding_box()
    assert box["x"] + box["width"] <= width
    context.close()


@pytest.mark.parametrize("view", ["findings", "figures", "methods"])
def test_a_report_fits_a_phone(visit, page, view):
    at = visit(f"?view={view}", page, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    assert at.page.evaluate("document.documentElement.scrollWidth") <= 390


NOTEBOOK = """<!doctype html><meta charset="utf-8"><title>notebook</title>
<style>button, h1 {{ display: none !important }} .vs, .card {{ position: absolute; top: -999rem }}</style>
<p id="vitstudy" class="vs" style="position: static">a cell of the notebook</p>{0}<hr>{1}"""


def test_two_reports_live_in_one_notebook_and_leave_it_as_it_is(browser, report, tmp_path):
    path = tmp_path / "notebook.html"
    path.write_text(NOTEBOOK.format(report._repr_html_(), report._repr_html_()), encoding="utf-8")
    wrong: list[str] = []
    context = browser.new_context(viewport={"width": 1100, "height": 900})
    opened = context.new_page()
    opened.on("console", lambda told: wrong.append(told.text) if told.type in ("error", "warning") else None)
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.goto(path.as_uri())
    for number in range(2):
        frame = opened.frame_locator("iframe").nth(number)
        expect(frame.locator("h1")).to_have_text(report.title)
        frame.get_by_role("tab", name="Explore").click()
        expect(frame.locator(".catch").first).to_be_visible()
        assert frame.get_by_role("button", name="Copy link").count() == 0, "a frame has no address"
        frame.locator(".card.variance .menu summary").click()
        frame.get_by_role("button", name="Copy the data of Variance as CSV").click()
        expect(frame.locator(".toast")).to_have_text("CSV copied")
    cell = opened.locator("#vitstudy")
    assert cell.inner_text() == "a cell of the notebook"
    assert cell.evaluate("node => getComputedStyle(node).minHeight") in ("auto", "0px")
    assert opened.evaluate("typeof VitStudy + typeof vitstudy.mount") == "undefinedundefined"
    assert opened.url == path.as_uri()
    context.close()
    assert wrong == []


# ------------------------------------------------------------------------------------------------------------ take away


def looked_at(visit, search: str = PAIR, **context) -> Visit:
    """The page with everything below the maps drawn."""
    at = visit(search, **context)
    at.page.evaluate("vitstudy.explore.below.come()")
    expect(at.page.locator(".card.norm svg")).to_be_visible()
    return at


LABELS = {
    "cka": ["A: vit-0", "linear CKA", "0.5"],
    "fourier": ["relative depth"],
    "heads": ["relative depth"],
    "noise": [],
    "hessian": [],
    "landscape": [],
    "fields": [],
}


def test_every_view_is_saved_as_a_drawing_that_stands_alone(visit, browser, tmp_path):
    at = looked_at(visit, PAIR + "&sel=ab.4.6")
    titles = at.page.evaluate(
        "[vitstudy.explore.cka, ...vitstudy.explore.cards, ...[...vitstudy.explore.below.views.values()].map((v) => v.card)]"
        ".map(({key, title}) => [key, title])"
    )
    assert {key for key, _ in titles} == set(VIEWS)
    alone = browser.new_context().new_page()
    drawn = 0
    for key, title in titles:
        if not at.page.evaluate(
            f"Boolean([vitstudy.explore.cka, ...vitstudy.explore.cards, ...[...vitstudy.explore.below.views.values()]"
            f".map((v) => v.card)].find((card) => card.key === '{key}').svg)"
        ):
            continue
        with at.page.expect_download() as caught:
            at.take(title, "SVG")
        assert caught.value.suggested_filename == f"vit-0-resnet-0-{key}.svg"
        path = tmp_path / f"{key}.svg"
        caught.value.save_as(path)
        root = ET.parse(path).getroot()
        assert root.tag == f"{SVG}svg"
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"var\(|rgba|class=|style=|currentColor|https?://(?!www\.w3\.org/)", text), key
        words = ["".join(node.itertext()) for node in root.iter(f"{SVG}text")]
        assert any("vit-0" in word and "resnet-0" in word for word in words)
        assert any(word.startswith(title) for word in words)
        for label in LABELS.get(key, []):
            assert label in words, (key, label)
        fills = {node.get("fill") for node in root.iter() if node.get("fill")}
        assert all(re.fullmatch(r"#[0-9a-f]{3,6}|rgb\([\d, ]+\)|none", fill) for fill in fills), (key, fills)
        alone.goto(path.as_uri())
        assert alone.evaluate("document.documentElement.getBBox().width") > 200
        drawn += 1
    alone.context.close()
    assert drawn >= 15


def test_a_drawing_has_the_colours_of_the_page(visit, tmp_path):
    found = {}
    for scheme in ("light", "dark"):
        at = visit(PAIR, color_scheme=scheme)
        with at.page.expect_download() as caught:
            at.take("Variance", "SVG")
        caught.value.save_as(tmp_path / f"{scheme}.svg")
        root = ET.parse(tmp_path / f"{scheme}.svg").getroot()
        found[scheme] = (
            root.find(f"{SVG}rect").get("fill"),
            {node.get("stroke") for node in root.iter(f"{SVG}polyline")},
        )
    assert found["light"][0] == "#fff"
    assert found["dark"][0] == "#121317"
    assert "rgb(0, 114, 178)" in found["light"][1]
    assert "rgb(86, 180, 233)" in found["dark"][1]


CLIPBOARD = {"permissions": ["clipboard-read", "clipboard-write"]}


def copied(at: Visit, what: str) -> str:
    expect(at.page.locator(".toast")).to_have_text(f"{what} copied")
    return at.page.evaluate("navigator.clipboard.readText()")


def test_a_citation_names_papers_the_result_and_the_link(visit, address, study):
    at = visit(PAIR + "&sel=ab.4.6", **CLIPBOARD)
    at.take("High frequencies", "Citation")
    text = copied(at, "Citation")
    assert text.startswith(f"% High frequencies, A = vit-0, B = resnet-0\n% {address}{PAIR}&sel=ab.4.6\n")
    entries = re.findall(r"@(\w+)\{([\w-]+),", text)
    assert entries[0] == ("inproceedings", "park2022how")
    assert entries[-1][0] == "misc"
    assert len(entries) == 2
    assert "A <b>study</b> \\& more" in text
    assert text.count("{") - text.count("\\{") == text.count("}") - text.count("\\}")
    at.page.get_by_role("tab", name="Findings").click()
    at.page.evaluate("vitstudy.findings.open('R-1', true)")
    at.page.get_by_role("button", name="Copy a citation of R-1").click()
    at.until("document.querySelector('.toast').textContent === 'Citation copied'")
    assert "raghu2021do" in at.page.evaluate("navigator.clipboard.readText()")


def test_the_menu_is_left_by_escape_and_by_going_elsewhere(visit):
    at = visit(PAIR)
    head = at.page.locator(".card.variance .menu summary")
    items = at.page.locator(".card.variance .menu .items")
    head.focus()
    at.page.keyboard.press("Enter")
    expect(items).to_be_visible()
    at.page.keyboard.press("Tab")
    at.page.keyboard.press("Escape")
    expect(items).to_be_hidden()
    expect(head).to_be_focused()
    at.page.keyboard.press("Enter")
    at.page.get_by_role("tab", name="Explore").focus()
    expect(items).to_be_hidden()


# -------------------------------------------------------------------------------------------------------------- methods


def test_beside_every_view_stands_how_it_was_measured_and_its_code_runs(visit, study, monkeypatch):
    at = looked_at(visit, PAIR + "&sel=ab.4.6")
    monkeypatch.chdir(study)
    found, without = {}, []
    for title in at.page.evaluate(
        "[vitstudy.explore.cka, ...vitstudy.explore.cards, ...[...vitstudy.explore.below.views.values()].map((v) => v.card)]"
        ".map(({title}) => title)"
    ):
        at.page.get_by_role("button", name=f"Method: how {title} was measured", exact=True).click()
        beside = at.page.get_by_role("region", name=title, exact=True).locator(".beside")
        text = beside.inner_text()
        words = ("Source", "Intervals", "A: vit-0", "B: resnet-0", "images drawn with seed 0", "weights sha256")
        for word in (*words, "on cpu, batches of 32", "all measurements together took 7.5 s"):
            assert word in text, title
        python = beside.get_by_role("region", name=f"Python: {title}")
        if python.count() == 0:
            without.append(title)
            continue
        code = python.inner_text()
        *before, line = code.splitlines()
        known: dict = {}
        exec("\n".join(before), known)
        found[title] = eval(line, known)
        at.page.get_by_role("button", name=f"Method: how {title} was measured", exact=True).click()
    assert without == ["Skip removal"], "neither network was measured without its skips"
    assert len(found) == len(VIEWS) - 1
    cell = found["Which places are alike"]
    assert at.readout().startswith(f"{float(cell['cka']):.3f} [{float(cell['low']):.3f}, {float(cell['high']):.3f}]")
    row = at.page.locator("table.here tr").filter(has_text="Variance").inner_text()
    for value in found["Variance"]:
        assert f"{float(value):.3g}" in row
    assert found["Linear probes"][0].ndim == 0
    for view in ("Noise of one frequency", "Curvature of the loss", "Lesions"):
        assert len(found[view]) == 2


def test_the_method_follows_the_selection_and_is_copied(visit, study):
    at = visit(PAIR, **CLIPBOARD)
    at.page.get_by_role("button", name="How Which places are alike was measured").click()
    beside = at.page.locator(".card.cka .beside")
    at.point("ab", 4, 6)
    expect(beside).to_contain_text('sel(row="block01.mlp", column="block05")')
    assert "closed-form jackknife" in beside.inner_text()
    assert "n = 64" in beside.inner_text()
    at.point("bb", 1, 2)
    expect(beside).to_contain_text('cka("bb").sel(row="block00", column="block01")')
    beside.get_by_role("button", name="Copy: Python").click()
    text = copied(at, "Code")
    assert text.startswith('from hf_vitstudy import compare, load_profile\n\na = load_profile("profiles/d")\n')
    at.page.get_by_label("Measure of similarity", exact=True).select_option("rsa")
    expect(beside).to_contain_text("vitstudy compare 'profiles/d' 'profiles/a' --measure rsa --out cells.csv")
    assert "leaves one batch of images out" in beside.inner_text()
    assert "Kriegeskorte" in beside.inner_text()


# ----------------------------------------------------------------------------------------------------------------- tour


def steps(site: Path) -> list[dict]:
    return json.loads((site / "data" / "study.json").read_text(encoding="utf-8"))["tour"]


def test_the_tour_goes_through_its_steps_and_leaves_no_trace(visit, site):
    at = visit("?a=resnet-1&b=vit-0&view=methods")
    before, search = at.state(), at.page.evaluate("location.search")
    at.page.get_by_role("button", name="Show me").click()
    tour = at.page.get_by_role("dialog", name="Tour")
    told = steps(site)
    assert len(told) >= 4
    for number, step in enumerate(told):
        expect(tour.locator("h2")).to_have_text(step["title"])
        expect(tour.locator("p")).to_have_text(step["text"])
        expect(tour).to_contain_text(f"{number + 1} of {len(told)}")
        expect(tour.locator("h2")).to_be_focused()
        expect(at.page.locator(".told-of").first).to_be_visible()
        state = at.state()
        assert {name: state[name] for name in ("a", "b", "view")} == {
            name: step["state"][name] for name in ("a", "b", "view")
        }
        if "sel" in step["state"] and "i" in step["state"]["sel"]:
            assert (state["of"], state["i"], state["j"]) == tuple(
                step["state"]["sel"][name] for name in ("of", "i", "j")
            )
        assert at.page.evaluate("Number(getComputedStyle(document.querySelector('.told-of')).opacity)") == 1
        others = ".card:not(.told-of), .claim:not(.told-of), .summary:not(.told-of)"
        assert at.page.locator(others).first.evaluate("node => Number(getComputedStyle(node).opacity)") < 0.5
        at.page.keyboard.press("ArrowRight")
    expect(tour.locator("h2")).to_have_text(told[-1]["title"])
    at.page.keyboard.press("ArrowLeft")
    expect(tour.locator("h2")).to_have_text(told[-2]["title"])
    assert at.page.evaluate("location.search") == search
    at.page.keyboard.press("Escape")
    expect(tour).to_have_count(0)
    expect(at.page.get_by_role("button", name="Show me")).to_be_focused()
    assert at.state() == before
    assert at.page.locator(".touring, .told-of").count() == 0
    at.page.wait_for_timeout(200)
    assert at.page.evaluate("location.search") == search


def test_the_numbers_of_a_step_are_those_beside_it(visit, site):
    at = visit("")
    at.page.get_by_role("button", name="Show me").click()
    checked = 0
    for step in steps(site):
        numbers = re.findall(r"−?\d[\d.]*(?:e[+-]\d+)? \[.*?\]", step["text"])
        state = step["state"]
        if state["view"] == "cka" and "i" in state.get("sel", {}):
            at.until(f"vitstudy.state.view === 'cka' && vitstudy.explore.has === '{state['a']} {state['b']}'")
            assert at.readout().startswith(numbers[-1])
            checked += 1
        elif "claim" in state:
            row = at.page.locator(f"#vs-claim-{state['claim']}")
            expect(row.locator(".choices")).to_contain_text(numbers[-1])
            checked += 1
        at.page.get_by_role("dialog", name="Tour").get_by_role("button", name=re.compile("Next|Done")).click()
    assert checked >= 1


def test_a_step_is_kept_or_linked_to_when_asked(visit, site):
    at = visit("", **CLIPBOARD)
    at.page.get_by_role("button", name="Show me").click()
    at.page.keyboard.press("ArrowRight")
    step = steps(site)[1]["state"]
    at.until(f"vitstudy.state.view === '{step['view']}' && vitstudy.explore.has === '{step['a']} {step['b']}'")
    at.page.get_by_role("button", name="Copy link to this").click()
    link = copied(at, "Link")
    assert at.page.evaluate("location.search") == ""
    at.page.get_by_role("button", name="Stay here").click()
    expect(at.page.get_by_role("dialog", name="Tour")).to_have_count(0)
    at.until("location.search.includes('sel=')")
    assert at.page.evaluate("location.href") == link
    assert at.state()["view"] == step["view"]


def test_choosing_something_else_ends_the_tour(visit):
    at = visit("")
    at.page.get_by_role("button", name="Show me").click()
    at.page.get_by_role("tab", name="Methods").click()
    expect(at.page.get_by_role("dialog", name="Tour")).to_have_count(0)
    assert at.state()["view"] == "methods"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_tour_fits_a_phone_and_is_accessible(visit, scheme):
    at = visit("", viewport={"width": 390, "height": 844}, color_scheme=scheme)
    at.page.get_by_role("button", name="Show me").click()
    box = at.page.get_by_role("dialog", name="Tour").bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390
    assert box["y"] + box["height"] <= 844
    at.page.evaluate("for (const each of document.querySelectorAll('main, header')) each.inert = true")
    dimmed = [each for each in violations(at) if "show-me" not in each]
    assert dimmed == []
