"""The report: right numbers, nothing from outside, nothing a checkpoint's name could smuggle in."""

import base64
import hashlib
import json
import os
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from synthetic import synthetic_profile
from synthetic_measurements import measured_profile, with_variable

from hf_vitstudy import CLAIMS, Report, StudyError, compare, make_report, write_report
from hf_vitstudy.figures import SECTIONS
from hf_vitstudy.profile import Profile
from hf_vitstudy.robustness import crossing, mean_corruption_accuracy


class Page(HTMLParser):
    """Elements, addresses and text of a page; fails on elements that are not closed."""

    VOID = ("meta", "link", "br", "img", "hr", "input")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements, self.addresses, self.open, self.ids, self.words = [], [], [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href", "action", "data")]
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def all(self, tag: str) -> list[dict]:
        return [attrs for name, attrs in self.elements if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


SCRIPTS = [{"type": "application/json", "id": "vitstudy-data"}, {}]


def held(report: Report) -> dict:
    """The data that the interactive part draws."""
    return json.loads(re.search(r'id="vitstudy-data">(.*?)</script>', report.html, re.DOTALL)[1])


@pytest.fixture(scope="module")
def profiles() -> tuple[Profile, Profile]:
    return synthetic_profile("vit", n=64), synthetic_profile("resnet", n=64)


@pytest.fixture(scope="module")
def report(profiles) -> Report:
    return make_report(*profiles, draws=200)


@pytest.fixture(scope="module")
def page(report) -> Page:
    return Page(report.html)


def test_nothing_is_fetched_from_outside(report, page):
    inside = [address for address in page.addresses if address.startswith(("#", "data:"))]
    links = [attrs["href"] for attrs in page.all("a") if not attrs["href"].startswith("#")]
    assert sorted(page.addresses) == sorted(inside + links)
    assert links
    assert all(link.startswith("https://arxiv.org/abs/") for link in links)
    assert page.all("script") == SCRIPTS
    assert not page.all("iframe")
    code = re.sub(r'id="vitstudy-data">.*?</script>', "", report.html, flags=re.DOTALL)
    assert not re.search(r"@import|url\((?!#)|\bimport\(|XMLHttpRequest|WebSocket|sendBeacon", code)


def test_the_policy_lets_only_the_page_s_own_script_run_and_nothing_be_fetched(report, page):
    (policy,) = [
        attrs["content"] for attrs in page.all("meta") if attrs.get("http-equiv") == "Content-Security-Policy"
    ]
    (script,) = re.findall(r"<script>(.*?)</script>", report.html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy
    assert "connect-src 'none'" in policy


def test_the_page_is_whole_and_names_are_unique(page):
    assert page.all("html")[0]["lang"] == "en"
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")
    assert len(page.ids) == len(set(page.ids)) > 0
    referred = {address[1:] for address in page.addresses if address.startswith("#")}
    assert referred <= set(page.ids)


def test_verdicts_come_first_and_provenance_last(report):
    order = [
        report.html.index(text)
        for text in ("What the papers claim", "<h3>Similarity of", ">Methods</h2>", ">Provenance</h2>")
    ]
    assert order == sorted(order)


def test_every_judgement_is_a_row_with_effect_interval_margin_and_n(report, page):
    assert [judgement.claim.id for judgement in report.judgements] == [claim.id for claim in CLAIMS]
    rows = re.findall(r'<tr>\s*<td><span class="badge.*?</tr>', report.html, flags=re.DOTALL)
    judged = list(zip(rows, [judgement for judgement in report.judgements if judgement.estimate], strict=True))
    assert len(judged) >= 10
    for row, judgement in judged:
        words = Page(row).text
        estimate = judgement.estimate
        value, low, high = (
            f"{number:+#.3g}".removesuffix(".").replace("-", "−")
            for number in (estimate.value, estimate.low, estimate.high)
        )
        assert low != high
        for text in (
            judgement.verdict,
            judgement.claim.id,
            judgement.claim.source,
            f"{value} [{low}, {high}]",
            judgement.claim.margin,
            estimate.n,
            judgement.claim.formula,
            judgement.claim.falsified_by,
            judgement.claim.against,
            *(control.text for control in judgement.controls),
        ):
            assert str(text) in words
        assert (f"by its interval alone: {judgement.alone}" in words) == (judgement.alone != judgement.verdict)
    missing = [judgement for judgement in report.judgements if not judgement.estimate]
    assert f"{len(missing)} more that these profiles cannot judge" in page.text
    for each in missing:
        for words in (each.claim.text, f"({each.claim.id})", each.note):
            assert words in page.text
    assert f"{len(judged)} published claims judged" in page.text


def test_every_cell_of_every_map_tells_its_value(report, profiles):
    maps = compare(*profiles, draws=200).cka("ab")
    chart = report.still[report.still.index("<h3>Similarity of") :].split("<h3>")[1]
    titles = re.findall(r"<title>(.*?)</title>", chart)
    assert len(titles) == 17 * 17 + 17 * 9 + 9 * 9
    i, j = 4, 6
    value, low, high = (float(maps[name].values[i, j]) for name in ("cka", "low", "high"))
    expected = f"{maps['row'].values[i]} × {maps['column'].values[j]}: {value:.2f} [{low:.2f}, {high:.2f}]"
    assert expected in titles
    assert titles.index(expected) == i * 9 + j


def test_cells_hold_the_colour_of_their_value(report, profiles):
    import matplotlib as mpl

    values = compare(*profiles, draws=200).cka("ab")["cka"].values
    first = report.still[report.still.index("<h3>Similarity of") :]
    colours = re.findall(r'<rect x="[\d.]+" y="[\d.]+" width="[\d.]+" height="[\d.]+" fill="(#\w+)"', first)[
        : values.size
    ]
    expected = [mpl.colors.to_hex(mpl.colormaps["magma"](value)) for value in values.ravel()]
    assert colours == expected


def test_findings_are_the_numbers(report, profiles):
    vit, resnet = profiles
    cells = compare(vit, resnet, draws=200).cka("ab")
    i, j = np.unravel_index(cells["cka"].values.argmax(), cells["cka"].shape)
    words = " ".join(report.findings)
    assert (
        f"Most alike are {cells['row'].values[i]} of synthetic-vit and {cells['column'].values[j]} of synthetic-resnet"
        in words
    )
    for profile in profiles:
        right = 100 * (profile["top5"].values[:, 0] == profile["label"].values).mean()
        assert f"{profile.name} classifies {right:.1f} %" in words
    low = vit["attention_distance"].mean("image").values[:2]
    assert f"look {low.min():.0f} to {low.max():.0f} px far" in words
    end = [float(p["fourier"].mean("image").values[-1, -1]) for p in profiles]
    assert f"difference of Δ log amplitude {end[0] - end[1]:.2f} [" in words


def test_every_figure_has_a_description_and_follows_the_page_s_colours(report, page):
    drawings = page.all("svg")
    assert len(drawings) >= 9
    assert all(attrs["role"] == "img" and len(attrs["aria-label"]) > 10 for attrs in drawings)
    assert "var(--ink" in report.still
    style = report.html[report.html.index("/* The parts of a report") :].split("</style>")[0]
    assert "prefers-color-scheme: dark" in style
    for name in set(re.findall(r"var\(--([\w]+)", style + report.still)):
        if name != "w":  # the width of each drawing
            assert style.count(f"--{name}:") == 2, f"{name} needs a light and a dark value"


HOSTILE = '</title><script>alert(1)</script><img src=x onerror=alert(2)> & "quoted" $\\frac$'


def test_names_from_outside_are_text_and_nothing_else():
    vit, resnet = (synthetic_profile(kind, n=64, name=HOSTILE) for kind in ("vit", "resnet"))
    resnet.provenance["absent"] = {"attention_distance": HOSTILE}
    resnet.provenance["images"]["name"] = HOSTILE
    vit.provenance["checkpoint"]["architecture"] = HOSTILE
    page = Page(make_report(vit, resnet, draws=100).html)
    assert page.all("script") == SCRIPTS
    assert not page.all("img")
    assert "alert(1)" in page.text
    assert "$\\frac$" in page.text


def test_a_channel_that_outweighs_the_rest_is_warned_of(profiles):
    vit, resnet = profiles
    share = np.full((64, 17), 0.05, np.float32)
    share[:, 12:] = 0.93
    data = vit.data.assign(top_channel_share=(("image", "block"), share))
    found = make_report(Profile(data, vit.provenance), resnet, draws=100)
    assert found.still.count("Read with care.") == 1
    assert len(held(found)["study"]["warnings"]) == 1
    assert (
        "holds up to 93 % of the squared activations (5 of 17 places, the first block05.mlp)" in Page(found.html).text
    )
    warned = [judgement.claim.id for judgement in found.judgements if judgement.warnings]
    assert warned == ["R-1", "R-2", "R-3", "P-S1-vit", "P-V1-msa", "P-V1-mlp"]


def test_one_profile_or_three_make_a_report_too(profiles):
    alone = make_report(profiles[1], draws=100)
    assert alone.title == "Inside synthetic-resnet"
    assert "more that these profiles cannot judge" in alone.html
    assert "Attention heads" not in alone.still
    kinds = ("checkpoint", "network", "fields", "weights")
    assert set(held(alone)["files"]) == {*(f"{kind}-0.json" for kind in kinds), "measures-0-0.json"}
    three = make_report(*profiles, synthetic_profile("vit", n=64, seed=3, name="third"), draws=100)
    assert three.still.count("Similarity of representations:") == 3
    pairs = {name for name in held(three)["files"] if name.startswith("pair-")}
    assert pairs == {"pair-0-1.json", "pair-0-2.json", "pair-1-2.json"}
    assert "3 checkpoints" in three.title
    Page(three.html)


def test_a_profile_with_one_measurement_only_makes_a_report(profiles):
    vit = profiles[0]
    drop = [name for name in vit.data.data_vars if not str(name).startswith(("gram", "scale", "size"))]
    found = make_report(Profile(vit.data.drop_vars(drop), vit.provenance), draws=100)
    assert "Similarity of representations" in found.still
    assert "Variance of feature maps" not in found.still


def test_a_report_is_replaced_only_when_complete(profiles, report, tmp_path, monkeypatch):
    path = write_report(*profiles, out=tmp_path / "new" / "report.html", draws=200)
    assert path.read_text(encoding="utf-8") == report.html
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(StudyError, match=r"disk full .* What was there before is as it was"):
        report.save(path)
    assert path.read_text(encoding="utf-8") == report.html
    assert [found.name for found in path.parent.iterdir()] == ["report.html"]


def test_a_report_replaces_nothing_but_a_file(report, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "target.html").write_text("kept")
    (tmp_path / "link.html").symlink_to(tmp_path / "target.html")
    for name, kind in (("pipe", "no regular file"), ("link.html", "a link")):
        with pytest.raises(StudyError, match=rf"{name} is {kind} and would be replaced by an HTML file"):
            report.save(tmp_path / name)
    assert (tmp_path / "target.html").read_text() == "kept"
    assert len(list(tmp_path.iterdir())) == 3


def test_bad_calls_are_one_line(report, tmp_path):
    with pytest.raises(StudyError, match="at least one profile"):
        make_report()
    with pytest.raises(StudyError, match=r"is a folder, expected the name of an HTML file"):
        report.save(tmp_path)
    other = synthetic_profile("vit", n=32)
    with pytest.raises(StudyError, match="different images"):
        make_report(synthetic_profile("vit", n=64), other)


def test_a_notebook_shows_the_whole_page_in_a_frame_that_nothing_leaves(report):
    shown = Page(report._repr_html_())
    (frame,) = shown.all("iframe")
    assert frame["srcdoc"] == report.html
    assert frame["title"] == report.title
    assert set(frame["sandbox"].split()) == {"allow-scripts", "allow-downloads", "allow-popups"}
    assert shown.ids == []
    assert not shown.all("style") + shown.all("script")
    for sentence in report.findings:
        assert sentence in shown.text, "where no frames are shown the words are"
    assert len(report._repr_html_()) < 1.03 * len(report.html) + 5000


def test_styles_of_the_still_page_reach_nothing_else(report):
    rules = report.html[report.html.index("/* The parts of a report") :].split("*/", 1)[1].split("</style>")[0]
    selectors = re.findall(r"(?:^|\})\s*([^{}@]+?)\s*\{", rules)
    assert len(selectors) > 20
    assert all(part.strip().startswith((".vitstudy", ".vs ")) for each in selectors for part in each.split(","))


# ------------------------------------------------------------------------------------------------- the interactive part


def test_the_interactive_part_says_what_was_judged_with_intervals_over_images(report):
    study = held(report)["study"]
    judged = {judgement.claim.id: judgement for judgement in report.judgements if judgement.estimate}
    claims = {claim["id"]: claim for claim in study["claims"] if "agreement" in claim}
    assert set(claims) == set(judged)
    for name, claim in claims.items():
        estimate = judged[name].estimate
        expected = [float(f"{number:.3g}") for number in (estimate.value, estimate.low, estimate.high)]
        assert claim["agreement"]["estimate"] == expected
        assert claim["agreement"]["verdict"] == judged[name].verdict
        assert claim["agreement"]["over"].startswith(f"{estimate.n:,} ")
    reasons = {claim["id"]: claim["reason"] for claim in study["claims"] if "reason" in claim}
    assert set(reasons) == {judgement.claim.id for judgement in report.judgements} - set(judged)
    assert study["over"] == "images"
    assert not any("over checkpoints" in heading for _, heading in study["sections"])
    assert study["words"] == report.findings[1:]


def test_claims_on_several_choices_are_about_checkpoints_again(profiles):
    three = make_report(*profiles, synthetic_profile("vit", n=64, seed=3, name="third"), draws=100)
    claims = {claim["id"]: claim for claim in held(three)["study"]["claims"]}
    assert claims["R-1"]["agreement"]["over"] == "2 checkpoints × 1 checkpoint (2 pairs)"
    assert claims["P-F2-conv"]["agreement"]["over"] == "64 images"


def test_the_interactive_part_holds_the_maps_of_every_pair(report, profiles):
    files = held(report)["files"]
    cells = compare(*profiles).cka("ab")["cka"].values
    assert np.array(files["pair-0-1.json"]["map"]["cka"]) / 1000 == pytest.approx(cells.ravel(), abs=5.1e-4)
    assert [files[f"checkpoint-{n}.json"]["checkpoint"] for n in (0, 1)] == [0, 1]


def test_profiles_of_one_name_are_told_apart():
    twins = [synthetic_profile("vit", n=64, seed=seed, name="twin") for seed in (0, 1)]
    study = held(make_report(*twins, draws=100))["study"]
    assert [each["id"] for each in study["checkpoints"]] == ["profiles/twin", "profiles/twin-1"]


def test_what_the_interactive_part_shows_as_well_can_be_folded_away(report, full):
    for found, expected in ((report, 3), (full, 3)):
        folded = re.findall(
            r'<h3>((?:(?!<h3>).)*?)</h3>(?:(?!<h3>).)*?<details class="doubled" open>', found.still, re.DOTALL
        )
        assert len(folded) == expected
        assert found.still.count('data-part="figures"') == found.still.count('data-part="methods"') == 1


def test_intervals_of_a_report_use_its_draws():
    """What the methods section says of draws and seed holds for every interval on the page."""
    profile = synthetic_profile("resnet", n=32)
    pages = [make_report(profile, draws=100, seed=seed) for seed in (0, 0, 1)]
    tables = [page.still[page.still.index("Variance of feature maps") :].split("<h3>")[0] for page in pages]
    assert tables[0] == tables[1] != tables[2]


# ------------------------------------------------------------------------------------------------- all that is measured


@pytest.fixture(scope="module")
def everything() -> tuple[Profile, Profile]:
    return measured_profile("vit"), measured_profile("resnet")


@pytest.fixture(scope="module")
def full(everything) -> Report:
    return make_report(*everything, draws=100)


def sections(report: Report) -> list[str]:
    return re.findall(r'<h2 id="[\w-]+">(.*?)</h2>', report.still)


def test_sections_follow_one_order_and_the_page_links_to_each(full):
    found = sections(full)
    measured = [name for name in SECTIONS if name != "Other measurements"]
    assert found == ["What the papers claim, and what these checkpoints say", *measured, "Methods", "Provenance"]
    links = re.search(r"<nav.*?</nav>", full.still, flags=re.DOTALL)[0]
    addresses = re.findall(r'href="#([\w-]+)"', links)
    assert addresses == re.findall(r'<h2 id="([\w-]+)"', full.still)
    assert re.findall(r">([^<>]+)</a>", links) == ["Claims", *measured, "Methods", "Provenance"]


def test_only_measured_sections_are_there(report):
    assert sections(report)[1:-2] == ["Similarity", "Frequencies and variance", "Attention"]


def test_every_chart_says_how_to_read_it_and_where_it_comes_from(full):
    charts = re.findall(r"<section>(.*?)</section>", full.still, flags=re.DOTALL)
    assert len(charts) >= 20
    for chart in charts:
        title = re.search(r"<h3>(.*?)</h3>", chart)[1]
        assert re.search(r'<p class="mute">.{40,}</p>', chart, flags=re.DOTALL), title
        assert re.search(r"<cite>.{4,}\.</cite>", chart), title
        assert chart.count("<svg") >= 1, title
        if title != "Where the output comes from: attention rollout":
            assert "<table>" in chart, title


def test_the_page_is_well_formed_and_small(full):
    page = Page(full.html)
    assert len(page.ids) == len(set(page.ids))
    assert all(len(attrs["aria-label"]) > 10 for attrs in page.all("svg"))
    assert len(full.html) < 2_500_000


def test_points_tell_their_value_where_they_are_drawn(full, everything):
    """The circle over a marker stands on the marker."""
    chart = full.still[full.still.index("<h3>What a linear probe") :].split("</section>")[0]
    drawing = re.findall(r"<svg.*?</svg>", chart, flags=re.DOTALL)[1]  # the mean of all patches
    circles = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)" r="5"><title>(.*?)</title>', drawing)
    resnet = everything[1]
    assert len(circles) == 9 + 5
    accuracy = 100 * resnet["probe_correct"].values[:, :, 0].mean(0)
    texts = [text for _, _, text in circles if text.startswith("synthetic-resnet")]
    for text, block, value in zip(texts, resnet.data["probe_block"].values, accuracy, strict=True):
        assert text.startswith(f"synthetic-resnet, mean, {block}: {value:#.3g} [".replace(". [", " ["))
    marks = re.findall(r'<use xlink:href="#[\w-]+" x="([\d.]+)" y="([\d.]+)" style="fill: var\(--series\d', drawing)
    places = {(round(float(x), 1), round(float(y), 1)) for x, y in marks}
    for x, y, text in circles:
        assert (float(x), float(y)) in places, text


def test_new_findings_are_the_numbers(full, everything):
    vit, resnet = everything
    words = " ".join(full.findings)
    where = crossing(vit, resnet, draws=100).frequency
    assert f"costs synthetic-vit more accuracy below {where.value:.2f}π [{where.low:.2f}π, {where.high:.2f}π]" in words
    mean = mean_corruption_accuracy(resnet, ["gaussian_noise", "fog", "contrast"], draws=100)["mean"]
    assert (
        f"synthetic-resnet classifies {100 * mean.value:.1f} % [{100 * mean.low:.1f} %, {100 * mean.high:.1f} %] of corrupted "
        "images correctly, mean over 3 kinds"
    ) in words


def test_settings_of_measurements_are_told(full):
    text = Page(full.html).text
    assert "noise correct: strength 0.05" in text
    assert "corruption correct: strengths published for 64 px" in text
    assert "probe correct: shots 4" in text


def test_what_could_not_be_measured_stands_in_the_provenance_with_its_reason(profiles):
    vit, resnet = profiles
    absent = {"attention_distance": "no attention in this network", "probes": "a class of one image"}
    found = make_report(vit, Profile(resnet.data, resnet.provenance | {"absent": absent}), draws=100)
    provenance = found.still[found.still.index(">Provenance</h2>") :]
    for name, why in absent.items():
        assert f"<strong>{name.replace('_', ' ')}</strong> of synthetic-resnet: {why}." in provenance
    assert "Not measured, and why" not in make_report(vit, draws=100).still


def test_somebody_s_measurement_has_its_chart_table_and_source(profiles):
    resnet = profiles[1]
    values = np.random.default_rng(0).normal(5, 1, (64, 9))
    about = {"unit": "bit", "source": "Doe 2031, eq. 7", "long_name": "surprise of a place"}
    found = make_report(with_variable(resnet, "surprise", ("image", "block"), values, **about), draws=100)
    assert "Other measurements" in sections(found)
    chart = found.still[found.still.index("<h3>Surprise of a place</h3>") :].split("</section>")[0]
    assert "<cite>Doe 2031, eq. 7.</cite>" in chart
    assert "surprise (bit) [95 %]" in chart
    assert f"<td>{values.mean(0)[0]:#.3g} [" in chart
    assert len(re.findall("<circle", chart)) == 9


def test_names_from_outside_are_text_in_every_new_chart():
    vit, resnet = (measured_profile(kind, name=HOSTILE) for kind in ("vit", "resnet"))
    hostile = {"unit": HOSTILE, "source": HOSTILE, "long_name": HOSTILE, "setting": HOSTILE[:60]}
    vit = with_variable(vit, "more", ("image", "block"), np.ones((64, 17)), **hostile)
    page = Page(make_report(vit, resnet, draws=100).html)
    assert page.all("script") == SCRIPTS
    assert not page.all("img")
    assert "alert(1)" in page.text
