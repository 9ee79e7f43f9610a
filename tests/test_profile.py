"""The waist: what is written is what is read, and nothing that was damaged is ever read as a number."""

import hashlib
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import u_centre
from synthetic import gram_variables, synthetic_profile

from hf_vitstudy import disk
from hf_vitstudy.errors import StudyError
from hf_vitstudy.profile import FORMAT, Profile, load_profile, merge, square_side


FILES = ("arrays.safetensors", "profile.json", "manifest.json")


@pytest.fixture(scope="module")
def profile() -> Profile:
    return synthetic_profile("vit", n=12, block=8)


@pytest.fixture(scope="module")
def contents(profile, tmp_path_factory) -> dict[str, bytes]:
    """The three files of a stored profile."""
    folder = profile.save(tmp_path_factory.mktemp("stored") / "vit")
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    return {name: (folder / name).read_bytes() for name in FILES}


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("damaged")


def put(folder: Path, contents: dict[str, bytes]) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


def assert_equal(found: Profile, expected: Profile) -> None:
    """Every variable, coordinate, attribute, dtype and all provenance."""
    assert found.data.identical(expected.data)
    assert len(expected.data.variables) > 0
    assert set(found.data.variables) == set(expected.data.variables)
    for name, variable in expected.data.variables.items():
        kinds = found.data[name].dtype.kind, variable.dtype.kind
        assert kinds == ("U", "U") or found.data[name].dtype == variable.dtype, name
    assert found.provenance == expected.provenance


# -------------------------------------------------------------------------------------------------------- round trip


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_what_is_loaded_is_what_was_saved(kind, tmp_path):
    profile = synthetic_profile(kind, n=22, block=8)
    assert_equal(load_profile(profile.save(tmp_path / "new" / "deep" / "p")), profile)


def test_unusual_numbers_axes_and_names_survive(tmp_path):
    profile = synthetic_profile("vit", n=5, block=5, name="é/日本")
    data = profile.data.assign(
        special=("image", np.array([np.nan, np.inf, -np.inf, -0.0, 5e-324])),
        half=("image", np.array([1, 2, 3, 4, 65504], np.float16), {"unit": "activation²", "bands": [0.1, 0.2]}),
        flag=("image", np.array([True, False, True, True, False])),
        large=("image", np.array([0, 1, 2**63, 2**64 - 1, 7], np.uint64)),
        transposed=(("block", "image"), np.arange(85.0).reshape(5, 17).T),
        empty=(("image", "nothing"), np.zeros((5, 0), np.float32)),
        word=("image", ["", "µ", "a b", "x" * 50, '"\n']),
    )
    unusual = Profile(data, profile.provenance | {"empty": {}, "none": None, "words": ["ß", 1, 0.1]})
    loaded = load_profile(unusual.save(tmp_path / "p"))
    assert_equal(loaded, unusual)
    assert np.signbit(loaded["special"].values[3])


def test_a_single_number_survives(tmp_path, profile):
    single = Profile(profile.data.assign(temperature=np.float32(0.5)), profile.provenance)
    assert_equal(load_profile(single.save(tmp_path / "p")), single)


def test_what_json_cannot_hold_is_refused_and_leaves_nothing(tmp_path, profile):
    undefined = Profile(profile.data, profile.provenance | {"accuracy": float("nan")})
    with pytest.raises(ValueError, match="not JSON compliant"):
        undefined.save(tmp_path / "p")
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------------- replacement


def fail_at_file(monkeypatch, count: int, error: type[BaseException]) -> None:
    """The `count`-th file cannot be flushed to the disk."""
    seen = []

    def fsync(handle):
        seen.append(handle)
        if len(seen) == count:
            raise error("no space left on device")

    monkeypatch.setattr(os, "fsync", fsync)


