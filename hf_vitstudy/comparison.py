"""Two profiles of the same images: CKA of every block with every block, paired differences, agreement of predictions.

No network is loaded: centred kernel alignment needs of each checkpoint only the Gram matrix of every block within every
batch, and those are stored.

Linear CKA (Kornblith et al. 2019) with the unbiased HSIC of Song et al. 2012, summed over batches before the one division
(Nguyen, Raghu & Kornblith 2021, eq. 3):

    CKA(A, B) = H(A, B) / sqrt(H(A, A) H(B, B)),   H(A, B) = Σ_batches Σ_{i≠j} Ã_ij B̃_ij

with Ã, B̃ the U-centred Gram matrices. A batch of n images weighs n(n-3) by itself, so a short last batch needs no care.
The value is debiased: it may be negative, and is never clipped.

What one number hides is read beside it: other similarities, the pixels taken out, what a block rests on (`caveats`), and the
same map of networks that never learned (`excess_over_untrained`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import xarray as xr

from .errors import StudyError
from .profile import Profile
from .similarities import MEASURES, SOURCES, Found, from_grams, monotone_matches, procrustes, residuals, spectrum
from .stats import Estimate, Resampling, jackknife, percentile


@dataclass(frozen=True)
class Comparison:
    """Two profiles of the same images.

    Attributes:
        a, b: the profiles; both may be the same one.
        resampling: the draws that every interval of this comparison shares.
        rows: what the rows after the first of `cka_draws` are: ``bootstrap`` draws; CKA ``without`` each image;
            ``shuffled``, with the images of the second network in another order in every row, the null hypothesis; or none
            after ``plain`` CKA, whose HSIC is not debiased.
        beside: `a` with a third profile, on the same draws; None where there are two.
    """

    a: Profile
    b: Profile
    resampling: Resampling
    rows: str = "bootstrap"
    beside: Comparison | None = None

    def cka(
        self,
        of: str = "ab",
        view: str = "flatten",
        *,
        level: float = 0.95,
        permutations: int = 0,
        deconfounded: bool = False,
    ) -> xr.Dataset:
        """CKA of every block of one profile with every block of the other.

        Args:
            of: ``aa``, ``ab`` or ``bb``: whose blocks are the rows and the columns.
            view: which stored Gram blocks: ``flatten``, ``mean``, ``cls``, ``tokens``, or these with ``_rbf``, ``_exact``.
            level: of the interval.
            permutations: draws of the null hypothesis "the two blocks see unrelated images"; 0 leaves it out.
            deconfounded: take out of every block what the pixels explain (Cui et al. 2022): CKA of the residuals of its Gram
                matrices after regression on the pixels', each network's as it was shown them. The slope is held fixed in
                intervals and null.

        Returns:
            (row, column) arrays ``cka``, ``low``, ``high`` (closed-form jackknife over images) and, with `permutations`,
            ``p`` per cell and ``p_max`` of the largest cell (both one-sided, smallest possible 1 / (permutations + 1)).
            NaN marks undefined cells: a block that is the same for every image, such as a class token before block 0.

        Raises:
            StudyError: the view, or the pixels' Gram blocks, were not measured in both profiles.
        """
        rows, columns = self._sides(of)
        kernels = self._kernels(view, deconfounded)
        cross = kernels.cross(rows, columns)
        low, high = jackknife(cross.cka(), cross.without_each_image(), level)
        found = {"cka": cross.cka(), "low": low, "high": high}
        if permutations:
            found |= cross.permutation_null(permutations)
        return _matrix(found, self._profile(rows), self._profile(columns), n=int(kernels.sizes.sum()))

    def cka_draws(self, of: str = "ab", view: str = "flatten", *, deconfounded: bool = False) -> np.ndarray:
        """CKA for the images as they are and for every bootstrap draw, (1 + draws, row, column).

        H is a sum over images, H = Σ_i c_i with c_i(A, B) = Σ_j Ã_ij B̃_ij, and changes by 2 c_i to first order when image i
        is weighted twice; draws are formed by that linear rule (the influence-function bootstrap), since drawing an image
        twice into a Gram matrix would count its similarity with itself.

        With another `rows` of the comparison, the rows after the first are (image, row, column) or (draw, row, column) of
        what that says, so that any function of these maps has its leave-one-out values and its null for nothing.
        """
        rows, columns = self._sides(of)
        cross = self._kernels(view, deconfounded).cross(rows, columns)
        if self.rows == "bootstrap":
            return cross.draws(self.resampling)
        if self.rows == "without":
            return np.concatenate([cross.cka()[None], cross.without_each_image()])
        if self.rows == "plain":
            return _plain_cka(self._profile(rows), self._profile(columns), view)[None]
        key = of, view, deconfounded, self.resampling
        if key not in self._shuffles:  # dear, and several statistics ask for the same
            self._shuffles[key] = cross.shuffled(self.resampling.draws, self.resampling.seed)
        return self._shuffles[key].copy()

    def with_rows(self, rows: str, draws: int | None = None) -> Comparison:
        """The same comparison whose `cka_draws` hold other rows; what was computed is shared."""
        if rows not in ("bootstrap", "without", "shuffled", "plain"):
            raise StudyError(f"rows must be 'bootstrap', 'without', 'shuffled' or 'plain', got {rows!r}")
        resampling = self.resampling if draws is None else replace(self.resampling, draws=draws)
        beside = self.beside.with_rows(rows, draws) if self.beside else None
        other = replace(self, rows=rows, resampling=resampling, beside=beside)
        other.__dict__.update(_cache=self._cache, _shuffles=self._shuffles)
        return other

    def similarity(
        self, of: str = "ab", measure: str = "rsa", view: str = "flatten", *, k: int = 5, level: float = 0.95
    ) -> xr.Dataset:
        """Similarity of every block of one profile with every block of the other, by any of `MEASURES`.

        Args:
            of: ``aa``, ``ab``, ``ba`` or ``bb``.
            measure: ``cka``; ``rsa``: Spearman correlation of the distances between images, ``rsa_gram``: of their inner
                products; ``knn``: shared share of the k nearest images; ``cknna``: CKA of mutual neighbours alone, which is
                `cka` at k = images in a batch - 1; ``procrustes``: on the stored random projection, whatever the view.
            view: which Gram blocks.
            k: neighbours, within a batch, for ``knn`` and ``cknna``.
            level: of the interval.

        Returns:
            (row, column) arrays named as the measure, ``low``, ``high``, and ``chance``, the mean for shuffled images, where
            it is not zero: for ``knn`` (k / (images in a batch - 1)), ``cknna`` and ``procrustes``. The attribute
            ``resampled`` says what the jackknife leaves out: images for ``cka`` and ``procrustes``, else batches.

        Raises:
            StudyError: unknown measure, or what it needs was not measured.
        """
        if measure not in MEASURES:
            raise StudyError(f"measure must be one of {', '.join(MEASURES)}, got {measure!r}")
        if measure == "cka":
            return self.cka(of, view, level=level).assign_attrs(_about(measure, "image"))
        first, second = (self._profile(side) for side in self._sides(of))
        if measure == "procrustes":
            found: Found = procrustes(first, second, level=level)
            return _matrix(found, first, second, n=self.a.n_images).assign_attrs(_about(measure, "image"))
        found = from_grams(first, second, measure, view, k=k, level=level)
        n = int(self.a.batch_sizes(view).sum())
        return _matrix(found, first, second, n=n).assign_attrs(_about(measure, "batch"), k=k)

    def influence(self, of: str = "ab", view: str = "flatten", *, deconfounded: bool = False) -> xr.Dataset:
        """How far one image can move each cell of the CKA map: (row, column) ``influence`` and ``image``.

        ``influence`` is the largest change, with its sign, when one image is left out; ``image`` is that image's place among
        all, -1 for undefined cells. A cell that one image decides says little of the others.
        """
        rows, columns = self._sides(of)
        kernels = self._kernels(view, deconfounded)
        cross = kernels.cross(rows, columns)
        change = cross.without_each_image() - cross.cka()
        image = np.where(np.isnan(change), -1, np.abs(change)).argmax(0)
        found = {
            "influence": np.take_along_axis(change, image[None], 0)[0],
            "image": np.where(np.isnan(change).all(0), -1, image),
        }
        return _matrix(found, self._profile(rows), self._profile(columns), n=int(kernels.sizes.sum()))

    def block_structure(
        self,
        of: str = "aa",
        view: str = "flatten",
        *,
        parts: int = 0,
        same_distance: bool = False,
        level: float = 0.95,
    ) -> Estimate:
        """Within-stage minus across-stage CKA of one network, over pairs of different blocks; 0 for one grid of likeness.

        Within stages, blocks are also nearer to each other, so a network that only drifts with depth scores above 0 too:
        `parts` gives what it scores when its depth is cut anywhere, `same_distance` compares like with like.

        Args:
            of: ``aa`` or ``bb``.
            parts: equal parts of depth that stand in for stages, for a network without any or as a baseline; 0 takes the
                network's own stages.
            same_distance: compare only pairs equally many blocks apart: the mean over distances of the contrast at each,
                weighted by within · across / (within + across) pairs, as least squares with a level per distance does.

        Raises:
            StudyError: one stage only, or no distance with both kinds of pairs.
        """
        rows = self.block_structure_draws(of, view, parts=parts, same_distance=same_distance)
        return self.resampling.estimate(rows, level)

    def block_structure_draws(
        self, of: str = "aa", view: str = "flatten", *, parts: int = 0, same_distance: bool = False
    ) -> np.ndarray:
        """`block_structure` of the images as they are and of every further row of `cka_draws`, (1 + draws,)."""
        rows, columns = self._sides(of)
        if rows != columns:
            raise StudyError(f"block structure is of one network: of must be 'aa' or 'bb', got {of!r}")
        data = self._profile(rows).data
        stage = data["stage"].values
        if parts:
            stage = np.minimum((data["depth"].values * parts).astype(int), parts - 1)
        draws = self.cka_draws(of, view)
        first, second = np.triu_indices(len(stage), k=1)
        cells = draws[:, first, second]
        defined = ~np.isnan(cells[0])
        cells, apart = cells[:, defined], (second - first)[defined]
        within = (stage[first] == stage[second])[defined]
        contrast = _contrast(cells, within, apart if same_distance else np.zeros_like(apart))
        if contrast is None:
            raise StudyError(
                f"{self._profile(rows).name} has no pairs of blocks within and across stages; give parts=4"
            )
        return contrast

    def matches(self, of: str = "ab", view: str = "flatten", level: float = 0.95) -> xr.Dataset:
        """For every block of the second network (column) the most similar block of the first, and how deep it lies.

        Returns:
            (column,) ``best``: the block with the highest CKA, whatever its place; ``path``: the block on the monotone path
            with the highest sum of CKA (`monotone_matches`); and their depths ``best_depth``, ``path_depth`` with ``_low``
            and ``_high`` (percentiles of the bootstrap over images). Blocks of the second network that are the same for every
            image are left out.
        """
        rows, columns, depth = self._matched(of, view)
        names, of_columns = self._profile(rows[0]).data["block"].values, self._profile(rows[1]).data
        found: dict[str, np.ndarray] = {}
        for name, indices in columns.items():
            low, high = percentile(depth[indices], level)
            found |= {name: names[indices[0]], f"{name}_depth": depth[indices[0]]}
            found |= {f"{name}_depth_low": low, f"{name}_depth_high": high}
        kept = rows[2]
        coordinates = {
            "column": of_columns["block"].values[kept],
            "column_depth": ("column", of_columns["depth"].values[kept]),
        }
        return xr.Dataset({key: ("column", value) for key, value in found.items()}, coordinates)

    def matched_depth(
        self, at: float = 0.5, of: str = "ab", view: str = "flatten", *, method: str = "path", level: float = 0.95
    ) -> Estimate:
        """How deep in the first network the second is reached at the relative depth `at` (Raghu et al. 2021, Fig 2).

        Args:
            at: relative depth in the second network, between its blocks by linear interpolation.
            method: ``path`` or ``best``, see `matches`.
        """
        if method not in ("path", "best"):
            raise StudyError(f"method must be 'path' or 'best', got {method!r}")
        (_, second, kept), columns, depth = self._matched(of, view)
        places = self._profile(second).data["depth"].values[kept]
        rows = _interpolate(depth[columns[method]], places, np.array([at]))[:, 0]
        return self.resampling.estimate(rows, level)

    def _matched(self, of: str, view: str) -> tuple[tuple[str, str, np.ndarray], dict[str, np.ndarray], np.ndarray]:
        """Both sides and the second's defined blocks; rows matched to those for the data and every draw; rows' depths."""
        rows, columns = self._sides(of)
        draws = self.cka_draws(of, view)
        kept = ~np.isnan(draws[0]).all(0)
        if not kept.any():
            raise StudyError("no block has a defined CKA, so none can be matched; use another view")
        cells = draws[:, :, kept]
        best = np.where(np.isnan(cells), -np.inf, cells).argmax(1)
        matched = {"best": best, "path": monotone_matches(cells)}
        return (rows, columns, kept), matched, self._profile(rows).data["depth"].values

    def agreement(self) -> Estimate:
        """Share of images for which both checkpoints predict the same class.

        Raises:
            StudyError: a profile has no predictions, or the classes differ.
        """
        first, second = self.a["top5"].values[:, 0], self.b["top5"].values[:, 0]
        if self.a.provenance["checkpoint"].get("classes") != self.b.provenance["checkpoint"].get("classes"):
            raise StudyError(f"{self.a.name} and {self.b.name} have different classes, so predictions cannot agree")
        return self.resampling.estimate(self.resampling.mean((first == second).astype(float)))

    def difference(self, name: str, depths: np.ndarray | None = None, level: float = 0.95) -> xr.Dataset:
        """A minus b of one measurement along depth, paired by image.

        Blocks of two networks do not correspond, so each image's curve is interpolated linearly at equal relative depths
        (default 0.1, 0.2 ... 1.0) before the difference is taken. Returns (depth, ...) arrays ``a``, ``b``, ``difference``,
        ``low`` and ``high``.
        """
        depths = np.linspace(0.1, 1, 10) if depths is None else np.asarray(depths, dtype=float)
        curves = [_at_depths(profile, name, depths) for profile in (self.a, self.b)]
        means = [self.resampling.mean(curve.values) for curve in curves]
        rows = means[0] - means[1]
        low, high = percentile(rows, level)
        dims = curves[0].dims[1:]
        found = {"a": means[0][0], "b": means[1][0], "difference": rows[0], "low": low, "high": high}
        return xr.Dataset({key: (dims, value) for key, value in found.items()}, {"depth": depths})

    def _sides(self, of: str) -> tuple[str, str]:
        if of not in ("aa", "ab", "ba", "bb"):
            raise StudyError(f"of must be 'aa', 'ab', 'ba' or 'bb', got {of!r}")
        return of[0], of[1]

    def _profile(self, side: str) -> Profile:
        return self.a if side == "a" else self.b

    def _kernels(self, view: str, deconfounded: bool = False) -> Kernels:
        key = view, deconfounded
        if key not in self._cache:
            self._cache[key] = Kernels(self.a, self.b, view, deconfounded=deconfounded)
        return self._cache[key]

    @cached_property
    def _cache(self) -> dict[tuple[str, bool], Kernels]:
        return {}

    @cached_property
    def _shuffles(self) -> dict[tuple[str, str, bool, Resampling], np.ndarray]:
        return {}


def compare(a: Profile, b: Profile, *, draws: int = 1000, seed: int = 0) -> Comparison:
    """Put two profiles of the same images side by side.

    Args:
        a, b: profiles, as `load_profile` or `measure` give them.
        draws, seed: of the bootstrap that the intervals of this comparison share.

    Raises:
        StudyError: the profiles are of different images.
    """
    if a.images_sha256 != b.images_sha256:
        raise StudyError(f"{a.name} and {b.name} were measured on different images: {_what_differs(a, b)}; {_REMEDY}")
    return Comparison(a, b, Resampling(a.n_images, draws, seed))


def excess_over_untrained(
    trained: Comparison, untrained: Comparison, of: str = "ab", view: str = "flatten", *, level: float = 0.95
) -> xr.Dataset:
    """CKA of two trained networks less that of the same two with initial weights: what training made alike.

    Untrained networks are alike because images that look alike are alike in any network (Cui et al. 2022); measure the twins
    with ``--untrained SEED`` on the same images.

    Returns:
        (row, column) arrays ``cka``, ``untrained``, ``excess``, and ``low`` and ``high`` of the excess: a jackknife over
        images that leaves each out of both maps at once. It says nothing of other initial weights; measure several.

    Raises:
        StudyError: other images, or twins with other blocks.
    """
    if trained.a.images_sha256 != untrained.a.images_sha256:
        raise StudyError(f"the untrained twins were measured on different images; {_REMEDY}")
    kernels = [pair._kernels(view) for pair in (trained, untrained)]
    if not np.array_equal(kernels[0].sizes, kernels[1].sizes):
        raise StudyError("the untrained twins hold Gram blocks of other batches; measure with the same --batch-size")
    sides = trained._sides(of)
    for side in sides:
        mine, theirs = (pair._profile(side) for pair in (trained, untrained))
        if mine.data["block"].values.tolist() != theirs.data["block"].values.tolist():
            raise StudyError(f"{theirs.name} has other blocks than {mine.name}, so it is no twin of it")
    maps = [each.cross(*sides) for each in kernels]
    cka, base = (each.cka() for each in maps)
    low, high = jackknife(cka - base, maps[0].without_each_image() - maps[1].without_each_image(), level)
    found = {"cka": cka, "untrained": base, "excess": cka - base, "low": low, "high": high}
    rows, columns = (trained._profile(side) for side in sides)
    return _matrix(found, rows, columns, n=int(kernels[0].sizes.sum()))


def caveats(profile: Profile, view: str = "flatten", *, level: float = 0.95) -> xr.Dataset:
    """What to read beside a CKA map of `profile`, per block: its `spectrum`, and how far one image moves its cells.

    Returns:
        (block,) arrays: those of `spectrum`, and of the map of the profile with itself ``influence``: the largest change of a
        cell in the block's row when one image is left out, ``influence_image``: that image's place, and ``influence_block``:
        the other block of that cell. NaN, -1 and an empty name where nothing is defined.
    """
    found = Comparison(profile, profile, Resampling(profile.n_images, draws=1)).influence("aa", view)
    change, image = found["influence"].values, found["image"].values
    undefined = np.isnan(change).all(1)
    column = np.where(np.isnan(change), -1, np.abs(change)).argmax(1)[:, None]
    other = np.where(undefined, "", profile.data["block"].values[column[:, 0]].astype(str))
    return spectrum(profile, view, level).assign(
        influence=("block", np.take_along_axis(change, column, 1)[:, 0]),
        influence_image=("block", np.take_along_axis(image, column, 1)[:, 0]),
        influence_block=("block", other),
    )


def _contrast(cells: np.ndarray, within: np.ndarray, group: np.ndarray) -> np.ndarray | None:
    """Mean within less mean across, cells (draw, pair), in each group of pairs and then over groups: (draw,)."""
    total, weights = np.zeros(len(cells)), 0.0
    for value in np.unique(group):
        inside, outside = (group == value) & within, (group == value) & ~within
        weight = inside.sum() * outside.sum() / (group == value).sum()
        if weight:
            total += weight * (cells[:, inside].mean(1) - cells[:, outside].mean(1))
            weights += weight
    return total / weights if weights else None


def _about(measure: str, resampled: str) -> dict[str, str]:
    return {"measure": measure, "source": SOURCES[measure], "resampled": resampled}


_REMEDY = "measure both with the same --images, --split, --revision, --n and --seed"


def _what_differs(a: Profile, b: Profile) -> str:
    first, second = a.data["image_digest"].values, b.data["image_digest"].values
    if len(first) != len(second):
        return f"{len(first)} against {len(second)} images"
    if sorted(first) == sorted(second):
        return "the same images in another order"
    return f"{int((first != second).sum())} of {len(first)} images differ, the first at row {int((first != second).argmax())}"


# ------------------------------------------------------------------------------------------------------------- CKA


class Kernels:
    """The Gram blocks of two profiles, ready to multiply; `deconfounded`, what the pixels leave of them."""

    def __init__(self, a: Profile, b: Profile, view: str, *, deconfounded: bool = False) -> None:
        self.sizes = a.batch_sizes(view)
        if not np.array_equal(self.sizes, b.batch_sizes(view)):
            raise StudyError(
                f"{a.name} and {b.name} hold Gram blocks of different batches "
                f"({self.sizes.max()} against {b.batch_sizes(view).max()} images); measure both with the same --batch-size"
            )
        grams = _without_pixels if deconfounded else Profile.gram
        self.grams = {"a": _unit_scale(grams(a, view))}
        self.grams["b"] = self.grams["a"] if b is a else _unit_scale(grams(b, view))
        self._cross: dict[tuple[str, str], CrossKernels] = {}

    def cross(self, rows: str, columns: str) -> CrossKernels:
        """The products of two sides, formed once for a map, its interval, its draws and its null."""
        if (rows, columns) not in self._cross:
            self._cross[rows, columns] = CrossKernels(
                self.grams[rows], self.grams[columns], self.sizes, same=rows == columns
            )
        return self._cross[rows, columns]


def _plain_cka(first: Profile, second: Profile, view: str) -> np.ndarray:
    """CKA with the biased HSIC of Gretton et al. 2005, tr(KHLH) summed over batches, (row, column)."""
    A, B = (
        _unit_scale(profile.centred_gram(view)).reshape(len(profile.data["block"]), -1) for profile in (first, second)
    )
    return _normalise(A @ B.T, (A * A).sum(1), (B * B).sum(1))


def _without_pixels(profile: Profile, view: str) -> np.ndarray:
    if not np.array_equal(profile.batch_sizes("input"), profile.batch_sizes(view)):
        raise StudyError(
            f"{profile.name} holds Gram blocks of the pixels and of {view!r} of different batches; "
            "measure both in one run, without cka:exact"
        )
    return residuals(_unit_scale(profile.gram(view)), _unit_scale(profile.gram("input")))


def _unit_scale(blocks: np.ndarray) -> np.ndarray:
    """CKA ignores a block's scale; bringing its largest entry to one keeps squares inside float32."""
    largest = np.abs(blocks).max(axis=(1, 2, 3), keepdims=True)
    return np.divide(blocks, largest, out=np.zeros_like(blocks), where=largest > 0)


