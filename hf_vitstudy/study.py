"""Many profiles at once: every claim on every choice of checkpoints, what they say together, and which checkpoints are alike.

A study is a folder of profiles in any nesting. Beside them may stand ``study.json``::

    {"title": "ViTs and ResNets on CIFAR-10",
     "profiles": {"vit-small/profile": {"family": "augreg vit_small", "pretraining_images": 14200000}}}

whose facts complete what `measure` knew of a checkpoint (`claims.facts`). Profiles of one checkpoint on the same images are
put together; only profiles of the same images are compared. No network is loaded.

Few profiles are in memory at a time: each is read once for its brief (`sketches`), and again for the choices it is judged in.
The result is plain JSON (see `make_study`); figures and FINDINGS.md are made of it alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from tqdm import tqdm

from . import __version__, hub
from .agreement import Agreement, Case, agree, corrected_together, counted
from .claims import CLAIMS, UNTESTED, Claim, Judgement, corrected, facts
from .claims.contract import finite
from .claims.explaining import measure_command
from .claims.facts import AXES
from .claims.judging import Bench, judge_choice
from .errors import StudyError, nearest_name
from .markdown import one_line
from .profile import ARRAYS, MANIFEST, Profile, load_profile, merge
from .profile import DESCRIPTION as ABOUT
from .shapes import STUDY, misfit
from .sketches import Hit, Shelf, average_linkage, distances, in_brief, nearest_blocks
from .stats import wilson


DESCRIPTION, RESULTS, SHELF = "study.json", "results.json", ".sketches"
FORMAT = 1
FACTS = (*AXES, "network", "state", "parent", "family", "hybrid_stem")  # that study.json may tell
IN_MEMORY = 8  # profiles

Choice = tuple[int, ...]


@dataclass(frozen=True)
class Settings:
    """Attributes:

    claims: which to judge.
    draws, seed, permutations: as in `judge`.
    pairs: most choices of two or more checkpoints to judge; with more the study stops and says so.
    one_seed: judge one checkpoint of every recipe, that of the lowest seed; the others are named in the result.
    view: of the Gram blocks that checkpoints are grouped by.
    """

    claims: Sequence[Claim] = CLAIMS
    draws: int = 1000
    seed: int = 0
    permutations: int = 200
    pairs: int = 2000
    one_seed: bool = False
    view: str = "flatten"


@dataclass(frozen=True)
class Member:
    """One checkpoint on one set of images.

    Attributes:
        key: path of its first profile below the study's folder.
        folders: its profiles.
        brief: where its sketch lies on the shelf.
        about: the profile without any measurement.
        told: facts from study.json.
    """

    key: str
    folders: tuple[Path, ...]
    brief: str
    about: Profile
    told: dict[str, Any]

    def load(self) -> Profile:
        """The whole profile, with the facts that the study tells."""
        try:
            return _with_facts(merge([load_profile(folder) for folder in self.folders]), self.told)
        except StudyError as error:
            if len(self.folders) < 2:
                raise
            names = ", ".join(map(str, self.folders))
            raise StudyError(
                f"{names} are of one checkpoint on the same images, so they were put together: {error}"
            ) from error

    @property
    def group(self) -> tuple[str, ...]:
        """Equal for members whose sketches compare: the same images in the same batches. Empty without Gram blocks."""
        sizes = self.about.provenance["sketched_sizes"]
        return (self.about.images_sha256, *map(str, sizes)) if sizes else ()


def make_study(where: str | Path, out: Path, settings: Settings | None = None) -> dict[str, Any]:
    """Judge and group all profiles below a folder; writes ``results.json`` to `out` and returns what it holds.

    Args:
        where: the folder, see `local_folder`.
        out: for the result, and for sketches of the profiles, under the hash of their manifests.
        settings: see `Settings`.

    Returns:
        ``title``, ``settings``, ``version``; ``checkpoints``: facts, accuracy and provenance of each; ``left_out``: why
        some were not judged; ``judgements``: per claim and choice, checkpoints by number; ``claims``: each with its
        ``agreement`` over checkpoints or the ``reason`` why there is none; ``untested``: id -> what would be needed;
        ``groups``: per image set the merges of average linkage.

    Raises:
        StudyError: no profiles, a damaged one, or more choices than `settings.pairs`.
    """
    settings = settings or Settings()
    folder = local_folder(where)
    title, told = _description(folder)
    shelf = Shelf(out / SHELF, settings.view)
    members = _members(folder, told, shelf)
    judged, left_out = _judge_all(members, settings)
    groups = [_grouped(members, numbers, shelf) for numbers in _groups(members)]
    heading = title or Path(where).resolve().name  # not that of the Hub's cache, which is a commit
    result = _result(heading, members, judged, settings) | {"left_out": left_out, "groups": groups}
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=1, ensure_ascii=False, allow_nan=False)
    (out / RESULTS).write_text(text + "\n", encoding="utf-8")
    return json.loads(text)


def study_of(
    profiles: Sequence[Profile],
    judged: Sequence[tuple[Choice, Judgement]],
    title: str,
    settings: Settings | None = None,
) -> dict[str, Any]:
    """What `make_study` returns, of profiles in memory and what was judged of them, without groups; ``over``: ``images``.

    A claim that was judged on one choice has that judgement, with its interval over images, where a study has its mean over
    checkpoints: few profiles speak about themselves.

    Args:
        profiles: their order numbers the checkpoints.
        judged: as `claims.judge_choices` returns them.
    """
    briefs = [_about(in_brief(profile, view="")) for profile in profiles]  # no view of that name: nothing to group by
    keys = _keys([profile.name for profile in profiles])
    members = [Member(key, (), "", brief, {}) for key, brief in zip(keys, briefs, strict=True)]
    settings = settings or Settings()
    result = finite(_result(title, members, [each for each in judged if each[0]], settings))
    for claim in result["claims"]:
        own = [each for each in result["judgements"] if each["claim"] == claim["id"] and _known(each)]
        if "agreement" in claim and len(own) == 1:
            claim["agreement"] |= _alone(own[0])
    return result | {"over": "images"}


def _keys(names: Sequence[str]) -> list[str]:
    """Where `vitstudy measure` writes profiles of these names; several of one name are numbered."""
    return [
        f"profiles/{name}" + (f"-{names[:i].count(name)}" if name in names[:i] else "") for i, name in enumerate(names)
    ]


def _known(judgement: dict[str, Any]) -> bool:
    return judgement["estimate"] is not None and judgement["estimate"]["value"] is not None


def _alone(judgement: dict[str, Any]) -> dict[str, Any]:
    """What stands for the agreement of one judgement."""
    estimate = judgement["estimate"]
    noun, of, what = estimate["unit_resampled"].partition(" of ")
    over = counted(estimate["n"], noun) + of + what
    kept = {name: judgement[name] for name in ("verdict", "alone", "estimate", "p", "p_holm", "note", "controls")}
    return kept | {"over": over}


def load_study(path: Path) -> dict[str, Any]:
    """A stored result, from its file or the folder it lies in.

    Raises:
        StudyError: it is not there, not of this format, or does not hold what `make_study` writes.
    """
    path = path / RESULTS if path.is_dir() else path
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StudyError(f"no study at {path} ({error}); make one with `vitstudy study FOLDER`") from error
    if not isinstance(found, dict) or found.get("format") != FORMAT or "claims" not in found:
        raise StudyError(f"{path} is no result of a study in format {FORMAT}; run `vitstudy study FOLDER` again")
    if wrong := misfit(found, STUDY) or _stray(found):
        raise StudyError(f"{path}: {wrong}; run `vitstudy study FOLDER` again")
    return found


def _stray(result: dict[str, Any]) -> str:
    """Which part speaks of a checkpoint or a claim that the result does not have; empty where none does."""
    count, claims = len(result["checkpoints"]), {claim["id"] for claim in result["claims"]}
    for part in ("judgements", "groups"):
        for number, each in enumerate(result[part]):
            for named in each["checkpoints"]:
                if not 0 <= named < count:
                    return f"{part}[{number}].checkpoints names {named}, but there are {count}, counted from 0"
            if part == "judgements" and each["claim"] not in claims:
                return f"{part}[{number}].claim is {one_line(each['claim'])!r}, which is not among the claims"
    return ""


def local_folder(where: str | Path) -> Path:
    """The folder of profiles that an argument names; what lies on the Hub, as ``org/name[@revision]``, is fetched.

    Raises:
        StudyError: it is neither here nor there.
    """
    folder = Path(where)
    if folder.is_dir():
        return folder
    if folder.exists() or not hub.is_address(where):
        raise StudyError(f"no folder at {where}; expected one with profiles in it, as `vitstudy measure` writes them")
    try:
        return hub.fetch(where, profiles=True)
    except StudyError as error:
        raise StudyError(f"no folder at {where}, and from the Hub: {error}") from error


def profile_folders(where: str | Path) -> list[Path]:
    """The folder that an argument names; of ``org/name[@revision]`` on the Hub the folders of all profiles there.

    Raises:
        StudyError: there is none on the Hub either.
    """
    if Path(where).exists() or not hub.is_address(where):
        return [Path(where)]  # whether it holds a profile, says who loads it
    found = find_profiles(local_folder(where))
    if not found:
        raise StudyError(
            f"no profile in {where} on the Hub; `vitstudy push PROFILE {where} --into-model` puts one there"
        )
    return found


def one_profile(where: str | Path) -> Path:
    """The same where one profile is wanted.

    Raises:
        StudyError: there are several, and which.
    """
    found = profile_folders(where)
    if len(found) > 1:
        inside = local_folder(where)
        repo, at, revision = Path(where).as_posix().partition("@")
        names = [f"{repo}/{path.relative_to(inside).as_posix()}{at}{revision}" for path in found]
        raise StudyError(f"{where} holds {len(found)} profiles; name one of them: {', '.join(names)}")
    return found[0]


def _result(
    title: str, members: Sequence[Member], judged: Sequence[tuple[Choice, Judgement]], settings: Settings
) -> dict[str, Any]:
    """What a study holds but for its groups and who was left out, which are empty."""
    return {
        "format": FORMAT,
        "version": __version__,
        "title": title,
        "settings": {name: value for name, value in vars(settings).items() if name != "claims"},
        "checkpoints": [_checkpoint(member) for member in members],
        "left_out": [],
        "judgements": [_compact(choice, judgement) for choice, judgement in judged],
        "claims": _claims(members, judged, settings.claims),
        "untested": UNTESTED,
        "groups": [],
    }


# --------------------------------------------------------------------------------------------------------- reading


def _description(folder: Path) -> tuple[str, dict[str, dict[str, Any]]]:
    """Title, and profile -> facts, of ``study.json``."""
    path = folder / DESCRIPTION
    if not path.is_file():
        return "", {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise StudyError(f"{path} is not JSON ({error}); correct it") from error
    told = found.get("profiles", {}) if isinstance(found, dict) else None
    if not isinstance(told, dict) or not all(isinstance(each, dict) for each in told.values()):
        raise StudyError(f'{path} must hold {{"title": ..., "profiles": {{name: {{fact: value}}}}}}')
    for name in found:
        if name not in ("title", "profiles"):
            raise StudyError(f"{path}: unknown entry {name!r}; {nearest_name(name, ('title', 'profiles'))}")
    for profile, each in told.items():
        for name in each:
            if name not in FACTS:
                raise StudyError(f"{path}: unknown fact {name!r} of {profile}; {nearest_name(name, FACTS)}")
    return str(found.get("title", "")), told


def find_profiles(folder: Path) -> list[Path]:
    """Folders of profiles below this one, sorted; those whose path has a part that begins with a dot are passed over.

    So are other folders with a manifest, such as the checkpoints of a training; a profile that lacks a file is not.
    """
    parts = (ARRAYS, ABOUT)
    found = [path.parent for path in folder.rglob(MANIFEST) if any((path.parent / name).exists() for name in parts)]
    return sorted(path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def _members(folder: Path, told: dict[str, dict[str, Any]], shelf: Shelf) -> list[Member]:
    places = find_profiles(folder)
    if not places:
        raise StudyError(f"no profile below {folder}; make one with `vitstudy measure ... --out {folder}/NAME`")
    same: dict[tuple[Any, ...], list[tuple[Path, str, Profile]]] = {}
    for place in tqdm(places, desc="reading", unit="profile", disable=None):
        key = shelf.put(place)
        about = _about(shelf.get(key))
        checkpoint = about.provenance["checkpoint"]
        same.setdefault((checkpoint["weights_sha256"], about.images_sha256), []).append((place, key, about))
    members = [_member(folder, parts, told) for parts in same.values()]
    for name in told:
        if not any(name in (member.key, member.about.name, *_paths(folder, member)) for member in members):
            known = {word for member in members for word in (member.key, member.about.name)}
            raise StudyError(f"{DESCRIPTION} names {name!r}, but no profile is called so; {nearest_name(name, known)}")
    return members


def _paths(folder: Path, member: Member) -> list[str]:
    return [place.relative_to(folder).as_posix() for place in member.folders]


def _member(folder: Path, parts: list[tuple[Path, str, Profile]], told: dict[str, dict[str, Any]]) -> Member:
    """Of several profiles of one checkpoint the last with Gram blocks is its brief, as `merge` takes the last."""
    place, _, _ = parts[0]
    _, brief, about = next((part for part in reversed(parts) if part[2].provenance["sketched_sizes"]), parts[-1])
    summaries = [part[2].provenance["summary"] for part in parts]
    known: dict[str, Any] = {}
    for name in (about.name, *(part[0].relative_to(folder).as_posix() for part in parts)):
        known |= told.get(name, {})
    about = Profile(about.data, about.provenance | {"summary": next(filter(None, reversed(summaries)), {})})
    folders = tuple(part[0] for part in parts)
    return Member(place.relative_to(folder).as_posix(), folders, brief, _with_facts(about, known), known)


def _about(brief: Profile) -> Profile:
    """The brief without its sketch."""
    sizes = brief.data["sizes"].values.tolist() if "sizes" in brief.data else []
    data = brief.data.drop_vars(["sketch", "sizes"], errors="ignore").load()
    return Profile(data, brief.provenance | {"sketched_sizes": sizes})


def _with_facts(profile: Profile, told: dict[str, Any]) -> Profile:
    return Profile(profile.data, profile.provenance | {"facts": profile.provenance.get("facts", {}) | told})


def _loader(members: Sequence[Member]) -> Callable[[int], Profile]:
    """Profiles by number, the latest few kept."""
    return lru_cache(maxsize=IN_MEMORY)(lambda number: members[number].load())


# --------------------------------------------------------------------------------------------------------- judging


def _judge_all(
    members: Sequence[Member], settings: Settings
) -> tuple[list[tuple[Choice, Judgement]], list[dict[str, str]]]:
    """Every judgement with the numbers of its checkpoints, corrected together, and who was left out."""
    bench = Bench([member.about for member in members])
    kept, left_out = _one_seed_each(members) if settings.one_seed else (set(range(len(members))), [])
    tasks = _tasks(bench, settings.claims, kept)
    several = sum(len(choice) > 1 for choice in tasks)
    if several > settings.pairs:
        raise StudyError(
            f"{several:,} pairs of checkpoints to judge, more than --pairs {settings.pairs:,}; raise it, or judge one "
            "checkpoint of every recipe with --one-seed, or fewer --claims"
        )
    load = _loader(members)
    found: list[tuple[Choice, Judgement]] = []
    for choice in tqdm(sorted(tasks), desc="judging", unit="choice", disable=None):
        found += [(choice, judgement) for judgement in _judge_one(choice, tasks[choice], bench, load, settings)]
    fixed = corrected([judgement for _, judgement in found])
    return [(choice, judgement) for (choice, _), judgement in zip(found, fixed, strict=True)], left_out


def _tasks(bench: Bench, claims: Sequence[Claim], kept: set[int]) -> dict[Choice, list[Claim]]:
    """choice -> claims to judge on it. Claims of the same roles and relation have the same choices."""
    choices: dict[tuple[Any, ...], list[Choice]] = {}
    tasks: dict[Choice, list[Claim]] = {}
    for claim in claims:
        kind = claim.roles, claim.relation and claim.relation.words
        if kind not in choices:
            choices[kind] = [choice for choice in bench.choices(claim) if kept.issuperset(choice)]
        for choice in choices[kind]:
            tasks.setdefault(choice, []).append(claim)
    return tasks


def _judge_one(
    choice: Choice, claims: Sequence[Claim], bench: Bench, load: Callable[[int], Profile], settings: Settings
) -> list[Judgement]:
    """Claims on one choice, by a bench of the chosen and their untrained twins alone, which then goes."""
    twins = [bench.untrained_twin(number) for number in choice]
    numbers = [*choice, *dict.fromkeys(twin for twin in twins if twin is not None and twin not in choice)]
    profiles = [load(number) for number in numbers]
    small = Bench(profiles, settings.draws, settings.seed, settings.permutations)
    return [judge_choice(claim, tuple(range(len(choice))), small) for claim in claims]


def _one_seed_each(members: Sequence[Member]) -> tuple[set[int], list[dict[str, str]]]:
    """Members of the lowest seed of their recipe, and all untrained ones, which are controls; the keys of the others."""
    first: dict[tuple[str, str], int] = {}
    known = [facts(member.about) for member in members]
    for number in sorted(range(len(members)), key=lambda number: (known[number].axes.get("seed", 0), number)):
        first.setdefault((known[number].recipe, members[number].about.images_sha256), number)
    kept = {*first.values(), *(number for number, of in enumerate(known) if of.state == "untrained")}
    reason = "another seed of its recipe was judged (--one-seed)"
    return kept, [{"key": members[i].key, "reason": reason} for i in range(len(members)) if i not in kept]


def _compact(choice: Choice, judgement: Judgement) -> dict[str, Any]:
    """A judgement without what its claim says."""
    found = judgement.to_dict()
    kept = ("verdict", "alone", "estimate", "p", "p_holm", "note", "warnings", "controls")
    return {"claim": judgement.claim.id, "checkpoints": list(choice)} | {name: found[name] for name in kept}


# ------------------------------------------------------------------------------------------------------- agreement


def _claims(
    members: Sequence[Member], judged: Sequence[tuple[Choice, Judgement]], claims: Sequence[Claim]
) -> list[dict[str, Any]]:
    """Every claim with its agreement over checkpoints, or with the reason why there is none."""
    ends = [(of.recipe, of.weights) for of in (facts(member.about) for member in members)]
    cases: dict[str, list[Case]] = {}
    for choice, judgement in judged:
        if judgement.estimate is not None and math.isfinite(judgement.estimate.value):
            case = Case(judgement, tuple(ends[number] for number in choice))
            cases.setdefault(judgement.claim.id, []).append(case)
    agreed = [agree(claim, cases[claim.id]) for claim in claims if claim.id in cases]
    found = {agreement.claim.id: agreement for agreement in corrected_together(agreed)}
    bench = Bench([member.about for member in members])
    return [
        claim.to_dict()
        | (
            {"agreement": _agreement(found[claim.id])}
            if claim.id in found
            else {"reason": _reason(claim, judged, bench)}
        )
        for claim in claims
    ]


def _reason(claim: Claim, judged: Sequence[tuple[Choice, Judgement]], bench: Bench) -> str:
    """Why nothing was judged; where a measurement is missing, how to make it."""
    notes = [judgement.note for _, judgement in judged if judgement.claim is claim]
    if not notes:
        return bench.missing(claim)
    if " has no measurement " in notes[0]:
        return f"{notes[0].partition('. Measure again')[0]}: {measure_command(claim)}"
    return notes[0] or "undefined for these checkpoints"


def _agreement(agreement: Agreement) -> dict[str, Any]:
    kept = {name: value for name, value in vars(agreement).items() if name not in ("claim", "estimate", "controls")}
    found = kept | {"verdict": str(agreement.verdict), "alone": str(agreement.alone)}
    found |= {"estimate": asdict(agreement.estimate), "controls": [asdict(control) for control in agreement.controls]}
    return finite(found)


# ------------------------------------------------------------------------------------------------------ checkpoints


def _checkpoint(member: Member) -> dict[str, Any]:
    """What tables of checkpoints show: facts, accuracy on these images, provenance."""
    of, provenance = facts(member.about), member.about.provenance
    about, summary = provenance["checkpoint"], provenance["summary"]
    measured = summary.get("labelled", 0)
    return {
        "key": member.key,
        "name": member.about.name,
        "network": of.network,
        "state": of.state,
        "axes": of.axes,
        "recipe": of.recipe,
        "weights_sha256": of.weights,
        "revision": about.get("revision"),
        "parameters": about.get("parameters"),
        "image_size": about.get("image_size"),
        "images": {key: provenance["images"].get(key) for key in ("name", "split", "revision", "n", "seed", "sha256")},
        "accuracy": finite(asdict(wilson(summary["correct"], measured))) if measured else None,
        "places": len(member.about.data["block"]),
        "stages": of.stages,
        "versions": provenance.get("versions", {}),
        "told": member.told,
    }


# --------------------------------------------------------------------------------------------------------- grouping


def _groups(members: Sequence[Member]) -> list[list[int]]:
    """Numbers of members whose sketches compare, where there are at least two."""
    found: dict[tuple[str, ...], list[int]] = {}
    for number, member in enumerate(members):
        if member.group:
            found.setdefault(member.group, []).append(number)
    return [numbers for numbers in found.values() if len(numbers) > 1]


def _readers(members: Sequence[Member], shelf: Shelf, numbers: Sequence[int]) -> list[Callable[[], Profile]]:
    return [lambda key=members[number].brief: shelf.get(key) for number in numbers]  # type: ignore[misc]


def _grouped(members: Sequence[Member], numbers: list[int], shelf: Shelf) -> dict[str, Any]:
    """``checkpoints``: numbers; ``linkage``: scipy's merges; ``nearest``: of each, another checkpoint and the distance."""
    distance = distances(_readers(members, shelf, numbers))
    merges = average_linkage(distance).tolist()
    nearest = []
    for row, values in enumerate(distance):
        other = min((i for i in range(len(numbers)) if i != row), key=lambda i: values[i])
        nearest.append([numbers[other], float(values[other])])
    images = members[numbers[0]].about.provenance["images"]
    return {"images": images["name"], "n": images["n"], "checkpoints": numbers, "linkage": merges, "nearest": nearest}


