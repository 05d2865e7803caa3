"""FeatureBanks of given embeddings."""

from trainers.probes.features import FeatureBank, Stored, unit


def bank_of(train, labels, student, test_labels, teacher, teacher_train=None, **fields):
    """A FeatureBank of such rows; without a model unless `subject` is given."""
    return FeatureBank(
        train_ND=unit(train),
        train_labels_N=labels,
        test_ND=unit(student),
        test_labels_N=test_labels,
        teacher_ND=unit(teacher),
        teacher_train_ND=unit(train if teacher_train is None else teacher_train),
        **({"subject": Stored({})} | fields),
    )
