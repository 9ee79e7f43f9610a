"""Published statements as contrasts that data can refute.

`contract` says what a claim is, `facts` which checkpoints it is about, `judging` how it is judged; every other file holds the
contrasts and claims of one kind of measurement. To add a claim, write one `Claim` with its contrast in the file it belongs
to, and a synthetic case for and one against it in the tests.

An interval over images speaks about *these checkpoints on images like these*, not about architectures: for that, many pairs
of checkpoints are needed, see `hf_vitstudy.study`.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import StudyError, nearest_name
from . import (
    accuracy,
    attention,
    embeddings,
    frequency,
    interventions,
    loss,
    places,
    probes,
    similarity,
    skips,
    variance,
)
from .contract import Claim, Control, Judgement, Verdict, verdict
from .explaining import explain, measured_by
from .facts import ROLES, Facts, facts
from .judging import ALPHA, DOMINANT, corrected, dominated, granularity, judge, judge_choices


CLAIMS: tuple[Claim, ...] = (
    *similarity.CLAIMS,
    *frequency.CLAIMS,
    *variance.CLAIMS,
    *attention.CLAIMS,
    *skips.CLAIMS,
    *places.CLAIMS,
    *probes.CLAIMS,
    *embeddings.CLAIMS,
    *loss.CLAIMS,
    *interventions.CLAIMS,
    *accuracy.CLAIMS,
)

# Published statements that no stored measurement can judge, and what it would take.
UNTESTED: dict[str, str] = {
    "R-9": "the network trained again without one skip (Raghu et al. 2021, Fig 8): needs a recipe that leaves the skip out; "
    "R-9-posthoc takes it out of the trained network.",
    "R-9-split": "without a skip the CKA map falls in two at that block (Raghu et al. 2021, Fig 8): needs a profile of the "
    "network without it.",
    "V-4": "attention rollout falls on the semantic region (Dosovitskiy et al. 2020, Fig 6): needs masks or boxes of the "
    "objects in the reference images, and rollouts of all of them; the profile keeps those of a few images.",
    "V-5-jft": "from 9 to 300 million images of JFT the ViT overtakes the ResNet (Dosovitskiy et al. 2020, Fig 4): needs JFT, "
    "which is not public; the numbers can be quoted. V-5-few and V-5-all ask the same of small data sets.",
}


def choose_claims(ids: Sequence[str] | None) -> list[Claim]:
    """The claims with these ids, all for None.

    Raises:
        StudyError: an unknown id.
    """
    known = {claim.id: claim for claim in CLAIMS}
    for name in ids or ():
        if name in UNTESTED:
            raise StudyError(f"{name} cannot be judged on stored profiles: {UNTESTED[name]}")
        if name not in known:
            raise StudyError(f"no claim is called {name!r}; {nearest_name(name, known, most=5)}")
    return list(CLAIMS) if ids is None else [known[name] for name in ids]


__all__ = [
    "ALPHA",
    "CLAIMS",
    "DOMINANT",
    "ROLES",
    "UNTESTED",
    "Claim",
    "Control",
    "Facts",
    "Judgement",
    "Verdict",
    "choose_claims",
    "corrected",
    "dominated",
    "explain",
    "facts",
    "granularity",
    "judge",
    "judge_choices",
    "measured_by",
    "verdict",
]
