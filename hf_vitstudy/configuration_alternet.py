"""AlterNet's configuration: which blocks of a pre-activation ResNet are self-attention.

Park & Kim, "How Do Vision Transformers Work?", ICLR 2022 (arXiv 2202.06709), Section 4 and Fig 11.
"""

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig


STEMS = {"imagenet": 4, "small": 1}  # how many times smaller than the image the stem's map is, a side
EXPANSIONS = {"bottleneck": 4, "basic": 1}  # channels of a block over its width

BUILD_UP = (
    ((0, 0, 0, 0), 82.48),
    ((0, 0, 0, 1), 83.45),
    ((0, 0, 0, 2), 83.66),
    ((0, 0, 1, 2), 83.77),
    ((0, 1, 1, 2), 84.02),
    ((1, 1, 1, 2), 83.80),
)
"""The published build-up, 0 to 5 attention blocks: `num_attention_blocks` and CIFAR-100 top-1 in percent.

Fig 11 of the paper; the numbers are read off its vector paths, one run each, without intervals. The rules: replace
convolutional blocks alternately from the end of the network; where that does not help, go on at the end of the stage before;
more heads in later stages. Its alternatives, with the other stages as in step 3, are a second (83.52) and a third (83.19)
block in the third stage, and a second in the second stage (83.39).
"""


def attention_positions(depth: int, number: int) -> list[int]:
    """Which of a stage's `depth` blocks are attention: every other one, the last included.

    Raises:
        ValueError: the stage is too short. Its first block changes width and resolution and stays convolutional.
    """
    if not 0 <= 2 * number <= depth:
        raise ValueError(
            f"{number} attention blocks alternate with as many convolutional ones and need at least {2 * number} blocks, "
            f"got a stage of {depth}; raise its depth or lower its num_attention_blocks"
        )
    return list(range(depth + 1 - 2 * number, depth, 2))


@strict
class AlterNetConfig(PreTrainedConfig):
    """Settings of an AlterNet; lists have one entry per stage.

    The defaults are Fig 11's Alter-ResNet-50 for 224 px. Others::

        AlterNetConfig(image_size=32, stem="small", window_size=4)                    # Fig 11's CIFAR model, 4 attention blocks
        AlterNetConfig(depths=[3, 4, 6, 3], num_attention_blocks=[0, 0, 0, 0])        # plain pre-activation ResNet-50
        AlterNetConfig(image_size=32, stem="small", window_size=4,
                       num_attention_blocks=BUILD_UP[3][0])                           # the third step of the build-up

    Args:
        image_size: pixels a side, or (height, width).
        num_channels: of the image.
        stem: ``imagenet``, 7 x 7 convolution and 3 x 3 maximum, both of stride 2; or ``small``, one 3 x 3 convolution of
            stride 1 for 32 px images.
        embedding_size: channels of the stem.
        hidden_sizes: channels of the stages. Every stage but the first halves its map.
        depths: blocks of the stages, attention included. Fig 11 has 4 in the last, where ResNet-50 has 3, so that two
            attention blocks alternate with two convolutional ones.
        layer_type: of the convolutional blocks, ``bottleneck`` or ``basic``.
        hidden_act: ``relu``, ``gelu`` or another name that transformers knows.
        num_attention_blocks: how many blocks of each stage are attention, alternately from its end.
        num_attention_heads, attention_head_dim: of the attention blocks.
        window_size: cells a side of the windows that attention is confined to; None for attention over the whole map. The
            paper's 7 fits the maps of 224 px (56, 28, 14, 7), 4 those of 32 px with the small stem (32, 16, 8, 4).
        qkv_bias: whether queries, keys and values have a bias.
        drop_path_rate: stochastic depth (Huang et al., ECCV 2016), rising linearly from 0 in the first block to this.
        initializer_range: standard deviation of linear weights and position biases.

    Raises:
        ValueError: settings that make no network, with what to change.
    """

    model_type = "alternet"

    image_size: int | list[int] | tuple[int, ...] = 224
    num_channels: int = 3
    stem: str = "imagenet"
    embedding_size: int = 64
    hidden_sizes: list[int] | tuple[int, ...] = (256, 512, 1024, 2048)
    depths: list[int] | tuple[int, ...] = (3, 4, 6, 4)
    layer_type: str = "bottleneck"
    hidden_act: str = "relu"
    num_attention_blocks: list[int] | tuple[int, ...] = (0, 1, 1, 2)
    num_attention_heads: list[int] | tuple[int, ...] = (3, 6, 12, 24)
    attention_head_dim: int = 64
    window_size: int | None = 7
    qkv_bias: bool = False
    drop_path_rate: float | int = 0.0
    initializer_range: float = 0.02

    def __post_init__(self, **kwargs):
        for name in ("hidden_sizes", "depths", "num_attention_blocks", "num_attention_heads"):
            setattr(self, name, list(getattr(self, name)))
        super().__post_init__(**kwargs)
        self._check_choices()
        self._check_numbers()
        self._check_stages()

    @property
    def map_sizes(self) -> list[tuple[int, int]]:
        """(height, width) of every stage's map; a stride of 2 rounds up."""
        height, width = [self.image_size] * 2 if isinstance(self.image_size, int) else self.image_size
        strides = [STEMS[self.stem] * 2**stage for stage in range(len(self.depths))]
        return [(-(-height // stride), -(-width // stride)) for stride in strides]

    def _check_choices(self) -> None:
        for name, known in (("stem", STEMS), ("layer_type", EXPANSIONS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        if not 0 <= self.drop_path_rate < 1:
            raise ValueError(f"drop_path_rate must be in [0, 1), got {self.drop_path_rate}; 0.1 is usual, 0 is none")
        if not isinstance(self.image_size, int) and len(self.image_size) != 2:
            raise ValueError(f"image_size must be a number or (height, width), got {self.image_size}")

    def _check_numbers(self) -> None:
        lists = ("hidden_sizes", "depths", "num_attention_heads", "num_attention_blocks")
        lengths = {name: len(getattr(self, name)) for name in lists}
        if len(set(lengths.values())) > 1 or not self.depths:
            found = ", ".join(f"{name} {length}" for name, length in lengths.items())
            raise ValueError(f"lists must have one entry per stage, got {found}; give all the same length")
        sizes = ("image_size", "num_channels", "embedding_size", "attention_head_dim", "window_size", *lists)
        for name in sizes:
            value = getattr(self, name)
            least = 0 if name == "num_attention_blocks" else 1
            numbers = value if isinstance(value, list | tuple) else [least if value is None else value]
            if min(numbers) < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if not self.initializer_range > 0:
            raise ValueError(f"initializer_range must be positive, got {self.initializer_range}; 0.02 is usual")

    def _check_stages(self) -> None:
        expansion = EXPANSIONS[self.layer_type]
        for stage, (height, width) in enumerate(self.map_sizes):
            channels, number = self.hidden_sizes[stage], self.num_attention_blocks[stage]
            if channels % expansion:
                raise ValueError(
                    f"hidden_sizes must be multiples of {expansion} for {self.layer_type} blocks, got {channels}"
                )
            try:
                attention_positions(self.depths[stage], number)
            except ValueError as error:
                raise ValueError(f"stage {stage + 1}: {error}") from None
            if number and self.window_size and (height % self.window_size or width % self.window_size):
                raise ValueError(
                    f"window_size must divide the maps that attention works on, got {self.window_size} for stage {stage + 1}, "
                    f"whose map is {height} x {width} for image_size={self.image_size}; choose a divisor, another image_size, "
                    "or None for attention over the whole map"
                )
