"""What a Hessian-vector product costs, and how many are needed.

    OMP_NUM_THREADS=1 python benchmarks/hessian.py [rounds] [checkpoint images]

Random weights in the shapes of ViT-Ti/16 and ResNet-50, 224 px, mini-batches of 4. A figure is the median over rounds of (CPU
seconds of a product / CPU seconds of a gradient in the same round), a gradient being a forward and a backward pass. With the
graph kept, the first backward pass is built once for all products of a mini-batch; rebuilt, it is built for each.

With a checkpoint and images: how far the ends are from those of 60 products after 10, 20 and 30, and what power iteration with
deflation (PyHessian 0.1, where it is installed) finds of the same mini-batch.
"""

import statistics
import sys
import time
from collections.abc import Callable

import measuring as cost
import numpy as np
import torch

from hf_vitstudy import load_checkpoint, load_images
from hf_vitstudy.curvature import Hessian, lanczos, random_direction, twice_differentiable
from hf_vitstudy.measuring import keep_memory


BATCH = 4


def seconds(run: Callable) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def products(name: str, network: torch.nn.Module, rounds: int) -> str:
    pixels = torch.randn(BATCH, 3, cost.PIXELS, cost.PIXELS, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(BATCH)
    parameters = list(network.parameters())
    vector = random_direction(parameters, 0)

    def loss() -> torch.Tensor:
        with twice_differentiable():
            return torch.nn.functional.cross_entropy(network(pixel_values=pixels).logits, labels)

    kept = Hessian(loss(), parameters)
    cases = {
        "gradient": lambda: torch.autograd.grad(loss(), parameters),
        "gradient, again": lambda: torch.autograd.grad(loss(), parameters),
        "product, graph kept": lambda: kept @ vector,
        "product, rebuilt": lambda: Hessian(loss(), parameters) @ vector,
    }
    for run in cases.values():
        run()
    times: dict[str, list[float]] = {what: [] for what in cases}
    for _ in range(rounds):
        for what, run in cases.items():
            times[what].append(seconds(run))
    goals = {"gradient, again": "1", "product, graph kept": "2.3", "product, rebuilt": "3.4"}
    lines = [f"| {name} | divided by a gradient | goal |", "|---|---|---|"]
    for what, goal in goals.items():
        ratios = [above / below for above, below in zip(times[what], times["gradient"], strict=True)]
        lines.append(f"| {what} | **{statistics.median(ratios):.2f}** | {goal} |")
    return "\n".join([*lines, "", f"A gradient takes {statistics.median(times['gradient']):.2f} CPU seconds.", ""])


def convergence(folder: str, images: str) -> str:
    checkpoint, data = load_checkpoint(folder), load_images(images, n=16)
    pixels = torch.stack([torch.from_numpy(checkpoint.prepare(data[i][0])) for i in range(16)]).float() / 255
    labels = torch.tensor([data[i][1] for i in range(16)])
    parameters = list(checkpoint.network.parameters())
    inputs = checkpoint.normalise(pixels)
    with twice_differentiable():
        loss = torch.nn.functional.cross_entropy(checkpoint.network(inputs).logits, labels)
    hessian, start = Hessian(loss, parameters), random_direction(parameters, 0)
    found = {count: lanczos(hessian.__matmul__, start, count) for count in (10, 20, 30, 60)}
    true = found[60]
    lines = [
        f"| {checkpoint.name}, 16 images | five largest | residuals | five smallest | residuals | error of the ends |",
        "|---|---|---|---|---|---|",
    ]
    for count, spectrum in found.items():
        ends = [(spectrum.top(5), true.top(5)), (spectrum.bottom(5), true.bottom(5))]
        errors = " and ".join(f"{abs(mine[0][0] / best[0][0] - 1):.1%}" for mine, best in ends)
        cells = " | ".join(f"{_numbers(mine[0])} | {_numbers(mine[1])}" for mine, _ in ends)
        lines.append(f"| Lanczos, {count} products | {cells} | {errors} |")
    return "\n".join([*lines, power_iteration(checkpoint, inputs, labels), ""])


def power_iteration(checkpoint, inputs: torch.Tensor, labels: torch.Tensor) -> str:
    try:
        from pyhessian import hessian
    except ImportError:
        return "\nPyHessian is not installed."

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = checkpoint.network

        def forward(self, x):
            return self.network(x).logits

    counted = [0]
    original = torch.autograd.grad

    def counting(*args, **kwargs):
        counted[0] += 1
        return original(*args, **kwargs)

    torch.autograd.grad = counting
    try:
        with twice_differentiable():
            tool = hessian(Logits(), torch.nn.CrossEntropyLoss(), data=(inputs, labels), cuda=False)
            values, _ = tool.eigenvalues(top_n=5)
    finally:
        torch.autograd.grad = original
    return f"| PyHessian, five largest by magnitude, {counted[0]} products | {_numbers(np.array(values))} | | | | |"


def _numbers(values: np.ndarray) -> str:
    return " ".join(f"{value:.3g}" for value in values)


def main() -> None:
    torch.set_num_threads(1)
    keep_memory()  # as `vitstudy measure` does
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    if len(sys.argv) > 3:
        print(convergence(sys.argv[2], sys.argv[3]))
        return
    for name, make in (("ViT-Ti/16", cost.vit), ("ResNet-50", cost.resnet)):
        print(products(name, make("eager"), rounds), flush=True)


if __name__ == "__main__":
    main()
