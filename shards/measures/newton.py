# pyright: standard
# (not strict: the types of torch.linalg are partly unknown)
"""Truncated Newton-CG for multinomial logistic regression (`shards.measures.logistic`).

Each Newton step solves H d = -g approximately by preconditioned conjugate gradients, which need
only products of the Hessian with a vector: one pass over the features, and no (K D)^2 matrix. The
inner solve ends at a tolerance relative to the gradient (a forcing term), because an exact solution
is of no use far from the optimum.

Preconditioner: the Kronecker product A x S plus ridge * I, with S the second moment (D, D) of the
centred features and A (K, K) the mean over samples of diag(p) - p p^T. Where all samples have the
same p that is the Hessian itself, and it remains close to it, so a step takes few products. S may
come from a sample of the rows, since a preconditioner need not be exact.

Precision: products are float32 where features are many; parameters, sums over chunks, the last
steps and the reported gradient are always float64. Chunks and the order of their sums are fixed,
so the number of threads changes no bit. Matrices of all samples are class-major, (K, N): the fast
layout for few classes.

Sources: Nocedal & Wright, Numerical Optimization, 2006, ch. 7.1 (line-search Newton-CG); Dembo,
Eisenstat & Steihaug, SIAM J. Numer. Anal. 1982 (forcing terms); Bach, Electron. J. Stat. 2010 (how
much the Hessian of a logistic loss can change along a step); Martens & Grosse, ICML 2015
(Kronecker-factored curvature).

Shapes: N samples, D features, K classes that are present, B samples of a chunk.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

Each = Callable[..., Iterator[Any]]
Task = Callable[[slice], tuple[Tensor, ...]]

SMALL = 1 << 20  # entries of the features up to which everything is computed in float64
CHUNK = {"cpu": 1 << 19}  # entries of a chunk, to fit a CPU's cache; other devices: 1 << 26
SAMPLE = 16  # rows per feature from which the second moment is estimated
# Float32 rows are not copied but centred within the computation, as long as the squared norm of
# their mean is at most this multiple of their variance. Above it, cancellation costs too many
# digits.
FAR = 100
SLABS = 16  # groups of chunks; each has one partial sum, and may run on its own core
FORCING = 0.05  # conjugate gradients end at this share of the gradient, or just below tol
PRODUCTS = 200  # maximum number of Hessian products per Newton step
SAFE = 0.3  # a full step that changes no difference of two logits by more needs no line search
SLOPE = 0.3  # a line search ends at this share of the first slope
STALLS = 3  # after so many full steps that do not halve the gradient, rounding is the limit


class CentredFeatures:
    """Centred features (N, D) in chunks, their labels in [0, K), and their second moment.

    values_D, axes_DD: eigenvalues and eigenvectors of the second moment. The bias compensates for
    the centring exactly. Float32 features are not copied: their mean (`shift_D`) is subtracted
    within the computation, unless cancellation would cost digits. Other large features are copied
    to centred float32.
    Raises: ValueError for NaN or infinity.
    """

    def __init__(self, x_ND: Tensor, index_N: Tensor, classes: int, each: Each) -> None:
        self.x_ND, self.index_N, self.classes, self.count = x_ND, index_N, classes, len(x_ND)
        step = max(1, CHUNK.get(x_ND.device.type, 1 << 26) // x_ND.shape[1])
        spans = [slice(at, min(at + step, self.count)) for at in range(0, self.count, step)]
        ends = [len(spans) * slab // SLABS for slab in range(SLABS + 1)]
        self.slabs = [spans[a:b] for a, b in itertools.pairwise(ends) if a < b]
        self.exact = torch.float64 if x_ND.dtype == torch.float64 else torch.float32
        self.large = x_ND.numel() > SMALL
        (total_D,) = self.sums(each, lambda at: (x_ND[at].to(self.exact).sum(dim=0),))
        self._check(total_D)
        self.centre_D = (total_D / self.count).to(self.exact)
        self.keep_N = self._sample()
        (second_DD,) = self.sums(each, self._second)
        values_D, self.axes_DD = torch.linalg.eigh(second_DD / int(self.keep_N.sum()))
        self.values_D = values_D.clamp(min=0)
        distance, variance = float(self.centre_D.square().sum()), float(self.values_D.sum())
        self.raw = self.large and x_ND.dtype == torch.float32 and distance <= FAR * variance
        self.shift_D = self.centre_D.double() if self.raw else torch.zeros_like(total_D)
        self.narrow_ND = None
        if self.large and not self.raw:
            self.narrow_ND = torch.empty_like(x_ND, dtype=torch.float32)
            for _ in each(self._fill, self.slabs):
                pass

    def _check(self, total_D: Tensor) -> None:
        if not bool(torch.isfinite(total_D).all()):
            bad_N = ~torch.isfinite(self.x_ND).all(dim=1)
            which = f"sample {int(bad_N.int().argmax())}" if bool(bad_N.any()) else "their sum"
            raise ValueError(f"features must be finite; {which} has NaN or infinity")

    def _sample(self) -> Tensor:
        """Which rows the second moment is estimated from: bool (N,), the same in every run."""
        generator = torch.Generator().manual_seed(0)
        chosen = torch.randperm(self.count, generator=generator)[: SAMPLE * self.x_ND.shape[1]]
        keep_N = torch.zeros(self.count, dtype=torch.bool)
        keep_N[chosen] = True
        return keep_N.to(self.x_ND.device)

    def _second(self, at: slice) -> tuple[Tensor]:
        kept = self.x_ND[at][self.keep_N[at]].to(self.exact) - self.centre_D
        kept = kept.float() if self.large else kept.double()
        return (kept.T @ kept,)

    def _fill(self, spans: list[slice]) -> None:
        assert self.narrow_ND is not None
        for at in spans:
            self.narrow_ND[at] = self.x_ND[at].to(self.exact) - self.centre_D

    def get(self, at: slice, dtype: torch.dtype) -> Tensor:
        """A chunk of rows minus the centre, except for `shift_D`, which is not subtracted yet."""
        if self.raw:
            return self.x_ND[at].to(dtype)
        if self.narrow_ND is not None and dtype == torch.float32:
            return self.narrow_ND[at]
        return self.x_ND[at].double() - self.centre_D

    def sums(self, each: Each, task: Task) -> list[Tensor]:
        """Sums over chunks of each tensor that `task` returns, in float64 and in a fixed order."""

        def slab_sums(spans: list[slice]) -> list[Tensor]:
            return _add_up([part.double() for part in task(at)] for at in spans)

        return _add_up(each(slab_sums, self.slabs))


def _add_up(terms: Iterable[list[Tensor]]) -> list[Tensor]:
    """Sum the first tensors of all terms, the second, and so on, in place of the first term."""
    terms = iter(terms)
    total = next(terms)
    for parts in terms:
        for at, part in enumerate(parts):
            total[at] += part
    return total


class NewtonCG:
    """Newton steps in one precision, on parameters theta (K, D + 1) with the bias last."""

    def __init__(self, rows: CentredFeatures, ridge: float, dtype: torch.dtype, each: Each) -> None:
        self.rows, self.ridge, self.dtype, self.each = rows, ridge, dtype, each
        self.logits_KN = rows.x_ND.new_empty((rows.classes, rows.count), dtype=dtype)
        self.moved_KN = torch.empty_like(self.logits_KN)
        self.p_KN = torch.empty_like(self.logits_KN)

    def run(self, theta: Tensor, tol: float, limit: int) -> tuple[Tensor, float, int]:
        """(parameters, gradient norm, number of steps), from `theta` to `tol` or `limit` steps.

        Ends early where rounding does not allow a smaller gradient.
        """
        size, stalled, last, step = 0.0, 0, math.inf, 0
        while True:
            gradient, a_K, q_KK = self._evaluate(theta, size)
            norm = self._norm(gradient)
            stalled = stalled + 1 if norm > last / 2 else 0
            if norm <= tol or stalled == STALLS or step >= limit:
                return theta, norm, step
            forcing = min(0.5, max(FORCING, tol / (2 * norm)))
            direction = self._direction(gradient, a_K, q_KK, forcing)
            size, last = 1.0, norm
            if self._move(direction) > SAFE:
                size, last = self._search(theta, direction), math.inf
                if size == 0:
                    return theta, norm, step
            theta, step = theta + size * direction, step + 1

    def _split(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        """Weights (K, D) and biases (K, 1) that apply to rows as `CentredFeatures.get` returns."""
        weight_KD = vector[:, :-1]
        bias_K1 = vector[:, -1:] - (weight_KD @ self.rows.shift_D)[:, None]
        return weight_KD.to(self.dtype).contiguous(), bias_K1.to(self.dtype)

    def _finish(self, weight_KD: Tensor, bias_K: Tensor, theta: Tensor) -> Tensor:
        """From sums over samples to the gradient (or a product) by theta, of the objective / (C N).

        Adds the penalty, and removes the part that is the same for all classes: adding a constant
        to all logits changes nothing, so the Hessian is singular in that direction.
        """
        weight_KD = weight_KD - bias_K[:, None] * self.rows.shift_D
        out = torch.cat([weight_KD, bias_K[:, None]], dim=1) / self.rows.count
        out[:, :-1] += self.ridge * theta[:, :-1]
        return out - out.mean(dim=0)

    def _evaluate(self, theta: Tensor, size: float) -> tuple[Tensor, Tensor, Tensor]:
        """Gradient (K, D + 1); eigenvalues and eigenvectors of A without the null one, (1, ..., 1).

        The logits are updated by `size` times the change that the last direction makes, which saves
        a product with the features; with size 0 they are computed from theta.
        """
        weight_KD, bias_K1 = self._split(theta)

        def task(at: slice) -> tuple[Tensor, ...]:
            rows, logits_KB = self.rows.get(at, self.dtype), self.logits_KN[:, at]
            if size:
                logits_KB.add_(self.moved_KN[:, at], alpha=size)
            else:
                logits_KB.copy_(weight_KD @ rows.T + bias_K1)
            p_KB = torch.softmax(logits_KB, dim=0)
            self.p_KN[:, at] = p_KB
            mean_K, gram_KK = p_KB.sum(dim=1), p_KB @ p_KB.T
            label_1B = self.rows.index_N[None, at]
            rest_KB = p_KB.scatter_add_(0, label_1B, p_KB.new_full(label_1B.shape, -1))
            return rest_KB @ rows, rest_KB.sum(dim=1), mean_K, gram_KK

        sums_KD, rest_K, mean_K, gram_KK = self.rows.sums(self.each, task)
        a_KK = torch.diag(mean_K) - gram_KK
        a_KK = a_KK - a_KK.mean(dim=0) - a_KK.mean(dim=1, keepdim=True) + a_KK.mean()
        a_K, q_KK = torch.linalg.eigh(a_KK / self.rows.count)
        a_K = a_K.clamp(min=1e-12 * float(a_K[-1]))
        return self._finish(sums_KD, rest_K, theta), a_K[1:], q_KK[:, 1:]

    def _norm(self, gradient: Tensor) -> float:
        """Largest absolute entry of the gradient, in coordinates of the features as given."""
        by_bias_K1 = gradient[:, -1:]
        by_weight_KD = gradient[:, :-1] + by_bias_K1 * self.rows.centre_D
        return max(float(by_weight_KD.abs().max()), float(by_bias_K1.abs().max()))

    def _product(self, vector: Tensor) -> Tensor:
        """Hessian (of the objective over C N) times a vector (K, D + 1)."""
        weight_KD, bias_K1 = self._split(vector)

        def task(at: slice) -> tuple[Tensor, ...]:
            rows, p_KB = self.rows.get(at, self.dtype), self.p_KN[:, at]
            pull_KB = (weight_KD @ rows.T).add_(bias_K1).mul_(p_KB)
            pull_KB -= p_KB * pull_KB.sum(dim=0)
            return pull_KB @ rows, pull_KB.sum(dim=1)

        sums_KD, sums_K = self.rows.sums(self.each, task)
        return self._finish(sums_KD, sums_K, vector)

    def _direction(self, gradient: Tensor, a_K: Tensor, q_KK: Tensor, forcing: float) -> Tensor:
        """Approximate Newton direction by preconditioned conjugate gradients: always a descent."""
        axes_DD = self.rows.axes_DD
        share_KD = a_K[:, None] * self.rows.values_D + self.ridge

        def precondition(residual: Tensor) -> Tensor:
            turned = q_KK.T @ residual
            weight = (turned[:, :-1] @ axes_DD) / share_KD @ axes_DD.T
            out = q_KK @ torch.cat([weight, turned[:, -1:] / a_K[:, None]], dim=1)
            # Where only the small ridge bounds the inverse, rounding would be amplified.
            return out - out.mean(dim=0)

        residual, direction = -gradient, torch.zeros_like(gradient)
        toward = precondition(residual)
        size = first = float((residual * toward).sum())
        for _ in range(PRODUCTS):
            product = self._product(toward)
            curvature = float((toward * product).sum())
            if curvature <= 0:  # by rounding alone: the Hessian is positive definite
                break
            direction += size / curvature * toward
            residual -= size / curvature * product
            aimed = precondition(residual)
            size, before = float((residual * aimed).sum()), size
            if size <= forcing**2 * first:
                break
            toward = aimed + size / before * toward
        return direction

    def _move(self, direction: Tensor) -> float:
        """Compute the change of all logits; the largest change of a difference of two of a sample.

        If it is at most SAFE, the Hessian changes along the step by a factor below exp(SAFE), so
        the full step lowers the objective and needs no line search.
        """
        weight_KD, bias_K1 = self._split(direction)

        def furthest(spans: list[slice]) -> float:
            out = 0.0
            for at in spans:
                moved_KB = (weight_KD @ self.rows.get(at, self.dtype).T).add_(bias_K1)
                self.moved_KN[:, at] = moved_KB
                out = max(out, float((moved_KB.amax(dim=0) - moved_KB.amin(dim=0)).max()))
            return out

        return max(self.each(furthest, self.rows.slabs))

    def _search(self, theta: Tensor, direction: Tensor) -> float:
        """Line search: a step size at which the slope of the objective is small.

        The objective is convex, so its slope rises along the direction from below 0; a bracketed
        secant search finds where it is about 0. Returns 0 where rounding hides the descent.
        """
        tilt = self.ridge * float((theta[:, :-1] * direction[:, :-1]).sum())
        bend = self.ridge * float((direction[:, :-1] ** 2).sum())

        def slope(size: float) -> float:
            def task(at: slice) -> tuple[Tensor]:
                moved_KB, label_1B = self.moved_KN[:, at], self.rows.index_N[None, at]
                p_KB = torch.softmax(self.logits_KN[:, at] + size * moved_KB, dim=0)
                pull_KB = (p_KB * moved_KB).double()
                return (pull_KB.sum() - moved_KB.gather(0, label_1B).double().sum(),)

            (pull,) = self.rows.sums(self.each, task)
            return float(pull) / self.rows.count + tilt + size * bend

        first = slope(0.0)
        if first >= 0:
            return 0.0
        low, at_low, high, at_high, size = 0.0, first, math.inf, math.inf, 1.0
        for _ in range(50):
            at_size = slope(size)
            if abs(at_size) <= SLOPE * abs(first):
                break
            if at_size < 0:
                low, at_low = size, at_size
            else:
                high, at_high = size, at_size
            part = at_low / (at_low - at_high) if high < math.inf else 0.5
            size = low + (high - low) * min(0.9, max(0.1, part)) if high < math.inf else 2 * size
        return size
