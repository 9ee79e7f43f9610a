"""A claim in words: what is computed, what would refute it, what speaks against it, and how to measure what it needs."""

from __future__ import annotations

import re

from .contract import Claim
from .facts import ROLES


# Which analysis writes a variable, by its name; the first that fits. A test holds it against what analyses write.
MEASURED_BY = {
    r"head_\w+": "heads",
    r"(gram|scale|square|size)_\w+_rbf": "cka:kernel=rbf",
    r"(gram|scale|square|size)_\w+_exact": "cka:exact=true",
    r"(gram|scale|square|size)_(flatten|input)": "cka",
    r"(gram|scale|square|size)_mean": "cka:pool=mean",
    r"(gram|scale|square|size)_cls": "cka:pool=cls",
    r"(gram|scale|square|size)_tokens": "cka:pool=tokens",
    r"fourier": "fourier",
    r"(relative_|temporal_)?variance|top_channel_share": "variance",
    r"attention_distance\w*|prefix_attention|window_\w+": "attention_distance",
    r"top5\w*|label|nll": "predictions",
    r"projection\w*": "projection",
    r"noise_\w+": "noise",
    r"corruption_\w+": "corruptions",
    r"(attack|fgsm|pgd)_\w+": "attacks",
    r"probe_\w+": "probes",
    r"token_\w+": "probes:tokens=true",
    r"localisation_\w+": "localisation",
    r"rollout": "rollout",
    r"\w*attention_entropy|class_\w*attention": "attention_entropy",
    r"position_\w+": "position_embedding",
    r"(patch_)?filters?\w*": "patch_filters",
    r"skip_removal_\w+": "skip_removal",
    r"(class_)?skip_\w+|branch_(depth|stage|projected|kind)": "skip_ratio",
    r"lesion_\w+": "lesions",
    r"(branch_)?(receptive_\w+|uniform_radius)": "receptive_field",
    r"hessian_\w+": "hessian",
    r"landscape_\w+": "landscape",
}
TESTS = {
    "any": "any checkpoints of these kinds",
    "trained": "checkpoints that our recipes train, since published ones do not vary in this alone",
    "proxy": "another axis than the paper's, whose data or weights are not public",
}


def measured_by(variable: str) -> str | None:
    """The analysis that writes a variable of a profile, as ``--analyses`` takes it; None for an unknown one."""
    return next((analysis for pattern, analysis in MEASURED_BY.items() if re.fullmatch(pattern, variable)), None)


def explain(claim: Claim) -> dict[str, str]:
    """Headings and texts that say all of a claim but its numbers."""
    who = " and a ".join(ROLES[role].words for role in claim.roles)
    relation = f", {claim.relation.words}" if claim.relation else ""
    found = {
        "claim": claim.text,
        "source": claim.source,
        "statistic": claim.statistic,
        "formula": claim.formula,
        "margin": f"{claim.margin:g} {claim.unit}; fixed before looking, and smaller effects count as too small to matter",
        "falsified by": claim.falsified_by,
        "conditions": claim.conditions,
        "against": claim.against or "no published result against it is known to us",
        "checkpoints": f"a {who}{relation}",
        "tested on": TESTS[claim.test],
        "measured by": measure_command(claim),
    }
    if claim.of_cka:
        found["controls"] = (
            "shuffled images, untrained twins (measure them with --untrained SEED), without one image, plain CKA"
        )
    return found


def measure_command(claim: Claim) -> str:
    """The command that measures what the claim reads; ``CHECKPOINT`` and ``IMAGES`` are to fill in."""
    names = dict.fromkeys(filter(None, map(measured_by, (*claim.needs, *claim.needs_first))))
    if not names:  # it reads what the training recipe recorded, which every profile repeats
        return (
            "any profile of a checkpoint trained by recipes/finetune.py: vitstudy measure CHECKPOINT --images IMAGES"
        )
    return f"vitstudy measure CHECKPOINT --images IMAGES --analyses {','.join(names)}"
