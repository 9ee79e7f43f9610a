"""The command line. Every command is a few lines around a function of the package."""

from __future__ import annotations

import csv
import json
import os
import shlex
import sys
import textwrap
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from . import __version__
from .errors import StudyError
from .markdown import one_line


if TYPE_CHECKING:
    import xarray as xr

    from .claims import Control, Judgement
    from .hub import Release
    from .jobs import Job

app = typer.Typer(
    name="vitstudy",
    help="How do vision transformers work, and how do they differ from ResNets? Measure checkpoints, compare profiles.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

HUB, SERVER = "huggingface_hub", "gradio"
ABOUT_JOBS = ("push_to", "flavor", "timeout", "requirement", "dry_run")  # options of `measure`
STUDY_EXTRA = ("torch", "transformers", "datasets", "PIL", "sklearn", "yaml", "accelerate", "evaluate")

CheckpointArgument = Annotated[str, typer.Argument(help="Hub id (org/name or org/name@revision) or local folder.")]
ProfilesArgument = Annotated[
    list[Path], typer.Argument(help="Folders written by `vitstudy measure`, or org/name@revision on the Hub.")
]
DrawsOption = Annotated[int, typer.Option(min=100, help="Bootstrap draws behind every interval.")]
SeedOption = Annotated[int, typer.Option(help="Seed of the bootstrap draws.")]
RequirementOption = Annotated[
    str | None,
    typer.Option(
        help="How another machine installs this package, as pip has it, such as git+https://HOST/OWNER/NAME@COMMIT."
    ),
]


def main() -> None:
    """Run the command line; bad input ends with one line and the exit code of its error."""
    try:
        app(standalone_mode=True)
    except StudyError as error:
        if _speaks():
            typer.echo(f"error: {error}", err=True)
        sys.exit(error.code)
    except ModuleNotFoundError as error:
        if error.name not in (*STUDY_EXTRA, HUB, SERVER):
            raise
        what, extra = {HUB: ("the Hub", "hub"), SERVER: ("serving", "space")}.get(error.name, ("measuring", "study"))
        typer.echo(f"error: {what} needs {error.name}; install it with: pip install 'hf_vitstudy[{extra}]'", err=True)
        sys.exit(2)


def _version(show: bool) -> None:
    if show:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


# --------------------------------------------------------------------------------------------------------- measuring


@app.command()
def blocks(
    checkpoint: CheckpointArgument,
    pattern: Annotated[
        str | None, typer.Option("--blocks", help="Regular expression on module paths to read.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="List all module paths instead, to write a pattern.")] = False,
) -> None:
    """Show which places of a checkpoint would be read.

    Example: vitstudy blocks microsoft/resnet-50@main
    """
    from .checkpoints import load_checkpoint, module_paths

    if every:
        for path in module_paths(checkpoint):
            typer.echo(path)
        return
    found = load_checkpoint(checkpoint, device="cpu", blocks=pattern)
    rows = [
        (
            b.name,
            b.kind,
            f"{b.depth:.2f}",
            b.stage,
            f"{b.channels} x {b.grid[0]} x {b.grid[1]}",
            b.prefix_count,
            b.path,
            b.side,
        )
        for b in found.blocks
    ]
    heads = ("block", "kind", "depth", "stage", "channels x map", "prefix", "module", "side")
    _print_table(f"{found.name}: {len(rows)} places, {len(found.layers)} attention layers", heads, rows)


@app.command()
def measure(
    context: typer.Context,
    checkpoint: CheckpointArgument,
    images: Annotated[str, typer.Option(help="Hub id of a data set, .parquet file, or image folder.")],
    split: Annotated[str | None, typer.Option(help="Split of the data set; by default validation or test.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hub data set.")] = None,
    n: Annotated[int, typer.Option("--n", "-n", min=4, help="Number of images, drawn by --seed.")] = 2048,
    seed: Annotated[int, typer.Option(help="Seed of the images' order.")] = 0,
    batch_size: Annotated[
        int, typer.Option(help="Images per forward pass; CKA's Gram blocks hold as many, at most 32.")
    ] = 32,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps, or auto.")] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, float16 or float64.")] = "float32",
    attn: Annotated[str, typer.Option(help="Attention implementation; auto is eager where maps are needed.")] = "auto",
    analyses: Annotated[
        str, typer.Option(help="Comma-separated: default, all, or names, with options, as in default,cka:pool=mean.")
    ] = "default",
    analysis: Annotated[
        list[str] | None, typer.Option(help="One of your own, as in my_file.py:energy. This runs the file.")
    ] = None,
    paper_mode: Annotated[
        bool, typer.Option("--paper-mode", help="Also measure by the published codes' definitions.")
    ] = False,
    pattern: Annotated[
        str | None, typer.Option("--blocks", help="Regular expression on module paths to read.")
    ] = None,
    untrained: Annotated[
        int | None, typer.Option(help="Seed of initial weights to measure instead of the trained ones.")
    ] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that decode images.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the profile; by default profiles/NAME.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where the same measurement was interrupted.")
    ] = False,
    push_to: Annotated[
        str | None, typer.Option(help="org/name on the Hub; the profile is then pushed there, as a data set.")
    ] = None,
    flavor: Annotated[
        str | None, typer.Option("--hf-job", help="Measure in a Job on the Hub's machines, such as a10g-small.")
    ] = None,
    timeout: Annotated[str, typer.Option(help="Of the Job, after which it ends without a result.")] = "2h",
    requirement: RequirementOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the call of the Job, and start none.")] = False,
) -> None:
    """Measure one checkpoint on reference images and write its profile.

    Example: vitstudy measure google/vit-base-patch16-224 --images ILSVRC/imagenet-1k --split validation
    On several GPUs: accelerate launch -m hf_vitstudy measure ... with the same options.
    """
    if flavor is not None:
        from .jobs import make_job

        words = _words_for_job(context)
        job = make_job(words, requirement, repo=push_to, type="dataset", flavor=flavor, timeout=timeout)
        return _start(job, dry_run)
    if dry_run:
        raise StudyError("--dry-run shows the call of a Job; name its hardware, as in --hf-job a10g-small")
    if push_to is not None and _speaks():
        from .hub import make_repo

        make_repo(push_to, "dataset")  # before hours of work, not after them
    from .analyses import choose_analyses
    from .checkpoints import short_name
    from .measuring import keep_memory
    from .measuring import measure as measure_

    keep_memory()
    twin = "" if untrained is None else "-untrained"
    folder = out or Path("profiles") / (short_name(checkpoint) + twin)
    profile = measure_(
        checkpoint,
        images,
        split=split,
        revision=revision,
        n=n,
        seed=seed,
        batch_size=batch_size,
        device=device,
        dtype=dtype,
        attn=attn,
        analyses=choose_analyses([*(name.strip() for name in analyses.split(",") if name.strip()), *(analysis or [])]),
        paper_mode=paper_mode,
        blocks=pattern,
        untrained=untrained,
        workers=workers,
        out=folder,
        resume=resume,
    )
    if _speaks():
        for name, why in profile.provenance["absent"].items():
            typer.echo(f"without {name}: {why}")
        took = profile.provenance["measurement"]["seconds"]
        typer.echo(f"{profile.n_images} images, {profile.data.sizes['block']} places, {took:,.1f} s -> {folder}")
        if push_to is not None:
            from . import hub
            from .releases import opened

            with opened(folder, push_to) as release:
                typer.echo(f"profile -> {hub.push(release, push_to).url}")


