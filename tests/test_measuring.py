"""The whole way from a folder of weights and a folder of images to a profile."""

import json
import platform
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from oracles import minibatch_cka

from hf_vitstudy import CLAIMS, StudyError, compare, judge, load_checkpoint, load_images, load_profile, measure
from hf_vitstudy.analyses import ANALYSES, make_analysis
from hf_vitstudy.measuring import Run, _match


QUICK = {"workers": 0, "progress": False, "batch_size": 8}


@pytest.fixture(scope="module")
def profiles(vit_folder, resnet_folder, image_folder):
    return [measure(folder, image_folder, n=30, paper_mode=True, **QUICK) for folder in (vit_folder, resnet_folder)]


def test_a_profile_holds_every_measurement_with_named_axes(profiles):
    vit, resnet = profiles
    assert vit["fourier"].dims == ("image", "block", "frequency")
    assert vit["fourier"].shape == (30, 7, 5)
    assert vit["fourier_paper"].dims == ("image", "block", "diagonal")
    assert vit["variance"].shape == vit["relative_variance"].shape == (30, 7)
    assert vit["attention_distance"].dims == ("image", "layer", "head")
    assert vit["attention_distance"].shape == vit["attention_distance_paper"].shape == (30, 3, 2)
    assert vit["gram_flatten"].dtype == np.float16
    assert vit.batch_sizes().tolist() == [8, 8, 8, 6]
    assert resnet.provenance["absent"] == {"attention_distance": "no attention in this network"}
    for profile in profiles:
        for name, array in profile.data.data_vars.items():
            if array.dims[0] == "image":
                assert array.attrs["unit"], name


def test_cka_of_real_networks_equals_the_oracle_on_their_states(profiles, vit_folder, resnet_folder, image_folder):
    """In-place additions, hooks on inputs, channel order: whatever could differ between a hook and a stored state."""
    images = load_images(image_folder, n=30)
    features = []
    for folder in (vit_folder, resnet_folder):
        checkpoint = load_checkpoint(folder)
        pixels = torch.stack([torch.from_numpy(checkpoint.prepare(images[i][0])) for i in range(30)]).float() / 255
        features.append({name: state.flat.numpy() for name, state in checkpoint.read(pixels)[1].items()})
    found = compare(*profiles).cka("ab")["cka"]
    for row, x in features[0].items():
        for column, y in features[1].items():
            expected = minibatch_cka(x, y, 8)
            assert float(found.sel(row=row, column=column)) == pytest.approx(expected, abs=1e-4)


