"""The same work by other tools: CKA of a ViT with a ResNet, Fourier spectra, and many checkpoints.

    pip install --no-deps torch_cka pytorch-cka thingsvision torchtyping 'typeguard<3'    # what is missing is left out
    OMP_NUM_THREADS=1 python benchmarks/peers.py [rounds]

Random weights in the shapes of ViT-Ti/16 and ResNet-50, one thread, CPU seconds. Tools take turns in one process; a figure is
the median over rounds of (seconds of the tool / seconds of the two bare forward passes in the same round). Memory is the peak
of a process of its own above its start. Errors are the largest difference of a cell from the minibatch estimator in float64
(tests/oracles.py) on the same states.

* torch_cka is told not to record gradients (as shipped it does, and holds every graph).
* thingsvision compares stored features, pair by pair; only its CKA class is loaded, the package needs tensorflow.
* "numpy" is what people write: store all features, then unbiased CKA of every pair, batch by batch.
* "notebook" is the published Fourier analysis of Park & Kim in our words: all latent maps of all images are kept, then
  transformed whole; the diagonal of the log amplitude is read.
"""

import contextlib
import importlib.util
import io
import statistics
import subprocess
import sys
import time
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import measuring as cost
import numpy as np
import torch

from hf_vitstudy import compare
from hf_vitstudy.analyses import make_analysis
from hf_vitstudy.blocks import hooked
from hf_vitstudy.checkpoints import Checkpoint
from hf_vitstudy.images import ImageSet
from hf_vitstudy.measuring import Run


sys.path.append(str(Path(__file__).parents[1] / "tests"))
from oracles import hsic


N, BATCH = 64, 32
PIXELS = cost.PIXELS


def pair() -> tuple[Checkpoint, Checkpoint]:
    return cost.checkpoint(cost.vit("sdpa"), "float32", False), cost.checkpoint(cost.resnet(""), "float32", False)


def pictures() -> torch.Tensor:
    """Smooth random images in [0, 1]: networks give them states that differ."""
    coarse = torch.rand(N, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.interpolate(coarse, PIXELS, mode="bicubic").clamp(0, 1)


A, B = pair()
IMAGES = pictures()
BYTES = (IMAGES * 255).round().to(torch.uint8)
IMAGES = BYTES.float() / 255
LABELS = torch.zeros(BATCH, dtype=torch.long)


def outputs(made: Checkpoint) -> list[str]:
    """Modules whose outputs are read: what every tool can name."""
    return [block.path for block in made.blocks if block.side == "output"]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stderr(io.StringIO()),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        yield


# -------------------------------------------------------------------------------------------------------- one pair


def bare() -> None:
    with torch.inference_mode():
        for made in (A, B):
            for part in IMAGES.split(BATCH):
                made.network(made.normalise(part))


def profile_of(made: Checkpoint, *names: str):
    run = Run(made, ImageSet([{}] * N), [make_analysis(name) for name in names], BATCH)
    for start in range(0, N, BATCH):
        run.step(BYTES[start : start + BATCH], LABELS, torch.arange(start, start + BATCH))
    return run.profile()


def ours() -> np.ndarray:
    """Both profiles, then the map with its interval; only the cells that the others have are returned."""
    profiles = [profile_of(made, "cka") for made in (A, B)]
    cells = compare(*profiles, draws=100).cka("ab")["cka"].values
    rows, columns = ([block.side == "output" for block in made.blocks] for made in (A, B))
    return cells[np.ix_(rows, columns)]


class Normalised(torch.nn.Module):
    """A network that takes what the other does: images in [0, 1]."""

    def __init__(self, made: Checkpoint) -> None:
        super().__init__()
        self.network, self.made = made.network, [made]

    def forward(self, images):
        return self.network(self.made[0].normalise(images))


def loader():
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(IMAGES), BATCH)


