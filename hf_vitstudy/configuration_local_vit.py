"""The configuration of a ViT whose patches look at their neighbours only."""

from huggingface_hub.dataclasses import strict
from transformers import ViTConfig


@strict
class LocalViTConfig(ViTConfig):
    """Settings of `ViTConfig` and two more.

    Park & Kim 2022, Fig 7: ViT-Ti on CIFAR-100 with 3 x 3, 5 x 5 and global (8 x 8 of 8 x 8 patches) kernels::

        LocalViTConfig(image_size=32, patch_size=4, hidden_size=192, num_attention_heads=3, intermediate_size=768,
                       kernel_size=3, pooling="mean")

    Args:
        kernel_size: patches a side of the square that each patch attends to; None for all. At the border the square is
            shifted inwards, so that every patch sees equally many (Hassani et al., "Neighborhood Attention Transformer",
            CVPR 2023, Section 3), and a square as large as the grid is global attention. An even square reaches one patch
            further up and left.
        pooling: what the classifier sees. ``class``: the class token, which all patches see and which sees all patches, so
            that with a kernel it remains a global path. ``mean``: the mean of all patches after the final norm, without any
            class token (Park & Kim 2022, Fig 6; Raghu et al. 2021, Fig 10: "GAP").

    Raises:
        ValueError: a kernel larger than the grid, or an unknown pooling.
    """

    model_type = "local_vit"

    kernel_size: int | None = None
    pooling: str = "class"

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        if self.pooling not in ("class", "mean"):
            raise ValueError(f"pooling must be class or mean, got {self.pooling!r}")
        rows, columns = self.grid
        if self.kernel_size is not None and not 1 <= self.kernel_size <= min(rows, columns):
            raise ValueError(
                f"kernel_size must be from 1 to {min(rows, columns)} for {rows} x {columns} patches, got {self.kernel_size}; "
                "use None for attention to all patches"
            )

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches."""
        height, width = [self.image_size] * 2 if isinstance(self.image_size, int) else self.image_size
        down, across = [self.patch_size] * 2 if isinstance(self.patch_size, int) else self.patch_size
        return height // down, width // across
