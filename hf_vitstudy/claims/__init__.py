"""Published statements as contrasts that data can refute.

`contract` says what a claim is, `facts` which checkpoints it is about, `judging` how it is judged; every other file holds the
contrasts and claims of one kind of measurement. To add a claim, write one `Claim` with its contrast in the file it belongs
to, and a synthetic case for and one against it in the tests.

An interval over images speaks about *these checkpoints on images like these*, not about architectures: for that, many pairs
of checkpoints are needed, see `hf_vitstudy.study`.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import StudyError
from . import attention, frequency, similarity, variance
from .contract import Claim, Control, Judgement, Verdict, verdict
from .facts import ROLES, Facts, facts
from .judging import ALPHA, DOMINANT, corrected, dominated, granularity, judge


CLAIMS: tuple[Claim, ...] = (
    *similarity.CLAIMS,
    *frequency.CLAIMS,
    *variance.CLAIMS,
    *attention.CLAIMS,
)


def choose_claims(ids: Sequence[str] | None) -> list[Claim]:
    """The claims with these ids, all for None.

    Raises:
        StudyError: an unknown id.
    """
    known = {claim.id: claim for claim in CLAIMS}
    for name in ids or ():
        if name not in known:
            raise StudyError(f"no claim is called {name!r}; there are: {', '.join(known)}")
    return list(CLAIMS) if ids is None else [known[name] for name in ids]


__all__ = [
    "ALPHA",
    "CLAIMS",
    "DOMINANT",
    "ROLES",
    "Claim",
    "Control",
    "Facts",
    "Judgement",
    "Verdict",
    "choose_claims",
    "corrected",
    "dominated",
    "facts",
    "granularity",
    "judge",
    "verdict",
]
