"""Figures of paper quality from stored profiles: no network, no torch.

Each ``draw_*`` function fills one matplotlib axes; a `Chart` lays panels out at the width of a page, and the report shows the
same panels one by one. All charts stand in `CHARTS`; to add one, write a `Chart` and name it there. A measurement that no chart
knows is drawn along depth by itself (`other`). Colour, marker and dash name a checkpoint together, so that figures survive a
black-and-white print. CKA is drawn from 0 to 1 in every map, with cells of equal size, so that maps can be compared by eye.
"""

from .attention import (
    draw_entropy,
    draw_filters,
    draw_heads,
    draw_map,
    draw_positions,
    draw_rollout,
    heads_figure,
)
from .depth import (
    DEPTH_PANELS,
    DepthPanel,
    depth_axis,
    depth_figure,
    depth_rows,
    draw_along_depth,
    draw_curve,
    draw_difference,
    draw_spectra,
    places_of,
    spectra_figure,
)
from .interventions import draw_attack, draw_corruptions, draw_drop_difference, draw_noise, draw_severity
from .look import (
    DASHES,
    FAINT,
    INK,
    KIND_MARKS,
    KIND_WORDS,
    PAGE,
    SERIES,
    STYLE,
    VERDICT_LOOK,
    Told,
    draw_names,
    new_figure,
    series_mark,
    style,
)
from .loss import draw_density, draw_eigenvalues, draw_norm, draw_slice, draw_surface
from .panels import Chart, Panel, Study, pairs, sheet
from .registry import CHARTS, SECTIONS, all_charts, all_figures, save_figures
from .similarity import cka_figure, draw_best_match, draw_cka, draw_local_heads, stage_edges
from .skips import draw_lesions, draw_skip_ratio
from .study import (
    dendrogram_figure,
    draw_dendrogram,
    draw_effects,
    draw_verdicts,
    effects_figure,
    overview_figure,
    save_study_figures,
)
from .tokens import draw_probes, draw_radius, draw_receptive_maps, draw_shares, draw_token_map
from .verdicts import claims_figure, claims_height, draw_claims


__all__ = [
    "CHARTS",
    "DASHES",
    "DEPTH_PANELS",
    "FAINT",
    "INK",
    "KIND_MARKS",
    "KIND_WORDS",
    "PAGE",
    "SECTIONS",
    "SERIES",
    "STYLE",
    "VERDICT_LOOK",
    "Chart",
    "DepthPanel",
    "Panel",
    "Study",
    "Told",
    "all_charts",
    "all_figures",
    "cka_figure",
    "claims_figure",
    "claims_height",
    "dendrogram_figure",
    "depth_axis",
    "depth_figure",
    "depth_rows",
    "draw_along_depth",
    "draw_attack",
    "draw_best_match",
    "draw_cka",
    "draw_claims",
    "draw_corruptions",
    "draw_curve",
    "draw_dendrogram",
    "draw_density",
    "draw_difference",
    "draw_drop_difference",
    "draw_effects",
    "draw_eigenvalues",
    "draw_entropy",
    "draw_filters",
    "draw_heads",
    "draw_lesions",
    "draw_local_heads",
    "draw_map",
    "draw_names",
    "draw_noise",
    "draw_norm",
    "draw_positions",
    "draw_probes",
    "draw_radius",
    "draw_receptive_maps",
    "draw_rollout",
    "draw_severity",
    "draw_shares",
    "draw_skip_ratio",
    "draw_slice",
    "draw_spectra",
    "draw_surface",
    "draw_token_map",
    "draw_verdicts",
    "effects_figure",
    "heads_figure",
    "new_figure",
    "overview_figure",
    "pairs",
    "places_of",
    "save_figures",
    "save_study_figures",
    "series_mark",
    "sheet",
    "spectra_figure",
    "stage_edges",
    "style",
]
