"""The paper's measures over consecutive batches of the test images, in the order of their files.

All other probes take samples in keyed order (`shards.bank.order`). The code of arXiv 2603.06698
reads the test images in the order of CIFAR-10's file, so a comparison with its published values
takes these. Of a data set that is stored class by class they measure batches of one class.
"""

from __future__ import annotations

from collections.abc import Iterator

from shards.measures.infonce import paper_infonce, paper_uniformity
from trainers.probes.base import Probe
from trainers.probes.features import FeatureBank
from trainers.probes.infonce import INFONCE


def file_order(bank: FeatureBank) -> Iterator[tuple[str, float]]:
    """InfoNCE and uniformity of the clean test images in batches of 64, in file order."""
    rows_N = slice(None) if bank.test_file_order_N is None else bank.test_file_order_N
    x_ND, y_ND = bank.test_ND[rows_N], bank.teacher_ND[rows_N]
    yield "uniformity/paper/file_order", paper_uniformity(x_ND)
    if bank.in_teacher_space:
        yield "infonce/paper/file_order", paper_infonce(x_ND, y_ND)


FILE_ORDER = Probe(
    file_order,
    uses=(INFONCE,),
    metrics="""
infonce/paper/file_order | nats | 0 upwards | lower
    infonce/paper with batches in the order of the data set's files, as the paper's code has them
uniformity/paper/file_order | ln | -8 to 0 | neither
    uniformity/paper with batches in that order
""",
)
