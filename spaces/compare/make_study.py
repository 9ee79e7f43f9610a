"""Write data/study.json.xz, the default study of the Space, from profiles: a real result of this project.

    python spaces/compare/make_study.py docs/findings runs/cifar10-study/profiles

The profiles are those that docs/findings/results.json names by the hashes of weights and images; `recipes/` and `vitstudy
measure` made them.
"""

import sys
from pathlib import Path

from hf_vitstudy.space_release import STUDY_FILE
from hf_vitstudy.viewer import Source
from hf_vitstudy.viewer.bundle import write_bundle


if __name__ == "__main__":
    study, profiles = sys.argv[1:]
    written = write_bundle(Source(Path(study), profiles), Path(__file__).parent / "data" / STUDY_FILE)
    print(f"{written.stat().st_size:,} bytes -> {written}")
