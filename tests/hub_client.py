"""The command line in processes of its own, as a user starts it, but without paying for the imports each time.

As a script it is the ancestor of those processes: it has imported what no setting of the Hub touches, and forks a child for
every `Client`. That child imports `huggingface_hub`, unmodified, with the Hub's address in its environment, and forks one
process per command.
"""

import atexit
import contextlib
import functools
import gc
import importlib
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


@functools.cache
def ancestor() -> str:
    """The address of the common ancestor, which lives as long as the tests."""
    folder = tempfile.TemporaryDirectory()
    address = f"{folder.name}/socket"
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    command = [sys.executable, __file__, address]
    process = subprocess.Popen(
        command, env=inherited | {"OMP_NUM_THREADS": "1"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )

    def end() -> None:
        process.stdin.close()  # which it takes for the end
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()
        folder.cleanup()

    atexit.register(end)
    assert process.stdout.readline() == b"ready\n"
    return address


class Client:
    """`vitstudy` of an account with `token`, whose Hub is at `endpoint` and whose cache is below `home`."""

    def __init__(self, endpoint: str, home: Path, token: str | None, **environment: str) -> None:
        self.home = home
        home.mkdir(parents=True, exist_ok=True)
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        inherited |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home / "hf"), "HF_HUB_DISABLE_XET": "1"}
        inherited |= {"HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "OMP_NUM_THREADS": "1"}
        inherited |= {"HF_HUB_DISABLE_UPDATE_CHECK": "1"} | ({"HF_TOKEN": token} if token else {}) | environment
        self.environment = inherited
        self._turn = threading.Lock()
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(ancestor())
            self._talk = connection.makefile("rw")
        self._tell(inherited)

    def __call__(self, *argv: object, **options) -> Done:
        """Run a command to its end; options as for `started`."""
        with self.started(*argv, **options) as (_, wait):
            return wait()

    @contextlib.contextmanager
    def started(self, *argv: object, cache: Path | None = None, patience: float = 0, **environment: str):
        """(number of the process, function that waits for its end) of a command that runs.

        Args:
            cache: another cache than the common one.
            patience: waits of the client between tries last so many times as long.
        """
        place = str(self.home / f"command{len(list(self.home.glob('*.err'))):03d}")
        order = {"argv": [str(word) for word in argv], "place": place, "cache": cache and str(cache)}
        with self._turn:
            self._tell(order | {"environment": environment, "patience": patience})
            number, ended = int(self._talk.readline()), []

            def wait() -> Done:
                ended.append(int(self._talk.readline()))
                out, err = (Path(f"{place}.{end}").read_text(encoding="utf-8") for end in ("out", "err"))
                return Done(ended[0], out, err)

            yield number, wait
            assert ended, "the end of a command is waited for"

    def _tell(self, what: object) -> None:
        self._talk.write(json.dumps(what) + "\n")
        self._talk.flush()

    def close(self) -> None:
        self._talk.close()


def _command(order: dict) -> None:
    import time

    from huggingface_hub import constants

    from hf_vitstudy.cli import main

    for number, end in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{order['place']}.{end}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ |= order["environment"]
    if order["cache"]:
        constants.HF_HUB_CACHE = order["cache"]
    sleep = time.sleep
    time.sleep = lambda seconds: sleep(seconds * order["patience"])
    sys.argv = ["vitstudy", *order["argv"]]
    main()


def _forked(run, *arguments) -> int:
    """The number of a new process that runs a function and ends with its exit code."""
    number = os.fork()
    if number:
        return number
    code = 1
    try:
        run(*arguments)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _client(connection: socket.socket) -> None:
    """Commands of one account, in turn."""
    talk = connection.makefile("rw")
    os.environ.clear()
    os.environ |= json.loads(talk.readline())
    from huggingface_hub import CommitOperationAdd, DatasetCardData, HfApi, snapshot_download  # noqa: F401
    from huggingface_hub.utils import get_session

    get_session()
    for line in talk:
        number = _forked(_command, json.loads(line))
        talk.write(f"{number}\n")
        talk.flush()
        talk.write(f"{os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])}\n")
        talk.flush()


def _ancestor(address: str) -> None:
    sys.modules["torch"] = sys.modules["transformers"] = None  # the Hub needs neither
    for name in ("encodings.idna", "matplotlib.backends.backend_agg", "pyarrow.parquet", "rich.markup", "rich.table"):
        importlib.import_module(name)
    for name in ("comparison", "findings", "jobs", "releases", "report", "space_release"):
        importlib.import_module(f"hf_vitstudy.{name}")
    from hf_vitstudy.cli import app

    with contextlib.redirect_stdout(None):  # it imports some modules when it first runs
        app(["collect", "org/title", "org/name", "--dry-run"], standalone_mode=False)
        app(["push", "--help"], standalone_mode=False)
    gc.freeze()  # what is there stays, so that no child copies it to count it
    assert "huggingface_hub" not in sys.modules, "it reads the environment when it is imported"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        print("ready", flush=True)  # noqa: T201
        while sys.stdin not in select.select([listener, sys.stdin], [], [])[0]:
            connection, _ = listener.accept()
            _forked(_client, connection)
            connection.close()
        with contextlib.suppress(ChildProcessError):
            while True:
                os.waitpid(-1, 0)


if __name__ == "__main__":
    _ancestor(sys.argv[1])