def _words_for_job(context: typer.Context) -> list[str]:
    """The same command for a machine of the Hub, without what is about the Job.

    Raises:
        StudyError: an option is about this machine.
    """
    from .jobs import require_on_hub

    given = {name: value for name, value in context.params.items() if _is_given(context, name)}
    require_on_hub(
        "the checkpoint", given["checkpoint"], "push it first: vitstudy push FOLDER org/name, then name org/name"
    )
    require_on_hub(
        "--images",
        given["images"],
        "make a data set on the Hub of it first: hf upload org/name FOLDER --repo-type dataset",
    )
    for name, why in (
        ("analysis", "files of your own"),
        ("resume", "disk that stays"),
        ("out", "disk that stays"),
    ):
        if name in given:
            raise StudyError(f"a Job has no {why}; leave out --{name}")
    words = ["vitstudy", "measure", given["checkpoint"]]
    for parameter in context.command.params:
        if parameter.name in given and parameter.name not in ("checkpoint", *ABOUT_JOBS):
            value = given[parameter.name]
            words += [parameter.opts[0]] if isinstance(value, bool) else [parameter.opts[0], str(value)]
    return words


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _start(job: Job, dry_run: bool) -> None:
    """Show the call of a Job and, unless nothing shall happen, start it."""
    from .jobs import submit

    typer.echo(job)
    if dry_run:
        typer.echo(f"dry run: no Job was started; its result would go to {job.type} {job.repo}")
        return
    typer.echo(f"started: {submit(job)}")
    typer.echo(f"its result will be at {job.type} {job.repo}; what a Job has not pushed when it ends is lost")


