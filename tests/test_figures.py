"""Figures show the stored numbers: what is drawn is compared with what was measured, not with pixels."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from scipy.stats import t as student
from synthetic import synthetic_profile
from synthetic_measurements import GRID, measured_profile, with_variable

from hf_vitstudy import StudyError, compare, figures, judge
from hf_vitstudy.claims import choose_claims
from hf_vitstudy.comparison import caveats
from hf_vitstudy.figures import Study
from hf_vitstudy.figures.interventions import REMOVAL
from hf_vitstudy.figures.loss import density, density_edges, surface_range
from hf_vitstudy.figures.measures import DECONFOUNDED, similarity_maps
from hf_vitstudy.figures.other import unknown
from hf_vitstudy.figures.skips import stage_lines
from hf_vitstudy.local_heads import local_heads
from hf_vitstudy.loss_geometry import hessian_statistics, rise
from hf_vitstudy.profile import Profile
from hf_vitstudy.robustness import accuracy_drop, crossing, drop_difference, mean_corruption_accuracy
from hf_vitstudy.stats import Resampling, percentile


@pytest.fixture(scope="module")
def vit() -> Profile:
    return synthetic_profile("vit", n=64)


@pytest.fixture(scope="module")
def resnet() -> Profile:
    return synthetic_profile("resnet", n=64)


def without(profile: Profile, *names: str) -> Profile:
    return Profile(profile.data.drop_vars(names), profile.provenance)


def axes():
    return Figure().subplots()


def test_a_cka_map_holds_the_comparison_s_numbers_first_block_below(vit, resnet):
    maps = compare(vit, resnet, draws=10).cka("ab")
    ax = axes()
    mesh = figures.draw_cka(ax, maps, vit, resnet)
    np.testing.assert_array_equal(mesh.get_array(), maps["cka"].values)
    assert (mesh.norm.vmin, mesh.norm.vmax) == (0, 1)
    assert ax.get_ylim()[0] < ax.get_ylim()[1]
    assert "synthetic-resnet" in ax.get_xlabel()
    assert "synthetic-vit" in ax.get_ylabel()


def test_stage_lines_stand_where_the_map_changes_its_size(vit, resnet):
    assert figures.stage_edges(resnet) == [2.5, 4.5, 6.5]
    assert figures.stage_edges(vit) == []


def test_an_undefined_block_is_left_blank_and_has_no_best_match(vit, resnet):
    maps = compare(vit, resnet, draws=10).cka("ab").copy(deep=True)
    maps["cka"][:, 3] = np.nan
    ax = axes()
    mesh = figures.draw_cka(ax, maps, vit, resnet)
    assert mesh.get_array().mask[:, 3].all()
    figures.draw_best_match(ax, maps)
    path = ax.lines[-1]
    assert list(path.get_xdata()) == [0, 1, 2, 4, 5, 6, 7, 8]
    expected = [int(np.argmax(maps["cka"].values[:, j])) for j in path.get_xdata()]
    assert list(path.get_ydata()) == expected


def test_all_three_maps_have_cells_of_one_size(vit, resnet):
    figure = figures.cka_figure(compare(vit, resnet, draws=10))
    width, height = figure.get_size_inches()
    cells = []
    for ax, (rows, columns) in zip(figure.axes[:3], [(17, 17), (17, 9), (9, 9)], strict=True):
        box = ax.get_position()
        cells += [box.width * width / columns, box.height * height / rows]
    assert np.ptp(cells) < 1e-9
    assert width == pytest.approx(figures.PAGE)


def test_curves_along_depth_are_means_with_their_intervals(vit, resnet):
    ax = axes()
    figures.draw_along_depth(ax, [vit, resnet], "relative_variance")
    curves = [line for line in ax.lines if len(line.get_xdata()) in (17, 9) and line.get_linestyle() != "None"]
    for curve, profile in zip(curves, (vit, resnet), strict=True):
        np.testing.assert_allclose(curve.get_ydata(), profile["relative_variance"].mean("image"), rtol=1e-5)
        np.testing.assert_array_equal(curve.get_xdata(), profile.data["depth"])
    bands = [collection.get_paths()[0].vertices for collection in ax.collections]
    assert len(bands) == 2
    assert len({line.get_color() for line in curves}) == len({line.get_linestyle() for line in curves}) == 2


def test_spectra_start_at_zero_and_end_at_the_highest_band(vit):
    ax = axes()
    figures.draw_spectra(ax, vit)
    assert len(ax.lines) == 17
    for line, curve in zip(ax.lines, vit["fourier"].mean("image").values, strict=True):
        np.testing.assert_allclose(line.get_ydata(), [0, *curve])


def test_a_band_without_a_frequency_leaves_no_gap(vit):
    data = vit.data.copy(deep=True)
    data["fourier"][:, 4:, 0] = np.nan
    ax = axes()
    figures.draw_spectra(ax, Profile(data, vit.provenance))
    assert [len(line.get_xdata()) for line in ax.lines] == [6] * 4 + [5] * 13
    assert all(np.isfinite(line.get_ydata()).all() for line in ax.lines)


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e4])
def test_ticks_of_a_logarithmic_axis_are_plain_numbers(vit, scale):
    data = vit.data.assign(variance=vit.data["variance"] * scale)
    figure = figures.depth_figure([Profile(data, vit.provenance)])
    figure.draw_without_rendering()
    ax = next(ax for ax in figure.axes if ax.get_yscale() == "log")
    words = [tick.get_text() for tick in (*ax.get_yticklabels(), *ax.get_yticklabels(minor=True)) if tick.get_text()]
    assert len(words) >= 2
    assert all(float(word) > 0 for word in words)


def test_every_head_is_a_dot(vit):
    ax = axes()
    figures.draw_heads(ax, vit)
    dots = ax.lines[0].get_ydata()
    np.testing.assert_allclose(dots, vit["attention_distance"].mean("image").values.ravel())
    assert ax.lines[2].get_ydata()[0] == vit["attention_distance"].attrs["uniform"]


def test_claims_are_drawn_in_units_of_their_margins(vit, resnet):
    judgements = judge(vit, resnet, draws=100)
    ax = axes()
    figures.draw_claims(ax, judgements)
    shown = [judgement for judgement in judgements if judgement.estimate and np.isfinite(judgement.estimate.value)]
    assert len(shown) >= 10
    marks = [line for line in ax.lines if len(line.get_xdata()) == 1]
    bars = [line for line in ax.lines if len(line.get_xdata()) == 2 and line.get_ydata()[0] == line.get_ydata()[1]]
    for bar, judgement in zip(reversed(bars), shown, strict=True):
        ends = np.array([judgement.estimate.low, judgement.estimate.high]) / judgement.claim.margin
        np.testing.assert_allclose(bar.get_xdata(), ends)
    for mark, judgement in zip(reversed(marks), shown, strict=True):
        assert mark.get_xdata()[0] == pytest.approx(judgement.estimate.value / judgement.claim.margin)
        assert (mark.get_color(), mark.get_marker()) == figures.VERDICT_LOOK[judgement.verdict]
        assert ax.get_xlim()[0] < mark.get_xdata()[0] < ax.get_xlim()[1]


def test_a_claim_on_several_choices_has_a_mark_for_each_in_one_row(vit, resnet):
    judgements = judge(vit, synthetic_profile("vit", n=64, seed=5, name="third"), resnet, draws=100, permutations=0)
    ax = axes()
    figures.draw_claims(ax, judgements)
    labels = [text.get_text().replace("\n", " ") for text in ax.get_yticklabels()]
    row = next(place for place, label in enumerate(labels) if label.endswith("(R-1)"))
    marks = [line for line in ax.lines if len(line.get_xdata()) == 1 and abs(line.get_ydata()[0] - row) < 0.5]
    wanted = [j.estimate.value / j.claim.margin for j in judgements if j.claim.id == "R-1"]
    assert len(wanted) == 2
    assert [mark.get_xdata()[0] for mark in marks] == pytest.approx(wanted)
    assert len(labels) == len(set(labels)) < len([j for j in judgements if j.estimate])


def test_all_figures_are_saved_twice_and_the_same_each_time(vit, resnet, tmp_path):
    paths = figures.save_figures(tmp_path / "a", vit, resnet, draws=100)
    names = ["cka", "similarity-measures", "caveats", "depth", "spectra", "heads", "claims"]
    assert [path.name for path in paths] == [f"{name}.{form}" for name in names for form in ("png", "svg")]
    again = figures.save_figures(tmp_path / "b", vit, resnet, draws=100, formats=["svg"])
    for path in again:
        assert path.read_bytes() == (tmp_path / "a" / path.name).read_bytes()


def test_figures_without_their_measurement_are_left_out_and_say_so_alone(resnet, tmp_path):
    bare = without(resnet, "fourier", "variance", "relative_variance", "frequency")
    names = [path.name for path in figures.save_figures(tmp_path, bare, draws=100, formats=["png"])]
    assert names == ["cka.png", "similarity-measures.png", "caveats.png", "claims.png"]
    for draw, message in (
        (figures.depth_figure, "--analyses fourier,variance"),
        (figures.spectra_figure, "--analyses fourier"),
        (figures.heads_figure, "none of the checkpoints returns attention weights"),
    ):
        with pytest.raises(StudyError, match=message):
            draw([bare])
    with pytest.raises(StudyError, match="no claim could be judged"):
        figures.claims_figure(judge(bare, claims=choose_claims(["R-1", "P-F1"]), draws=100))


def test_three_profiles_are_compared_in_pairs(vit, resnet, tmp_path):
    third = synthetic_profile("vit", n=64, seed=5, name="third")
    paths = figures.save_figures(tmp_path, vit, resnet, third, draws=100, formats=["svg"])
    for name in ("cka", "similarity-measures"):
        maps = [path.stem for path in paths if path.stem.startswith(name)]
        pairs = ["synthetic-vit-synthetic-resnet", "synthetic-vit-third", "synthetic-resnet-third"]
        assert maps == [f"{name}-{pair}" for pair in pairs]


def test_drawing_changes_no_setting_of_the_reader(vit):
    before = dict(mpl.rcParams)
    with figures.style():
        figures.heads_figure([vit])
    assert dict(mpl.rcParams) == before


# ------------------------------------------------------------------------------------------------- all that is measured


@pytest.fixture(scope="module")
def all_of_vit() -> Profile:
    return measured_profile("vit")


@pytest.fixture(scope="module")
def all_of_resnet() -> Profile:
    return measured_profile("resnet")


@pytest.fixture(scope="module")
def study(all_of_vit, all_of_resnet) -> Study:
    return Study((all_of_vit, all_of_resnet), draws=100)


def chart(name: str) -> figures.Chart:
    return next(chart for chart in figures.CHARTS if chart.name == name)


WITHOUT_PROFILES = {"heads-windows", "skip-removal"}  # synthetic profiles have neither windows nor removed skips
DRAWN = [chart.name for chart in figures.CHARTS if chart.name not in WITHOUT_PROFILES]


def test_chart_names_are_unique_and_stand_in_a_section():
    names = [chart.name for chart in figures.CHARTS]
    assert len(names) == len(set(names)) >= 19
    assert {chart.section for chart in figures.CHARTS} <= set(figures.SECTIONS)
    for chart in figures.CHARTS:
        assert chart.needs
        assert chart.read.endswith(".")
        assert chart.source
        assert chart.title


@pytest.mark.parametrize("name", DRAWN)
def test_every_chart_is_drawn_from_what_it_needs(name, study):
    with figures.style():
        panels = chart(name).panels(study)
        assert panels
        assert all(len(panel.about) > 10 for panel in panels)
        table = chart(name).table(study) if chart(name).table else None
    if table:
        assert table["body"]
        assert {len(row) for row in table["body"]} == {len(table["head"])}
        assert all(isinstance(cell, str) for row in table["body"] for cell in row)


@pytest.mark.parametrize("name", DRAWN)
def test_every_chart_is_left_out_without_what_it_needs(name, all_of_vit, all_of_resnet):
    needs = chart(name).needs
    for missing in needs:
        bare = Study(tuple(without(p, missing) if missing in p.data else p for p in (all_of_vit, all_of_resnet)), 100)
        assert not chart(name).applies(bare)
        assert chart(name).drawn(bare) == []
        assert name not in [other.name for other in figures.all_charts(bare)]
        with pytest.raises(StudyError, match=f"{name} needs .*{missing}.* no profile holds"):
            chart(name).figure(bare)


def test_the_reason_for_a_missing_measurement_is_told(all_of_resnet):
    bare = without(all_of_resnet, "probe_correct")
    absent = {"probe_correct": "a class with too few images"}
    with pytest.raises(StudyError, match="a class with too few images"):
        chart("probes").figure(Study((Profile(bare.data, bare.provenance | {"absent": absent}),), 100))


@contextmanager
def recorded_texts() -> Iterator[list[tuple[str, mpl.transforms.Bbox]]]:
    """What is written while figures are drawn, and where, in pixels."""
    found: list[tuple[str, mpl.transforms.Bbox]] = []
    draw = Text.draw

    def record(self, renderer):
        if self.get_visible() and self.get_text().strip():
            found.append((self.get_text(), self.get_window_extent(renderer)))
        return draw(self, renderer)

    Text.draw = record
    try:
        yield found
    finally:
        Text.draw = draw


def misplaced(texts: list[tuple[str, mpl.transforms.Bbox]], page: mpl.transforms.Bbox) -> list[str]:
    """Texts that leave the page or cover another by more than two pixels."""
    found = []
    for place, (text, box) in enumerate(texts):
        if box.x0 < -2 or box.y0 < -2 or box.x1 > page.x1 + 2 or box.y1 > page.y1 + 2:
            found.append(f"{text!r} leaves the page")
        for other, other_box in texts[place + 1 :]:
            common = mpl.transforms.Bbox.intersection(box, other_box)
            if common is not None and min(common.width, common.height) > 2:
                found.append(f"{text!r} covers {other!r}")
    return found


def test_the_check_of_texts_finds_what_is_wrong():
    figure = Figure(figsize=(2, 2))
    for x, y, text in ((0.1, 0.5, "first"), (0.15, 0.5, "second"), (0.9, 0.9, "beyond the edge")):
        figure.text(x, y, text)
    with recorded_texts() as texts:
        figure.draw_without_rendering()
    assert misplaced(texts, figure.bbox) == ["'first' covers 'second'", "'beyond the edge' leaves the page"]


LONG = "an-organisation/vit-base-patch16-224-in21k-ft"


@pytest.mark.parametrize("many", [False, True], ids=["two profiles", "three with long names"])
def test_no_text_covers_another_or_leaves_the_page(many, study, all_of_vit, all_of_resnet):
    if many:
        named = [measured_profile("vit", seed=3, name=LONG), measured_profile("resnet", seed=4, name=LONG + "-2")]
        study = Study((*named, all_of_resnet), draws=100)
    count, wrong = 0, []
    with figures.style():
        alone = [
            (f"{chart.name}, panel {place}", panel.figure())
            for chart in figures.all_charts(study)
            for place, panel in enumerate(chart.panels(study))
        ]
        for name, figure in [*figures.all_figures(study), *(alone if many else [])]:
            figure.draw_without_rendering()
            figure.set_layout_engine("none")
            with recorded_texts() as texts:
                figure.draw_without_rendering()
            assert texts
            wrong += [f"{name}: {words}" for words in misplaced(texts, figure.bbox)]
            count += 1
    assert count >= 20
    assert wrong == []


def points_of(ax) -> dict[str, tuple[float, float]]:
    """Text on hover -> place."""
    told = [artist for artist in ax.get_children() if isinstance(artist, figures.Told)]
    return {text: tuple(point) for one in told for point, text in zip(one.points, one.texts, strict=True)}


def line_of(ax, number: int, kind: str | None = None):
    """The curve of a profile."""
    look = figures.SERIES[number], figures.DASHES[number]
    return next(
        line for line in ax.lines if (line.get_color(), line.get_linestyle()) == look and len(line.get_xdata()) > 1
    )


def band_of(ax, number: int) -> np.ndarray:
    """(2, place) lower and upper edge of the profile's band."""
    colour = mpl.colors.to_rgb(figures.SERIES[number])
    band = next(c for c in ax.collections if len(c.get_paths()) == 1 and tuple(c.get_facecolor()[0][:3]) == colour)
    vertices = band.get_paths()[0].vertices
    return np.stack([vertices[1 : len(vertices) // 2, 1], vertices[len(vertices) // 2 + 1 : -1, 1][::-1]])


def test_noise_curves_are_the_drops_and_the_crossing_has_its_interval(study):
    ax = axes()
    figures.draw_noise(ax, study)
    for number, profile in enumerate(study.profiles):
        found = accuracy_drop(profile, draws=100)
        np.testing.assert_allclose(line_of(ax, number).get_ydata(), 100 * found["drop"])
        np.testing.assert_allclose(band_of(ax, number), 100 * np.stack([found["low"], found["high"]]))
    where = crossing(*study.profiles, draws=100).frequency
    assert 0.1 < where.value < 0.9
    bar = next(line for line in ax.lines if line.get_linewidth() == 1.4)
    np.testing.assert_allclose(bar.get_xdata(), [where.low, where.high])
    assert f"cross at {where.value:.2f}π" in ax.texts[-1].get_text()


def test_curves_of_two_resnets_have_no_crossing(all_of_resnet):
    twins = Study((all_of_resnet, measured_profile("resnet", seed=2, name="twin")), draws=100)
    ax = axes()
    figures.draw_noise(ax, twins)
    assert not ax.texts


def test_several_pairs_leave_the_crossings_out(all_of_vit, all_of_resnet):
    three = Study((all_of_vit, all_of_resnet, measured_profile("resnet", seed=2, name="twin")), draws=100)
    ax = axes()
    figures.draw_noise(ax, three)
    assert not ax.texts


def test_noise_differences_are_paired(study):
    ax = axes()
    figures.draw_drop_difference(ax, study, study.comparisons[0])
    found = drop_difference(*study.profiles, draws=100)
    line = next(line for line in ax.lines if line.get_marker() == "o")
    np.testing.assert_allclose(line.get_ydata(), 100 * found["difference"])


def test_kinds_of_corruption_are_sorted_dots_with_their_intervals(study):
    ax = axes()
    figures.draw_corruptions(ax, study)
    words = [tick.get_text() for tick in ax.get_yticklabels()]
    assert words == ["contrast", "fog", "gaussian noise", "mean of all"]
    points = points_of(ax)
    kinds = ["gaussian_noise", "fog", "contrast"]
    for profile in study.profiles:
        for kind, estimate in mean_corruption_accuracy(profile, kinds, draws=100).items():
            place = next(
                at for text, at in points.items() if text.startswith(f"{profile.name}, {kind.replace('_', ' ')}")
            )
            assert place[0] == pytest.approx(100 * estimate.value)
    bars = np.sort(np.concatenate([c.get_segments() for c in ax.collections])[:, :, 0], axis=0)
    ends = [
        (100 * e.low, 100 * e.high)
        for p in study.profiles
        for e in mean_corruption_accuracy(p, kinds, draws=100).values()
    ]
    np.testing.assert_allclose(bars, np.sort(np.array(ends), axis=0))


def test_severities_start_without_corruption(study):
    ax = axes()
    figures.draw_severity(ax, study)
    right = study.profiles[0]["corruption_correct"].values.astype(float)
    clean = study.profiles[0]["corruption_clean_correct"].values.mean()
    line = line_of(ax, 0)
    np.testing.assert_array_equal(line.get_xdata(), [0, 1, 3, 5])
    np.testing.assert_allclose(line.get_ydata(), 100 * np.array([clean, *right[:, :3].mean((0, 1))]))


@pytest.mark.parametrize("kind", REMOVAL)
def test_strengths_of_removal_are_those_of_the_corruptions(kind, study):
    """The words on the axis against the table the images were made with."""
    from hf_vitstudy.corruptions import STRENGTHS

    ax = axes()
    figures.draw_severity(ax, study, kind)
    words = [tick.get_text() for tick in ax.get_xticklabels()][1:]
    read: dict[str, Callable[[str], float]] = {
        "low_pass": lambda text: float(text.removesuffix("π")),
        "high_pass": lambda text: float(text.removesuffix("π")),
        "patch_shuffle": lambda text: float(text.split("×")[0]),
        "occlusion": lambda text: float(text.removesuffix(" %")) / 100,
    }
    for strengths in STRENGTHS[kind].values():
        np.testing.assert_allclose([read[kind](word) for word in words], strengths, atol=0.001)


def test_attacks_start_without_attack(study):
    ax = axes()
    figures.draw_attack(ax, study, "pgd")
    profile = study.profiles[1]
    expected = [profile["attack_clean_correct"].values.mean(), *profile["pgd_correct"].values.mean(0)]
    np.testing.assert_allclose(line_of(ax, 1).get_ydata(), 100 * np.array(expected))
    np.testing.assert_allclose(line_of(ax, 1).get_xdata(), [0, 1, 2, 4])


def test_lesions_show_each_part_and_the_whole_network(study):
    ax = axes()
    profile = study.profiles[0]
    figures.draw_lesions(ax, profile, 0, "lesion", study)
    expected = 100 * profile["lesion_correct"].values.mean(0)
    points = points_of(ax)
    assert len(points) == len(expected) == 16
    for name, value in zip(profile.data["lesion"].values, expected, strict=True):
        place = next(at for text, at in points.items() if f"without {name}:" in text)
        assert place[1] == pytest.approx(value)
    assert ax.lines[0].get_ydata()[0] == pytest.approx(100 * profile["lesion_intact_correct"].values.mean())
    depth = profile.data["lesion_depth"].values
    assert stage_lines(profile, "lesion", depth) == [pytest.approx((depth[7] + depth[8]) / 2)]
    rows = 100 * Resampling(32, 100).mean(profile["lesion_correct"].values.astype(float))
    segments = np.concatenate([c.get_segments() for c in ax.collections])
    np.testing.assert_allclose(np.sort(segments[:, 0, 1]), np.sort(percentile(rows)[0]))


def test_skip_ratios_are_means_on_a_logarithmic_scale(study):
    ax = axes()
    figures.draw_skip_ratio(ax, study, "skip_ratio")
    for number, profile in enumerate(study.profiles):
        np.testing.assert_allclose(line_of(ax, number).get_ydata(), profile["skip_ratio"].mean("image"), rtol=1e-5)
        np.testing.assert_array_equal(line_of(ax, number).get_xdata(), profile.data["branch_depth"])
    assert ax.get_yscale() == "log"
    rings = [line for line in ax.lines if line.get_markersize() == 7]
    assert [len(ring.get_xdata()) for ring in rings] == [4, 2]


def test_receptive_fields_are_mean_radii_beside_the_uniform_one(study):
    ax = axes()
    figures.draw_radius(ax, study, 1)
    for number, profile in enumerate(study.profiles):
        expected = profile["receptive_radius"].mean("receptive_image").values[:, 1]
        np.testing.assert_allclose(line_of(ax, number).get_ydata(), expected, rtol=1e-5)
        rows = Resampling(8, 100).mean(profile["receptive_radius"].values[:, :, 1])
        np.testing.assert_allclose(band_of(ax, number), np.stack(percentile(rows)), rtol=1e-5)
    uniform = [line for line in ax.lines if set(line.get_ydata()) == {62.0}]
    assert len(uniform) == 2


def test_receptive_maps_are_shares_of_their_peak(study):
    panel = chart("receptive-fields").panels(study)[0]
    figure = panel.figure()
    images = [ax.images[0].get_array() for ax in figure.axes if ax.images]
    assert len(images) == 5
    first = study.profiles[0]["receptive_map"].values[0]
    np.testing.assert_allclose(images[0], np.maximum(first / first.max(), 1e-3), rtol=1e-5)
    assert all(image.max() == pytest.approx(1) for image in images)


def test_token_maps_mark_the_token_s_own_place(study):
    ax = axes()
    profile = study.profiles[0]
    token = 6
    figures.draw_token_map(ax, profile, token, top=0.9)
    expected = profile["localisation_cka"].values[-1, token].reshape(GRID)
    np.testing.assert_allclose(ax.images[0].get_array(), expected)
    square = ax.patches[0]
    assert (square.get_x() + 0.5, square.get_y() + 0.5) == (2, 1)
    assert np.unravel_index(expected.argmax(), GRID) == (1, 2)


def test_shares_of_localisation_have_their_error(study):
    ax = axes()
    figures.draw_shares(ax, study)
    segments = np.concatenate([c.get_segments() for c in ax.collections])
    bars = segments[segments[:, 0, 0] == segments[:, 1, 0]]
    expected = []
    for profile in study.profiles:
        value, error = profile["localisation_share"].values, profile["localisation_share_error"].values
        expected += [
            (100 * (v - 1.96 * e), 100 * (v + 1.96 * e)) for v, e in zip(value.ravel(), error.ravel(), strict=True)
        ]
    np.testing.assert_allclose(bars[:, :, 1], np.clip(expected, 0, 100))


def test_probes_are_accuracies_at_the_depth_of_their_blocks(study):
    ax = axes()
    figures.draw_probes(ax, study, "mean")
    for number, profile in enumerate(study.profiles):
        line = line_of(ax, number)
        place = list(profile.data["probe_feature"].values).index("mean")
        np.testing.assert_allclose(line.get_ydata(), 100 * profile["probe_correct"].values[:, :, place].mean(0))
        np.testing.assert_array_equal(line.get_xdata(), profile.data["depth"].values[::2])
    rows = 100 * Resampling(32, 100).mean(study.profiles[1]["probe_correct"].values[:, :, 0].astype(float))
    np.testing.assert_allclose(band_of(ax, 1), np.stack(percentile(rows)))
    assert ax.lines[-1].get_ydata()[0] == 10


def test_entropies_are_dots_by_head(study):
    ax = axes()
    profile = study.profiles[0]
    figures.draw_entropy(ax, profile, 0, "relative_attention_entropy", study)
    means = profile["relative_attention_entropy"].mean("image").values
    np.testing.assert_allclose(ax.lines[0].get_ydata(), means.ravel())
    np.testing.assert_allclose(ax.lines[1].get_ydata(), means.mean(1))


def test_rollout_maps_are_shares_of_uniform_attention(study):
    figure = chart("rollout").panels(study)[0].figure()
    shown = [ax.images[0].get_array() for ax in figure.axes if ax.images]
    maps = study.profiles[0]["rollout"].values * 16
    assert len(shown) == 7
    np.testing.assert_allclose(shown[0], maps.mean(0), rtol=1e-6)
    for image, expected in zip(shown[1:], maps, strict=True):
        np.testing.assert_allclose(image, expected)


def test_position_maps_are_tiles_in_the_order_of_places(study):
    ax = axes()
    profile = study.profiles[0]
    figures.draw_positions(ax, profile)
    image = ax.images[0].get_array()
    assert image.shape == (19, 19)
    expected = profile["position_similarity"].values
    np.testing.assert_allclose(image[5:9, 10:14], expected[4 * 1 + 2].reshape(GRID))
    assert image.mask[4].all()


def test_filters_are_colours_around_grey(study):
    ax = axes()
    profile = study.profiles[0]
    figures.draw_filters(ax, profile)
    image = ax.images[0].get_array()
    component = profile["filter_component"].values[1]
    expected = 0.5 + np.moveaxis(component, 0, -1) / np.abs(component).max() / 2
    np.testing.assert_allclose(image[:4, 5:9, :3], expected, rtol=1e-5)
    assert (image[:4, 4, 3] == 0).all()


def test_local_heads_are_the_table_of_local_heads(study):
    a, b = study.profiles
    expected = local_heads(a, b, resampling=Resampling(64, 100)).sliding
    ax = axes()
    figures.draw_local_heads(ax, expected, "")
    curves = [line for line in ax.lines if line.get_marker() == "o"]
    assert len(curves) == len(expected["column"]) == 4
    for j, curve in enumerate(curves):
        np.testing.assert_allclose(curve.get_xdata(), expected["distance"])
        np.testing.assert_allclose(curve.get_ydata(), expected["cka"].values[:, j])


def test_maps_of_other_measures_hold_the_comparison_s_numbers(study):
    found = similarity_maps(study.comparisons[0])
    assert list(found) == ["rsa", "knn", "cknna", "procrustes"]  # synthetic profiles hold no Gram matrix of the pixels
    measures = next(chart for chart in figures.all_charts(study) if chart.name == "similarity-measures")
    for (measure, maps), panel in zip(found.items(), measures.panels(study), strict=True):
        expected = study.comparisons[0].similarity("ab", measure)
        np.testing.assert_array_equal(maps[measure], expected[measure])
        ax = panel.figure().axes[0]
        np.testing.assert_array_equal(ax.collections[0].get_array(), expected[measure])
        assert ("chance" in ax.get_title()) == ("chance" in expected)


def test_cka_less_the_pixels_is_drawn_where_they_were_kept(all_of_vit, all_of_resnet):
    from synthetic import gram_variables

    pixels = gram_variables([np.random.default_rng(1).normal(size=(64, 12))], 32, view="input")
    pixels = {name: (("pixel", *axes[1:]), *rest) if axes[0] == "block" else (axes, *rest)
              for name, (axes, *rest) in pixels.items()}  # fmt: skip
    profiles = [Profile(p.data.assign(pixels), p.provenance) for p in (all_of_vit, all_of_resnet)]
    found = similarity_maps(compare(*profiles, draws=10))
    expected = compare(*profiles, draws=10).cka("ab", deconfounded=True)
    np.testing.assert_array_equal(found[DECONFOUNDED][DECONFOUNDED], expected["cka"])


def test_caveats_are_drawn_with_their_intervals(study):
    panels = chart("caveats").panels(study)
    assert len(panels) == 3
    for panel, name, factor in zip(
        panels, ("participation_ratio", "top1_energy", "influence"), (1, 100, 1), strict=True
    ):
        ax = panel.figure().axes[0]
        for number, profile in enumerate(study.profiles):
            expected = factor * np.abs(caveats(profile)[name].values)
            np.testing.assert_allclose(line_of(ax, number).get_ydata(), expected)


def test_eigenvalues_of_both_ends_are_dots_and_their_mean_a_bar(study):
    ax = axes()
    figures.draw_eigenvalues(ax, study)
    assert ax.get_xscale() == "symlog"
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["synthetic-resnet", "synthetic-vit"]
    points = points_of(ax)
    for row, profile in ((1, study.profiles[0]), (0, study.profiles[1])):
        for end, words in (("top", "largest"), ("bottom", "smallest")):
            for batch, value in enumerate(profile[f"hessian_{end}"].values[:, 0]):
                text = next(t for t in points if t.startswith(f"{profile.name}, mini-batch {batch + 1}, {words}:"))
                assert points[text][0] == pytest.approx(value)
                assert round(points[text][1]) == row
            values = profile[f"hessian_{end}"].values[:, 0]
            half = student.ppf(0.975, 5) * values.std(ddof=1) / np.sqrt(6)
            bar = [line for line in ax.lines if line.get_linewidth() == 1.6 and line.get_ydata()[0] == row - 0.3]
            ends = np.sort([line.get_xdata() for line in bar], axis=0)[0 if end == "bottom" else 1]
            np.testing.assert_allclose(ends, [values.mean() - half, values.mean() + half])


def test_the_table_of_curvature_holds_the_statistics(study):
    table = chart("hessian").table(study)
    for line, profile in zip(table["body"], study.profiles, strict=True):
        found = hessian_statistics(profile)
        assert line[:6] == [profile.name, *(str(estimate) for estimate in found.values())]
    assert [word.split(" [")[0] for word in table["head"][1:3]] == ["largest", "smallest"]


def test_densities_sum_to_one(study):
    edges = density_edges(study.profiles)
    for profile in study.profiles:
        assert edges[0] < profile["hessian_node"].values.min()
        assert edges[-1] > profile["hessian_node"].values.max()
        assert density(profile, edges).sum() == pytest.approx(1)
    nodes, weights = study.profiles[0]["hessian_node"].values, study.profiles[0]["hessian_weight"].values
    fullest = int(np.histogram(nodes, edges)[0].argmax())
    inside = (nodes >= edges[fullest]) & (nodes < edges[fullest + 1])
    assert inside.any()
    assert density(study.profiles[0], edges)[fullest] == pytest.approx(weights[inside].sum() / 6)


def test_mini_batches_that_stopped_early_count_what_they_found(study):
    profile = study.profiles[0]
    nodes, weights = profile["hessian_node"].copy(deep=True), profile["hessian_weight"].copy(deep=True)
    nodes[:, -2:], weights[:, -2:] = np.nan, 0
    short = Profile(profile.data.assign(hessian_node=nodes, hessian_weight=weights), profile.provenance)
    assert density(short, density_edges([short])).sum() == pytest.approx(float(weights.sum()) / 6)


def test_surfaces_share_one_scale_and_slices_pass_through_the_weights(study):
    ends = surface_range(study)
    means = [profile["landscape_nll"].mean("landscape_image").values for profile in study.profiles]
    assert ends == (pytest.approx(min(m.min() for m in means)), pytest.approx(max(m.max() for m in means)))
    ax = axes()
    mesh = figures.draw_surface(ax, study.profiles[1], ends)
    np.testing.assert_allclose(mesh.get_array(), means[1], rtol=1e-6)
    assert (mesh.norm.vmin, mesh.norm.vmax) == ends
    assert mesh.get_extent() == [-1.25, 1.25, -1.25, 1.25]
    ax = axes()
    figures.draw_slice(ax, study)
    for number, mean in enumerate(means):
        np.testing.assert_allclose(line_of(ax, number).get_ydata(), mean[2] - mean[2, 2], rtol=1e-5, atol=1e-6)
    found = rise(study.profiles[0], draws=100)
    np.testing.assert_allclose(band_of(ax, 0), np.stack([found["low"][2], found["high"][2]]))


def test_a_landscape_of_one_direction_has_its_slice_alone(study):
    lines = [Profile(p.data.isel(landscape_y=[2]), p.provenance) for p in study.profiles]
    panels = chart("landscape").panels(Study(tuple(lines), draws=100))
    assert len(panels) == 3
    ax = panels[0].figure().axes[0]
    expected = study.profiles[0]["landscape_nll"].mean("landscape_image").values[2]
    np.testing.assert_allclose(line_of(ax, 0).get_ydata(), expected - expected[2], rtol=1e-5, atol=1e-6)


def test_the_weights_norm_is_drawn_less_its_value_at_the_weights(study):
    ax = axes()
    figures.draw_norm(ax, study)
    expected = study.profiles[1]["landscape_l2"].values[2]
    np.testing.assert_allclose(line_of(ax, 1).get_ydata(), expected - expected[2])


def test_points_tell_what_they_are(study):
    ax = axes()
    figures.draw_probes(ax, study, "mean")
    points = points_of(ax)
    assert len(points) == 9 + 5
    text = next(iter(points))
    assert text.startswith("synthetic-vit, mean, embedding: ")
    assert text.count("[") == 1


# --------------------------------------------------------------------------------------------- what no figure knows


def other(study: Study) -> dict[str, figures.Chart]:
    return {chart.name: chart for chart in figures.all_charts(study) if chart.section == "Other measurements"}


def test_somebody_s_measurement_per_block_gets_a_curve_with_interval_unit_and_source(resnet):
    values = np.random.default_rng(0).normal(5, 1, (64, 9))
    profile = with_variable(
        resnet,
        "kurtosis",
        ("image", "block"),
        values,
        unit="bit",
        source="Doe 2031, eq. 7",
        long_name="kurtosis of it",
    )
    study = Study((profile,), draws=200)
    (chart,) = other(study).values()
    assert (chart.name, chart.title, chart.source) == ("more-kurtosis", "Kurtosis of it", "Doe 2031, eq. 7")
    assert "in the unit bit" in chart.read
    assert "95 % interval over images" in chart.read
    (panel,) = chart.panels(study)
    ax = panel.figure().axes[0]
    assert ax.get_ylabel() == "kurtosis (bit)"
    np.testing.assert_allclose(line_of(ax, 0).get_ydata(), values.mean(0))
    np.testing.assert_allclose(band_of(ax, 0), np.stack(percentile(Resampling(64, 200).mean(values))))
    table = chart.table(study)
    assert len(table["body"]) == 9
    estimate = Resampling(64, 200).estimate(Resampling(64, 200).mean(values)[:, 0])
    assert table["body"][0] == ["synthetic-resnet", "stem", "0.11", str(estimate)]
    assert table["head"][-1] == "kurtosis (bit) [95 %]"


def test_somebody_s_measurement_per_head_gets_dots_and_layer_means(vit):
    values = np.random.default_rng(0).normal(5, 1, (64, 8, 4))
    study = Study(
        (with_variable(vit, "sparsity", ("image", "layer", "head"), values, unit="1", source="Doe"),), draws=100
    )
    chart = other(study)["more-sparsity"]
    ax = chart.panels(study)[0].figure().axes[0]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), values.mean(0).ravel())
    np.testing.assert_allclose(ax.lines[1].get_ydata(), values.mean((0, 2)))
    np.testing.assert_allclose(band_of(ax, 0), np.stack(percentile(Resampling(64, 100).mean(values.mean(2)))))
    assert len(chart.table(study)["body"]) == 8


SHAPES = {
    "few images of its own": (("few_image", "block"), (12, 9), 1),
    "per batch": (("own_batch", "block"), (6, 9), 1),
    "no observations": (("block",), (9,), 1),
    "a short third axis": (("image", "block", "quarter"), (64, 9, 4), 4),
    "a long third axis": (("image", "block", "bin"), (64, 9, 40), 0),
    "per image only": (("image",), (64,), 0),
    "a map": (("block", "row", "column"), (9, 5, 5), 0),
    "one image": (("few_image", "block"), (1, 9), 0),
    "not along depth": (("image", "colour"), (64, 3), 0),
}


@pytest.mark.parametrize("case", SHAPES)
def test_which_shapes_are_drawn_without_a_figure_of_their_own(case, resnet):
    dims, shape, panels = SHAPES[case]
    values = np.random.default_rng(0).normal(size=shape)
    study = Study((with_variable(resnet, "novelty", dims, values, unit="1", source=""),), draws=100)
    charts = other(study)
    assert len(charts) == (panels > 0)
    for chart in charts.values():
        drawn = chart.panels(study)
        assert len(drawn) == panels
        for place, panel in enumerate(drawn):
            ax = panel.figure().axes[0]
            array = values if panels == 1 else values[:, :, place]
            expected = array.mean(0) if array.ndim == 2 else array
            np.testing.assert_allclose(line_of(ax, 0).get_ydata(), expected)
        assert chart.table(study)["body"]


def test_blocks_of_an_axis_of_its_own_stand_at_their_depth(resnet):
    data = resnet.data.assign_coords(chosen_block=["block01", "block05"])
    profile = with_variable(
        Profile(data, resnet.provenance), "novelty", ("image", "chosen_block"), np.ones((64, 2)), unit="1", source=""
    )
    study = Study((profile,), draws=100)
    ax = other(study)["more-novelty"].panels(study)[0].figure().axes[0]
    depth = resnet.data["depth"].values
    np.testing.assert_allclose(line_of(ax, 0).get_xdata(), [depth[2], depth[6]])


def test_text_and_counts_are_no_measurement(resnet):
    data = resnet.data.assign(words=("block", np.array(["a"] * 9)))
    assert other(Study((Profile(data, resnet.provenance),), draws=100)) == {}


def test_profiles_without_somebody_s_measurement_are_left_out_of_its_figure(vit, resnet):
    profile = with_variable(resnet, "novelty", ("image", "block"), np.ones((64, 9)), unit="1", source="")
    study = Study((vit, profile), draws=100)
    ax = other(study)["more-novelty"].panels(study)[0].figure().axes[0]
    assert line_of(ax, 1) is not None
    assert not [line for line in ax.lines if line.get_color() == figures.SERIES[0]]


# ---------------------------------------------------------------------------------------------- what analyses write

MEASURED = (
    *("cka", "fourier", "variance", "attention_distance", "predictions", "projection", "noise", "heads"),
    *("corruptions:kinds=fog+low_pass:severities=1:images=8", "attacks:epsilons=1:steps=1:images=8"),
    *("probes:shots=2:tokens=true", "localisation", "rollout:images=4", "attention_entropy", "position_embedding"),
    *("patch_filters", "skip_ratio", "lesions:images=8", "skip_removal:images=8", "receptive_field:images=4"),
    *("hessian:images=16:batch=8:iterations=4:k=2", "landscape:images=4:grid=3"),
)
EXPECTED = {  # of a network with attention; charts of pairs apart
    *("caveats", "depth", "variance", "heads", "entropy", "rollout", "position-embedding", "patch-filters"),
    *("receptive-fields", "localisation", "probes", "skip-ratio", "lesions", "skip-removal", "noise", "corruptions"),
    *("removal", "attacks", "local-heads", "hessian", "landscape"),
}
SHOWN_BY_ITSELF = {"top_channel_share", "attention_distance_paper", "class_self_attention", "class_token_attention"}


@pytest.fixture(scope="module")
def real_study(vit_folder, resnet_folder, image_folder) -> Study:
    pytest.importorskip("torch")
    from hf_vitstudy import load_images, measure

    images = load_images(image_folder, n=None)
    profiles = [
        measure(folder, images, analyses=MEASURED, batch_size=16, progress=False, workers=0, paper_mode=True)
        for folder in (vit_folder, resnet_folder)
    ]
    return Study(tuple(profiles), draws=100)


def test_every_analysis_has_its_figure(real_study):
    """What the analyses write is what the figures read: names, axes and attributes."""
    assert not real_study.profiles[0].provenance["absent"]
    names = {chart.name for chart in figures.all_charts(real_study)}
    assert names >= EXPECTED
    assert set(unknown(real_study, figures.CHARTS)) <= SHOWN_BY_ITSELF
    drawn = dict(figures.all_figures(real_study))
    for name, figure in drawn.items():
        figure.draw_without_rendering()
        assert figure.axes, name
    assert len(drawn) >= len(EXPECTED)
