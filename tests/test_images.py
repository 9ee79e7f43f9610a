"""One decoder for every image mode; a fixed order; a hash of what was seen."""

import io

import numpy as np
import pytest
from PIL import Image

from hf_vitstudy import StudyError, images
from hf_vitstudy.images import ImageSet, decode, digest, load_images, set_digest


RED = (200, 30, 40)


def encoded(image: Image.Image, form: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def flat(mode: str, colour) -> Image.Image:
    return Image.new(mode, (5, 3), colour)


def half_transparent() -> Image.Image:
    return flat("RGBA", (*RED, 128))


def palette_with_transparency() -> Image.Image:
    image = Image.new("P", (5, 3), 1)
    image.putpalette([0, 0, 0, *RED])
    image.info["transparency"] = 0
    return image


def sixteen_bit() -> Image.Image:
    return Image.fromarray(np.full((3, 5), 128 * 256 + 77, dtype=np.uint16))


CASES = {
    "rgb": (encoded(flat("RGB", RED)), RED),
    "gray": (encoded(flat("L", 77)), (77, 77, 77)),
    "gray with alpha, transparent": (encoded(flat("LA", (10, 0))), (255, 255, 255)),
    "one bit": (encoded(flat("1", 1)), (255, 255, 255)),
    "palette": (encoded(flat("RGB", RED).convert("P", palette=Image.Palette.ADAPTIVE)), RED),
    "palette with unused transparency": (encoded(palette_with_transparency()), RED),
    "alpha over white": (encoded(half_transparent()), tuple(round(c * 128 / 255 + 255 * 127 / 255) for c in RED)),
    "16-bit gray": (encoded(sixteen_bit()), (128, 128, 128)),
    "gif": (encoded(flat("RGB", RED).convert("P", palette=Image.Palette.ADAPTIVE), "GIF"), RED),
    "bmp": (encoded(flat("RGB", RED), "BMP"), RED),
    "webp": (encoded(flat("RGB", RED), "WEBP", lossless=True), RED),
}


@pytest.mark.parametrize("name", CASES)
def test_every_mode_becomes_rgb(name):
    source, expected = CASES[name]
    pixels = decode(source)
    assert pixels.shape == (3, 5, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - np.array(expected)).max() <= 1


def test_cmyk_jpeg_becomes_rgb():
    pixels = decode(encoded(flat("CMYK", (0, 255, 255, 0)), "JPEG"))
    assert pixels[0, 0, 0] > 200
    assert pixels[0, 0, 1:].max() < 60


def test_orientation_tag_is_applied():
    image = Image.fromarray(np.arange(15, dtype=np.uint8).reshape(3, 5) * 10)
    exif = image.getexif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise to see it upright
    turned = decode(encoded(image, "PNG", exif=exif))
    assert turned.shape == (5, 3, 3)
    assert np.array_equal(turned[..., 0], np.rot90(np.asarray(image), -1))


@pytest.mark.parametrize("kind", ["bytes", "path", "row with bytes", "row with path", "pil", "array", "gray array"])
def test_every_kind_of_source_gives_the_same_pixels(kind, tmp_path):
    gray = np.arange(60, dtype=np.uint8).reshape(10, 6)
    content = encoded(Image.fromarray(gray))
    (tmp_path / "a.png").write_bytes(content)
    sources = {
        "bytes": content,
        "path": tmp_path / "a.png",
        "row with bytes": {"bytes": content, "path": None},
        "row with path": {"bytes": None, "path": str(tmp_path / "a.png")},
        "pil": Image.fromarray(gray),
        "array": np.repeat(gray[..., None], 3, axis=2),
        "gray array": gray,
    }
    assert np.array_equal(decode(sources[kind]), np.repeat(gray[..., None], 3, axis=2))


def huge_png() -> bytes:
    return encoded(Image.new("1", (9000, 9000)))


REFUSED = {
    "text": (b"not an image", "not a readable image"),
    "empty": (b"", "not a readable image"),
    "cut off": (encoded(Image.effect_noise((64, 64), 50))[:-900], "cannot be decoded"),
    "nothing": (None, "missing"),
    "a number": (7, "expected bytes, a path, a PIL image"),
    "float array": (np.zeros((4, 4, 3)), "expected a uint8 array"),
    "four channels": (np.zeros((4, 4, 4), np.uint8), r"expected an array .* got \(4, 4, 4\)"),
    "floating point": (Image.new("F", (3, 3)), "floating-point pixels"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_image_is_refused(name):
    source, message = REFUSED[name]
    with pytest.raises(StudyError, match=message):
        decode(source)


def test_a_bomb_is_refused_before_it_is_decoded():
    content = huge_png()
    assert len(content) < 20_000
    with pytest.raises(StudyError, match="9000 x 9000 pixels, at most"):
        decode(content)


def test_digest_sees_every_pixel_and_the_shape():
    pixels = np.zeros((4, 6, 3), np.uint8)
    changed = pixels.copy()
    changed[3, 5, 2] = 1
    assert len({digest(pixels), digest(changed), digest(pixels.reshape(6, 4, 3))}) == 3
    assert set_digest([1, 2]) != set_digest([2, 1])


def test_image_folder_is_read_with_labels_in_a_seeded_order(image_folder):
    first, again, other = (load_images(image_folder, n=20, seed=seed) for seed in (0, 0, 1))
    digests = [[digest(s[i][0]) for i in range(len(s))] for s in (first, again, other)]
    assert digests[0] == digests[1] != digests[2]
    assert len(set(digests[0])) == 20  # without replacement
    assert first.classes == [f"class{i}" for i in range(10)]
    assert len({first[i][1] for i in range(20)}) > 5  # not the first two classes, as the sorted folder begins
    assert first.provenance == {"name": "shapes", "split": "train", "revision": None, "n": 20, "seed": 0}


def test_parquet_and_saved_datasets_are_read_like_the_folder(image_folder, tmp_path):
    import datasets

    folder = datasets.load_dataset(str(image_folder), split="train")
    folder.to_parquet(tmp_path / "shapes.parquet")
    folder.save_to_disk(tmp_path / "saved")
    sets = [load_images(path, n=None) for path in (image_folder, tmp_path / "shapes.parquet", tmp_path / "saved")]
    assert all(len(s) == 44 for s in sets)
    for index in range(44):
        pixels, label = sets[0][index]
        for other in sets[1:]:
            assert np.array_equal(other[index][0], pixels)
            assert other[index][1] == label


def test_asking_for_more_images_than_there_are_is_recorded(image_folder):
    found = load_images(image_folder, n=100)
    assert len(found) == 44
    assert found.provenance["asked"] == 100


def write_parquet(path, columns: dict, features=None):
    import datasets

    datasets.Dataset.from_dict(columns, features=features).to_parquet(path)
    return path


def pictures(folder, *names) -> None:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encoded(flat("RGB", (number, 0, 0))))


def test_a_name_is_no_pattern(tmp_path):
    """`datasets` reads [12] and * as those of a shell, and would take the neighbours for it."""
    import datasets

    features = datasets.Features({"image": datasets.Image()})
    for name, count in (("a[12].parquet", 5), ("a1.parquet", 7), ("b*.parquet", 6), ("bx.parquet", 8)):
        rows = {"image": [{"bytes": encoded(flat("RGB", (i, 0, 0))), "path": None} for i in range(count)]}
        write_parquet(tmp_path / name, rows, features)
    assert [len(load_images(tmp_path / name)) for name in ("a[12].parquet", "b*.parquet")] == [5, 6]
    for folder, count in (("im [v2]", 4), ("im 2", 3)):
        pictures(tmp_path / folder, *(f"{kind}/{k}.png" for kind in ("cat", "dog") for k in range(count)))
    found = load_images(tmp_path / "im [v2]")
    assert (len(found), found.classes) == (8, ["cat", "dog"])


DROPPED = {
    "a class called train": [f"{kind}/{k}.png" for kind in ("train", "car", "bus") for k in range(5)],
    "files called test": [*(f"cat/{k}.png" for k in range(9)), *(f"dog/test_{k}.png" for k in range(6))],
    "a third folder": [f"{kind}/{c}/{k}.png" for kind in ("train", "test", "more") for c in "ab" for k in range(4)],
}


@pytest.mark.parametrize("names", DROPPED.values(), ids=DROPPED)
def test_images_that_would_be_left_out_are_told_of(names, tmp_path):
    """`datasets` takes train and test in a name for a split, and the rest is not read."""
    pictures(tmp_path / "all", *names)
    with pytest.raises(
        StudyError, match=rf"of {len(names)} images \d+ would be read, and \S+ would not: datasets takes names"
    ):
        load_images(tmp_path / "all")


def test_splits_that_are_folders_are_read_and_hidden_files_are_not_counted(tmp_path):
    pictures(tmp_path / "all", *(f"{kind}/{c}/{k}.png" for kind in ("train", "test") for c in "ab" for k in range(4)))
    pictures(tmp_path / "all", "train/.cache/x.png", ".x.png", "__MACOSX/y.png")
    assert [len(load_images(tmp_path / "all", split=split)) for split in (None, "train", "test")] == [8, 8, 8]


def test_32_bit_pixels_have_no_known_range():
    from PIL import Image

    for values in (np.arange(252), 2**22 + np.arange(252), -np.arange(252)):
        file = io.BytesIO()
        Image.fromarray(values.astype(np.int32).reshape(12, 21)).save(file, "TIFF")
        with pytest.raises(StudyError, match="has 32-bit pixels of unknown range; save it with 8 or 16 bits"):
            decode(file.getvalue())


def test_a_broken_image_is_named_by_its_row(tmp_path):
    import datasets

    good = encoded(flat("RGB", RED))
    rows = {"image": [{"bytes": good if i != 3 else b"junk", "path": None} for i in range(6)]}
    path = write_parquet(tmp_path / "x.parquet", rows, datasets.Features({"image": datasets.Image()}))
    found = load_images(path)
    bad = [i for i in range(6) if found.rows[i]["image"]["bytes"] == b"junk"]
    assert len(bad) == 1
    with pytest.raises(StudyError, match="image 3 of x: is not a readable image"):
        found[bad[0]]


def test_data_without_images_or_with_too_few_is_refused(tmp_path):
    import datasets

    text = write_parquet(tmp_path / "text.parquet", {"text": ["a", "b", "c", "d"]})
    with pytest.raises(StudyError, match=r"no image column \(columns: text: Value\)"):
        load_images(text)
    rows = {"image": [{"bytes": encoded(flat("RGB", RED)), "path": None}] * 3}
    few = write_parquet(tmp_path / "few.parquet", rows, datasets.Features({"image": datasets.Image()}))
    with pytest.raises(StudyError, match="has 3 images, at least 4"):
        load_images(few)


def test_missing_sources_and_splits_say_what_is_expected(image_folder, tmp_path):
    with pytest.raises(StudyError, match="no such file or folder; expected an image folder"):
        load_images(tmp_path / "nowhere.parquet")
    with pytest.raises(StudyError, match="cannot load images from 'nobody/nothing'"):
        load_images("nobody/nothing")
    with pytest.raises(StudyError, match="has the splits train, got 'test'"):
        load_images(image_folder, split="test")


def test_one_of_several_image_columns_is_chosen_by_name(tmp_path):
    import datasets

    rows = [{"bytes": encoded(flat("L", value)), "path": None} for value in (1, 2, 3, 4)]
    others = [{"bytes": encoded(flat("L", value + 100)), "path": None} for value in (1, 2, 3, 4)]
    features = datasets.Features({"mask": datasets.Image(), "image": datasets.Image()})
    found = load_images(write_parquet(tmp_path / "two.parquet", {"mask": others, "image": rows}, features))
    assert max(found[i][0].max() for i in range(4)) == 4
    assert found[0][1] == -1  # no labels


def test_an_image_set_of_one_s_own_needs_no_dataset():
    own = ImageSet([{"image": np.full((4, 4, 3), value, np.uint8)} for value in range(5)])
    assert len(own) == 5
    assert own[3][0].max() == 3


def test_the_hub_commit_is_left_as_given_when_offline():
    assert images._commit("org/name", "v1") == "v1"