def _speaks() -> bool:
    """Of several processes that a launcher has started, one speaks for all."""
    return os.environ.get("RANK", "0") == "0"


@app.command()
def analyses() -> None:
    """List what can be measured, with options and their defaults, and whether it needs passes of its own.

    Example: vitstudy analyses
    """
    import inspect

    from .analyses import ANALYSES, DEFAULT, factory_of, make_analysis

    rows = []
    for name in ANALYSES:
        factory = factory_of(name)
        parameters = inspect.signature(factory).parameters.values()
        options = ", ".join(f"{parameter.name}={parameter.default}" for parameter in parameters)
        text = (factory.__doc__ or "").strip().split("\n")[0]
        passes = "own" if make_analysis(name).own_passes else "shared"
        rows.append((name, "yes" if name in DEFAULT else "", passes, text, options))
    _print_table("analyses", ("name", "default", "passes", "what it measures", "options"), rows)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the data, checkpoints, profiles and the report.")] = Path(
        "runs/demo"
    ),
    seed: Annotated[int, typer.Option(help="Seed of both trainings.")] = 0,
) -> None:
    """Train a small ViT and a small ResNet on scikit-learn's digits, compare them, write a report. No Hub, no GPU."""
    from .demo import run_demo

    for line in run_demo(out, seed=seed):
        typer.echo(line)


# ----------------------------------------------------------------------------------------------------------- reading


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(help="Profile A: a folder, or org/name@revision on the Hub.")],
    second: Annotated[Path, typer.Argument(help="Profile B.")],
    view: Annotated[str, typer.Option(help="Which Gram blocks: flatten, mean, cls, tokens, ...")] = "flatten",
    measure: Annotated[
        str, typer.Option(help="cka, rsa, rsa_gram, knn, cknna, or procrustes (measured with --analyses projection).")
    ] = "cka",
    deconfounded: Annotated[
        bool, typer.Option("--deconfounded", help="CKA of what the pixels do not explain (Cui et al. 2022).")
    ] = False,
    k: Annotated[int, typer.Option("-k", min=1, help="Neighbours within a batch, for knn and cknna.")] = 5,
    permutations: Annotated[int, typer.Option(min=0, help="Draws of CKA's permutation null.")] = 200,
    out: Annotated[
        Path | None, typer.Option(help="Write all cells of A-A, A-B and B-B to a .json or .csv file.")
    ] = None,
) -> None:
    """CKA (or another similarity) of every block of A with every block of B, with intervals; no model is loaded.

    Example: vitstudy compare profiles/vit-base-patch16-224 profiles/resnet-50 --out cka.csv
    """
    from .comparison import compare as compare_
    from .profile import load_profile
    from .study import one_profile

    if out is not None:
        _require_table(out)
    comparison = compare_(load_profile(one_profile(first)), load_profile(one_profile(second)))
    if deconfounded and measure != "cka":
        raise StudyError(f"--deconfounded is of CKA, got --measure {measure}; leave one of the two out")

    def similarity(of: str, permutations: int = 0) -> xr.Dataset:
        if measure == "cka":
            return comparison.cka(of, view, permutations=permutations, deconfounded=deconfounded)
        return comparison.similarity(of, measure, view, k=k)

    cross = similarity("ab", permutations)
    what = "deconfounded CKA" if deconfounded else measure.upper() if measure in ("cka", "rsa", "cknna") else measure
    _print_best_matches(cross, comparison.a.name, comparison.b.name, measure, what)
    if out is not None:
        maps = {"aa": similarity("aa"), "ab": cross, "bb": similarity("bb")}
        _write_maps(out, maps)
        typer.echo(f"all cells -> {out}")