def nearest(
    where: str | Path, out: Path, checkpoint: str, block: str, *, most: int = 10, view: str = "flatten"
) -> list[tuple[str, Hit]]:
    """Blocks of other checkpoints most like one block, and the keys of their checkpoints, the most alike first.

    Args:
        where, out: as in `make_study`.
        checkpoint: its name, or its path below the folder.
        block: name of the block.

    Raises:
        StudyError: no such checkpoint or block, or nothing to compare it with.
    """
    folder = local_folder(where)
    shelf = Shelf(out / SHELF, view)
    members = _members(folder, _description(folder)[1], shelf)
    wanted = _find(members, checkpoint)
    numbers = next((each for each in _groups(members) if wanted in each), [])
    if not numbers:
        raise StudyError(
            f"no other checkpoint has {view!r} Gram blocks of the images of {checkpoint}, so nothing is near it"
        )
    load = _loader(members)
    hits = nearest_blocks(
        numbers.index(wanted),
        block,
        _readers(members, shelf, numbers),
        lambda i: load(numbers[i]),
        most=most,
        view=view,
    )
    return [(members[numbers[hit.checkpoint]].key, hit) for hit in hits]


def _find(members: Sequence[Member], checkpoint: str) -> int:
    found = [number for number, member in enumerate(members) if checkpoint in (member.key, member.about.name)]
    if len(found) != 1:
        known = {word for member in members for word in (member.key, member.about.name)}
        what = (
            f"{len(found)} profiles are of {checkpoint!r}, give a path" if found else f"no checkpoint {checkpoint!r}"
        )
        raise StudyError(f"{what}; {nearest_name(checkpoint, known)}")
    return found[0]
