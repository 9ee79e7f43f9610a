"""The comparison as a page: what a study found, and how any two of its checkpoints work inside, in linked views.

The reading half makes compact JSON of stored results (`data`), and one small renderer without dependencies (js, viz.css)
draws it in the browser. The page needs no server (`export`); whatever hosts it later hands the same JSON to the same renderer.
"""

from .data import FORMAT, Source, checkpoint_data, pair_data, study_data
from .export import export_site, page, parts_of, script, style


__all__ = [
    "FORMAT",
    "Source",
    "checkpoint_data",
    "export_site",
    "page",
    "pair_data",
    "parts_of",
    "script",
    "study_data",
    "style",
]