def torch_cka() -> np.ndarray:
    from torch_cka import CKA

    names = [[f"network.{path}" for path in outputs(made)] for made in (A, B)]
    a, b = Normalised(A), Normalised(B)
    with quiet(), torch.no_grad():
        found = CKA(a, b, "a", "b", *names)
        found.compare(loader())
    for module in (*a.modules(), *b.modules()):
        module._forward_hooks.clear()  # it leaves them behind
    return found.export()["CKA"].numpy()


def pytorch_cka() -> np.ndarray:
    from cka import compute_cka

    names = [[f"network.{path}" for path in outputs(made)] for made in (A, B)]
    with quiet():
        found = compute_cka(
            Normalised(A), Normalised(B), loader(), layers=names[0], model2_layers=names[1], progress=False
        )
    return found[0].numpy()


def stored(made: Checkpoint) -> list[np.ndarray]:
    """All features of all images, (n, feature) per place: gigabytes."""
    kept: list[list[np.ndarray]] = [[] for _ in made.blocks]
    with (
        torch.inference_mode(),
        hooked(made.network, made.blocks, lambda i, raw: kept[i].append(raw.flatten(1).numpy().copy())),
    ):
        for part in IMAGES.split(BATCH):
            made.network(made.normalise(part))
    return [np.concatenate(parts) for block, parts in zip(made.blocks, kept, strict=True) if block.side == "output"]


