"""Figures show the stored numbers: what is drawn is compared with what was measured, not with pixels."""

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from synthetic import synthetic_profile

from hf_vitstudy import StudyError, compare, figures, judge
from hf_vitstudy.profile import Profile


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
    shown = [judgement for judgement in judgements if judgement.estimate]
    assert len(shown) == 10
    marks = [line for line in ax.lines if len(line.get_xdata()) == 1]
    bars = [line for line in ax.lines if len(line.get_xdata()) == 2 and line.get_ydata()[0] == line.get_ydata()[1]]
    for bar, judgement in zip(reversed(bars), shown, strict=True):
        ends = np.array([judgement.estimate.low, judgement.estimate.high]) / judgement.claim.margin
        np.testing.assert_allclose(bar.get_xdata(), ends)
    for mark, judgement in zip(reversed(marks), shown, strict=True):
        assert mark.get_xdata()[0] == pytest.approx(judgement.estimate.value / judgement.claim.margin)
        assert (mark.get_color(), mark.get_marker()) == figures.VERDICT_LOOK[judgement.verdict]
        assert ax.get_xlim()[0] < mark.get_xdata()[0] < ax.get_xlim()[1]


def test_all_figures_are_saved_twice_and_the_same_each_time(vit, resnet, tmp_path):
    paths = figures.save_figures(tmp_path / "a", vit, resnet, draws=100)
    names = ["cka", "depth", "spectra", "heads", "claims"]
    assert [path.name for path in paths] == [f"{name}.{form}" for name in names for form in ("png", "svg")]
    again = figures.save_figures(tmp_path / "b", vit, resnet, draws=100, formats=["svg"])
    for path in again:
        assert path.read_bytes() == (tmp_path / "a" / path.name).read_bytes()


def test_figures_without_their_measurement_are_left_out_and_say_so_alone(resnet, tmp_path):
    bare = without(resnet, "fourier", "variance", "relative_variance", "frequency")
    assert [path.name for path in figures.save_figures(tmp_path, bare, draws=100, formats=["png"])] == ["cka.png"]
    for draw, message in (
        (figures.depth_figure, "--analyses fourier,variance"),
        (figures.spectra_figure, "--analyses fourier"),
        (figures.heads_figure, "none of the checkpoints returns attention weights"),
    ):
        with pytest.raises(StudyError, match=message):
            draw([bare])
    with pytest.raises(StudyError, match="no claim could be judged"):
        figures.claims_figure(judge(bare, draws=100))


def test_three_profiles_are_compared_in_pairs(vit, resnet, tmp_path):
    third = synthetic_profile("vit", n=64, seed=5, name="third")
    paths = figures.save_figures(tmp_path, vit, resnet, third, draws=100, formats=["svg"])
    maps = [path.stem for path in paths if path.stem.startswith("cka")]
    assert maps == ["cka-synthetic-vit-synthetic-resnet", "cka-synthetic-vit-third", "cka-synthetic-resnet-third"]


def test_drawing_changes_no_setting_of_the_reader(vit):
    before = dict(mpl.rcParams)
    with figures.style():
        figures.heads_figure([vit])
    assert dict(mpl.rcParams) == before
