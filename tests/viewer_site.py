"""A small study with everything that the page shows, one name hostile to HTML, one checkpoint on other images."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import xarray as xr
from synthetic_measurements import measured_profile

from hf_vitstudy.claims import choose_claims
from hf_vitstudy.profile import Profile
from hf_vitstudy.study import Settings, make_study


HOSTILE = "</script><img src=x onerror=\"document.title='hit'\"> & 'vit'"
CLAIMS = tuple(
    choose_claims(["R-1", "R-2", "P-F1", "P-F2-conv", "P-V1-conv", "R-4-local", "R-8-level", "R-13", "P-H1"])
)
N = 64


def trained(kind: str, seed: int, name: str, n: int = N) -> Profile:
    """A profile with all measurements, whose recipe is that of its kind."""
    made = measured_profile(kind, n=n, seed=seed, name=name)
    about = {
        "config": {"model_type": kind},
        "training": {"config": {"seed": seed, "epochs": 10}},
        "weights_sha256": f"{kind} {seed} {name}",
    }
    return Profile(tilted(made.data), made.provenance | {"checkpoint": made.provenance["checkpoint"] | about})


def tilted(data: xr.Dataset) -> xr.Dataset:
    """The loss surface sloping, so that no turned picture of it looks the same."""
    slope = 1 + 0.2 * data["landscape_y"] + 0.1 * data["landscape_x"]
    surface = (data["landscape_nll"] * slope).transpose(*data["landscape_nll"].dims).astype(np.float32)
    return data.assign(landscape_nll=surface.assign_attrs(data["landscape_nll"].attrs))


def with_an_empty_block(profile: Profile, block: int) -> Profile:
    """A block that is the same for every image: its CKA is undefined."""
    data = profile.data.copy(deep=True)
    data["gram_flatten"][block] = 0
    return Profile(data, profile.provenance)


def write_profiles(folder: Path) -> Path:
    """Numbers in the order of their paths: 0 and 1 ResNets, 2 a ViT on other images, 3 and 4 ViTs."""
    trained("resnet", 0, "resnet-0").save(folder / "profiles" / "a")
    trained("resnet", 1, "resnet-1").save(folder / "profiles" / "b")
    trained("vit", 9, "vit-elsewhere", n=32).save(folder / "profiles" / "c")
    with_an_empty_block(trained("vit", 0, "vit-0"), 3).save(folder / "profiles" / "d")
    trained("vit", 1, HOSTILE).save(folder / "profiles" / "e")
    return folder


def write_study(folder: Path) -> Path:
    """The same with its ``results.json``, judged on few draws."""
    write_profiles(folder)
    (folder / "study.json").write_text('{"title": "A <b>study</b> & more"}', encoding="utf-8")
    make_study(folder, folder, replace(Settings(), claims=CLAIMS, draws=200, permutations=5))
    shutil.rmtree(folder / ".sketches")
    return folder


def shown(value: float) -> float | None:
    """A number as the page has it, written independently: rounded to three digits."""
    if not np.isfinite(value):
        return None
    size = 0 if value == 0 else int(np.floor(np.log10(abs(value))))
    return round(value, 2 - size)
