"""arXiv 2603.06698 (v1) written out, line by line, in NumPy, SciPy and scikit-learn.

Nothing of this project is imported, so that it can be compared with. Teacher and student
embeddings are L2-normalised rows (N, D) in the order of the test set.
"""

import numpy as np
import torch
from scipy.spatial.distance import cdist
from sklearn.linear_model import LogisticRegression

BATCH = 64
TEMPERATURE = 0.1


def effective_rank(x):
    """Of the centred embeddings, p from squared singular values, 1e-10 inside the logarithm."""
    x = np.asarray(x, dtype=np.float64)
    s = np.linalg.svd(x - x.mean(axis=0), compute_uv=False)
    p = s**2 / np.sum(s**2)
    return np.exp(-np.sum(p * np.log(p + 1e-10)))


def dims_for_variance(x, share):
    """How many leading components hold `share` of the variance."""
    x = np.asarray(x, dtype=np.float64)
    s = np.linalg.svd(x - x.mean(axis=0), compute_uv=False)
    cumulative = np.cumsum(s**2 / np.sum(s**2))
    return int(np.argmax(cumulative >= share) + 1)


def subspace_alignment(student, teacher):
    """Figure 1: share of the student's centred variance in the teacher's first k components."""
    student = np.asarray(student, dtype=np.float64)
    teacher = np.asarray(teacher, dtype=np.float64)
    centred = student - student.mean(axis=0)
    _, _, components = np.linalg.svd(teacher - teacher.mean(axis=0), full_matrices=True)
    total = np.sum(centred**2)
    shares = []
    for k in range(1, teacher.shape[1] + 1):
        projected = centred @ components[:k].T
        shares.append(np.sum(projected**2) / total)
    return shares


def linear_probe(train, train_labels, batch=BATCH):
    """C = 1 on unit vectors; the last short batch of train is dropped."""
    kept = len(train) // batch * batch
    classifier = LogisticRegression(C=1.0, solver="lbfgs", max_iter=2000)
    return classifier.fit(train[:kept], train_labels[:kept])


def accuracy(classifier, x, labels):
    return np.mean(classifier.predict(x) == labels)


def infonce(student, teacher):
    """Mean over test batches of 64, the last short one with equal weight."""
    losses = []
    for start in range(0, len(student), BATCH):
        a = torch.from_numpy(np.asarray(student[start : start + BATCH], dtype=np.float64))
        b = torch.from_numpy(np.asarray(teacher[start : start + BATCH], dtype=np.float64))
        logits = a @ b.T / TEMPERATURE
        losses.append(torch.nn.functional.cross_entropy(logits, torch.arange(len(a))).item())
    return np.mean(losses)


def uniformity(x):
    """Mean over test batches of 64 of log mean exp(-2 d^2), i = j included."""
    values = []
    for start in range(0, len(x), BATCH):
        batch = np.asarray(x[start : start + BATCH], dtype=np.float64)
        squared = cdist(batch, batch) ** 2
        values.append(np.log(np.mean(np.exp(-2 * squared))))
    return np.mean(values)


def noisy(images, sigma, generator):
    """Images (N, C, H, W), normalised already: x + sigma * N(0, 1), not clipped."""
    return images + sigma * generator.standard_normal(images.shape)
