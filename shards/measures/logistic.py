# pyright: standard
# (not strict: the types of torch.unique and Tensor.split are partly unknown)
"""Multinomial logistic regression, solved to its optimum on any device.

    minimise  C * sum_n -log softmax(W x_n + b)[y_n]  +  |W|^2 / 2        (b is not penalised)

This is scikit-learn's objective (LogisticRegression, lbfgs, three classes or more). With two
classes scikit-learn fits one weight vector, the difference of our two, which makes its penalty
twice as strong: its C corresponds to C / 2 here. The gradient norm is also scikit-learn's: the
largest absolute entry of the gradient, with respect to W and b, of the objective divided by C N,
which is what its `tol` bounds. The solver is in `shards.measures.newton`, and
benchmarks/linear_probe.py compares it with others.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from shards.measures.newton import CentredFeatures, NewtonCG
from shards.support.threads import single_core_map

TOL = 1e-7
STEPS = 200  # maximum number of Newton steps


@dataclass(frozen=True)
class SoftmaxModel:
    """A classifier with logits W x + b, and how accurately it solves the problem.

    weight_CD, bias_C: float64, on the features' device. A class without a sample has weight 0 and
        bias -inf, so it is never predicted. The other biases sum to 0.
    gradient_norm: see the module's docstring, computed in float64.
    iterations: Newton steps.
    converged: gradient_norm <= tol.
    """

    weight_CD: Tensor
    bias_C: Tensor
    gradient_norm: float
    iterations: int
    converged: bool

    @torch.no_grad()
    def logits(self, x_ND: Any) -> Tensor:
        """Logits, float64 (N, C), of an array or tensor (N, D), on the model's device.

        Raises: ValueError for another shape.
        """
        rows_ND = torch.as_tensor(x_ND).to(self.weight_CD.device)
        if rows_ND.ndim != 2 or rows_ND.shape[1] != self.weight_CD.shape[1]:
            wanted = f"(N, {self.weight_CD.shape[1]})"
            raise ValueError(f"features must have shape {wanted}; got {tuple(rows_ND.shape)}")
        parts = [rows.double() @ self.weight_CD.T for rows in rows_ND.split(8192)]
        return torch.cat(parts) + self.bias_C

    def predict(self, x_ND: Any) -> Tensor:
        """The class with the largest logit, int64 (N,); ties go to the first class."""
        return self.logits(x_ND).argmax(dim=1)


def fit_softmax(
    x_ND: Tensor, labels_N: Tensor, classes: int, C: float = 1.0, tol: float = TOL
) -> SoftmaxModel:
    """Solve for float features (N, D) and integer labels (N,) in [0, classes).

    Computed on the features' device, which must support float64; the result is bit-identical for
    any number of threads. Memory: six float32 matrices (N, classes), and a float32 copy of the
    features unless they are float32 and their mean is small relative to their variance. N < D,
    D = 1 and constant features are allowed.
    Raises: ValueError for shapes, labels, NaN, fewer than two classes present, C or tol <= 0.
    """
    return SoftmaxProblem(x_ND, labels_N, classes).solve(C, tol)


def _check(x_ND: Tensor, labels_N: Tensor, classes: int) -> None:
    shape = tuple(x_ND.shape)
    if x_ND.ndim != 2 or 0 in shape or not x_ND.is_floating_point():
        raise ValueError(f"features must be floats of shape (N, D); got {x_ND.dtype} {shape}")
    if tuple(labels_N.shape) != shape[:1] or labels_N.is_floating_point():
        found = f"{labels_N.dtype} {tuple(labels_N.shape)}"
        raise ValueError(f"labels must be integers of shape ({shape[0]},); got {found}")
    low, high = int(labels_N.min()), int(labels_N.max())
    if low < 0 or high >= classes:
        raise ValueError(f"labels must lie in [0, {classes}); got {low} to {high}")
    if low == high:
        raise ValueError(f"labels must have at least 2 classes; got only class {low}")


@contextlib.contextmanager
def _one_core(device: torch.device) -> Iterator[Callable[..., Iterator[Any]]]:
    """`single_core_map`, with this thread on one core too.

    Sums inside a tensor operation then never depend on the number of threads.
    """
    with torch.no_grad(), single_core_map(str(device)) as each:
        if device.type == "cpu":
            torch.set_num_threads(1)  # single_core_map restores it at the end
        yield each


class SoftmaxProblem:
    """One data set to be solved for several C; quantities that do not depend on C are shared.

    Raises: see `fit_softmax`.
    """

    def __init__(self, x_ND: Tensor, labels_N: Tensor, classes: int) -> None:
        _check(x_ND, labels_N, classes)
        self.classes = classes
        with _one_core(x_ND.device) as each:
            self.present_K, index_N, counts_K = torch.unique(
                labels_N.to(x_ND.device).long(), return_inverse=True, return_counts=True
            )
            self.prior_K = (counts_K.double() / len(labels_N)).log()
            self.rows = CentredFeatures(x_ND.detach(), index_N, len(counts_K), each)

    def solve(
        self,
        C: float = 1.0,
        tol: float = TOL,
        start: SoftmaxModel | None = None,
        steps: int = STEPS,
    ) -> SoftmaxModel:
        """Solve for one C. `start`: an initial solution, such as that of another C.

        Large problems are first solved to tol / 2 in float32 and then finished in float64.
        Raises: ValueError for C or tol <= 0.
        """
        for name, value in (("C", C), ("tol", tol)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be a finite number above 0; got {value}")
        ridge = 1 / (C * self.rows.count)
        theta, norm, done = self._parameters(start), math.inf, 0
        with _one_core(self.prior_K.device) as each:
            if self.rows.large:
                newton = NewtonCG(self.rows, ridge, torch.float32, each)
                theta, _, done = newton.run(theta, tol / 2, steps)
            newton = NewtonCG(self.rows, ridge, torch.float64, each)
            theta, norm, more = newton.run(theta, tol, steps - done)
        return self._model(theta, norm, done + more, norm <= tol)

    def _parameters(self, start: SoftmaxModel | None) -> Tensor:
        """Initial theta (K, D + 1), bias last, for centred features and the K classes present.

        By default weights 0 and the logarithms of the class frequencies: the optimum for C = 0.
        """
        if start is None:
            weight_KD = self.prior_K.new_zeros(len(self.prior_K), len(self.rows.centre_D))
            return torch.cat([weight_KD, self.prior_K[:, None]], dim=1)
        weight_KD, bias_K = start.weight_CD[self.present_K], start.bias_C[self.present_K]
        bias_K = bias_K + weight_KD @ self.rows.centre_D.double()
        return torch.cat([weight_KD, bias_K[:, None]], dim=1)

    def _model(self, theta: Tensor, norm: float, steps: int, converged: bool) -> SoftmaxModel:
        """The model for features that are not centred, with all classes."""
        weight_KD = theta[:, :-1]
        bias_K = theta[:, -1] - weight_KD @ self.rows.centre_D.double()
        weight_CD = theta.new_zeros(self.classes, weight_KD.shape[1])
        bias_C = theta.new_full((self.classes,), -math.inf)
        weight_CD[self.present_K] = weight_KD
        bias_C[self.present_K] = bias_K - bias_K.mean()
        return SoftmaxModel(weight_CD, bias_C, norm, steps, converged)
