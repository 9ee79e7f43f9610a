"""Jobs: a command of this package on a machine of the Hub, its result pushed to a repository.

A Job sees no file of this machine, and its disk goes when it ends. So what it reads must be on the Hub; what it finds is
pushed by the command itself, to a repository that is made before the Job starts; and the package is installed from an address
that the user names. The token goes as a secret under its name, never in the command.
"""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from . import hub
from .errors import StudyError
from .markdown import one_line


TIMEOUT = "2h"  # the Hub's own default, half an hour, ends most measurements before they push
SECRET = "HF_TOKEN"
EXTRAS = "[study,hub]"

_PAID = "the Hub runs Jobs on credit; add some in the billing settings, or run the same command without --hf-job"
_URL = r"(?:git\+)?https://[^\s'\"]+"
_SECRET_NAME = re.compile(
    r".*(token|secret|passw|pwd|credential|signature|authorization|jwt).*|(.*[-_.])?(sig|auth|pass)([-_.].*)?|.*key",
    re.IGNORECASE,
)
_NAMED = re.compile(rf"hf[_-]vitstudy(?P<extras>\[[\w,-]+\])?(?P<rest>(?:\s*[=<>!~]=?[\w.*,=<>!~ ]+|\s*@\s*{_URL})?)")


@dataclass(frozen=True)
class Job:
    """Attributes:

    words: of the command, which runs in an environment of uv and pushes what it finds to `repo`.
    install: what is installed there.
    repo, type: ``org/name``, and ``model`` or ``dataset``.
    flavor: the hardware, such as ``a10g-small``; `hf jobs hardware` lists them.
    timeout: after which the Hub ends it, such as ``90m``.
    """

    words: tuple[str, ...]
    install: str
    repo: str
    type: str
    flavor: str
    timeout: str = TIMEOUT

    def __str__(self) -> str:
        """The same call as a line of the shell; `hf` takes the value of the secret from where `hf auth login` put it."""
        options = ["--flavor", self.flavor, "--timeout", self.timeout, "--secrets", SECRET, "--with", self.install]
        return shlex.join(["hf", "jobs", "uv", "run", "--detach", *options, *self.words])


def make_job(
    words: Sequence[str], requirement: str | None, *, repo: str | None, type: str, flavor: str, timeout: str = TIMEOUT
) -> Job:
    """The Job that runs the words of a command and pushes its result.

    Args:
        words: such as ``vitstudy measure org/name --images org/images``; the command understands ``--push-to``.
        requirement: see `installed_from`.
        repo, type, flavor, timeout: see `Job`.

    Raises:
        StudyError: one of them is missing or none, or a word holds a token.
    """
    if repo is None:
        raise StudyError("the disk of a Job goes when it ends; name the repository for its result: --push-to org/name")
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", flavor):
        raise StudyError(
            f"--hf-job takes a flavor such as a10g-small, got {one_line(flavor)!r}; see: hf jobs hardware"
        )
    if not re.fullmatch(r"[1-9]\d*[smhd]?", timeout):
        raise StudyError(f"--timeout is a number of s, m, h or d, such as 90m; got {one_line(timeout)!r}")
    words = (*words, "--push-to", hub.check_repo(repo))
    if hub.TOKEN.search(" ".join(words).encode()):
        raise StudyError(
            "the command holds what looks like a token of the Hub; leave it out, the Job gets yours as a secret"
        )
    for word in words:
        if Path(word).is_file():  # huggingface_hub would send it along
            raise StudyError(
                f"a file here is called {one_line(word)!r}, as a word of the command; start it from another folder"
            )
    return Job(words, installed_from(requirement), repo, type, flavor, timeout)


def installed_from(requirement: str | None, extras: str = EXTRAS) -> str:
    """A requirement of this package with all that measuring and pushing needs, as pip and uv have them.

    Args:
        extras: of the package that are wanted where the requirement names none.
        requirement: an address, ``git+https://…`` or that of a wheel; or ``hf_vitstudy==…`` where an index has it.

    Raises:
        StudyError: it is missing, on this machine, or holds a password.
    """
    form = "git+https://HOST/OWNER/REPOSITORY@COMMIT, the https:// address of a wheel, or hf_vitstudy==VERSION"
    if not requirement:
        raise StudyError(f"how shall the other machine install this package? give --requirement: {form}")
    text = requirement.strip()
    if re.search(r"://[^/]*@", text):
        raise StudyError(
            "--requirement holds a user name or password, which everybody could read; use a public address"
        )
    if _holds_secret(text):
        raise StudyError(
            "--requirement holds what looks like a token or password, which everybody could read; use a public address"
        )
    if re.fullmatch(_URL, text):
        return f"hf_vitstudy{extras} @ {text}"
    named = _NAMED.fullmatch(text)
    if not named:
        raise StudyError(f"--requirement must be {form}; got {one_line(text)!r}")
    return f"hf_vitstudy{named['extras'] or extras}{named['rest']}"


def _holds_secret(text: str) -> bool:
    """Whether an address has a token in it, or something in its query that is called like one."""
    _, *options = re.split("[?&;#]", unquote(text))
    return bool(hub.TOKEN.search(unquote(text).encode())) or any(
        _SECRET_NAME.fullmatch(name) for name, given, _ in (option.partition("=") for option in options) if given
    )


def require_on_hub(what: str, value: str, advice: str) -> str:
    """`value`, if it can be on the Hub.

    Raises:
        StudyError: it is a path of this machine.
    """
    there = re.fullmatch(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(@[^@\s]+)?", value, re.ASCII)
    if Path(value).exists() or not there or value.endswith((".parquet", ".py", ".yaml", ".yml")):
        raise StudyError(f"a Job sees no file of this machine, and {what} is {one_line(value)!r}; {advice}")
    return value


def submit(job: Job) -> str:
    """Make the repository of the result, start the Job, and return its address.

    Raises:
        StudyError: nobody is logged in, or the Hub refuses.
    """
    from huggingface_hub import HfApi, get_token

    token = get_token()
    if not token:
        raise StudyError("a Job pushes its result with your token; log in with `hf auth login`, or set HF_TOKEN")
    hub.make_repo(job.repo, job.type)
    with hub.explained("start the Job", paid=_PAID), _unlogged():
        started = HfApi(library_name="hf_vitstudy").run_uv_job(
            job.words[0],
            script_args=list(job.words[1:]),
            dependencies=[job.install],
            flavor=job.flavor,
            timeout=job.timeout,
            secrets={SECRET: token},
        )
    return str(started.url)


@contextlib.contextmanager
def _unlogged() -> Iterator[None]:
    """huggingface_hub's log of requests is silent: asked to debug, it would write down a Job's secrets."""
    from huggingface_hub.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)