def numpy_cka(dtype=np.float32) -> np.ndarray:
    grams = [
        [[part.astype(dtype) @ part.astype(dtype).T for part in np.split(x, N // BATCH)] for x in stored(made)]
        for made in (A, B)
    ]
    cross, rows, columns = (
        np.array([[sum(hsic(K, L) for K, L in zip(x, y, strict=True)) for y in right] for x in left])
        for left, right in ((grams[0], grams[1]), (grams[0], grams[0]), (grams[1], grams[1]))
    )
    return cross / np.sqrt(np.outer(rows.diagonal(), columns.diagonal()))


def thingsvision() -> np.ndarray:
    """Its unbiased CKA takes all images at once: another estimator, so it has no error here."""
    folder = Path(importlib.util.find_spec("thingsvision").submodule_search_locations[0]) / "core" / "cka"
    package = types.ModuleType("thingsvision_cka")
    package.__path__ = [str(folder)]
    sys.modules["thingsvision_cka"] = package
    from thingsvision_cka.cka_torch import CKATorch

    rows, columns = ([torch.from_numpy(x) for x in stored(made)] for made in (A, B))
    tool = CKATorch(m=N, kernel="linear", unbiased=True, device="cpu")
    return np.array([[float(tool.compare(X=x, Y=y)) for y in columns] for x in rows])


PAIR: dict[str, Callable] = {
    "two bare forward passes": bare,
    "hf_vitstudy": ours,
    "pytorch-cka": pytorch_cka,
    "torch_cka": torch_cka,
    "numpy": numpy_cka,
    "thingsvision": thingsvision,
}


# --------------------------------------------------------------------------------------------------------- Fourier


def notebook(made: Checkpoint) -> list[np.ndarray]:
    latents: list[list[torch.Tensor]] = [[] for _ in made.blocks]
    with torch.no_grad(), hooked(made.network, made.blocks, lambda i, raw: latents[i].append(raw.clone())):
        for part in IMAGES.split(BATCH):
            made.network(made.normalise(part))
    curves = []
    for block, parts in zip(made.blocks, latents, strict=True):
        latent = torch.cat(parts)
        if latent.ndim == 3:
            latent = latent[:, block.prefix_count :].transpose(1, 2).unflatten(2, block.grid)
        amplitude = (torch.fft.fft2(latent).abs() + 1e-6).log()
        h, w = block.grid
        amplitude = amplitude.roll((h // 2, w // 2), (2, 3)).mean((0, 1))
        diagonal = amplitude.diag()[h // 2 :]
        curves.append((diagonal - diagonal[0]).numpy())
    return curves


def forward_of(made: Checkpoint) -> None:
    with torch.inference_mode():
        for part in IMAGES.split(BATCH):
            made.network(made.normalise(part))


def fourier_cases(made: Checkpoint) -> dict[str, Callable]:
    return {
        "bare forward pass": lambda: forward_of(made),
        "hf_vitstudy": lambda: profile_of(made, "fourier"),
        "hf_vitstudy, paper mode too": lambda: profile_with_paper(made),
        "notebook": lambda: notebook(made),
    }


def profile_with_paper(made: Checkpoint):
    run = Run(made, ImageSet([{}] * N), [make_analysis("fourier", paper_mode=True)], BATCH)
    for start in range(0, N, BATCH):
        run.step(BYTES[start : start + BATCH], LABELS, torch.arange(start, start + BATCH))
    return run.profile()


# -------------------------------------------------------------------------------------------------------- measuring


def seconds(run: Callable) -> tuple[float, object]:
    start = time.process_time()
    found = run()
    return time.process_time() - start, found


def table(title: str, cases: dict[str, Callable], rounds: int, memory: Callable[[str], str], truth=None) -> None:
    times: dict[str, list[float]] = {}
    errors: dict[str, str] = {}
    for name, run in cases.items():
        try:
            found = run()  # warm-up, imports
        except ImportError as missing:
            print(f"left out {name}: {missing}", file=sys.stderr)
            continue
        times[name] = []
        comparable = truth is not None and isinstance(found, np.ndarray) and name != "thingsvision"
        errors[name] = f"{np.nanmax(np.abs(found - truth)):.0e}" if comparable else ""
    for _ in range(rounds):
        for name in times:
            times[name].append(seconds(cases[name])[0])
    base = next(iter(times))
    print(f"| {title} | divided by {base} | CPU seconds | peak, MiB | largest error |\n|---|---|---|---|---|")
    for name, found in times.items():
        ratio = statistics.median(above / below for above, below in zip(found, times[base], strict=True))
        print(
            f"| {name} | {ratio:.2f} | {statistics.median(found):.1f} | {memory(name)} | {errors[name]} |", flush=True
        )
    print()


def peak_of(what: str) -> Callable[[str], str]:
    """Peak memory of one case in a process of its own."""

    def run(name: str) -> str:
        done = subprocess.run(
            [sys.executable, __file__, "peak", what, name], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    return run


def print_peak(what: str, name: str) -> None:
    cases = {"pair": PAIR, "vit": fourier_cases(A), "resnet": fourier_cases(B)}[what]
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # a process begins with the peak of the one that started it
    cases[name]()
    print(memory("VmHWM") - before)


def memory(field: str) -> int:
    """A line of Linux's record of this process, MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith(field + ":"))


def many(counts: tuple[int, ...] = (2, 4, 6)) -> None:
    """All pairs of K checkpoints: we measure each once, the others run both networks of every pair."""
    print(
        "| checkpoints | pairs | hf_vitstudy, CPU seconds | pytorch-cka, CPU seconds | ratio |\n|---|---|---|---|---|"
    )
    global B
    resnet = B
    for count in counts:
        start = time.process_time()
        profiles = [profile_of(A, "cka") for _ in range(count)]
        for i in range(count):
            for j in range(i):
                compare(profiles[i], profiles[j], draws=100).cka("ab")
        mine = time.process_time() - start
        B = A
        start = time.process_time()
        for _ in range(count * (count - 1) // 2):
            pytorch_cka()
        theirs = time.process_time() - start
        B = resnet
        print(
            f"| {count} | {count * (count - 1) // 2} | {mine:.1f} | {theirs:.1f} | {theirs / mine:.1f} |", flush=True
        )


def main() -> None:
    torch.set_num_threads(1)
    if sys.argv[1:2] == ["peak"]:
        print_peak(*sys.argv[2:])
        return
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    truth = numpy_cka(np.float64)
    table("CKA of ViT-Ti/16 with ResNet-50", PAIR, rounds, peak_of("pair"), truth)
    table("Fourier spectra of ViT-Ti/16", fourier_cases(A), rounds, peak_of("vit"))
    table("Fourier spectra of ResNet-50", fourier_cases(B), rounds, peak_of("resnet"))
    with contextlib.suppress(ImportError):
        many()


if __name__ == "__main__":
    main()
