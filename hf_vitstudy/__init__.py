"""How do vision transformers work, and how do they differ from ResNets? Measured on Hugging Face checkpoints.

Measuring needs torch (``pip install "hf_vitstudy[study]"``); loading, comparing, judging and drawing stored profiles does
not. Names are loaded on first use, so that ``import hf_vitstudy`` is instant.
"""

import importlib
from typing import TYPE_CHECKING, Any


__version__ = "0.1.0"

_HOME = {
    "Claim": "claims",
    "CLAIMS": "claims",
    "Judgement": "claims",
    "Verdict": "claims",
    "judge": "claims",
    "Comparison": "comparison",
    "compare": "comparison",
    "StudyError": "errors",
    "load_images": "images",
    "load_checkpoint": "checkpoints",
    "measure": "measuring",
    "Profile": "profile",
    "load_profile": "profile",
    "merge": "profile",
    "Report": "report",
    "make_report": "report",
    "write_report": "report",
    "Estimate": "stats",
}
__all__ = sorted(_HOME)

if TYPE_CHECKING:
    from .checkpoints import load_checkpoint as load_checkpoint
    from .claims import CLAIMS as CLAIMS
    from .claims import Claim as Claim
    from .claims import Judgement as Judgement
    from .claims import Verdict as Verdict
    from .claims import judge as judge
    from .comparison import Comparison as Comparison
    from .comparison import compare as compare
    from .errors import StudyError as StudyError
    from .images import load_images as load_images
    from .measuring import measure as measure
    from .profile import Profile as Profile
    from .profile import load_profile as load_profile
    from .profile import merge as merge
    from .report import Report as Report
    from .report import make_report as make_report
    from .report import write_report as write_report
    from .stats import Estimate as Estimate


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_HOME[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
