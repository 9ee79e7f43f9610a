"""The Space under load: 50 people at once for a minute, with good, odd and hostile files. Is all answered, is memory kept?

    python benchmarks/load.py VIT_FOLDER RESNET_FOLDER [SECONDS] [PEOPLE]

Each person asks without a pause; one who is told to wait waits as long as the answer says. Every picture is of one colour,
which the answer must show: nobody may be given another's. Memory is that of the server's process, before and after the same
load (a first one, unmeasured, fills what is kept on purpose: stored answers, the allocators of torch).
"""

import base64
import io
import random
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
from PIL import Image
from space import OURS, serve


MODES = ("RGB", "L", "CMYK", "P")
PAGES = ("/", "/config", "/vitstudy/data/study.json", "/vitstudy/data/checkpoint-0.json", "/vitstudy/live")
HOSTILE: dict[str, bytes] = {
    "HTML called PNG": b"<html><script>alert(1)</script></html>",
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="http://169.254.169.254/"/></svg>',
    "cut PNG": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
    "nothing": b"",
    "12 MB": bytes(12_000_000),
}


def encoded(image: Image.Image, form: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


HOSTILE["81 million pixels in 10 kB"] = encoded(Image.new("1", (9000, 9000)), "PNG")


def good(rng: random.Random) -> tuple[bytes, tuple[int, int, int]]:
    """An image of one colour, and what it looks like in RGB."""
    colour = tuple(rng.randrange(256) for _ in range(3))
    image = Image.new("RGB", (rng.randrange(32, 900), rng.randrange(32, 900)), colour).convert(
        rng.choice(MODES), dither=Image.Dither.NONE
    )
    seen = image.convert("RGB").getpixel((0, 0))
    return (encoded(image, "JPEG", quality=98) if image.mode == "CMYK" else encoded(image, "PNG")), seen


def off(answer: dict, colour: tuple[int, int, int]) -> float:
    """How far the shown images are from a colour, of 255."""
    shown = [Image.open(io.BytesIO(base64.b64decode(side["image"].split(",")[1]))) for side in answer["sides"]]
    return max(float(np.abs(np.asarray(each.convert("RGB"), float) - colour).max()) for each in shown)


class Crowd:
    """People who ask until the time is up.

    Attributes:
        answers: how many of each kind.
    """

    def __init__(self, address: str) -> None:
        self.address, self.answers, self.waits = address, Counter(), []
        self._lock = threading.Lock()

    def load(self, seconds: float, people: int) -> None:
        until = time.monotonic() + seconds
        with ThreadPoolExecutor(people) as pool:
            list(pool.map(lambda number: self._person(number, until), range(people)))

    def _person(self, number: int, until: float) -> None:
        rng = random.Random(number)
        with httpx.Client(base_url=self.address, timeout=180) as client:
            while time.monotonic() < until:
                start = time.monotonic()
                try:
                    kind = self._ask(client, rng)
                except httpx.HTTPError as error:
                    kind = f"LOST: {type(error).__name__}"
                with self._lock:
                    self.answers[kind] += 1
                    self.waits.append(time.monotonic() - start)

    def _ask(self, client: httpx.Client, rng: random.Random) -> str:
        turn = rng.random()
        if turn < 0.2:
            status = client.get(rng.choice(PAGES)).status_code
            return f"page: {status}"
        if turn < 0.4:
            name = rng.choice(list(HOSTILE))
            found = client.post("/vitstudy/look", params={"want": "all"}, content=HOSTILE[name])
            return f"hostile: {found.status_code}"
        content, colour = good(rng)
        found = client.post("/vitstudy/look", params={"want": "all"}, content=content)
        if found.status_code != 200:
            time.sleep(float(found.headers.get("retry-after", 0)))
            return f"image: {found.status_code}"
        return "image: 200" if off(found.json(), colour) <= 4 else "image: ANOTHER'S"


def memory(pid: int) -> float:
    """Resident, in MB."""
    with open(f"/proc/{pid}/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS")) / 1000


def main() -> None:
    live, numbers = sys.argv[1:3], [float(each) for each in sys.argv[3:]]
    seconds, people = (numbers + [60, 50][len(numbers) :])[:2]
    process, address = serve(OURS, *live)
    address = address.rstrip("/")
    try:
        while httpx.get(f"{address}/vitstudy/live").json()["state"] == "loading":
            time.sleep(0.5)
        Crowd(address).load(seconds, int(people))
        before = memory(process.pid)
        crowd = Crowd(address)
        crowd.load(seconds, int(people))
        time.sleep(2)
        after = memory(process.pid)
    finally:
        process.kill()
    print(f"{int(people)} people, {seconds:.0f} s, {sum(crowd.answers.values())} requests")
    print("\n| request: answer | count |\n|---|---:|")
    for kind, count in sorted(crowd.answers.items()):
        print(f"| {kind} | {count} |")
    print(f"\nmemory {before:.0f} -> {after:.0f} MB ({after / before - 1:+.1%})")
    print(f"waited: median {np.median(crowd.waits):.1f} s, longest {max(crowd.waits):.1f} s")


if __name__ == "__main__":
    main()