@app.command()
def judge(
    profiles: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders written by `vitstudy measure`, or org/name@revision; none to --explain alone."),
    ] = None,
    only: Annotated[str | None, typer.Option("--claims", help="Comma-separated ids, such as R-1,P-F1.")] = None,
    told: Annotated[
        str | None, typer.Option("--explain", help="Ids of claims to explain: statistic, margin, what refutes them.")
    ] = None,
    draws: DrawsOption = 1000,
    seed: SeedOption = 0,
    out: Annotated[Path | None, typer.Option("--json", help="Write the judgements to a JSON file.")] = None,
) -> None:
    """Judge the papers' claims on one or more profiles of the same images.

    Example: vitstudy judge profiles/vit-base-patch16-224 profiles/resnet-50 --json claims.json
    What a claim says and how to measure what it needs: vitstudy judge --explain P-F1
    """
    from .claims import choose_claims, explain
    from .claims import judge as judge_
    from .disk import explained, require_name
    from .profile import load_profile
    from .study import profile_folders

    if out is not None:
        require_name(out, "a JSON file")
    told_about = choose_claims(_ids(told)) if told else []
    if not profiles and not told_about:
        raise StudyError("judge needs at least one profile, got none; or --explain ID for what a claim says")
    judgements: list[Judgement] = []
    if profiles:
        claims = told_about if told_about and not only else choose_claims(_ids(only))
        loaded = [load_profile(folder) for each in profiles for folder in profile_folders(each)]
        judgements = judge_(*loaded, claims=claims, draws=draws, seed=seed)
    for claim in told_about:
        typer.echo(f"{claim.id}\n{_described(explain(claim))}\n")
    if judgements:
        _print_judgements(judgements)
    if out is not None:
        text = json.dumps([judgement.to_dict() for judgement in judgements], indent=1, ensure_ascii=False)
        with explained(out):
            out.write_text(text, encoding="utf-8")


