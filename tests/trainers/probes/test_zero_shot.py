"""The zero-shot probe: accuracy, agreement with the teacher, banks without text."""

from dataclasses import replace

import numpy as np

from trainers.probes.features import unit
from trainers.probes.zero_shot import zero_shot


def test_the_zero_shot_probe_reports_accuracy_and_agreement(features):
    assert dict(zero_shot(replace(features, text_CD=None))) == {}
    labels = features.test_labels_N
    texts = unit(np.stack([features.teacher_ND[labels == c].mean(axis=0) for c in range(4)]))
    asked = replace(features, text_CD=texts)
    values = dict(zero_shot(asked))
    student = (features.test_ND @ texts.T).argmax(axis=1)
    teacher = (features.teacher_ND @ texts.T).argmax(axis=1)
    assert values["zero_shot/accuracy"] == np.mean(student == labels)
    assert values["zero_shot/agreement"] == np.mean(student == teacher)
    assert 0.4 < values["zero_shot/accuracy"] < values["zero_shot/centred/accuracy"] + 0.2
    itself = dict(zero_shot(replace(asked, test_ND=asked.teacher_ND)))
    assert itself["zero_shot/agreement"] == 1
    assert dict(zero_shot(replace(asked, text_CD=texts[:, :5]))) == {}  # another width