def test_measurements_do_not_depend_on_the_batch_size(profiles, vit_folder, image_folder):
    again = measure(
        vit_folder,
        image_folder,
        n=30,
        workers=0,
        progress=False,
        batch_size=16,
        analyses=["cka:block=8", "fourier", "variance"],
    )
    for name in ("fourier", "variance"):
        np.testing.assert_allclose(again[name], profiles[0][name], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(again.gram(), profiles[0].gram(), atol=2e-3 * np.abs(again.gram()).max())


def test_worker_processes_change_nothing(profiles, vit_folder, image_folder):
    again = measure(vit_folder, image_folder, n=30, workers=2, progress=False, batch_size=8, analyses=["variance"])
    np.testing.assert_allclose(again["variance"], profiles[0]["variance"], rtol=1e-6)
    assert again.images_sha256 == profiles[0].images_sha256


def test_profiles_of_the_same_images_compare_and_others_do_not(profiles, vit_folder, image_folder):
    assert profiles[0].images_sha256 == profiles[1].images_sha256
    assert {judgement.claim.id for judgement in judge(*profiles)} == {claim.id for claim in CLAIMS}
    other = measure(vit_folder, image_folder, n=30, seed=1, analyses=["variance"], **QUICK)
    with pytest.raises(StudyError, match=r"measured on different images: the images differ|different images: 3"):
        compare(profiles[0], other)


def test_predictions_are_the_network_s(profiles, vit_folder, image_folder):
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    images = load_images(image_folder, n=30)
    processor = AutoImageProcessor.from_pretrained(vit_folder, backend="pil")
    network = AutoModelForImageClassification.from_pretrained(vit_folder).eval()
    with torch.no_grad():
        logits = network(**processor([images[i][0] for i in range(30)], return_tensors="pt")).logits
    top = logits.topk(5).indices.numpy()
    assert np.array_equal(profiles[0]["top5"].values, top)
    labels = torch.tensor([images[i][1] for i in range(30)])
    assert np.array_equal(profiles[0]["label"].values, labels.numpy())
    expected = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    np.testing.assert_allclose(profiles[0]["nll"], expected, rtol=1e-4)


LABELS = {
    "same names": (["a", "b"], ["a", "b"], [0, 1], "matched by name"),
    "another order": (["a", "b"], ["c", "b", "a"], [2, 1], "matched by name"),
    "one name twice, same order": (["crane", "dog", "crane"], ["crane", "dog", "crane"], [0, 1, 2], "matched by name"),
    "one name twice, needed": (["crane", "dog"], ["crane", "dog", "crane"], None, "classes are called 'crane'"),
    "one name twice, not needed": (["dog"], ["crane", "dog", "crane"], [1], "matched by name"),
    "generic names": (["a", "b"], ["LABEL_0", "LABEL_1"], [0, 1], "taken to be in the data set's order"),
    "generic, another number": (["a", "b"], ["LABEL_0"], None, "are not the checkpoint's"),
    "other classes": (["a", "b"], ["x", "y"], None, "are not the checkpoint's"),
    "no labels": (None, ["x"], None, "no labels"),
    "no classifier": (["a"], None, None, "no classes"),
}


@pytest.mark.parametrize("case", LABELS)
def test_labels_are_matched_by_name(case):
    of_images, of_checkpoint, expected, note = LABELS[case]
    table, said = _match(of_images, of_checkpoint)
    assert (None if table is None else table.tolist()) == expected
    assert note in said


def test_a_saved_profile_is_the_measured_one(vit_folder, image_folder, tmp_path):
    measured = measure(vit_folder, image_folder, n=12, out=tmp_path / "p", **QUICK)
    loaded = load_profile(tmp_path / "p")
    assert loaded.data.identical(measured.data.compute())
    assert loaded.provenance == json.loads(json.dumps(measured.provenance))
    text = (tmp_path / "p" / "profile.json").read_text()
    assert str(vit_folder.parent) not in text
    assert str(image_folder.parent) not in text


BAD = {
    "batch": ({"batch_size": 3}, "a batch needs at least 4 images"),
    "analysis": ({"analyses": ["beauty"]}, "no analysis is called"),
    "images": ({"images": "./nowhere"}, "no such file or folder"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_before_measuring(case, vit_folder, image_folder):
    arguments, message = BAD[case]
    with pytest.raises(StudyError, match=message):
        measure(**({"checkpoint": vit_folder, "images": image_folder} | QUICK | arguments))


def test_a_place_where_no_profile_may_lie_is_refused_before_anything_is_loaded(image_folder, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    (tmp_path / "link").symlink_to(tmp_path / "full")
    (tmp_path / "file").touch()
    inside = image_folder / "profile"
    places = {
        tmp_path / "full": "holds 'mine.txt', which is no part of a profile",
        tmp_path / "link": "holds 'mine.txt', which is no part of a profile",
        tmp_path / "file": "is a file, expected a folder for a profile",
        ".": "expected the name of a folder for the profile, got '.'",
        "": "expected the name of a folder for the profile, got '.'",
        "/": "expected the name of a folder for the profile, got '/'",
        inside: "would lie among the images of",
    }
    for place, message in places.items():
        with pytest.raises(StudyError, match=message):
            measure("no/checkpoint", image_folder, out=place)


def test_a_link_to_a_folder_is_followed(vit_folder, image_folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    measure(vit_folder, image_folder, n=8, out=tmp_path / "link", **QUICK)
    assert load_profile(tmp_path / "elsewhere").n_images == 8
    assert (tmp_path / "link").is_symlink()


def test_images_that_are_not_made_to_the_network_s_size_are_refused(resnet_folder, tmp_path):
    """The grid of the states would be another than the one that is told."""
    from PIL import Image

    copy = shutil.copytree(resnet_folder, tmp_path / "resnet")
    settings = json.loads((copy / "preprocessor_config.json").read_text())
    (copy / "preprocessor_config.json").write_text(
        json.dumps(settings | {"size": {"shortest_edge": 32}, "do_center_crop": False, "do_resize": True})
    )
    for k in range(8):
        (tmp_path / "wide" / str(k % 2)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((40, 60, 3), k, np.uint8)).save(tmp_path / "wide" / str(k % 2) / f"{k}.png")
    message = (
        r"image \d of wide \(\d/\d\.png\): the checkpoint's processor makes it 32 x \d+ px, .* measured at 32 x 32"
    )
    with pytest.raises(StudyError, match=message):
        measure(copy, tmp_path / "wide", **QUICK)


def test_a_processor_that_fails_names_the_image(vit_folder, image_folder):
    found = load_checkpoint(vit_folder)

    def broken(*images, **options):
        raise ValueError("height and width\nmust be > 0")

    found.processor = broken
    with pytest.raises(
        StudyError, match=r"image \d+ of .*: the checkpoint's processor cannot take it \(ValueError: height"
    ):
        measure(found, image_folder, **QUICK)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_stops_with_its_name(workers, vit_folder, image_folder):
    images = load_images(image_folder, n=12)
    rows = [images.rows[i] for i in range(12)]
    rows[7] = rows[7] | {"image": {"bytes": b"junk", "path": None}}
    broken = type(images)(rows, images.image_column, images.label_column, images.classes, images.provenance)
    with pytest.raises(StudyError, match="image 7 of shapes: is not a readable image") as error:
        measure(vit_folder, broken, workers=workers, progress=False, batch_size=4)
    assert "Traceback" not in str(error.value)


def test_windowed_attention_is_absent_with_its_reason(tmp_path, image_folder):
    from conftest import save_checkpoint
    from transformers import SwinConfig, SwinForImageClassification

    torch.manual_seed(0)
    config = SwinConfig(
        image_size=32, patch_size=2, embed_dim=8, depths=[2, 2], num_heads=[2, 2], window_size=4, num_labels=10
    )
    folder = save_checkpoint(SwinForImageClassification(config), tmp_path / "swin")
    profile = measure(folder, image_folder, n=8, **QUICK)
    assert "queries to" in profile.provenance["absent"]["attention_distance"]
    assert "attention_distance" not in profile.data
    with pytest.raises(StudyError, match="has no 'attention_distance': block00 attends 16 queries"):
        profile["attention_distance"]


def test_all_pools_are_measured_in_one_pass(vit_folder, image_folder):
    wanted = ["cka", "cka:pool=mean", "cka:pool=cls", "cka:pool=tokens", "cka:kernel=rbf", "cka:exact=true"]
    profile = measure(vit_folder, image_folder, n=16, analyses=wanted, **QUICK)
    assert profile.views == ["flatten", "mean", "cls", "tokens", "flatten_rbf", "flatten_exact"]
    itself = compare(profile, profile)
    for view in profile.views:
        found = itself.cka("aa", view)["cka"].values
        if view == "cls":  # the class token is the same for every image until attention mixes something in
            assert np.isnan(found[0]).all()
            found = found[1:, 1:]
        np.testing.assert_allclose(np.diag(found), 1, atol=1e-4)


def test_kept_memory_is_used_again():
    """Without it a large tensor's memory comes from the system anew each time, a fault per page."""
    code = """
import platform, resource, torch
from hf_vitstudy.measuring import keep_memory
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def cost():
    torch.ones(10_000_000)
    before = faults()
    for _ in range(5):
        torch.ones(10_000_000)
    return faults() - before
print(cost(), keep_memory(), cost())
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert found[1] == str(platform.libc_ver()[0] == "glibc")
    if found[1] == "True":
        assert int(found[0]) > 5_000
        assert int(found[2]) < int(found[0]) / 2, "at most a stray block or two is fetched anew"


# --------------------------------------------------------------------------------------------- what analyses are told


PASSES = {
    "probes": "probes:shots=2",
    "hessian": "hessian:batch=4:iterations=2:k=1",
    "landscape": "landscape:grid=3:dims=1",
    "corruptions": "corruptions:kinds=gaussian_noise:severities=1",
    "attacks": "attacks:steps=1:epsilons=1",
}


@pytest.mark.parametrize("name", ANALYSES)
def test_own_passes_are_declared(name, vit_folder, image_folder):
    """Counted: how often the network sees images while a batch is measured; once is the shared pass."""
    analysis = make_analysis(PASSES.get(name, name))
    checkpoint = load_checkpoint(vit_folder, need_attention=analysis.needs_attention)
    images = load_images(image_folder, n=16)
    run = Run(checkpoint, images, [analysis], 8)
    if not run.analyses:
        pytest.skip(run.absent[analysis.name])
    seen: list[int] = []
    handle = checkpoint.network.register_forward_pre_hook(lambda module, arguments: seen.append(1))
    pixels = torch.stack([torch.from_numpy(checkpoint.prepare(images[i][0])) for i in range(8)])
    run.step(pixels, torch.tensor([images[i][1] for i in range(8)]), torch.arange(8))
    handle.remove()
    assert (len(seen) > 1) == analysis.own_passes


def unlabelled(image_folder, classes=..., known=()):
    images = load_images(image_folder, n=16)
    rows = [images.rows[i] | ({} if i in known else {images.label_column: -1}) for i in range(16)]
    kept = images.classes if classes is ... else classes
    return type(images)(rows, images.image_column, images.label_column, kept, images.provenance)


GRADED = ["noise", "lesions", "attacks:steps=1:epsilons=1", "corruptions:kinds=gaussian_noise:severities=1"]


def test_one_batch_without_labels_takes_nothing_away(vit_folder, image_folder):
    profile = measure(vit_folder, unlabelled(image_folder, known=(9,)), analyses=GRADED, **QUICK)
    assert profile.provenance["absent"] == {}
    for name in ("noise_clean", "lesion_intact", "attack_clean", "corruption_clean"):
        correct = profile[f"{name}_correct"].values
        assert correct.shape == (16,)
        assert np.flatnonzero(correct >= 0).tolist() == [9]


@pytest.mark.parametrize("classes", [..., None, ["x", "y"]])
def test_images_without_any_known_label_leave_a_reason(classes, vit_folder, image_folder):
    profile = measure(vit_folder, unlabelled(image_folder, classes), analyses=[*GRADED, "variance"], **QUICK)
    assert set(profile.provenance["absent"]) == {"noise", "lesions", "attacks", "corruptions"}
    for why in profile.provenance["absent"].values():
        assert "no image has a label among the checkpoint's classes" in why


def test_images_of_other_classes_cost_no_passes(vit_folder, image_folder):
    run = Run(load_checkpoint(vit_folder), unlabelled(image_folder, ["x"]), [make_analysis("noise")], 8)
    assert run.analyses == []


@pytest.mark.parametrize("names", [["variance", "variance"], ["noise:seed=1", "noise:seed=2"]])
def test_analyses_of_one_name_are_refused(names, vit_folder, image_folder):
    with pytest.raises(StudyError, match=r"two of the analyses are called '(variance|noise)'"):
        measure(vit_folder, image_folder, analyses=names, **QUICK)


def test_a_variable_of_another_measurement_is_not_overwritten(vit_folder, image_folder):
    from hf_vitstudy.analyses import PerBlock

    class Own(PerBlock):
        """Goes by its own name but calls its variable as `variance` does."""

        def result(self, parts):
            return {"variance": super().result(parts)["own"]}

    own = Own("own", lambda state: state.tokens.sum((1, 2)), unit="1", source="none")
    profile = measure(vit_folder, image_folder, n=8, analyses=["variance", own], **QUICK)
    expected = measure(vit_folder, image_folder, n=8, analyses=["variance"], **QUICK)
    np.testing.assert_array_equal(profile["variance"], expected["variance"])
    assert "its variable 'variance' has the name of another measurement's" in profile.provenance["absent"]["own"]
