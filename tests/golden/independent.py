"""The measures of a trial, written out once more from their definitions in docs/metrics.md.

Nothing of this project is imported: NumPy, SciPy and scikit-learn only, on raw arrays. x, t are the
unit embeddings (N, D) of student and teacher on the test images, with `_train` on the train images;
y, y_train are labels; text (C, D) are the class embeddings. Rows are in keyed order, see `keyed`.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b

import numpy as np
from scipy.special import logsumexp
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression

Arrays = dict[str, np.ndarray]


def keyed(keys):
    """Rows in the order of a 64-bit hash of their keys, with Python's integers."""
    mask = (1 << 64) - 1

    def hashed(key):
        state = 0
        for word in (
            0x0D0E12,
            int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "little"),
        ):
            state = ((state ^ word) + 0x9E3779B97F4A7C15) & mask
            state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 & mask
            state = (state ^ (state >> 27)) * 0x94D049BB133111EB & mask
            state ^= state >> 31
        return state

    return np.array(sorted(range(len(keys)), key=lambda row: hashed(keys[row])))


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def singular(x):
    return np.linalg.svd(x - x.mean(axis=0), compute_uv=False)


def entropy_rank(p):
    p = p[p > 1e-12] / p[p > 1e-12].sum()
    return float(np.exp(-(p * np.log(p)).sum()))


def effective(x):
    return entropy_rank(singular(x) ** 2)


def roy_vetterli(x):
    s = singular(x)
    return entropy_rank(s[s > 1e-6 * s[0]])


def participation(x):
    v = singular(x) ** 2
    return float(v.sum() ** 2 / (v**2).sum())


RANKS = {"effective": effective, "roy_vetterli": roy_vetterli, "participation": participation}


def dims(x, share):
    v = singular(x) ** 2
    return float(np.argmax(np.cumsum(v) / v.sum() >= share) + 1)


def rankme(x):
    s = np.linalg.svd(x, compute_uv=False)
    p = s / s.sum() + 1e-7
    return float(np.exp(-(p * np.log(p)).sum()))


def debiased_cka(x, t):
    """Through N x N matrices, Song et al.'s estimator."""

    def hsic(a, b):
        a, b = a @ a.T, b @ b.T
        np.fill_diagonal(a, 0)
        np.fill_diagonal(b, 0)
        n = len(a)
        return (
            np.trace(a @ b)
            + a.sum() * b.sum() / ((n - 1) * (n - 2))
            - 2 / (n - 2) * a.sum(axis=0) @ b.sum(axis=0)
        )

    return float(hsic(x, t) / np.sqrt(hsic(x, x) * hsic(t, t)))


def subspace(x, t, k):
    axes = np.linalg.svd(t - t.mean(axis=0), full_matrices=False)[2][:k]
    off = x - x.mean(axis=0)
    return float(((off @ axes.T) ** 2).sum() / (off**2).sum())


def infonce(x, t, temperature=0.1):
    logits = x @ t.T / temperature
    return float((logsumexp(logits, axis=1) - np.diag(logits)).mean())


def in_batches(measure: Callable, *sets):
    return float(
        np.mean([measure(*(s[i : i + 64] for s in sets)) for i in range(0, len(sets[0]), 64)])
    )


def kernel(x, self_pairs):
    d = ((x[:, None] - x[None]) ** 2).sum(axis=2)
    kept = np.ones_like(d) > 0 if self_pairs else ~np.eye(len(x), dtype=bool)
    return float(np.log(np.exp(-2 * d)[kept].mean()))


def knn(a: Arrays, centre):
    x, x_train = unit(a["x"] - centre), unit(a["x_train"] - centre)
    hits = []
    for row, label in zip(x @ x_train.T, a["y"], strict=True):
        near = np.argsort(-row, kind="stable")[:20]
        votes = np.bincount(a["y_train"][near], np.exp(row[near] / 0.07), minlength=10)
        hits.append(votes.argmax() == label)
    return float(np.mean(hits))


def logistic(x_train, y_train, x, y, c=1.0):
    model = LogisticRegression(C=c, tol=1e-9, max_iter=20_000).fit(x_train, y_train)
    return model.predict(x) == y


def within(x, y):
    groups = [x[y == label] for label in np.unique(y)]
    inside = sum(((g - g.mean(axis=0)) ** 2).sum() for g in groups)
    ranks = {n: np.mean([m(g) for g in groups if len(g) > 1]) for n, m in RANKS.items()}
    return ranks, inside / ((x - x.mean(axis=0)) ** 2).sum()


