"""Write data/examples.json.xz: what two networks make of six images, so that the Space shows them at once and without torch.

    pip install scikit-image
    python spaces/compare/make_examples.py VIT_FOLDER RESNET_FOLDER

The networks are those of `recipes/configs/vit_tiny_cifar10.yaml` and `resnet18_cifar10.yaml`, seed 0. The images come with
scikit-image; all are in the public domain or CC0. One is made of two of them, after Geirhos et al., "ImageNet-trained CNNs are
biased towards texture", ICLR 2019: the fur of the cat in the shape of the horse.
"""

import base64
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from hf_vitstudy.images import decode
from hf_vitstudy.space.looking import STOPS, Eye, picture
from hf_vitstudy.space_release import EXAMPLES_FILE
from hf_vitstudy.viewer.bundle import pack


ITEMS = {
    "A cat": ("chelsea.png", "Photograph by Stéfan van der Walt, CC0"),
    "A horse's silhouette": ("horse.png", "Andreas Preuss, CC0"),
    "A cat's fur in a horse's shape": ("", "Made of the two before it"),
    "A rocket": ("rocket.jpg", "Photograph by SpaceX, public domain"),
    "A cup of coffee": ("coffee.png", "Photograph by Rachel Michetti, CC0"),
    "An astronaut": ("astronaut.png", "Photograph by NASA, public domain"),
}
NOTE = (
    "Two networks fine-tuned on the ten classes of CIFAR-10 by the study's recipes (trained once more, so these are not its "
    "very weights). What belongs to none of the ten they must take for one of them."
)
START = 2  # the first to be shown
FUR = (150, 10, 140)  # row, column and side of a square of fur in the photograph of the cat
THUMB = 120
SHADES = 16  # of a receptive field, so that 1,512 of them take a third of the bytes


def images() -> dict[str, np.ndarray]:
    """Title -> square RGB pixels."""
    package = find_spec("skimage")
    if package is None or not package.submodule_search_locations:
        sys.exit("scikit-image is not installed; its package holds the images: pip install scikit-image")
    folder = Path(next(iter(package.submodule_search_locations))) / "data"
    found = {title: decode(folder / file) for title, (file, _) in ITEMS.items() if file}
    horse = found["A horse's silhouette"]
    found["A cat's fur in a horse's shape"] = conflict(found["A cat"], horse[..., :1] < 128)
    return {title: square(found[title]) for title in ITEMS}


def conflict(texture: np.ndarray, inside: np.ndarray) -> np.ndarray:
    """A shape (height, width, 1) filled with mirrored pieces of a texture, on white."""
    row, column, side = FUR
    piece = texture[row : row + side, column : column + side]
    pair = np.concatenate([piece, piece[:, ::-1]], 1)
    tile = np.concatenate([pair, pair[::-1]], 0)
    repeats = -(-inside.shape[0] // tile.shape[0]), -(-inside.shape[1] // tile.shape[1]), 1
    return np.where(inside, np.tile(tile, repeats)[: inside.shape[0], : inside.shape[1]], 255).astype(np.uint8)


def square(image: np.ndarray) -> np.ndarray:
    """The middle of a photograph; a drawing on white is padded instead."""
    height, width = image.shape[:2]
    if (image[[0, -1]] == 255).all():
        side = max(height, width)
        page = np.full((side, side, 3), 255, np.uint8)
        page[(side - height) // 2 :][:height, (side - width) // 2 :][:, :width] = image
        return page
    side = min(height, width)
    return image[(height - side) // 2 :, (width - side) // 2 :][:side, :side]


def answers(eyes: list[Eye], image: np.ndarray, grid: list[int]) -> dict[str, dict]:
    """All that the page can ask about one image, by the part of the file's name.

    Receptive fields of networks without attention, at every cell of `grid`; attention of all layers is a part of its own, since
    what is shown first has that of one.
    """
    pixels = [eye.prepare(image) for eye in eyes]
    middle = max(len(eye.layers) for eye in eyes) // 2
    cells = [((i + 0.5) / grid[0], (j + 0.5) / grid[1]) for i in range(grid[0]) for j in range(grid[1])]
    fields = [
        [[coarse(eye.field(seen, block, y, x)) for y, x in cells] for block in range(len(eye.checkpoint.blocks))]
        if not eye.layers
        else []
        for eye, seen in zip(eyes, pixels, strict=True)
    ]
    shown = {
        "grid": grid,
        "first": {"sides": [eye.look(seen, middle) for eye, seen in zip(eyes, pixels, strict=True)]},
        "field": fields,
        "sweep": [
            [stop for piece in range(len(STOPS)) for stop in eye.sweep(seen, piece)]
            for eye, seen in zip(eyes, pixels, strict=True)
        ],
    }
    layers = [
        [eye.look(seen, layer)["attention"] for layer in range(len(eye.layers))]
        for eye, seen in zip(eyes, pixels, strict=True)
    ]
    return {"": shown, "-attention": {"attention": layers}}


def coarse(field: dict) -> dict:
    """A receptive field in fewer shades."""
    heat = np.frombuffer(base64.b64decode(field["map"]), np.uint8)
    shades = np.rint(np.rint(heat / 255 * SHADES) / SHADES * 255).astype(np.uint8)
    return field | {"map": base64.b64encode(shades.tobytes()).decode()}


def main() -> None:
    eyes = [Eye(source) for source in sys.argv[1:3]]
    grid = next(eye.about()["grid"] for eye in eyes if eye.layers)
    parts: dict[str, dict] = {}
    items = []
    for number, (title, image) in enumerate(images().items()):
        parts |= {f"{number}{part}.json": answer for part, answer in answers(eyes, image, grid).items()}
        small = np.asarray(Image.fromarray(image).resize((THUMB, THUMB), Image.Resampling.LANCZOS))
        items.append({"title": title, "credit": ITEMS[title][1], "thumb": picture(small.transpose(2, 0, 1), "JPEG")})
    index = {"sides": [eye.about() for eye in eyes], "items": items, "note": NOTE, "start": START}
    written = pack({"index.json": index, **parts}, Path(__file__).parent / "data" / EXAMPLES_FILE)
    print(f"{written.stat().st_size:,} bytes -> {written}")


if __name__ == "__main__":
    main()
