"""The image decoder on anything: pixels or one line, never another error, never more memory than the limit."""

import io

import numpy as np
import pytest
from conftest import small_processor
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hf_vitstudy import StudyError, images
from hf_vitstudy.checkpoints import prepare
from hf_vitstudy.images import decode


bounded = settings(deadline=None, database=None, derandomize=True, max_examples=120)
MODES = (
    "1",
    "L",
    "LA",
    "La",
    "P",
    "PA",
    "RGB",
    "RGBA",
    "RGBa",
    "RGBX",
    "CMYK",
    "YCbCr",
    "HSV",
    "LAB",
    "I",
    "I;16",
    "F",
)
WRITTEN = {"PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"), "JPEG": ("L", "RGB", "CMYK"), "GIF": ("L", "P")}
WRITTEN |= {"WEBP": ("RGB", "RGBA"), "BMP": ("1", "L", "P", "RGB"), "TIFF": ("1", "L", "RGB", "RGBA", "CMYK", "F")}


def pixels_or_refusal(source) -> np.ndarray | None:
    try:
        found = decode(source)
    except StudyError as error:
        return refused(error)
    assert found.dtype == np.uint8
    assert found.ndim == 3
    assert found.shape[2] == 3
    return found


def refused(error: StudyError) -> None:
    assert "\n" not in str(error)


def picture(mode: str, width: int, height: int, seed: int = 0) -> Image.Image:
    """Random bytes in any mode."""
    made = Image.new(mode, (width, height))
    count = len(made.tobytes())
    made.frombytes(np.random.default_rng(seed).bytes(count))
    if mode == "P":
        made.putpalette(list(range(256)) * 3)
    return made


def written(form: str, mode: str, width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    picture(mode, width, height).save(buffer, form)
    return buffer.getvalue()


forms = st.sampled_from([(form, mode) for form, modes in WRITTEN.items() for mode in modes])
sides = st.integers(1, 40)


@bounded
@given(
    content=st.binary(max_size=400),
    start=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"BM"]),
)
def test_bytes_that_are_no_image(content, start):
    pixels_or_refusal(start + content)


@bounded
@given(mode=st.sampled_from(MODES), width=sides, height=sides, seed=st.integers(0, 9))
def test_every_mode_in_every_size(mode, width, height, seed):
    found = pixels_or_refusal(picture(mode, width, height, seed))
    if found is None:
        assert mode in ("F", "LAB", "La", "PA", "RGBa"), "those without a meaning in RGB"
    else:
        assert found.shape == (height, width, 3)
    if mode == "RGB":
        assert found.tobytes() == picture(mode, width, height, seed).tobytes()


@bounded
@given(form=forms, width=sides, height=sides)
def test_every_format_in_every_size(form, width, height):
    found = pixels_or_refusal(written(*form, width, height))
    assert (found is None) == (form[1] == "F")
    assert found is None or found.shape == (height, width, 3)


@bounded
@given(form=forms, cut=st.integers(0, 2**20), bit=st.integers(0, 2**20), whole=st.booleans())
def test_damaged_files(form, cut, bit, whole):
    content = bytearray(written(*form, 24, 17))
    content[bit // 8 % len(content)] ^= 1 << bit % 8
    found = pixels_or_refusal(bytes(content if whole else content[: cut % len(content)]))
    assert found is None or found.size <= 3 * images.MAX_PIXELS


@bounded
@given(form=forms, width=st.integers(1, 400), height=st.integers(1, 400))
def test_the_limit_is_exact(form, width, height):
    """Read from the header, before memory is used."""
    if form[1] == "F":
        return
    within = width * height <= 1000 and max(width, height) <= 200 * min(width, height)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "MAX_PIXELS", 1000)
        assert (pixels_or_refusal(picture(form[1], width, height)) is not None) == within
        assert (pixels_or_refusal(np.zeros((height, width), np.uint8)) is not None) == within


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (200, 1), (2, 3)])
def test_smallest_images_reach_the_network(size):
    for processor in (small_processor(), shortest_edge()):
        assert prepare(processor, decode(picture("RGB", *size))).shape == (3, 32, 32)


def shortest_edge():
    from transformers import ConvNextImageProcessor

    return ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.875)


REFUSED = {
    "a line": (
        lambda: picture("RGB", 1, 4000),
        r"has 1 x 4000 pixels, of which processors make far too many; crop it",
    ),
    "a line in a file": (lambda: written("PNG", "RGB", 1, 4000), "has 1 x 4000 pixels, of which"),
    "no rows": (lambda: np.zeros((0, 5, 3), np.uint8), "has 5 x 0 pixels, so there is nothing to see; remove it"),
    "no columns": (lambda: np.zeros((5, 0), np.uint8), "has 0 x 5 pixels, so there is nothing to see"),
    "undefined numbers": (lambda: np.full((4, 4, 3), np.nan, np.float32), "expected a uint8 array, got float32"),
    "a program for a printer": (
        lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "is not a readable image",
    ),
    "a drawing": (
        lambda: b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>",
        "is not a readable image",
    ),
    "a page": (lambda: b"<html><script>alert(1)</script></html>", "is not a readable image"),
    "an archive": (lambda: b"PK\x03\x04" + bytes(60), "is not a readable image"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_says_why(case):
    make, message = REFUSED[case]
    with pytest.raises(StudyError, match=message):
        decode(make())