class CrossKernels:
    """CKA of the blocks A (rows) with the blocks B (columns), its jackknife, bootstrap and permutation null.

    Args:
        A, B: U-centred Gram blocks (block, batch, n, n).
        sizes: images in each batch; the rest of a short batch is zero.
    """

    def __init__(self, A: np.ndarray, B: np.ndarray, sizes: np.ndarray, same: bool = False) -> None:
        self.A, self.B, self.sizes, self.same = A, B, sizes, same
        n = A.shape[-1]
        self._real = (np.arange(n) < sizes[:, None]).ravel()  # which (batch, place) holds an image

    @cached_property
    def shares(self) -> np.ndarray:
        """c_i(A, B) = Σ_j Ã_ij B̃_ij for every image and pair of blocks: (image, row, column) float32; Σ_i c_i = H."""
        return np.matmul(_by_image(self.A), _by_image(self.B).swapaxes(1, 2))[self._real]

    @cached_property
    def self_shares(self) -> tuple[np.ndarray, np.ndarray]:
        """c_i(A, A) and c_i(B, B), (image, block) each."""
        first = _own_shares(self.A)[self._real]
        return first, first if self.same else _own_shares(self.B)[self._real]

    def cka(self) -> np.ndarray:
        """(row, column) float64."""
        first, second = (own.sum(0, dtype=np.float64) for own in self.self_shares)
        return _normalise(self.shares.sum(0, dtype=np.float64), first, second)

    def without_each_image(self) -> np.ndarray:
        """CKA with each image left out, (image, row, column), without forming a matrix again.

        Rows of a U-centred matrix sum to zero. Centring again what is left of a batch of n images after image i is gone
        therefore takes only c_i: H without i = H - 2 (n-2)/(n-3) c_i.
        """
        n = np.repeat(self.sizes, self.sizes).astype(np.float64)
        factor = 2 * (n - 2) / (n - 3)
        first, second = (own.sum(0, dtype=np.float64) - factor[:, None] * own for own in self.self_shares)
        return _normalise(self.shares.sum(0, dtype=np.float64) - factor[:, None, None] * self.shares, first, second)

    def draws(self, resampling: Resampling) -> np.ndarray:
        """CKA for the data and every bootstrap draw, (1 + draws, row, column); see `Comparison.cka_draws`."""
        if resampling.n != len(self.shares):  # images of a last batch of fewer than 4 are in no Gram block
            resampling = Resampling(len(self.shares), resampling.draws, resampling.seed)
        weights = 2 * resampling.weights() - 1
        first, second = (weights @ own for own in self.self_shares)
        cross = weights @ self.shares.reshape(len(self.shares), -1)
        return _normalise(cross.reshape(len(weights), *self.shares.shape[1:]).astype(np.float64), first, second)

    def shuffled(self, draws: int, seed: int = 0) -> np.ndarray:
        """CKA as it is, then with the images of B shuffled within each batch, (1 + draws, row, column)."""
        rng = np.random.default_rng(seed)
        first, second = (own.sum(0, dtype=np.float64) for own in self.self_shares)
        flat = self.A.reshape(len(self.A), -1)
        null = [
            _normalise(
                (flat @ _shuffle(self.B, self.sizes, rng).reshape(len(self.B), -1).T).astype(np.float64), first, second
            )
            for _ in range(draws)
        ]
        return np.stack([self.cka(), *null])

    def permutation_null(self, permutations: int, seed: int = 0) -> dict[str, np.ndarray]:
        """p of every cell, and of the largest cell, when the images of B are shuffled within each batch."""
        observed, *null = self.shuffled(permutations, seed)
        largest = np.nanmax(observed, initial=-np.inf)
        exceeded = 1 + sum(cells >= observed for cells in null)
        exceeded_max = 1 + sum(np.nanmax(cells, initial=-np.inf) >= largest for cells in null)
        p = np.where(np.isnan(observed), np.nan, exceeded / (permutations + 1))
        p_max = exceeded_max / (permutations + 1) if np.isfinite(observed).any() else np.nan
        return {"p": p, "p_max": np.array(p_max)}


