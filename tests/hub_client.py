"""The command line in processes of its own, as a user starts it, but without paying for the imports each time.

As a script it is the parent of those processes: it has imported what they need, with the Hub's address in its environment,
and forks one per line of JSON on its standard input.
"""

import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


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
        command = [sys.executable, __file__]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=inherited, text=True
        )
        self._turn = threading.Lock()

    def __call__(self, *argv: object, cache: Path | None = None, patience: float = 0, **environment: str) -> Done:
        """Run a command to its end.

        Args:
            cache: another cache than the common one.
            patience: waits of the client between tries last so many times as long.
        """
        place = str(self.home / f"command{len(list(self.home.glob('*.err'))):03d}")
        order = {"argv": [str(word) for word in argv], "place": place, "cache": cache and str(cache)}
        order |= {"environment": environment, "patience": patience}
        with self._turn:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            code = int(self._process.stdout.readline())
        out, err = (Path(f"{place}.{end}").read_text(encoding="utf-8") for end in ("out", "err"))
        return Done(code, out, err)

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(10)
        self._process.stdout.close()


def _child(order: dict) -> None:
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


def _parent() -> None:
    sys.modules["torch"] = sys.modules["transformers"] = None  # the Hub needs neither
    import contextlib

    from huggingface_hub import CommitOperationAdd, DatasetCardData, HfApi, snapshot_download  # noqa: F401
    from huggingface_hub.utils import get_session

    import hf_vitstudy.comparison
    import hf_vitstudy.releases  # noqa: F401
    from hf_vitstudy.cli import app

    get_session()
    with contextlib.redirect_stdout(None):  # it imports some modules when it first runs
        app(["collect", "org/title", "org/name", "--dry-run"], standalone_mode=False)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                _child(json.loads(line))
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
            except BaseException:
                import traceback

                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)  # noqa: T201


if __name__ == "__main__":
    _parent()
