"""The app in a process of its own, over a small study with two small networks that look at images."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path


SERVER = """
import sys, threading
from hf_vitstudy.space import App
from hf_vitstudy.space_release import EXAMPLES_FILE, default_data
from hf_vitstudy.viewer.bundle import Packed, open_pages
study, *live = sys.argv[1:]
app = App(open_pages(study)[0], Packed(default_data() / EXAMPLES_FILE), live, {"repo": "org/space"})
print(app.launch("127.0.0.1", wait=False), flush=True)
threading.Event().wait()
"""
QUIET = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


@contextlib.contextmanager
def serving(*command: str, cwd: Path | None = None, **environment: str) -> Iterator[str]:
    """The address that a server in a process of its own prints."""
    settings = os.environ | QUIET | environment
    process = subprocess.Popen([sys.executable, *command], cwd=cwd, env=settings, stdout=subprocess.PIPE, text=True)
    try:
        told = next((line for line in process.stdout if line.startswith("http://")), None)
        assert told, "the server ended before it served"
        yield told.strip().rstrip("/")
    finally:
        process.kill()
        process.stdout.close()
        process.wait()
