"""Solvers of the linear probe at one tolerance: CPU seconds, memory, gradient norm, agreement.

    python benchmarks/linear_probe.py                                 # 50,000 x 512, one thread
    python benchmarks/linear_probe.py --samples 5000 --classes 10     # for a first look

All minimise C times the sum of the cross-entropies plus |W|^2 / 2 with C = 1, on unit vectors in a
narrow cone with the spectrum of CLIP's embeddings of CIFAR-10 (effective rank about 90), until the
largest absolute entry of the gradient of the objective over C N is at most `--tol`:

    ours                    shards.measures.logistic, truncated Newton-CG (Kronecker preconditioner)
    sklearn lbfgs           LogisticRegression(solver="lbfgs"), the default of scikit-learn
    sklearn newton-cg       ... solver="newton-cg"
    sklearn newton-cholesky ... solver="newton-cholesky", which holds the (K D)^2 Hessian
    scipy trust-ncg         scipy.optimize.minimize on whitened features, products by NumPy
    torch LBFGS             torch.optim.LBFGS with strong Wolfe line search

Each runs in a process of its own, in float64 (`ours` decides by itself), on the same rows from a
file. Time is that of the process (user and system), so that other load on the machine matters
little; memory is the peak of the resident set above what it was before the fit. The gradient norm
is computed by one function for all. Ends with 1 where the fastest other solver that reaches the
tolerance takes less than 3 times our CPU seconds, or fewer than 99.9 % of the predictions agree.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from ratios import Ratio, finish
from scipy.optimize import OptimizeResult, minimize
from sklearn.linear_model import LogisticRegression

from shards.measures.logistic import fit_softmax
from shards.measures.spectrum import effective_rank

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
RATIO, AGREEMENT = 3.0, 0.999
MEMORY = 8 << 30  # a solver that would need more for its Hessian alone is not started
Weights = tuple[np.ndarray, np.ndarray]  # (K, D) and (K,)
Solver = Callable[[np.ndarray, np.ndarray, float], tuple[Weights, int]]


def embeddings(count: int, dim: int, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors float32 (N, D) around one direction, and labels (N,)."""
    rng = np.random.default_rng(0)
    deviation_D = (np.arange(dim) + 7.0) ** -0.785
    labels_N = rng.integers(0, classes, count)
    centres_CD = 0.2 * rng.normal(size=(classes, dim)) * deviation_D
    rows_ND = centres_CD[labels_N] + rng.normal(size=(count, dim)) * deviation_D
    rows_ND = rows_ND @ np.linalg.qr(rng.normal(size=(dim, dim)))[0]
    rows_ND /= np.sqrt((rows_ND**2).sum(axis=1).mean())
    middle_D = rng.normal(size=dim)
    rows_ND += 1.5 * middle_D / np.linalg.norm(middle_D)
    rows_ND /= np.linalg.norm(rows_ND, axis=1, keepdims=True)
    return rows_ND.astype(np.float32), labels_N


def gradient_norm(weights: Weights, x_ND: np.ndarray, labels_N: np.ndarray) -> float:
    """Largest absolute entry of the gradient of the objective over C N, in float64, C = 1."""
    weight_KD, bias_K = (array.astype(np.float64) for array in weights)
    wide_ND = x_ND.astype(np.float64)
    p_NK = probabilities(wide_ND @ weight_KD.T + bias_K)
    p_NK[np.arange(len(labels_N)), labels_N] -= 1
    by_weight = (p_NK.T @ wide_ND + weight_KD) / len(x_ND)
    return max(float(np.abs(by_weight).max()), float(np.abs(p_NK.mean(axis=0)).max()))


def probabilities(logits_NK: np.ndarray) -> np.ndarray:
    p_NK = np.exp(logits_NK - logits_NK.max(axis=1, keepdims=True))
    return p_NK / p_NK.sum(axis=1, keepdims=True)


# ---- solvers ----


def ours(x_ND: np.ndarray, labels_N: np.ndarray, tol: float) -> tuple[Weights, int]:
    rows, labels = torch.from_numpy(x_ND), torch.from_numpy(labels_N)
    model = fit_softmax(rows, labels, int(labels_N.max()) + 1, tol=tol)
    return (model.weight_CD.numpy(), model.bias_C.numpy()), model.iterations


def scikit_learn(solver: str) -> Solver:
    def solve(x_ND: np.ndarray, labels_N: np.ndarray, tol: float) -> tuple[Weights, int]:
        model = LogisticRegression(C=1.0, solver=solver, tol=tol, max_iter=5000)
        model.fit(x_ND.astype(np.float64), labels_N)
        return (model.coef_, model.intercept_), int(model.n_iter_[0])

    return solve