def fail_at_rename(monkeypatch, count: int) -> None:
    """The `count`-th rename does not succeed, on a disk that cannot exchange two folders in one step."""
    seen, rename = [], os.rename

    def failing(source, target):
        seen.append(target)
        if len(seen) == count:
            raise OSError("no space left on device")
        return rename(source, target)

    monkeypatch.setattr(os, "rename", failing)
    monkeypatch.setattr(disk, "exchange", lambda first, second: False)


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("existing", [True, False])
def test_a_write_that_stops_half_way_leaves_the_old_profile(error, count, existing, tmp_path, monkeypatch, profile):
    if existing:
        profile.save(tmp_path / "p")
    fail_at_file(monkeypatch, count, error)
    with pytest.raises(StudyError if error is OSError else error, match="no space left"):
        synthetic_profile("vit", n=12, block=8, seed=1).save(tmp_path / "p")
    assert [path.name for path in tmp_path.iterdir()] == ["p"] * existing
    if existing:
        assert_equal(load_profile(tmp_path / "p"), profile)


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_rename_that_fails_leaves_the_old_profile(count, tmp_path, monkeypatch, profile):
    profile.save(tmp_path / "p")
    fail_at_rename(monkeypatch, count)
    with pytest.raises(StudyError, match="no space left"):
        synthetic_profile("vit", n=12, block=8, seed=1).save(tmp_path / "p")
    assert [path.name for path in tmp_path.iterdir()] == ["p"]
    assert_equal(load_profile(tmp_path / "p"), profile)


def test_an_older_profile_is_replaced_whole(tmp_path, profile):
    synthetic_profile("resnet", n=12, block=8).save(tmp_path / "p")
    profile.save(tmp_path / "p")
    assert [path.name for path in tmp_path.iterdir()] == ["p"]
    assert_equal(load_profile(tmp_path / "p"), profile)


def test_a_folder_of_something_else_is_never_replaced(tmp_path, profile):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    with pytest.raises(
        StudyError, match=r"thesis holds 'chapter\.tex', which is no part of a profile; choose another"
    ):
        profile.save(tmp_path / "thesis")
    assert (tmp_path / "thesis" / "chapter.tex").read_text() == "years of work"


def test_a_file_is_never_replaced(tmp_path, profile):
    (tmp_path / "p").write_text("notes")
    with pytest.raises(StudyError, match="p is a file, expected a folder for a profile; choose another name"):
        profile.save(tmp_path / "p")
    assert (tmp_path / "p").read_text() == "notes"


# ------------------------------------------------------------------------------------------------------------ damage


def flipped(content: bytes, bit: int) -> bytes:
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


@pytest.mark.parametrize("name", FILES[:2])
@pytest.mark.parametrize("damage", ["truncated", "emptied", "flipped", "longer"])
def test_damaged_arrays_and_descriptions_are_named(name, damage, tmp_path, contents):
    content = contents[name]
    damaged = {
        "truncated": content[:-1],
        "emptied": b"",
        "flipped": flipped(content, 4 * len(content)),
        "longer": content + b" ",
    }[damage]
    folder = put(tmp_path / "p", contents | {name: damaged})
    expected = rf"{name} is damaged: {len(damaged)} bytes .*\({len(content)} bytes expected\); measure or download it"
    with pytest.raises(StudyError, match=expected):
        load_profile(folder)


@pytest.mark.parametrize("name", FILES[:2])
def test_an_incomplete_profile_names_what_it_lacks(name, tmp_path, contents):
    folder = put(tmp_path / "p", {key: content for key, content in contents.items() if key != name})
    with pytest.raises(StudyError, match=f"p lacks {name}; the profile is incomplete, measure or download it again"):
        load_profile(folder)


@pytest.mark.parametrize("what", ["no such folder", "an empty folder", "a file", "no manifest"])
def test_no_profile_says_how_to_make_one(what, tmp_path, contents):
    if what == "an empty folder":
        (tmp_path / "p").mkdir()
    elif what == "a file":
        (tmp_path / "p").write_text("notes")
    elif what == "no manifest":
        put(tmp_path / "p", {name: contents[name] for name in FILES[:2]})
    with pytest.raises(StudyError, match=r"no profile at .*p: expected a folder with manifest\.json; make one with"):
        load_profile(tmp_path / "p")