@app.command()
def study(
    folder: Annotated[
        Path,
        typer.Argument(
            help="Folder with profiles in any nesting, and study.json; or org/name@revision on the Hub; or the "
            "results.json of an earlier study."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder of the results, figures and sketches.")] = Path("study"),
    only: Annotated[str | None, typer.Option("--claims", help="Comma-separated ids, such as R-1,P-F1.")] = None,
    pairs: Annotated[
        int,
        typer.Option(
            min=0, help="Stop, and say so, where more pairs of checkpoints would be judged: K of them are K² pairs."
        ),
    ] = 2000,
    one_seed: Annotated[
        bool,
        typer.Option(
            "--one-seed", help="Judge one checkpoint of every recipe, of the lowest seed; the result names the others."
        ),
    ] = False,
    findings: Annotated[Path | None, typer.Option(help="Also write the findings, as Markdown, to this file.")] = None,
    commentary: Annotated[
        Path | None, typer.Option(help="Markdown with a heading `## ID` and a paragraph without numbers per claim.")
    ] = None,
    near: Annotated[
        str | None, typer.Option("--nearest", help="Only list the blocks most like one, as in resnet-50:block03.")
    ] = None,
    draws: DrawsOption = 1000,
    seed: SeedOption = 0,
    permutations: Annotated[
        int, typer.Option(min=0, help="Shuffles of the null beside every statistic of CKA.")
    ] = 200,
) -> None:
    """Judge the claims on all checkpoints of a folder, and say what they come to over checkpoints.

    An interval over images speaks about two networks. Here effects are averaged over seeds and recipes, and their interval is
    over these; where there is one pair of checkpoints, it says so. Profiles are read one by one, whatever their number.

    Example: vitstudy study profiles --out study --findings FINDINGS.md
    Again, from the stored result alone: vitstudy study study/results.json --findings FINDINGS.md
    """
    from .claims import choose_claims
    from .disk import require_place
    from .figures import save_study_figures
    from .findings import write_findings
    from .study import Settings, load_study, make_study

    if commentary is not None and findings is None:
        raise StudyError("--commentary goes into the findings; name their file with --findings FINDINGS.md")
    if near is not None:
        _print_nearest(folder, out, near)
        return
    if folder.is_file():
        result, out = load_study(folder), folder.parent
    else:
        require_place(out)
        if findings is not None:
            require_place(findings.parent)
        claims = tuple(choose_claims(_ids(only)))
        settings = Settings(claims, draws, seed, permutations, pairs, one_seed)
        result = make_study(folder, out, settings)
        _print_agreements(result)
    figures = save_study_figures(out / "figures", result)
    typer.echo(f"{len(result['checkpoints'])} checkpoints, {len(result['judgements'])} judgements -> {out}")
    if findings is not None:
        typer.echo(f"findings -> {write_findings(result, findings, figures=figures, commentary=commentary)}")


def _ids(text: str | None) -> list[str] | None:
    return [name.strip() for name in text.split(",") if name.strip()] if text else None


@app.command()
def report(
    profiles: ProfilesArgument,
    out: Annotated[Path, typer.Option(help="The HTML file.")] = Path("report.html"),
    figures: Annotated[Path | None, typer.Option(help="Also write the figures (PNG and SVG) to this folder.")] = None,
    draws: DrawsOption = 1000,
    seed: SeedOption = 0,
) -> None:
    """Write one HTML file with verdicts, figures, methods and provenance.

    Example: vitstudy report profiles/vit-base-patch16-224 profiles/resnet-50 --out report.html --figures figures
    """
    from .disk import require_name, require_place
    from .profile import load_profile
    from .report import write_report
    from .study import profile_folders

    require_name(out, "an HTML file", replaced=True)
    if figures is not None:
        require_place(figures)
    loaded = [load_profile(folder) for each in profiles for folder in profile_folders(each)]
    typer.echo(f"report -> {write_report(*loaded, out=out, draws=draws, seed=seed)}")
    if figures is not None:
        from .figures import save_figures

        for path in save_figures(figures, *loaded):
            typer.echo(f"figure -> {path}")


@app.command()
def space(
    study: Annotated[
        str | None,
        typer.Argument(
            help="results.json of `vitstudy study`, the folder it lies in, or org/name[@revision] on the Hub; "
            "by default the study that comes with this package."
        ),
    ] = None,
    static: Annotated[
        Path | None,
        typer.Option(
            help="Serve nothing; write the page to this folder: index.html, data, the card of a static Space."
        ),
    ] = None,
    profiles: Annotated[
        Path | None,
        typer.Option(
            help="Folder of the study's profiles, or org/name[@revision] on the Hub; by default the study's."
        ),
    ] = None,
    live: Annotated[
        list[str] | None,
        typer.Option(help="A checkpoint that looks at visitors' images: a folder, or one on the Hub. Give two."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Who may connect; 0.0.0.0 lets every machine of the network.")
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="By default the first free one from 7860.")
    ] = None,
) -> None:
    """Serve the interactive comparison of a study: claims, any two checkpoints inside, images of your own, API and MCP.

    With --static it is written as a page that needs no server; there, only your own images are missing.

    Example: vitstudy space study --profiles profiles --static site
    """
    if static is not None:
        from .space_release import space_folder

        folder = space_folder(static, study, sdk="static", profiles=profiles)
        typer.echo(f"page -> {folder / 'index.html'}")
        typer.echo(f"look at it: python -m http.server --directory {static}")
        return
    from .space import make_app

    made = make_app(study, profiles, live)
    typer.echo("serving; end it with Ctrl+C")
    made.launch(host, port)


# ----------------------------------------------------------------------------------------------------------- the Hub


@app.command()
def push(
    folder: Annotated[
        Path | None,
        typer.Argument(help="A checkpoint, a profile, or a study; of a Space a study, here or on the Hub."),
    ] = None,
    repo: Annotated[str | None, typer.Argument(help="org/name on the Hub; made where it is not there.")] = None,
    profiles: Annotated[
        Path | None,
        typer.Option(
            help="Folder of a study's profiles, by default its own; of a checkpoint, its profile, or a folder with it, "
            "for figures and claims on the card."
        ),
    ] = None,
    study: Annotated[
        Path | None,
        typer.Option(
            help="Result whose verdicts a checkpoint's card shows; by default its --profiles are judged now."
        ),
    ] = None,
    into_model: Annotated[
        bool, typer.Option("--into-model", help="Put a profile beside a model's weights, under vitstudy/.")
    ] = False,
    space: Annotated[
        str | None, typer.Option(help="org/name of a Space, instead of a repository: the comparison of a study.")
    ] = None,
    sdk: Annotated[
        str, typer.Option(help="Of the Space: static, which is free and never sleeps; or gradio.")
    ] = "static",
    live: Annotated[
        list[str] | None, typer.Option(help="Of a Gradio Space: two checkpoints that look at images of a visitor.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option(help="Of the Space: a metric for evaluate.load, such as cka, instead of a study.")
    ] = None,
    requirement: RequirementOption = None,
    license: Annotated[str | None, typer.Option(help="For the card, as the Hub has them, such as cc-by-4.0.")] = None,
    revision: Annotated[str, typer.Option(help="Branch, made where it is not there.")] = "main",
    message: Annotated[str | None, typer.Option(help="Message of the commit.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Make the repository private.")] = False,
    parent: Annotated[
        str | None, typer.Option(help="Send only if the branch is still at this commit; by default as it is now.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be sent, and send nothing.")] = False,
) -> None:
    """Send a fine-tuned checkpoint, a profile, a study or a Space to the Hub, as one commit.

    A checkpoint becomes a model, a profile or a study a data set. The token is that of `hf auth login`, or HF_TOKEN.

    Example: vitstudy push profiles/resnet-50 org/resnet-50-profile --private
    The comparison as a page on the Hub: vitstudy push study --space org/compare --profiles profiles
    """
    from . import hub
    from .releases import opened

    target = hub.check_repo(_one_target(folder, repo, space, metric))
    hub.check_revision(revision)
    if space is not None:
        given = {"--into-model": into_model, "--license": license, "--study": study}
        _refuse(given, "not of a Space")
        again = {"--revision": None if revision == hub.MAIN else revision, "--message": message, "--parent": parent}
        sending = _opened_space(
            folder,
            target,
            sdk,
            metric=(metric, requirement),
            profiles=profiles,
            live=live or [],
            again=again | {"--private": private},
        )
    else:
        _refuse(
            {"--live": live, "--metric": metric, "--requirement": requirement},
            "of a Space; name it with --space org/name",
        )
        assert folder is not None, "asked for"
        sending = opened(folder, target, profiles=profiles, study=study, into_model=into_model, license=license)
    with sending as release:
        _print_release(release, target)
        if dry_run:
            typer.echo("dry run: nothing was sent")
            return
        done = hub.push(release, target, revision=revision, message=message, private=private, parent=parent)
    for name in done.kept:
        typer.echo(f"kept {one_line(name)} there: not of this release, but changed since it came with an earlier one")
    typer.echo(f"{release.kind} -> {done.url}" if done.new else f"nothing new: all of it is at {done.url}")


def _one_target(folder: Path | None, repo: str | None, space: str | None, metric: str | None) -> str:
    """The repository or the Space, where exactly one was named, and what is to be sent there."""
    if space is not None and repo is not None:
        raise StudyError(f"one push goes to one place, got {repo} and --space {space}; leave one out")
    if space is None and (folder is None or repo is None):
        raise StudyError("push takes a folder and org/name, or --space org/name; see vitstudy push --help")
    if metric is not None and folder is not None:
        raise StudyError(f"a Space shows a study or a metric, got {folder} and --metric {metric}; leave one out")
    return repo if space is None else space  # type: ignore[return-value]


def _refuse(options: dict[str, Any], why: str) -> None:
    for name, value in options.items():
        if value:
            raise StudyError(f"{name} is {why}; leave it out" if why.startswith("not") else f"{name} is {why}")


def _opened_space(
    study: Path | None,
    space: str,
    sdk: str,
    *,
    metric: tuple[str | None, str | None],
    profiles: Path | None,
    live: list[str],
    again: dict[str, Any],
) -> AbstractContextManager[Release]:
    """The Space of a study, or of a (metric, requirement of this package); `again` are options to repeat in advice."""
    from .releases import opened_space
    from .space_release import space_folder

    name, requirement = metric
    if name is None:
        _refuse(
            {"--requirement": requirement}, "of --metric and --hf-job; a Space of a study brings this package along"
        )

        def write(folder: Path) -> None:
            space_folder(folder, study, sdk=sdk, profiles=profiles, repo=space, live=live)
    else:
        _refuse({"--profiles": profiles, "--live": live}, "of the Space of a study, not of a metric")
        from .jobs import installed_from

        needed = installed_from(requirement, extras="[study]")

        def write(folder: Path) -> None:
            from .evaluation_modules import write_module

            write_module(name, folder, sdk=sdk, requirement=needed)

    words = [
        "vitstudy",
        "push",
        *([str(study)] if study else [] if name else ["STUDY"]),
        "--space",
        space,
        "--sdk",
        "static",
    ]
    options = {"--profiles": profiles, "--metric": name, "--requirement": requirement, **again}
    for option, value in options.items():
        words += [] if value in (None, False) else [option] if value is True else [option, str(value)]
    free = f"Gradio Spaces on free hardware need a PRO account; a static one is free and never sleeps: {shlex.join(words)}"
    return opened_space(space, write, sdk=sdk, instead=free)


@app.command()
def pull(
    address: Annotated[
        str,
        typer.Argument(
            help="org/name, org/name/folder or org/name@revision; models/ or datasets/ before it where both exist."
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="New folder; by default the last part of the name.")] = None,
) -> None:
    """Copy what was pushed into a new folder, every byte checked by its manifest.

    Example: vitstudy pull org/resnet-50-profile@v1 --out profiles/resnet-50
    """
    from . import hub

    where = hub.parse_address(address)
    folder = out or Path((where.folder or where.repo).rsplit("/", 1)[-1])
    typer.echo(f"{where} -> {hub.pull(address, folder)}")


@app.command()
def collect(
    collection: Annotated[
        str, typer.Argument(help="org/title of a Collection, made where it is not there; or its slug.")
    ],
    repos: Annotated[list[str], typer.Argument(help="org/name, with datasets/ or spaces/ before it where needed.")],
    note: Annotated[str | None, typer.Option(help="Shown beside each.")] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new Collection private.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be added, and add nothing.")] = False,
) -> None:
    """Add repositories to a Collection on the Hub.

    Example: vitstudy collect "org/ViTs and ResNets" org/vit-cifar100 datasets/org/cifar100-study
    """
    from . import hub

    hub.check_collection(collection)
    items = [str(hub.parse_address(repo)) for repo in repos]
    if dry_run:
        typer.echo(f"dry run: {', '.join(items)} would be added to {collection}")
        return
    slug = hub.collect(collection, items, note=note, private=private)
    typer.echo(f"{len(items)} in {slug}")


def _print_release(release: Release, repo: str) -> None:
    sizes = release.sizes()
    rows = [(name, f"{size:,}") for name, size in sorted(sizes.items())]
    typer.echo(f"{release.kind} to {release.type} {repo}: {len(rows)} files, {sum(sizes.values()):,} bytes")
    _print_table("", ("file", "bytes"), rows)
    for name, why in release.left_out.items():
        typer.echo(f"left out {one_line(name)}: {why}")


# ---------------------------------------------------------------------------------------------------------- printing


def _print_table(
    title: str, heads: tuple[str, ...], rows: list[tuple], whole: tuple[str, ...] = (), width: int = 200
) -> None:
    """Rows in columns; those headed as in `whole` are never broken. `width` is that of a file or a pipe, which has none."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for head in heads:
        table.add_column(_plain(head), overflow="fold", no_wrap=head in whole)
    for row in rows:
        table.add_row(*[_plain(cell) for cell in row])
    Console(width=None if sys.stdout.isatty() else width).print(table)


def _plain(cell: Any) -> str:
    from rich.markup import escape

    return escape(str(cell))


def _print_best_matches(cross: xr.Dataset, name_a: str, name_b: str, measure: str = "cka", what: str = "CKA") -> None:
    from .comparison import best_matches

    rows = []
    for index, best in enumerate(best_matches(cross[measure].values.T)):
        name, cells = cross["row"].values[index], cross[measure].values[index]
        if best < 0:
            rows.append((name, "undefined: the same for every image", "", ""))
            continue
        interval = (
            f"{cells[best]:.3f} [{cross['low'].values[index, best]:.3f}, {cross['high'].values[index, best]:.3f}]"
        )
        p = f"{cross['p'].values[index, best]:.3f}" if "p" in cross else ""
        rows.append((name, str(cross["column"].values[best]), interval, p))
    title = f"most similar block of {name_b} for each block of {name_a}, n = {cross.attrs['n']} images"
    _print_table(title, ("block", "most similar", f"{what} [95 %]", "p"), rows)


def _print_judgements(judgements: list[Judgement]) -> None:
    """Verdicts, below them what they rest on: the controls of CKA claims, and what makes a statistic say less."""
    heads = (
        "id",
        "claim",
        "verdict",
        "effect [95 %]",
        "margin",
        "n",
        "p (Holm)",
        "checkpoints",
        "source",
        "conditions",
    )
    judged = [judgement for judgement in judgements if judgement.estimate]
    if judged:
        whole = ("id", "verdict", "margin", "n", "p (Holm)", "source")
        _print_table("claims", heads, [_judgement_row(judgement) for judgement in judged], whole, width=240)
    missing = [(j.claim.id, j.claim.text, _where(j) + j.note) for j in judgements if not j.estimate]
    if missing:
        typer.echo("")
        _print_table("not judged", ("id", "claim", "why"), missing, ("id",))
    controls = [
        (judgement.claim.id, " / ".join(judgement.checkpoints), control.name, _interval(control), control.text)
        for judgement in judgements
        for control in judgement.controls
    ]
    if controls:
        typer.echo("")
        _print_table("controls", ("claim", "checkpoints", "control", "effect there [range]", "what it says"), controls)
    for warning in dict.fromkeys(text for judgement in judgements for text in judgement.warnings):
        typer.echo(f"\nread with care: {warning}")


def _judgement_row(judgement: Judgement) -> tuple:
    from .agreement import counted

    claim, estimate = judgement.claim, judgement.estimate
    verdict = str(judgement.verdict)
    if estimate and judgement.alone != judgement.verdict:
        verdict += f" (alone: {judgement.alone})"
    assert estimate is not None
    return (
        claim.id,
        claim.text,
        verdict,
        f"{estimate} {claim.unit}",
        f"{claim.margin:g}",
        counted(estimate.n, estimate.unit_resampled),
        _p(judgement.p_holm),
        " / ".join(judgement.checkpoints),
        claim.source,
        textwrap.shorten(claim.conditions, 70, placeholder=" …"),
    )


def _p(value: float) -> str:
    return "" if np.isnan(value) else "<0.001" if value < 0.001 else f"{value:.3f}"


def _where(judgement: Judgement) -> str:
    return f"{' / '.join(judgement.checkpoints)}: " if judgement.checkpoints else ""


def _interval(control: Control) -> str:
    if np.isnan(control.value):
        return "undefined"
    ends = "" if np.isnan(control.low) else f" [{control.low:.3g}, {control.high:.3g}]"
    return f"{control.value:.3g}{ends}"


def _described(texts: dict[str, str]) -> str:
    """Headings and texts in two columns."""
    pad = max(map(len, texts)) + 4
    return "\n".join(
        textwrap.fill(text, 120, initial_indent=f"  {head:<{pad - 2}}", subsequent_indent=" " * pad)
        for head, text in texts.items()
    )


def _print_agreements(result: dict[str, Any]) -> None:
    """What all checkpoints come to, claim by claim, and below it why others were not judged."""
    rows = []
    for claim in result["claims"]:
        if "agreement" not in claim:
            continue
        agreement = claim["agreement"]
        counts = ", ".join(f"{count} {name}" for name, count in agreement["counts"].items() if count)
        verdict = agreement["verdict"] if agreement["estimate"]["low"] is not None else "no interval"
        effect = f"{_effect(agreement['estimate'])} {claim['unit']}"
        rows.append((f"{claim['id']}: {claim['text']}", effect, agreement["over"], verdict, counts))
    heads = ("claim", "mean effect [95 %]", "over", "verdict", "choices of checkpoints")
    _print_table(f"{result['title']}: claims over checkpoints", heads, rows)
    missing = [(claim["id"], claim["text"], claim["reason"]) for claim in result["claims"] if "reason" in claim]
    if missing:
        typer.echo("")
        _print_table("not judged", ("id", "claim", "why"), missing)
    for each in result["left_out"]:
        typer.echo(f"left out {one_line(each['key'])}: {each['reason']}")


def _effect(estimate: dict[str, Any]) -> str:
    """Of a stored estimate, whose undefined ends are null."""
    ends = "" if estimate["low"] is None else f" [{estimate['low']:.3g}, {estimate['high']:.3g}]"
    return f"{estimate['value']:.3g}{ends}"


def _print_nearest(folder: Path, out: Path, near: str) -> None:
    from .study import nearest

    checkpoint, _, block = near.rpartition(":")
    if not checkpoint:
        raise StudyError(f"--nearest must be CHECKPOINT:BLOCK, got {near!r}")
    hits = nearest(folder, out, checkpoint, block)
    rows = [(key, hit.block, f"{hit.cka:.3f} [{hit.low:.3f}, {hit.high:.3f}]") for key, hit in hits]
    _print_table(f"blocks most like {block} of {checkpoint}", ("checkpoint", "block", "CKA [95 %]"), rows)


def _write_maps(path: Path, maps: dict[str, xr.Dataset]) -> None:
    from .disk import explained

    cells = [
        {"map": key, "row": str(row), "column": str(column)}
        | {name: _number(found[name].values[i, j]) for name in found.data_vars if found[name].ndim == 2}
        for key, found in maps.items()
        for i, row in enumerate(found["row"].values)
        for j, column in enumerate(found["column"].values)
    ]
    with explained(path):
        if path.suffix == ".csv":
            fields = list(dict.fromkeys(key for cell in cells for key in cell))
            with open(path, "w", newline="") as file:
                writer = csv.DictWriter(file, fields)
                writer.writeheader()
                writer.writerows(cells)
        else:
            path.write_text(json.dumps({"n": int(maps["ab"].attrs["n"]), "cells": cells}, indent=1, allow_nan=False))


def _require_table(path: Path) -> None:
    from .disk import require_name

    if path.suffix not in (".csv", ".json"):
        raise StudyError(f"--out must end in .json or .csv, got {path.name!r}")
    require_name(path, "a file")


def _number(value: float) -> float | None:
    """A number for JSON and CSV; undefined cells become null."""
    return None if np.isnan(value) else float(value)


if __name__ == "__main__":
    main()