def trust_ncg(x_ND: np.ndarray, labels_N: np.ndarray, tol: float) -> tuple[Weights, int]:
    """Features z = (x - mean) T, T = V / sqrt(lambda), so that W = U T^T for parameters U."""
    count, classes = len(x_ND), int(labels_N.max()) + 1
    mean_D = x_ND.mean(axis=0, dtype=np.float64)
    centred_ND = x_ND.astype(np.float64) - mean_D
    values_D, vectors_DD = np.linalg.eigh(centred_ND.T @ centred_ND / count)
    whiten_DD = vectors_DD / np.sqrt(values_D)
    z_ND = centred_ND @ whiten_DD
    del centred_ND
    ridge_D = 1 / values_D / count  # of the penalty |U T^T|^2 / 2 over N
    shape = (classes, z_ND.shape[1] + 1)
    state: dict[str, np.ndarray] = {}

    def evaluate(theta: np.ndarray) -> tuple[float, np.ndarray]:
        u = theta.reshape(shape)
        logits_NK = z_ND @ u[:, :-1].T + u[:, -1]
        top_N = logits_NK.max(axis=1)
        own_N = logits_NK[np.arange(count), labels_N]
        loss = np.log(np.exp(logits_NK - top_N[:, None]).sum(axis=1)) + top_N - own_N
        p_NK = probabilities(logits_NK)
        state["p"] = p_NK.copy()
        p_NK[np.arange(count), labels_N] -= 1
        gradient = np.concatenate([p_NK.T @ z_ND, p_NK.sum(axis=0)[:, None]], axis=1) / count
        gradient[:, :-1] += ridge_D * u[:, :-1]
        state["theta"], state["gradient"] = theta.copy(), gradient
        return float(loss.mean() + (ridge_D * u[:, :-1] ** 2).sum() / 2), gradient.ravel()

    def product(theta: np.ndarray, vector: np.ndarray) -> np.ndarray:
        if not np.array_equal(theta, state["theta"]):
            evaluate(theta)
        v, p_NK = vector.reshape(shape), state["p"]
        pull_NK = p_NK * (z_ND @ v[:, :-1].T + v[:, -1])
        pull_NK -= p_NK * pull_NK.sum(axis=1, keepdims=True)
        out = np.concatenate([pull_NK.T @ z_ND, pull_NK.sum(axis=0)[:, None]], axis=1) / count
        out[:, :-1] += ridge_D * v[:, :-1]
        return out.ravel()

    def stop(intermediate_result: OptimizeResult) -> None:
        """At the tolerance in the original coordinates: dL/dW = dL/dU T^-1 + dL/db mean^T."""
        if not np.array_equal(intermediate_result.x, state["theta"]):
            evaluate(intermediate_result.x)
        by_u, by_bias = state["gradient"][:, :-1], state["gradient"][:, -1:]
        by_weight = by_u @ (vectors_DD * np.sqrt(values_D)).T + by_bias * mean_D
        if max(np.abs(by_weight).max(), np.abs(by_bias).max()) <= tol:
            raise StopIteration

    found = minimize(
        evaluate,
        np.zeros(shape).ravel(),
        method="trust-ncg",
        jac=True,
        hessp=product,
        callback=stop,
        options={"gtol": 0.0, "maxiter": 1000},
    )
    u = found.x.reshape(shape)
    weight_KD = u[:, :-1] @ whiten_DD.T
    return (weight_KD, u[:, -1] - weight_KD @ mean_D), int(found.nit)


def torch_lbfgs(x_ND: np.ndarray, labels_N: np.ndarray, tol: float) -> tuple[Weights, int]:
    rows, labels = torch.from_numpy(x_ND).double(), torch.from_numpy(labels_N)
    classes = int(labels_N.max()) + 1
    weight_KD = torch.zeros(classes, rows.shape[1], dtype=torch.float64, requires_grad=True)
    bias_K = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight_KD, bias_K],
        max_iter=20_000,
        max_eval=40_000,
        tolerance_grad=tol,
        tolerance_change=0.0,
        line_search_fn="strong_wolfe",
    )

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(rows @ weight_KD.T + bias_K, labels)
        loss = loss + weight_KD.square().sum() / (2 * len(rows))
        loss.backward()
        return loss

    optimizer.step(closure)
    steps = int(optimizer.state[weight_KD]["n_iter"])
    return (weight_KD.detach().numpy(), bias_K.detach().numpy()), steps


SOLVERS: dict[str, Solver] = {
    "ours": ours,
    "sklearn lbfgs": scikit_learn("lbfgs"),
    "sklearn newton-cg": scikit_learn("newton-cg"),
    "scipy trust-ncg": trust_ncg,
    "torch LBFGS": torch_lbfgs,
    "sklearn newton-cholesky": scikit_learn("newton-cholesky"),
}


