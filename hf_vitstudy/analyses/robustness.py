"""Answers to corrupted images: the corruptions of ImageNet-C, filters, shuffled and missing patches.

Hendrycks & Dietterich, ICLR 2019; Park & Kim, ICLR 2022, Fig 12 (mean accuracy over 15 kinds and 5 severities). What each kind
does, and where it differs from the published files, stands in `hf_vitstudy.corruptions`.

Images are corrupted at the network's input size, after the processor's resizing and cropping, with the strengths that were
published for the nearest size. Two checkpoints are comparable where their input sizes are equal; ``strengths`` in the
attributes says which set was used.
"""

from __future__ import annotations

import numpy as np
import xarray as xr

from ..checkpoints import Checkpoint
from ..corruptions import GROUPS, SEVERITIES, STRENGTHS, corrupt, nominal_size, strength_of
from ..errors import StudyError
from ..grading import graded
from .contract import Analysis, Batch, Part, joined, require_classifier, require_labels


SOURCE = "Hendrycks & Dietterich 2019"


class Corruptions(Analysis):
    """Answers to corrupted images: ``corruption_correct``, ``corruption_nll`` (corruption_image, corruption, severity).

    ``corruption_clean_correct`` and ``corruption_clean_nll`` (corruption_image,) are the answers to the images as they are.
    ``correct`` is 1, 0, or -1 where the label is unknown.

    Cost: as many forward passes per image as kinds times severities, 75 by default, and on one core about 8 ms at 224 pixels
    for each corrupted image (1 ms at 64). Hence the first 256 images only.

    Args:
        kinds: names of `hf_vitstudy.corruptions.STRENGTHS` or its groups ``all`` (the 15 of ImageNet-C), ``noise``, ``blur``,
            ``weather``, ``digital`` and ``removal`` (filters, shuffled and missing patches), joined by ``+``.
        severities: among 1 to 5, joined by ``+``.
        images: how many images to use.
        size: whose strengths: 224, 64 or 32; 0 takes the nearest to the network's input.
        seed: of all random numbers.

    Raises:
        StudyError: an unknown kind, severity or size, or no images.
    """

    name = "corruptions"
    needs_labels = True
    own_passes = True

    def __init__(
        self, kinds: str = "all", severities: str = "1+2+3+4+5", images: int = 256, size: int = 0, seed: int = 0
    ) -> None:
        self.kinds, self.severities = _kinds(kinds), _severities(severities)
        if images < 1:
            raise StudyError(f"corruptions:images must be at least 1, got {images}")
        if size:
            strength_of(self.kinds[0], self.severities[0], size)
        self.images, self.size, self.seed = images, size, seed

    def start(self, checkpoint: Checkpoint, n_images: int, batch_size: int) -> None:
        require_classifier(checkpoint)
        self.checkpoint = checkpoint
        self.strengths = self.size or nominal_size(checkpoint.image_size)

    def update(self, batch: Batch) -> Part:
        few = batch.up_to(self.images)
        if few is None:
            return {}
        assert few.logits is not None, "start has checked for a classifier"
        found = {f"corruption_clean_{key}": value for key, value in graded(few.logits, few.labels).items()}
        grades = [[self._grades(few, kind, severity) for severity in self.severities] for kind in self.kinds]
        for key in ("correct", "nll"):
            values = np.array([[grade[key] for grade in row] for row in grades])
            found[f"corruption_{key}"] = np.moveaxis(values, 2, 0)
        return found

    def _grades(self, batch: Batch, kind: str, severity: int) -> Part:
        images = corrupt(batch.images, kind, severity, seed=self.seed, first=batch.first, size=self.strengths)
        return graded(self.checkpoint.network(self.checkpoint.normalise(images)).logits, batch.labels)

    def result(self, parts: list[Part]) -> dict[str, xr.Variable]:
        require_labels(joined(parts, "corruption_clean_correct"))
        axes = ("corruption_image", "corruption", "severity")
        found = {}
        for name in parts[0]:
            values = joined(parts, name)
            about = {
                "unit": "nat" if name.endswith("nll") else "1",
                "source": SOURCE,
                "long_name": name.replace("_", " "),
            }
            about |= {"strengths": f"published for {self.strengths} px, seed {self.seed}"}
            found[name] = xr.Variable(axes[: values.ndim], values, about)
        found["corruption"] = xr.Variable(("corruption",), np.array(self.kinds))
        found["severity"] = xr.Variable(("severity",), np.array(self.severities, dtype=np.int32))
        return found


def _kinds(text: str) -> list[str]:
    """Names from a list joined by ``+``, groups written out, each once."""
    found: list[str] = []
    for name in text.split("+"):
        if name not in GROUPS and name not in STRENGTHS:
            raise StudyError(
                f"corruptions:kinds has no {name!r}; groups: {', '.join(GROUPS)}; kinds: {', '.join(STRENGTHS)}"
            )
        found += GROUPS.get(name, (name,))
    return list(dict.fromkeys(found))


def _severities(text: str) -> list[int]:
    known = {str(severity): severity for severity in SEVERITIES}
    unknown = [part for part in text.split("+") if part not in known]
    if unknown:
        raise StudyError(f"corruptions:severities must be 1 to 5 joined by +, got {text!r}")
    return sorted({known[part] for part in text.split("+")})
