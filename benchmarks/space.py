"""What the served page costs beside the smallest page of Gradio: bytes, time until it can be read, time of an answer.

    python benchmarks/space.py [ROUNDS] [LIVE_A LIVE_B]

Both are served from processes of their own and opened in Debian's chromium, each time without a cache: as they are, and on a
line of 1.6 Mbit/s with 150 ms latency and a processor four times slower (Chromium's own throttling). Ready is: the claims are
drawn (ours), the text is there (hello). The rounds take turns, so that other work on the machine meets both alike; medians.
With two live checkpoints, the time from choosing an image to its answer and to the filters' is measured, too.
"""

import io
import statistics
import subprocess
import sys
import time

import numpy as np
from PIL import Image
from playwright.sync_api import Browser, sync_playwright


FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
HELLO = """
import threading
import gradio as gr
with gr.Blocks(analytics_enabled=False) as demo:
    gr.Markdown("hello world", elem_id="hello")
print(demo.launch(prevent_thread_lock=True, quiet=True, run_history=False, pwa=False, ssr_mode=False)[1], flush=True)
threading.Event().wait()
"""
OURS = """
import sys, threading
from hf_vitstudy.space import make_app
print(make_app(live=sys.argv[1:]).launch("127.0.0.1", wait=False), flush=True)
threading.Event().wait()
"""
READY = {
    "hello": "#hello p",
    "findings": ".vs[data-ready=true]",
    "explore": ".vs[data-ready=true] .readout b",
    "image": "[data-looked]",
}
SEARCH = {"hello": "", "findings": "?view=findings", "explore": "?view=cka", "image": "?view=image"}
SLOW = {"offline": False, "latency": 150, "downloadThroughput": 200_000, "uploadThroughput": 94_000}


def serve(code: str, *words: str) -> tuple[subprocess.Popen, str]:
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code, *words], stdout=subprocess.PIPE, text=True)
    return process, next(line.strip() for line in process.stdout if line.startswith("http://"))


def visit(browser: Browser, address: str, ready: str, slow: bool) -> tuple[float, int, int]:
    """(seconds until ready, bytes over the wire, requests)."""
    context = browser.new_context()
    page = context.new_page()
    session = context.new_cdp_session(page)
    session.send("Network.enable")
    if slow:
        session.send("Network.emulateNetworkConditions", SLOW)
        session.send("Emulation.setCPUThrottlingRate", {"rate": 4})
    sizes: list[int] = []
    session.on("Network.loadingFinished", lambda told: sizes.append(told["encodedDataLength"]))
    start = time.perf_counter()
    page.goto(address, wait_until="commit", timeout=120_000)
    page.wait_for_selector(ready, timeout=120_000)
    seconds = time.perf_counter() - start
    page.wait_for_timeout(300)
    context.close()
    return seconds, int(sum(sizes)), len(sizes)


def weigh(browser: Browser, addresses: dict[str, str], rounds: int) -> None:
    found = {(name, slow): [] for name in READY for slow in (False, True)}
    for _ in range(rounds):
        for name, slow in found:
            address = addresses["hello" if name == "hello" else "ours"] + SEARCH[name]
            found[name, slow].append(visit(browser, address, READY[name], slow))
    print(
        "| page | kB | requests | ready, s | ratio | ready on the slow line, s | ratio |\n|---|---:|---:|---:|---:|---:|---:|"
    )
    base = {slow: statistics.median(row[0] for row in found["hello", slow]) for slow in (False, True)}
    for name in READY:
        quick, slowly = (statistics.median(row[0] for row in found[name, slow]) for slow in (False, True))
        _, size, count = found[name, False][-1]
        ratios = quick / base[False], slowly / base[True]
        print(
            f"| {name} | {size / 1000:.0f} | {count} | {quick:.2f} | **{ratios[0]:.2f}** | {slowly:.1f} | **{ratios[1]:.2f}** |"
        )


def answer(browser: Browser, address: str, rounds: int) -> None:
    """Seconds from choosing a photograph of 1.5 megapixels to both answers, and to those for all filters."""
    file = io.BytesIO()
    coarse = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((1500, 1000), Image.Resampling.BICUBIC).save(file, "JPEG")
    page = browser.new_page()
    page.goto(f"{address}?view=image")
    page.wait_for_selector("[data-live=ready]", timeout=300_000)
    page.wait_for_selector(".sweep svg", timeout=300_000)
    first, last = [], []
    for turn in range(rounds + 1):
        start = time.perf_counter()
        page.set_input_files(
            "input[type=file]", {"name": "a.jpg", "mimeType": "image/jpeg", "buffer": file.getvalue()}
        )
        page.wait_for_selector(f"[data-looked='{turn + 2}']", timeout=300_000)
        first.append(time.perf_counter() - start)
        page.wait_for_function(f"vitstudy.added.image.turn === {turn + 2} && vitstudy.added.image.sweeps.length === 2")
        last.append(time.perf_counter() - start)
    print(
        f"\nanswer about an image: first {first[0]:.2f} s, then {statistics.median(first[1:]):.2f} s (median of {rounds}); "
    )
    print(f"filters: {statistics.median(last[1:]):.2f} s")


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    hello, ours = serve(HELLO), serve(OURS, *sys.argv[2:4])
    try:
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=FLAGS)
            weigh(browser, {"hello": hello[1], "ours": ours[1]}, rounds)
            if len(sys.argv) > 3:
                answer(browser, ours[1], rounds)
            browser.close()
    finally:
        for process, _ in (hello, ours):
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