# ---- one solver, in a process of its own ----


def resident(field: str) -> float:
    """MiB of this process: resident (VmRSS) or its peak (VmHWM). Linux only."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def child(name: str, folder: Path, tol: float, limit: int) -> None:
    """Fit and print one JSON object; killed by SIGXCPU after `limit` CPU seconds of fitting."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    x_ND, labels_N = np.load(folder / "x.npy"), np.load(folder / "labels.npy")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before = resident("VmRSS")
    used = time.process_time()
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (int(used) + limit, hard))
    weights, steps = SOLVERS[name](x_ND, labels_N, tol)
    seconds = time.process_time() - used
    peak = resident("VmHWM") - before
    resource.setrlimit(resource.RLIMIT_CPU, (hard, hard))
    predictions_N = (x_ND @ weights[0].T + weights[1]).argmax(axis=1)
    np.save(folder / f"{name}.npy", predictions_N)
    norm = gradient_norm(weights, x_ND, labels_N)
    print(json.dumps({"seconds": seconds, "mib": peak, "norm": norm, "steps": steps}))


def run(name: str, folder: Path, tol: float, limit: int) -> dict[str, float] | str:
    """Its figures, or why there are none."""
    command = [sys.executable, __file__, "--child", name, "--folder", str(folder)]
    command += ["--tol", str(tol), "--limit", str(limit)]
    environment = os.environ | dict.fromkeys(THREADS, "1")
    ran = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    if ran.returncode == -signal.SIGXCPU:
        return f"over {limit} CPU s"
    if ran.returncode:
        return (ran.stderr.strip().splitlines() or ["failed"])[-1]
    return json.loads(ran.stdout.splitlines()[-1])


def compare(
    samples: int, dim: int, classes: int, names: list[str], tol: float, limit: int
) -> tuple[Ratio | None, bool]:
    """Print the table of one number of classes; our ratio, and whether predictions agree."""
    x_ND, labels_N = embeddings(samples, dim, classes)
    cone = float(np.linalg.norm(x_ND.mean(axis=0)) ** 2)
    print(f"{samples:,} x {dim}, {classes} classes, 1 thread, gradient norm {tol:g}")
    print(f"effective rank {effective_rank(x_ND):.1f}, mean cosine {cone:.2f}", flush=True)
    found: dict[str, dict[str, float]] = {}
    agree = True
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        np.save(folder / "x.npy", x_ND)
        np.save(folder / "labels.npy", labels_N)
        for name in names:
            hessian = 8 * (classes * (dim + 1)) ** 2
            if name == "sklearn newton-cholesky" and hessian > MEMORY:
                print(f"  {name:24} not run: its Hessian alone is {hessian / 2**30:.0f} GiB")
                continue
            result = run(name, folder, tol, limit)
            if isinstance(result, str):
                print(f"  {name:24} {result}", flush=True)
                continue
            same = np.mean(np.load(folder / f"{name}.npy") == np.load(folder / "ours.npy"))
            reached = result["norm"] <= 2 * tol
            if reached:
                found[name] = result
                agree &= bool(same >= AGREEMENT)
            print(
                f"  {name:24} {result['seconds']:7.1f} CPU s {result['mib']:7.0f} MiB "
                f"{int(result['steps']):5} steps  gradient {result['norm']:.1e}"
                f"{'' if reached else ' (not reached)'}  agreement {same:.3%}",
                flush=True,
            )
    others = {name: r["seconds"] for name, r in found.items() if name != "ours"}
    if not others:
        print("  no other solver reached the tolerance in time", flush=True)
        return None, agree
    best = min(others, key=lambda name: others[name])
    ratio = others[best] / found["ours"]["seconds"]
    paces = f"{found['ours']['seconds']:.1f} against {others[best]:.1f} CPU s at equal gradients"
    what = f"linear probe, {samples:,} x {dim}, {classes} classes, against {best}"
    return Ratio(what, ratio, RATIO, measured=paces), agree


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--solvers", nargs="+", default=list(SOLVERS), metavar="NAME")
    parser.add_argument("--tol", type=float, default=1e-7)
    parser.add_argument("--limit", type=int, default=300, help="CPU seconds for each fit")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.folder, options.tol, options.limit)
        return 0
    names = ["ours", *(name for name in options.solvers if name != "ours")]
    kept = [
        compare(options.samples, options.dim, classes, names, options.tol, options.limit)
        for classes in options.classes
    ]
    ratios = [ratio for ratio, _ in kept if ratio is not None]
    return finish(ratios, all(agree for _, agree in kept))


if __name__ == "__main__":
    sys.exit(main())
