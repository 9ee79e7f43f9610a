"""CKA of all layers: uniform ViTs, networks in stages, where one network reaches another, and what more training changes."""

from __future__ import annotations

import numpy as np

from ..comparison import Comparison
from ..errors import StudyError
from ..local_heads import local_heads
from ..stats import Estimate, Resampling
from .contract import Claim
from .facts import FINE_TUNED, less
from .sources import PARK, RAGHU
from .steps import mean_of_known


def _mean(cells: np.ndarray) -> np.ndarray:
    """Mean over all axes but the first, (draw, ...) -> (draw,); undefined cells are left out, NaN where all are."""
    return mean_of_known(cells.reshape(len(cells), -1))


def _low_high_similarity(comparison: Comparison, side: str) -> np.ndarray:
    """Mean CKA of the lowest with the highest third of the blocks, (1 + draws,)."""
    depth = (comparison.a if side == "a" else comparison.b).data["depth"].values
    draws = comparison.cka_draws(side * 2)
    return _mean(draws[:, depth <= 1 / 3][:, :, depth > 2 / 3])


def uniformity(comparison: Comparison) -> np.ndarray:
    """Low-high similarity of the ViT minus that of the ResNet."""
    return _low_high_similarity(comparison, "a") - _low_high_similarity(comparison, "b")


def resnet_reach(comparison: Comparison) -> np.ndarray:
    """Share of the ResNet's depth whose most similar ViT block lies in the ViT's lower quarter, minus a quarter.

    Between two blocks of the ResNet the lead of the lower quarter is interpolated linearly, so that the share moves
    with the similarities and not in steps of whole blocks; above the input it is the first block's.
    """
    vit, resnet = (profile.data["depth"].values for profile in (comparison.a, comparison.b))
    similarity = comparison.cka_draws("ab")  # (1 + draws, vit block, resnet block)
    defined = np.isfinite(similarity[0])
    rows, columns = defined.any(1), defined.any(0)
    low, high = rows & (vit <= 0.25), rows & (vit > 0.25)
    if not (low.any() and high.any()):
        return np.full(len(similarity), np.nan)
    similarity, resnet = similarity[:, :, columns], resnet[columns]
    lead = similarity[:, low].max(1) - similarity[:, high].max(1)
    return _share_positive(np.concatenate([lead[:, :1], lead], axis=1), np.concatenate([[0.0], resnet])) - 0.25