MANIFESTS = {
    "newer": (
        {"format": FORMAT + 1},
        f"has profile format {FORMAT + 1}, this version reads {FORMAT}; update hf_vitst",
    ),
    "no format": ({}, "has profile format None"),
    "text format": ({"format": str(FORMAT)}, f"has profile format '{FORMAT}'"),
    "no digests": ({"format": FORMAT}, "is damaged"),
    "null digests": ({"format": FORMAT, "files": None}, "is damaged"),
    "digests of another file": ({"format": FORMAT, "files": {"x": {"sha256": "", "size": 0}}}, "is damaged"),
    "a list of digests": ({"format": FORMAT, "files": ["arrays.safetensors"]}, "manifest"),
    "a text for digests": ({"format": FORMAT, "files": "arrays.safetensors"}, "manifest"),
    "a text for a digest": ({"format": FORMAT, "files": {"arrays.safetensors": "abc"}}, "damaged|manifest"),
    "a list": ([], "holds a list, expected an object; measure the profile again"),
    "a number": (7, "holds a int, expected an object"),
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_a_manifest_that_is_not_ours_is_refused(case, tmp_path, contents):
    manifest, message = MANIFESTS[case]
    folder = put(tmp_path / "p", contents | {"manifest.json": json.dumps(manifest).encode()})
    with pytest.raises(StudyError, match=message):
        load_profile(folder)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe", b"\x00", b"{'format': 1}", b"[" * 200_000])
def test_a_manifest_that_is_not_json_is_refused(text, tmp_path, contents):
    folder = put(tmp_path / "p", contents | {"manifest.json": text})
    with pytest.raises(StudyError, match=r"manifest\.json is not JSON \(.*\); measure or download the profile again"):
        load_profile(folder)


def test_every_flipped_bit_of_the_manifest_gives_an_error_or_the_profile(scratch, contents, profile):
    folder = put(scratch / "bits", contents)
    manifest, same = contents["manifest.json"], 0
    for bit in range(8 * len(manifest)):
        (folder / "manifest.json").write_bytes(flipped(manifest, bit))
        try:
            assert_equal(load_profile(folder), profile)
            same += 1
        except StudyError:
            continue
    assert 0 < same < 2 * len(manifest), "only white space and the sizes, which help to say what is wrong, may change"


positions = st.integers(0, 2**40)
without_clock = settings(deadline=None, database=None, derandomize=True, max_examples=150)


@without_clock
@given(name=st.sampled_from(FILES), position=positions)
def test_no_flipped_bit_gives_a_wrong_number(name, position, scratch, contents, profile):
    content = contents[name]
    folder = put(scratch / "flip", contents | {name: flipped(content, position % (8 * len(content)))})
    try:
        loaded = load_profile(folder)
    except StudyError:
        return
    assert_equal(loaded, profile)
    assert name == "manifest.json"


@without_clock
@given(name=st.sampled_from(FILES), position=positions)
def test_no_truncated_file_gives_a_number(name, position, scratch, contents):
    content = contents[name]
    folder = put(scratch / "cut", contents | {name: content[: position % len(content)]})
    with pytest.raises(StudyError):
        load_profile(folder)


@without_clock
@given(name=st.sampled_from(FILES[:2]), junk=st.binary(max_size=200), position=positions)
def test_no_overwritten_stretch_gives_a_wrong_number(name, junk, position, scratch, contents, profile):
    content = contents[name]
    start = position % len(content)
    damaged = content[:start] + junk + content[start + len(junk) :]
    folder = put(scratch / "junk", contents | {name: damaged})
    if damaged == content:
        assert_equal(load_profile(folder), profile)
    else:
        with pytest.raises(StudyError, match=f"{name} is damaged"):
            load_profile(folder)


# -------------------------------------------------------------------------- files with a right manifest, written wrong


def signed(contents: dict[str, bytes], description: object = None, arrays: bytes | None = None) -> dict[str, bytes]:
    """The files with changes and the manifest that goes with them, as somebody else's program could publish them."""
    changed = dict(contents)
    if description is not None:
        changed["profile.json"] = description if isinstance(description, bytes) else json.dumps(description).encode()
    if arrays is not None:
        changed["arrays.safetensors"] = arrays
    digests = {
        name: {"sha256": hashlib.sha256(changed[name]).hexdigest(), "size": len(changed[name])} for name in FILES[:2]
    }
    changed["manifest.json"] = json.dumps({"format": FORMAT, "files": digests}).encode()
    return changed


def edited(description: dict, path: str, value: object) -> dict:
    """A copy with the entry at `path` (slashes between keys) replaced, or removed where the value is `...`."""
    copy = json.loads(json.dumps(description))
    *parents, last = path.split("/")
    target = copy
    for key in parents:
        target = target[key]
    if value is ...:
        del target[last]
    else:
        target[last] = value
    return copy


HOSTILE = {
    "no variables": ("variables", ...),
    "variables in a list": ("variables", []),
    "no provenance": ("provenance", ...),
    "provenance is a text": ("provenance", "me"),
    "no checkpoint": ("provenance/checkpoint", ...),
    "checkpoint without a name": ("provenance/checkpoint/name", ...),
    "no images": ("provenance/images", ...),
    "images without a hash": ("provenance/images/sha256", ...),
    "an array that is not there": (
        "variables/beauty",
        {"dims": ["image"], "attrs": {}, "coordinate": False},
    ),
    "an axis too many": ("variables/variance/dims", ["image", "block", "head"]),
    "the same axis twice": ("variables/variance/dims", ["image", "image"]),
    "axes of another length": ("variables/variance/dims", ["block", "image"]),
    "axes that are a number": ("variables/variance/dims", 3),
    "no axes": ("variables/variance/dims", ...),
    "attributes in a list": ("variables/variance/attrs", [1]),
    "no word on being a coordinate": ("variables/variance/coordinate", ...),
    "an entry that is a text": ("variables/variance", "variance"),
    "fewer names than blocks": ("variables/block/values", ["a"]),
    "no images axis": ("variables/image_digest", ...),
    "no blocks": ("variables/depth", ...),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_profile_written_wrong_is_refused_on_loading(case, tmp_path, contents):
    description = edited(json.loads(contents["profile.json"]), *HOSTILE[case])
    folder = put(tmp_path / "p", signed(contents, description))
    with pytest.raises(StudyError, match=r"p is not a readable profile \(.*\); measure it again"):
        load_profile(folder)


PROVENANCE = {
    "images/n": (None, "images.n must be a whole number, got null"),
    "images/name": (..., "images.name is missing, expected a text"),
    "images/split": (3, "images.split must be a text or null, got 3"),
    "checkpoint/name": ("\ud800", r'checkpoint.name must be a text, got "\ud800"'),
    "checkpoint/parameters": ("x", 'checkpoint.parameters must be a whole number or null, got "x"'),
    "checkpoint/model_type": (["x"], 'checkpoint.model_type must be a text or null, got ["x"]'),
    "versions": (5, "versions must be an object, got 5"),
    "absent": ({"x": ["y"]}, 'absent.x must be a text, got ["y"]'),
    "measurement/seconds": ("x", 'measurement.seconds must be a number or null, got "x"'),
}


@pytest.mark.parametrize("place", PROVENANCE)
def test_provenance_that_readers_could_not_show_is_refused_by_name(place, tmp_path, contents):
    value, message = PROVENANCE[place]
    description = edited(json.loads(contents["profile.json"]), f"provenance/{place}", value)
    folder = put(tmp_path / "p", signed(contents, description))
    with pytest.raises(StudyError) as error:
        load_profile(folder)
    assert f"p is not a readable profile ({message}); measure it again" in str(error.value)


@pytest.mark.parametrize("place", ["checkpoint/parameters", "images/seed", "measurement", "versions", "absent"])
def test_provenance_that_an_old_profile_lacks_is_no_reason_to_refuse_it(place, tmp_path, contents):
    description = edited(json.loads(contents["profile.json"]), f"provenance/{place}", ...)
    assert load_profile(put(tmp_path / "p", signed(contents, description))).name == "synthetic-vit"


@pytest.mark.parametrize(
    "arrays",
    [b"", b"junk", b"\xff" * 8, (2**63).to_bytes(8, "little") + b"{}", (2).to_bytes(8, "little") + b"{}"],
    ids=["empty", "junk", "huge header", "huger header", "no tensors"],
)
def test_arrays_that_are_not_safetensors_are_refused(arrays, tmp_path, contents):
    folder = put(tmp_path / "p", signed(contents, arrays=arrays))
    with pytest.raises(StudyError, match=r"p is not a readable profile \(.*\); measure it again"):
        load_profile(folder)


@pytest.mark.parametrize("text", [b"[]", b'"x"', b"null"])
def test_a_description_that_is_no_object_is_refused(text, tmp_path, contents):
    with pytest.raises(StudyError, match=r"profile\.json holds a .*, expected an object; measure the profile again"):
        load_profile(put(tmp_path / "p", signed(contents, text)))


@pytest.mark.parametrize("text", [b"", b"{]", b"\x80", b"[" * 200_000])
def test_a_description_that_is_not_json_is_refused(text, tmp_path, contents):
    with pytest.raises(StudyError, match=r"profile\.json is not JSON"):
        load_profile(put(tmp_path / "p", signed(contents, text)))


def test_names_in_a_description_are_never_paths(tmp_path, contents):
    description = edited(json.loads(contents["profile.json"]), "provenance/checkpoint/name", "../../outside")
    loaded = load_profile(put(tmp_path / "p", signed(contents, description)))
    assert loaded.name == "../../outside"
    loaded.save(tmp_path / "q")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p", "q"]


def test_gram_blocks_of_an_impossible_size_are_refused(profile):
    cut = Profile(profile.data.isel(flatten_pair=slice(27)), profile.provenance)
    with pytest.raises(StudyError, match=r"a Gram block must hold n\(n-1\)/2 pairs, got 27; the profile is damaged"):
        cut.gram()


@given(n=st.integers(2, 5000))
@without_clock
def test_the_side_of_a_gram_block_follows_from_its_pairs(n):
    assert square_side(n * (n - 1) // 2) == n
    if n > 2:
        with pytest.raises(StudyError, match="the profile is damaged, measure again"):
            square_side(n * (n - 1) // 2 + 1)


# ----------------------------------------------------------------------------------------------------- what it holds


def test_a_measurement_by_name(profile):
    assert profile["variance"].identical(profile.data["variance"])
    assert profile.name == "synthetic-vit"
    assert profile.n_images == 12
    assert profile.views == ["flatten"]
    assert profile.has("attention")
    assert not profile.has("conv")


def test_a_missing_measurement_says_why_or_what_there_is(profile):
    resnet = synthetic_profile("resnet", n=12, block=8)
    with pytest.raises(StudyError, match="synthetic-resnet has no 'attention_distance': no attention in this network"):
        resnet["attention_distance"]
    with pytest.raises(
        StudyError, match=r"synthetic-vit has no measurement 'beauty'\. Measure again with it included"
    ):
        profile["beauty"]
    with pytest.raises(StudyError, match="has no measurement 'varience'; it has variance"):
        profile["varience"]
    with pytest.raises(StudyError, match="has no measurement 'gram_mean'"):
        profile.gram("mean")


def test_a_missing_view_has_no_batch_sizes(profile):
    with pytest.raises(StudyError, match=r"has no measurement '(gram|size)_mean'"):
        profile.batch_sizes("mean")


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_gram_unpacks_what_was_packed(profile, dtype):
    """12 images in blocks of 8: the second has 4 images, and its other rows are zero."""
    features = [np.random.default_rng(i).normal(size=(12, 5)) for i in range(2)]
    data = xr.Dataset(gram_variables(features, 8, dtype=dtype))
    grams = Profile(data, profile.provenance).gram()
    assert grams.dtype == np.float32
    assert grams.shape == (2, 2, 8, 8)
    pairs = [(i, j) for i in range(8) for j in range(i + 1, 8)]
    expected = np.zeros_like(grams)
    packed, scale = data["gram_flatten"].values.astype(np.float32), data["scale_flatten"].values
    for block, batch in np.ndindex(2, 2):
        for place, (i, j) in enumerate(pairs):
            value = packed[block, batch, place] * scale[block, batch]
            expected[block, batch, i, j] = expected[block, batch, j, i] = value
    assert np.array_equal(grams, expected)

    for block, x in enumerate(features):
        full, short = u_centre(x[:8] @ x[:8].T), u_centre(x[8:] @ x[8:].T)
        np.testing.assert_allclose(grams[block, 0], full, atol=np.finfo(dtype).eps * np.abs(full).max())
        np.testing.assert_allclose(grams[block, 1, :4, :4], short, atol=np.finfo(dtype).eps * np.abs(short).max())
    assert not grams[:, 1, 4:].any()
    assert not grams[:, 1, :, 4:].any()


def test_two_thousand_images_and_25_blocks_stay_under_8_megabytes(tmp_path, profile):
    """All default measurements of a ViT-B (12 layers of 12 heads), filled with numbers that do not compress."""
    sizes = {"image": 2048, "block": 25, "layer": 12, "head": 12, "flatten_batch": 64, "flatten_pair": 32 * 31 // 2}
    data = profile.data.assign(top_channel_share=profile["variance"])
    assert {"gram_flatten", "fourier", "variance", "relative_variance", "attention_distance", "top5"} <= set(data)
    rng = np.random.default_rng(0)

    def enlarged(variable: xr.Variable) -> tuple:
        shape = [sizes.get(dim, size) for dim, size in variable.sizes.items()]
        if variable.dtype.kind == "U":
            return variable.dims, [f"block{i:02d}.attention" for i in range(shape[0])]
        return variable.dims, rng.integers(0, 100, shape).astype(variable.dtype), variable.attrs

    large = xr.Dataset(
        {name: enlarged(data[name].variable) for name in data.data_vars},
        {name: enlarged(data[name].variable) for name in data.coords},
    )
    folder = Profile(large, profile.provenance).save(tmp_path / "p")
    assert load_profile(folder)["gram_flatten"].shape == (25, 64, 496)
    assert 4e6 < sum(path.stat().st_size for path in folder.iterdir()) < 8e6


# ------------------------------------------------------------------------------------------------------------- merge


def part(profile: Profile, *names: str, **absent: str) -> Profile:
    """A profile with some of the measurements, as `measure --analyses` leaves it."""
    used = {dim for name in names for dim in profile.data[name].dims}
    coordinates = {
        name: array.variable
        for name, array in profile.data.coords.items()
        if set(array.dims) <= used | {"block", "image"}
    }
    return Profile(
        xr.Dataset({name: profile.data[name].variable for name in names}, coordinates),
        profile.provenance | {"absent": absent, "measurement": {"batch_size": 8, "analyses": list(names)}},
    )


GRAM = ("gram_flatten", "scale_flatten", "size_flatten")


def test_merge_adds_measurements(profile):
    merged = merge([part(profile, *GRAM), part(profile, "fourier", "variance"), part(profile, "attention_distance")])
    names = [*GRAM, "fourier", "variance", "attention_distance"]
    assert set(merged.data.data_vars) == set(names)
    for name in names:
        assert merged[name].identical(profile[name])
    assert merged.name == profile.name
    assert np.array_equal(merged.gram(), profile.gram())


def test_merge_takes_a_repeated_measurement_from_the_last(profile):
    again = Profile(profile.data[["variance"]] + 1, profile.provenance)
    merged = merge([profile, again])
    np.testing.assert_array_equal(merged["variance"], profile["variance"] + 1)
    assert merged["fourier"].identical(profile["fourier"])
    assert merge([again, profile])["variance"].identical(profile["variance"])
    assert merge([profile, profile]).data.identical(profile.data)
    assert merge([profile]).data.identical(profile.data)


def test_merge_takes_gram_blocks_of_another_size_from_the_last(profile):
    smaller = synthetic_profile("vit", n=12, block=4)
    merged = merge([profile, part(smaller, *GRAM)])
    assert np.array_equal(merged.gram(), smaller.gram())
    assert merged.batch_sizes().tolist() == [4, 4, 4]


@pytest.mark.parametrize("what", ["dtype", "processor", "image_size"])
def test_profiles_that_saw_the_images_otherwise_are_not_merged(what, profile):
    def telling(**told) -> Profile:
        about = {key: value for key, value in profile.provenance["checkpoint"].items() if key != what}
        return Profile(profile.data[["variance"]], profile.provenance | {"checkpoint": about | told})

    with pytest.raises(StudyError, match=f"different {what}"):
        merge([telling(**{what: "one"}), telling(**{what: "another"})])
    merge([telling(**{what: "one"}), telling()])  # an older one does not tell it


def test_merge_takes_a_measurement_with_another_axis_from_the_last(profile):
    coarse, fine = (
        Profile(
            profile.data.assign(along=("step", np.arange(k))).assign_coords(step=np.linspace(0, 1, k)),
            profile.provenance,
        )
        for k in (3, 5)
    )
    assert merge([coarse, Profile(fine.data[["along"]], fine.provenance)])["along"].identical(fine["along"])


def test_merge_leaves_its_inputs_alone(profile):
    before = profile.data.copy(deep=True)
    merge([profile, Profile(profile.data[["variance"]] + 1, profile.provenance)])
    assert profile.data.identical(before)


def test_merge_keeps_why_a_measurement_is_absent_until_it_is_there(profile):
    without = part(profile, "variance", attention_distance="read with sdpa", paper_fourier="not asked for")
    assert merge([without, part(profile, "fourier")]).provenance["absent"] == without.provenance["absent"]
    merged = merge([without, part(profile, "attention_distance")])
    assert merged.provenance["absent"] == {"paper_fourier": "not asked for"}
    assert merged.provenance["measurement"] == {"batch_size": 8, "analyses": ["variance", "attention_distance"]}


def test_merge_adds_up_what_its_profiles_took(profile):
    quick, slow = (
        Profile(profile.data[["variance"]], profile.provenance | {"measurement": {"seconds": s}}) for s in (0.25, 3)
    )
    assert merge([quick, slow]).provenance["measurement"]["seconds"] == 3.2
    unknown = part(profile, "fourier")
    assert "seconds" not in merge([quick, unknown]).provenance["measurement"], "of all, or of none"
    assert "seconds" not in merge([unknown, slow]).provenance["measurement"]


def test_merged_profiles_are_stored_like_any_other(profile, tmp_path):
    merged = merge([part(profile, *GRAM), part(profile, "fourier")])
    assert_equal(load_profile(merged.save(tmp_path / "p")), merged)


def test_merge_refuses_what_does_not_belong_together(profile):
    with pytest.raises(StudyError, match="merge needs at least one profile, got none"):
        merge([])
    with pytest.raises(
        StudyError, match="merge synthetic-vit and synthetic-resnet: different checkpoint; use compare"
    ):
        merge([profile, synthetic_profile("resnet", n=12, block=8)])
    with pytest.raises(StudyError, match="merge synthetic-vit and synthetic-vit: different images; use compare"):
        merge([profile, synthetic_profile("vit", n=16, block=8)])


def test_merge_refuses_other_places_of_the_same_checkpoint(profile):
    """Never filled up with NaN: a measurement read at other blocks has no rows for these."""
    fewer = Profile(profile.data[["variance"]].isel(block=slice(0, 9)), profile.provenance)
    with pytest.raises(StudyError, match="different blocks"):
        merge([profile, fewer])
