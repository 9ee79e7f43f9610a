"""What one checkpoint makes of one image, for the page: the five likeliest classes, attention, receptive fields, filters.

All maths is that of the package's measurements. Maps leave as bytes: brightest 255, in base64.
"""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..analyses.receptive_field import field_at, pooled_mass, radii
from ..blocks import AttentionLayer, Block, block_of
from ..checkpoints import Checkpoint, load_checkpoint
from ..corruptions import high_pass, low_pass
from ..errors import StudyError
from ..images import decode


FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")  # no others are tried: each decoder is one more thing to attack
MOST_PIXELS = 20_000_000
TOP = 5
QUALITY = 75  # of pictures that are only looked at
LOW = (0.7, 0.5, 0.35, 0.25, 0.18, 0.12, 0.08, 0.05)  # cut-offs in units of π, from hardly any to much taken away
HIGH = (0.02, 0.05, 0.08, 0.12, 0.18, 0.25, 0.35, 0.5)
PIECE = 6  # stops in one answer, so that no request takes long
STOPS: tuple[tuple[str, float], ...] = (
    *(("low", cutoff) for cutoff in reversed(LOW)),
    ("none", 1.0),
    *(("high", cutoff) for cutoff in HIGH),
)


def read_image(content: bytes) -> np.ndarray:
    """RGB pixels (height, width, 3) uint8 of a file of one of `FORMATS`.

    Raises:
        StudyError: it is none of them, damaged, or has more than `MOST_PIXELS` pixels; told before a pixel is decoded.
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as opened:
            size = opened.width * opened.height
            if size <= MOST_PIXELS:
                return decode(opened)
    except StudyError:
        raise
    except Exception as error:  # PIL raises OSError, SyntaxError, DecompressionBombError ... on hostile files
        raise StudyError(f"the file is no image in one of the formats {', '.join(FORMATS)}") from error
    raise StudyError(f"the image has {size:,} pixels, at most {MOST_PIXELS:,} are read; shrink it first")


class Eye:
    """A checkpoint that looks at one image at a time.

    Attributes:
        layers: attention layers whose tokens are all places of the image, each with the block it belongs to and its heads.
    """

    def __init__(self, source: str) -> None:
        """Load it on the CPU and look once, so that the first visitor does not wait for what happens only once.

        Raises:
            StudyError: as `load_checkpoint`; or it has no classifier.
        """
        self.checkpoint: Checkpoint = load_checkpoint(source, device="cpu")
        if self.checkpoint.provenance["classes"] is None:
            raise StudyError(
                f"{self.checkpoint.name} has no classifier, so it has no answer to show; name another one"
            )
        self.classes: list[str] = self.checkpoint.provenance["classes"]
        self.layers: list[tuple[AttentionLayer, Block, int]] = self._find_layers()
        blank = np.full((3, *self.checkpoint.image_size), 128, np.uint8)
        self.look(blank, 0)
        self.field(blank, len(self.checkpoint.blocks) - 1, 0.5, 0.5)

    def _find_layers(self) -> list[tuple[AttentionLayer, Block, int]]:
        found = []

        def visit(layer: AttentionLayer, weights: Tensor) -> None:
            owner = block_of(layer.path, self.checkpoint.blocks)
            tokens = owner.grid[0] * owner.grid[1] + owner.prefix_count if owner else 0
            if owner and tuple(weights.shape[2:]) == (tokens, tokens) and len(weights) == 1:
                found.append((layer, owner, weights.shape[1]))

        self.checkpoint.read(torch.rand(1, 3, *self.checkpoint.image_size), _ignored, visit)
        return [each for each in found if each[1].grid == found[-1][1].grid]  # one grid of places for all

    def about(self) -> dict[str, Any]:
        """Name, size and places of the network, as the page needs them."""
        where = self.layers[0][1] if self.layers else None
        return {
            "name": self.checkpoint.name,
            "size": list(self.checkpoint.image_size),
            "revision": self.checkpoint.provenance["revision"],
            "layers": [{"name": layer.name, "heads": heads} for layer, _, heads in self.layers],
            "grid": list(where.grid) if where else None,
            "prefix": where.prefix_count if where else 0,
            "blocks": [{"name": block.name, "grid": list(block.grid)} for block in self.checkpoint.blocks],
        }

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Pixels as the network is shown them, (3, height, width) uint8, of any RGB image (height, width, 3)."""
        return self.checkpoint.prepare(image)

    def exact(self, image: np.ndarray) -> np.ndarray:
        """The same of an image that already has the network's size, untouched.

        Raises:
            StudyError: it has another size.
        """
        if image.shape[:2] != self.checkpoint.image_size:
            height, width = self.checkpoint.image_size
            raise StudyError(
                f"expected an image of {width} x {height} pixels, got {image.shape[1]} x {image.shape[0]}"
            )
        return np.ascontiguousarray(image.transpose(2, 0, 1))

    def look(self, pixels: np.ndarray, layer: int) -> dict[str, Any]:
        """One forward pass: ``top`` classes, the ``image`` as the network saw it, and ``attention`` of one layer.

        Args:
            pixels: (3, height, width) uint8.
            layer: number of the attention layer; the last for a larger one.
        """
        kept: list[Tensor] = []
        wanted = self.layers[min(layer, len(self.layers) - 1)][0] if self.layers else None

        def visit(found: AttentionLayer, weights: Tensor) -> None:
            if wanted is not None and found.path == wanted.path:
                kept.append(weights[0].float().clone())

        logits, _ = self.checkpoint.read(_in_unit(pixels)[None], _ignored, visit)
        assert logits is not None, "it has a classifier"
        attention = packed_attention(kept[0]) | {"layer": min(layer, len(self.layers) - 1)} if kept else None
        return {"top": self.top(logits)[0], "image": picture(pixels), "attention": attention}

    def field(self, pixels: np.ndarray, block: int, y: float, x: float) -> dict[str, Any]:
        """Receptive field of the place of a block at (y, x), both in [0, 1): ``map`` and its ``radius`` in pixels."""
        block = min(block, len(self.checkpoint.blocks) - 1)
        place = self.checkpoint.blocks[block]
        cell = min(int(y * place.grid[0]), place.grid[0] - 1), min(int(x * place.grid[1]), place.grid[1] - 1)
        found = field_at(self.checkpoint, place, _in_unit(pixels), cell)[None]
        half, most = radii(found, place.grid, cell)[0].tolist()
        mass = pooled_mass(found)[0].numpy()
        return {
            "block": block,
            "cell": list(cell),
            "radius": [_rounded(half), _rounded(most)],
            "rows": mass.shape[0],
            "map": _bytes(mass / max(float(mass.max()), 1e-30)),
        }

    def sweep(self, pixels: np.ndarray, piece: int) -> list[dict[str, Any]]:
        """The image with low or high frequencies taken away: ``kind``, ``cutoff``, ``top``, ``image``; none after the last.

        Args:
            piece: number of the `PIECE` stops, from 0.
        """
        stops = STOPS[piece * PIECE : (piece + 1) * PIECE]
        if not stops:
            return []
        images = np.stack([_filtered(pixels, kind, cutoff) for kind, cutoff in stops])
        logits, _ = self.checkpoint.read(torch.from_numpy(images), _ignored)
        assert logits is not None, "it has a classifier"
        return [
            {
                "kind": kind,
                "cutoff": cutoff,
                "top": top,
                "image": picture(np.rint(image * 255).astype(np.uint8), "WEBP"),
            }
            for (kind, cutoff), top, image in zip(stops, self.top(logits), images, strict=True)
        ]

    def top(self, logits: Tensor) -> list[list[list[Any]]]:
        """The likeliest classes of every row, [name, probability] each."""
        found = logits.float().softmax(1).topk(min(TOP, logits.shape[1]))
        rows = zip(found.indices.tolist(), found.values.tolist(), strict=True)
        return [[[self.classes[k], float(f"{p:.4g}")] for k, p in zip(*row, strict=True)] for row in rows]