def _share_positive(values: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Length of the part of (0, 1] where the piecewise linear curves `values` (draw, place) at `depth` are positive."""
    left, right = values[:, :-1], values[:, 1:]
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = left / (left - right)  # share of the segment before the sign changes
    share = np.where(left > 0, np.where(right > 0, 1.0, crossing), np.where(right > 0, 1 - crossing, 0.0))
    return share @ np.diff(depth)


def _best(similarity: np.ndarray) -> np.ndarray:
    """CKA of every row with the column most like it, (draw, row, column) -> (draw, row); NaN where none is defined."""
    best = np.where(np.isnan(similarity), -np.inf, similarity).max(2)
    return np.where(np.isfinite(best), best, np.nan)


def unlike_at_the_top(comparison: Comparison) -> np.ndarray:
    """CKA with the most similar ResNet block, mean over the ViT's lower two thirds minus that over its top third."""
    best, depth = _best(comparison.cka_draws("ab")), comparison.a.data["depth"].values
    return _mean(best[:, depth <= 2 / 3]) - _mean(best[:, depth > 2 / 3])


def stages_apart(comparison: Comparison) -> np.ndarray:
    """Within-stage minus across-stage CKA of pairs equally many blocks apart."""
    return comparison.block_structure_draws("aa", same_distance=True)


def stages_more_apart(comparison: Comparison) -> np.ndarray:
    """The same, minus that of the plain ViT when its depth is cut into as many equal parts."""
    parts = len(set(comparison.a.data["stage"].values.tolist()))
    return stages_apart(comparison) - comparison.block_structure_draws("bb", parts=parts, same_distance=True)


def closer_to_vit(comparison: Comparison) -> np.ndarray:
    """CKA with the most similar ViT block minus that with the most similar ResNet block, mean over the Mixer's blocks."""
    assert comparison.beside is not None, "the claim has three roles"
    return _mean(_best(comparison.beside.cka_draws("ab"))) - _mean(_best(comparison.cka_draws("ab")))


def local_heads_lead(comparison: Comparison) -> Estimate:
    """CKA with the ResNet's first two stages of the most local quarter of the first layer's heads minus the most global's."""
    return local_heads(comparison.a, comparison.b, resampling=comparison.resampling).lead


def _with_itself(comparison: Comparison) -> tuple[np.ndarray, np.ndarray]:
    """CKA of every block with the same block of the other network, the lowest third and the highest, (1 + draws, block)."""
    names = [profile.data["block"].values.tolist() for profile in (comparison.a, comparison.b)]
    if names[0] != names[1]:
        raise StudyError(
            f"{comparison.a.name} and {comparison.b.name} have different blocks, so none is another's; measure both "
            "with the same version and --blocks"
        )
    depth = comparison.a.data["depth"].values
    pairs = np.diagonal(comparison.cka_draws("ab"), axis1=1, axis2=2)
    return pairs[:, depth <= 1 / 3], pairs[:, depth > 2 / 3]


def low_blocks_alike(comparison: Comparison) -> np.ndarray:
    """CKA of each block with itself in the other network, mean over the lowest third minus that over the highest."""
    low, high = _with_itself(comparison)
    return _mean(low) - _mean(high)


def low_blocks_survive(comparison: Comparison) -> np.ndarray:
    """CKA of each block with itself in the other network, mean over the lowest third, minus 0.95."""
    return _mean(_with_itself(comparison)[0]) - 0.95


def skip_loss(comparison: Comparison) -> Estimate:
    """Share of images answered rightly, whole minus without one skip, mean over the skips of the middle third of depth."""
    profile, draws = comparison.a, comparison.resampling
    intact, without = (profile[name] for name in ("skip_removal_intact_correct", "skip_removal_correct"))
    depth = profile["skip_removal_depth"].values
    left = without.values[:, (depth > 1 / 3) & (depth <= 2 / 3)].astype(float)
    if not left.shape[1]:
        raise StudyError(f"{profile.name} has no skip connection in the middle third of its depth")
    known = (intact.values >= 0) & (left >= 0).all(1)  # -1 marks an unknown label
    lost = np.where(known, intact.values - left.mean(1), np.nan)
    images = Resampling(len(lost), draws.draws, draws.seed)
    return images.estimate(images.mean(lost))


_CKA_CONDITIONS = (
    "The paper used ViTs pre-trained on JFT-300M. CKA is one number per pair: few directions of high variance or similar "
    "inputs can make any two blocks alike (Davari et al. 2022, Cui et al. 2022)."
)
_STAGE_CONDITIONS = (
    "The paper trained on CIFAR-100 and ImageNet and drew the maps without a number. At equal distance, since near blocks are "
    "alike in any network."
)
_STAGE_AGAINST = (
    "Blocks of high likeness also come from width, depth and few dominant images, without any stages (Nguyen, Raghu & "
    "Kornblith 2021, 2022)."
)
_TUNED_CONDITIONS = (
    "The paper fine-tuned ViT-B/16, pre-trained on JFT-300M, on seven data sets, and read the first 4 to 5 blocks of 12 as "
    "unchanged. Both networks see the images as each of them prepares them."
)

CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="R-1",
        text="Low and high blocks are more alike in the ViT than in the ResNet",
        source=f"{RAGHU}, Fig 1",
        statistic="mean CKA of the lowest with the highest third of the blocks, ViT minus ResNet",
        formula="mean CKA(low third, high third) of V - the same of R",
        falsified_by="the ResNet's map is as bright as the ViT's between its first and its last third",
        contrast=uniformity,
        margin=0.05,
        unit="CKA",
        roles=("vit", "resnet"),
        conditions=_CKA_CONDITIONS,
        needs=("gram_flatten",),
        of_cka=True,
        sums_activations=True,
    ),
    Claim(
        id="R-2",
        text="The ResNet needs more of its depth to reach the representation of the ViT's lower quarter",
        source=f"{RAGHU}, Fig 2",
        statistic="share of the ResNet's depth whose most similar ViT block lies in the ViT's lower quarter, minus 0.25",
        formula="|{d_R : argmax over V of CKA at d_R lies at depth <= 1/4}| - 1/4",
        falsified_by="the best matches of the ResNet's blocks leave the ViT's lower quarter within the ResNet's own",
        contrast=resnet_reach,
        margin=0.05,
        unit="share of depth",
        roles=("vit", "resnet"),
        conditions=_CKA_CONDITIONS
        + " Depends on the granularity: here blocks and sublayers, in the paper every operation.",
        needs=("gram_flatten",),
        of_cka=True,
        sums_activations=True,
    ),
    Claim(
        id="R-3",
        text="The highest third of the ViT is unlike every block of the ResNet",
        source=f"{RAGHU}, Fig 2",
        statistic="CKA with the most similar ResNet block, mean over the ViT's lower two thirds minus that over its top third",
        formula="mean over V's lower 2/3 of max over R of CKA - the same over V's top 1/3",
        falsified_by="the ViT's top rows have cells as bright as its lower rows have",
        contrast=unlike_at_the_top,
        margin=0.05,
        unit="CKA",
        roles=("vit", "resnet"),
        conditions=_CKA_CONDITIONS + " The paper's ViTs have a class token.",
        needs=("gram_flatten",),
        of_cka=True,
        sums_activations=True,
    ),
    Claim(
        id="P-S1-resnet",
        text="Blocks of one stage of a ResNet are more alike than equally distant blocks of two stages",
        source=f"{PARK}, Fig 10a",
        statistic="within-stage minus across-stage CKA of pairs equally many blocks apart, mean over distances",
        formula="mean over k of [mean CKA(i, i+k) within a stage - across stages]",
        falsified_by="the map fades with distance from the diagonal alone, without squares at the stages",
        contrast=stages_apart,
        margin=0.05,
        unit="CKA",
        roles=("resnet",),
        conditions=_STAGE_CONDITIONS,
        needs=("gram_flatten",),
        against=_STAGE_AGAINST,
        of_cka=True,
        sums_activations=True,
    ),
    Claim(
        id="P-S1-swin",
        text="Blocks of one stage of a multi-stage ViT are more alike than equally distant blocks of two stages",
        source=f"{PARK}, App D.3",
        statistic="within-stage minus across-stage CKA of pairs equally many blocks apart, mean over distances",
        formula="mean over k of [mean CKA(i, i+k) within a stage - across stages]",
        falsified_by="the map fades with distance from the diagonal alone, without squares at the stages",
        contrast=stages_apart,
        margin=0.05,
        unit="CKA",
        roles=("multi-stage vit",),
        conditions=_STAGE_CONDITIONS,
        needs=("gram_flatten",),
        against=_STAGE_AGAINST,
        of_cka=True,
        sums_activations=True,
    ),
    Claim(
        id="P-S1-vit",
        text="A plain ViT is uniform where a network of several stages falls into blocks",
        source=f"{PARK}, Fig 10a",
        statistic="within-stage minus across-stage CKA at equal distance, less that of the ViT cut into as many equal parts",
        formula="B(stages of N) - B(equal parts of V), B = mean over k of [CKA(i, i+k) within - across]",
        falsified_by="the ViT's map shows squares as clear as those of the network in stages",
        contrast=stages_more_apart,
        margin=0.05,
        unit="CKA",
        roles=("multi-stage", "plain vit"),
        conditions=_STAGE_CONDITIONS
        + " Where the ViT would fall into blocks is unknown, so it is cut into equal parts.",
        needs=("gram_flatten",),
        against=_STAGE_AGAINST,
        of_cka=True,
        sums_activations=True,
    ),
    Claim(
        id="R-6",
        text="Local heads of the first layer see what early blocks of the ResNet see, and global heads do not",
        source=f"{RAGHU}, Fig 5",
        statistic="CKA with the ResNet's first two stages of the most local quarter of heads minus the most global quarter's",
        formula="mean over early R of CKA(local heads of V's block 0) - the same of its global heads",
        falsified_by="the curve of CKA over the heads' distance does not fall",
        contrast=local_heads_lead,
        margin=0.05,  # the published fall is about 0.3
        unit="CKA",
        roles=("vit", "resnet"),
        needs_first=("head_gram",),
        conditions="The paper used ViTs pre-trained on JFT-300M, with 12 or more heads a layer. With few heads the quarters "
        "are single heads.",
        needs=("gram_flatten",),
        against="In ViT-L and ViT-H trained on ImageNet alone no head of the first layers is local (Raghu et al. 2021, Fig 4).",
    ),
    Claim(
        id="R-9-posthoc",
        text="A ViT cannot do without the skip connections of its middle blocks",
        source=f"{RAGHU}, Fig 8",
        statistic="share of images answered rightly, whole network minus without one skip, mean over the middle third's skips",
        formula="accuracy - mean over skips at 1/3 < d <= 2/3 of accuracy without the skip",
        falsified_by="the bars of accuracy without a middle skip reach the whole network's line",
        contrast=skip_loss,
        margin=0.02,  # half of the published loss of 4 %
        unit="share of images",
        roles=("vit",),
        conditions="A weaker test than the paper's: there the network is trained again without the skip and loses 4 %, here "
        "the skip is taken out of the trained network, whose later layers have never seen such states. One skip at a time.",
        needs=("skip_removal_correct", "skip_removal_intact_correct", "skip_removal_depth"),
    ),
    Claim(
        id="R-13",
        text="A part of the data is enough for the low layers, and not for the high ones",
        source=f"{RAGHU}, Fig 12",
        statistic="CKA of each block with itself in the network trained on all data, lowest third minus highest third",
        formula="mean over low third of CKA(V_part, V_all) at the same block - the same over the high third",
        falsified_by="the curve of CKA to the network of all data does not fall with depth",
        contrast=low_blocks_alike,
        margin=0.05,
        unit="CKA",
        roles=("vit", "vit"),
        conditions="The paper had 3 to 30 % of JFT-300M. Here both networks start from the same weights, and are alike where "
        "training has left them: compare with the untrained networks.",
        needs=("gram_flatten",),
        test="trained",
        relation=less("data_fraction", 1.0),
        of_cka=True,
        sums_activations=True,
    ),
    Claim(
        id="R-13-proxy",
        text="Less pre-training data is enough for the low layers, and not for the high ones",
        source=f"{RAGHU}, Fig 12",
        statistic="CKA of each block with itself in the network pre-trained on more images, lowest third minus highest third",
        formula="mean over low third of CKA(V_less, V_more) at the same block - the same over the high third",
        falsified_by="the curve of CKA to the network of more data does not fall with depth",
        contrast=low_blocks_alike,
        margin=0.05,
        unit="CKA",
        roles=("vit", "vit"),
        conditions="The weights trained on JFT-300M and its parts were never released. Public pairs of one recipe stand in, "
        "such as ImageNet-1k against ImageNet-21k. Other classes and other initial weights can make low layers differ, too.",
        needs=("gram_flatten",),
        test="proxy",
        relation=less("pretraining_images"),
        of_cka=True,
        sums_activations=True,
    ),
    Claim(
        id="R-14",
        text="Fine-tuning changes the high blocks more than the low ones",
        source=f"{RAGHU}, Fig G.1",
        statistic="CKA of each block before with the same after fine-tuning, lowest third minus highest third",
        formula="mean over low third of CKA(before, after) at the same block - the same over the high third",
        falsified_by="the curve of CKA before against after does not fall with depth",
        contrast=low_blocks_alike,
        margin=0.02,  # published curves lie between 0.65 and 1, so that a fall of 0.05 would already be a far domain
        unit="CKA",
        roles=("vit", "vit"),
        conditions=_TUNED_CONDITIONS,
        needs=("gram_flatten",),
        test="trained",
        relation=FINE_TUNED,
        of_cka=True,
        sums_activations=True,
    ),
    Claim(
        id="R-14-early",
        text="The first third of the blocks survives fine-tuning: its CKA before and after is above 0.95",
        source=f"{RAGHU}, Fig G.1",
        statistic="CKA of each block before with the same after fine-tuning, mean over the lowest third, minus 0.95",
        formula="mean over low third of CKA(before, after) at the same block - 0.95",
        falsified_by="the curve of CKA before against after lies below 0.95 in its first third",
        contrast=low_blocks_survive,
        margin=0.01,  # only 0.05 lie between the bound and no change at all
        unit="CKA",
        roles=("vit", "vit"),
        conditions=_TUNED_CONDITIONS,
        needs=("gram_flatten",),
        against="On retinopathy and remote sensing images more changes than on others (Raghu et al. 2021, Fig G.1).",
        test="trained",
        relation=FINE_TUNED,
        of_cka=True,
        sums_activations=True,
    ),
    Claim(
        id="R-15",
        text="An MLP-Mixer is more like a ViT than like a ResNet",
        source=f"{RAGHU}, App H",
        statistic="CKA with the most similar ViT block minus that with the most similar ResNet block, mean over Mixer blocks",
        formula="mean over M of [max over V of CKA - max over R of CKA]",
        falsified_by="the Mixer's map with the ResNet is as bright as its map with the ViT",
        contrast=closer_to_vit,
        margin=0.05,
        unit="CKA",
        roles=("mixer", "vit", "resnet"),
        conditions=_CKA_CONDITIONS
        + " The larger of many blocks is larger: networks read at as many places compare best.",
        needs=("gram_flatten",),
        of_cka=True,
        sums_activations=True,
    ),
)
