"""The nearest-neighbour probe: accuracies of the raw and of the centred vote."""

import numpy as np

from shards.measures.knn import neighbour_labels
from tests.shards.measures.made import clouds
from tests.trainers.probes.made import bank_of
from trainers.probes.neighbours import neighbours


def test_the_knn_probe_reports_accuracy_centred_too(features):
    values = dict(neighbours(features))
    sets = features.train_ND, features.train_labels_N, features.test_ND
    truth, mean_D = features.test_labels_N, features.train_ND.mean(axis=0, dtype=float)
    assert values["knn/accuracy"] == np.mean(neighbour_labels(*sets) == truth)
    centred_N = neighbour_labels(*sets, centre_D=mean_D)
    assert values["knn/centred/accuracy"] == np.mean(centred_N == truth)
    assert 0.4 < values["knn/accuracy"] <= 1
    x, labels = clouds(40)
    perfect = dict(neighbours(bank_of(x, labels, x, labels, x)))
    assert perfect["knn/accuracy"] > 0.6