def packed_attention(weights: Tensor) -> dict[str, Any]:
    """Attention (head, query, key) as bytes relative to each query's strongest key, and how strong that is."""
    peak = weights.amax(2)
    relative = (weights / peak[..., None].clamp_min(1e-30)).numpy()
    strongest = base64.b64encode(peak.numpy().astype("<f4").tobytes()).decode()
    return {"heads": len(weights), "tokens": weights.shape[1], "weights": _bytes(relative), "peak": strongest}


def picture(pixels: np.ndarray, form: str = "PNG") -> str:
    """A data address of pixels (3, height, width) uint8; PNG keeps every one."""
    file = io.BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(file, form, quality=QUALITY)
    return f"data:image/{form.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def _filtered(pixels: np.ndarray, kind: str, cutoff: float) -> np.ndarray:
    """(3, height, width) float32 in [0, 1]."""
    image = pixels.transpose(1, 2, 0).astype(np.float32) / 255
    if kind != "none":
        rng = np.random.default_rng(0)  # which filters do not use
        image = {"low": low_pass, "high": high_pass}[kind](image, cutoff, rng).clip(0, 1)
    return np.ascontiguousarray(image.transpose(2, 0, 1), np.float32)


def _in_unit(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(pixels).float() / 255


def _bytes(relative: np.ndarray) -> str:
    return base64.b64encode(np.rint(relative * 255).astype(np.uint8).tobytes()).decode()


def _rounded(value: float) -> float | None:
    return float(f"{value:.3g}") if np.isfinite(value) else None


def _ignored(*_: Any) -> None:
    """A visitor that looks at nothing."""