def nearest_text(x, text):
    return (unit(x) @ unit(text).T).argmax(axis=1)


def expected(a: Arrays) -> dict[str, float]:
    """{metric: value}, names as in a result, without `test/`."""
    x, t, y, x_train, y_train = a["x"], a["t"], a["y"], a["x_train"], a["y_train"]
    mean, n = x_train.mean(axis=0), len(x)
    found = {f"rank/{name}": measure(x) for name, measure in RANKS.items()}
    found |= {f"rank/penultimate/{name}": measure(a["raw"]) for name, measure in RANKS.items()}
    found["rank/rankme"], found["rank/n"] = rankme(x), float(n)
    ranks, found["variance/within_class"] = within(x, y)
    found |= {f"rank/within_class/{name}": value for name, value in ranks.items()}
    found |= {f"dims/{p}": dims(x, p / 100) for p in (90, 95, 99)}
    found["variance"] = float(((x - x.mean(axis=0)) ** 2).sum(axis=1).mean())
    found["cosine_to_teacher"] = float((x * t).sum(axis=1).mean())
    found["alignment"] = float(((x - t) ** 2).sum(axis=1).mean())
    found["cka/debiased"] = debiased_cka(x, t)
    found |= {f"subspace/{k}": subspace(x, t, k) for k in (1, 10, 20, 50)}
    found["infonce/paper"], found["infonce/paper/reverse"] = (
        in_batches(infonce, x, t),
        in_batches(infonce, t, x),
    )
    found["infonce/full"], found["infonce/full/reverse"] = infonce(x, t), infonce(t, x)
    found["infonce/bound"] = float(np.log(n)) - infonce(x, t)
    found["infonce/bound/teacher_share"] = found["infonce/bound"] / (np.log(n) - infonce(t, t))
    found["infonce/retrieval1"] = float(((x @ t.T).argmax(axis=1) == np.arange(n)).mean())
    centred = unit(x - mean) @ unit(t - a["t_train"].mean(axis=0)).T
    found["infonce/retrieval1/centred"] = float((centred.argmax(axis=1) == np.arange(n)).mean())
    found["uniformity"], found["uniformity/with_self"] = kernel(x, False), kernel(x, True)
    found["uniformity/paper"] = in_batches(lambda b: kernel(b, True), x)
    kept = len(x_train) // 64 * 64
    right = logistic(x_train[:kept], y_train[:kept], x, y)
    found["linear/paper/accuracy"], found["linear/paper/n"] = float(right.mean()), float(kept)
    ends = binomtest(int(right.sum()), n).proportion_ci(method="wilson")
    found["linear/paper/accuracy/low"], found["linear/paper/accuracy/high"] = ends.low, ends.high
    rms = np.sqrt(((x_train - mean) ** 2).mean())
    scaled = (x_train - mean) / rms, y_train, (x - mean) / rms, y
    found["linear/standard/accuracy"] = float(logistic(*scaled, c=a["C"].item()).mean())
    found["knn/accuracy"], found["knn/centred/accuracy"] = knn(a, 0.0), knn(a, mean)
    found["zero_shot/accuracy"] = float((nearest_text(x, a["text"]) == y).mean())
    found["zero_shot/agreement"] = float(
        (nearest_text(x, a["text"]) == nearest_text(t, a["text"])).mean()
    )
    middle = unit(a["text"]) - unit(a["text"]).mean(axis=0)
    found["zero_shot/centred/accuracy"] = float((nearest_text(x - mean, middle) == y).mean())
    noisy, path = a["noisy_V"], "noise/pixel/0.1"
    model = LogisticRegression(tol=1e-9, max_iter=20_000).fit(x_train[:kept], y_train[:kept])
    accuracies = [float((model.predict(view) == y).mean()) for view in noisy]
    found[f"{path}/accuracy"] = float(np.mean(accuracies))
    found[f"{path}/accuracy_sd"] = float(np.std(accuracies, ddof=1))
    found[f"{path}/cosine"] = float(np.mean([(view * x).sum(axis=1).mean() for view in noisy]))
    found[f"{path}/rank"] = float(np.mean([effective(view) for view in noisy]))
    return {name: float(value) for name, value in found.items()}
