"""Curvature of a loss: Hessian-vector products, eigenvalues at both ends, spectral density.

Products are plain double backward. ``torch.func.hessian``, ``jacrev(jacrev)`` and ``jvp(jacrev)`` give wrong values for the
weights of layer norms (a quarter off in torch 2.15), so none of them is used.

Power iteration, as PyHessian does it, converges to the eigenvalue of largest magnitude, positive or negative, and one after
another; Lanczos finds both ends at once in a fraction of the products, if its vectors are kept orthogonal to all before
(Golub & Van Loan, Matrix Computations, section 10.3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from .errors import StudyError


ROUNDING = 64  # times the type's precision and the largest eigenvalue: up to 16 were seen, float32 against float64


class Hessian:
    """Products of a loss' Hessian with vectors. The graph of the gradient is built once and kept for all of them.

    Args:
        loss: a scalar, with its graph. Attention must have been computed by a kernel that can be differentiated twice:
            within `twice_differentiable`, or ``eager``.
        parameters: what the Hessian is taken with respect to; the loss need not depend on all.

    Raises:
        StudyError: the graph cannot be differentiated twice.
    """

    def __init__(self, loss: Tensor, parameters: Sequence[Tensor]) -> None:
        self.parameters = list(parameters)
        self.sizes = [parameter.numel() for parameter in self.parameters]
        found = torch.autograd.grad(loss, self.parameters, create_graph=True, allow_unused=True)
        # a gradient that is missing or constant has no second derivative
        self._curved = [g is not None and g.requires_grad for g in found]
        self._gradients = [g for g, curved in zip(found, self._curved, strict=True) if g is not None and curved]
        self.gradient = _flat(found, self.parameters).detach()

    @property
    def size(self) -> int:
        """Number of parameters."""
        return sum(self.sizes)

    def __matmul__(self, vector: Tensor) -> Tensor:
        """H v, (size,), for v (size,) of the parameters' type."""
        if not self._gradients:
            return torch.zeros_like(vector)
        parts = [
            part.view_as(parameter)
            for part, parameter, curved in zip(vector.split(self.sizes), self.parameters, self._curved, strict=True)
            if curved
        ]
        try:
            found = torch.autograd.grad(
                self._gradients, self.parameters, grad_outputs=parts, retain_graph=True, allow_unused=True
            )
        except RuntimeError as error:
            if "not implemented" not in str(error):
                raise
            raise StudyError(
                f"this network has no second derivative here ({str(error).splitlines()[0]}); load it with attn='eager'"
            ) from error
        return _flat(found, self.parameters).detach()


def _flat(values: Sequence[Tensor | None], like: Sequence[Tensor]) -> Tensor:
    return torch.cat(
        [
            (torch.zeros_like(parameter) if value is None else value).reshape(-1)
            for value, parameter in zip(values, like, strict=True)
        ]
    )


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Attention by the one fused kernel that can be differentiated twice; ``eager`` attention is not affected."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with sdpa_kernel(SDPBackend.MATH):
        yield


@contextmanager
def batch_norm(network: nn.Module, mode: str) -> Iterator[None]:
    """Batch normalisation with running statistics (``eval``) or with those of the batch (``train``).

    Everything else stays in evaluation mode. Running statistics and modes are as before afterwards, to the bit.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    modes = [module.training for module in norms]
    kept = [{name: value.clone() for name, value in module.named_buffers()} for module in norms]
    try:
        for module in norms:
            module.train(mode == "train")
        yield
    finally:
        for module, training, buffers in zip(norms, modes, kept, strict=True):
            module.train(training)
            for name, value in buffers.items():
                module.get_buffer(name).copy_(value)


# ---------------------------------------------------------------------------------------------------------- Lanczos


@dataclass(frozen=True)
class Spectrum:
    """What a Lanczos run says about a symmetric matrix.

    Attributes:
        values: Ritz values, ascending, (iteration,) float64.
        residuals: ‖H x - θ x‖ of each Ritz pair, and what rounding may add to it (`ROUNDING`): an eigenvalue lies within this
            distance of the Ritz value. The residual alone falls to 1e-9 and below while float32 products are off by 1e-3.
        weights: squared first components of the tridiagonal matrix' eigenvectors. With `values` they are the Gauss quadrature
            of the spectral density as the random start sees it (Ghorbani, Krishnan & Xiao 2019, section 3); they sum to 1.
        products: matrix-vector products spent.
    """

    values: np.ndarray
    residuals: np.ndarray
    weights: np.ndarray
    products: int

    def top(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k largest values, largest first, and their residuals; NaN where the run was shorter."""
        return _first(self.values[::-1], k), _first(self.residuals[::-1], k)

    def bottom(self, k: int) -> tuple[np.ndarray, np.ndarray]:
        """The k smallest values, smallest first, and their residuals; NaN where the run was shorter."""
        return _first(self.values, k), _first(self.residuals, k)


def _first(values: np.ndarray, k: int) -> np.ndarray:
    found = np.full(k, np.nan)
    found[: len(values)] = values[:k]
    return found


def lanczos(product: Callable[[Tensor], Tensor], start: Tensor, iterations: int) -> Spectrum:
    """Eigenvalues at both ends of a symmetric matrix, by Lanczos with full reorthogonalisation.

    All vectors are kept: `iterations` · size numbers of the start's type.

    Args:
        product: v -> A v.
        start: (size,), a random direction; the density is as it sees it.
        iterations: most products to spend; fewer where an invariant space is complete.
    """
    basis = torch.zeros(min(iterations, len(start)), len(start), dtype=start.dtype, device=start.device)
    basis[0] = start / _norm(start)
    diagonal: list[float] = []
    beside: list[float] = []
    for step in range(len(basis)):
        new = product(basis[step])
        diagonal.append(_inner(new, basis[step]))
        for _ in range(2):  # once leaves what rounding put back ("twice is enough", Parlett 1980, section 6.9)
            new = new - basis[: step + 1].T @ (basis[: step + 1] @ new)
        length = _norm(new)
        beside.append(length)
        scale = max(abs(value) for value in (*diagonal, *beside[:-1], 0.0))
        if length <= 10 * torch.finfo(start.dtype).eps * scale or step + 1 == len(basis):
            break
        basis[step + 1] = new / length
    return _ritz(np.array(diagonal), np.array(beside), torch.finfo(start.dtype).eps)


def _ritz(diagonal: np.ndarray, beside: np.ndarray, eps: float) -> Spectrum:
    from scipy.linalg import eigh_tridiagonal

    values, vectors = eigh_tridiagonal(diagonal, beside[:-1])
    rounding = ROUNDING * eps * float(np.abs(values).max())
    return Spectrum(values, np.abs(beside[-1] * vectors[-1]) + rounding, vectors[0] ** 2, len(diagonal))


def _inner(first: Tensor, second: Tensor) -> float:
    if first.device.type == "mps":  # has no float64
        first, second = first.cpu(), second.cpu()
    return float(torch.dot(first.double(), second.double()))


def _norm(vector: Tensor) -> float:
    return _inner(vector, vector) ** 0.5


def random_direction(like: Sequence[Tensor], *seed: int) -> Tensor:
    """A standard normal vector over all parameters, (size,), the same on every device for the same seed."""
    size = sum(parameter.numel() for parameter in like)
    numbers = np.random.default_rng(seed).standard_normal(size, dtype=np.float32)
    return torch.from_numpy(numbers).to(like[0].device, like[0].dtype)