def best_matches(cells: np.ndarray) -> np.ndarray:
    """For every column of a CKA map the row most like it, (column,); -1 where all its cells are undefined."""
    found = np.where(np.isnan(cells), -np.inf, cells)
    return np.where(np.isnan(cells).all(0), -1, found.argmax(0))


def _by_image(grams: np.ndarray) -> np.ndarray:
    """(block, batch, n, n) -> (batch·n, block, n): for every image, its row in the Gram matrix of every block."""
    blocks, batches, n, _ = grams.shape
    return np.ascontiguousarray(grams.transpose(1, 2, 0, 3)).reshape(batches * n, blocks, n)


def _own_shares(grams: np.ndarray) -> np.ndarray:
    return np.einsum("lbij,lbij->bil", grams, grams).reshape(-1, len(grams))


def _normalise(cross: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """cross / sqrt(first second) with NaN where a self term is not positive; batch axes lead."""
    norms = first[..., :, None] * second[..., None, :]
    return np.divide(
        cross,
        np.sqrt(norms, where=norms > 0, out=np.ones_like(norms)),
        where=norms > 0,
        out=np.full_like(norms, np.nan),
    )


def _shuffle(grams: np.ndarray, sizes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The same Gram blocks with the images of every batch in another order (the same for all blocks)."""
    n = grams.shape[-1]
    order = np.tile(np.arange(n), (len(sizes), 1))
    for batch, size in enumerate(sizes):
        order[batch, :size] = rng.permutation(size)
    batches = np.arange(len(sizes))[:, None, None]
    return grams[:, batches, order[:, :, None], order[:, None, :]]


def _matrix(found: dict[str, np.ndarray], rows: Profile, columns: Profile, n: int) -> xr.Dataset:
    coordinates = {
        "row": rows.data["block"].values,
        "column": columns.data["block"].values,
        "row_depth": ("row", rows.data["depth"].values),
        "column_depth": ("column", columns.data["depth"].values),
    }
    variables = {key: (("row", "column") if np.ndim(value) else (), value) for key, value in found.items()}
    return xr.Dataset(variables, coordinates, {"rows": rows.name, "columns": columns.name, "n": n})


def _at_depths(profile: Profile, name: str, depths: np.ndarray) -> xr.DataArray:
    """A per-block measurement interpolated at relative depths, image axis first."""
    array = profile[name]
    if not {"image", "block"} <= set(array.dims):
        raise StudyError(f"{name!r} has axes {array.dims}, expected 'image' and 'block' among them")
    along = array.assign_coords(block=profile.data["depth"].values).transpose("image", "block", ...)
    values = _interpolate(along.values, profile.data["depth"].values, depths)
    return xr.DataArray(values, dims=("image", "depth", *along.dims[2:]))


def _interpolate(values: np.ndarray, depth: np.ndarray, depths: np.ndarray) -> np.ndarray:
    """Linear interpolation along axis 1; depths below the first block take the first block's value."""
    if len(depth) == 1:
        return np.repeat(values, len(depths), axis=1)
    right = np.clip(np.searchsorted(depth, depths), 1, len(depth) - 1)
    left = right - 1
    share = np.clip((depths - depth[left]) / (depth[right] - depth[left]), 0, 1)
    share = share.reshape(1, -1, *([1] * (values.ndim - 2)))
    return values[:, left] * (1 - share) + values[:, right] * share
