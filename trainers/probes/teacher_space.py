"""Whether a student's embeddings are meant to lie in its teacher's space.

Some values compare an image's embedding with the teacher's by their cosine, or with the teacher's
text embeddings: `cosine_to_teacher`, `alignment`, `subspace`, InfoNCE and retrieval, `zero_shot`.
They mean something only where both have the same origin and axes. A student learns these from an
objective that draws each embedding to the target of the same image (`Objective.aligns`), where the
target lies in the teacher's space (`TargetKind.in_teacher_space`). An untrained or supervised
student, one of `whitened`, or one that learns distances alone (`rkd`, `sp`), has axes of its own: a
cosine to its teacher would be that of two unrelated directions, near 0 however well it has learned.
Such values are not reported for it. Those that do not depend on axes are: CKA, `retained`, ranks,
and whatever a classifier is fitted for.
"""

from __future__ import annotations

from trainers.config.schema import TrialConfig
from trainers.objectives import aligns_to_target
from trainers.objectives.targets import in_teacher_space
from trainers.students.teacher_pca import has_no_network


def learns_teacher_space(config: TrialConfig) -> bool:
    """Whether the trial's student is to reproduce its teacher in the teacher's own axes.

    Of `teacher_pca:K` that is so by its construction.
    """
    if has_no_network(config.student):
        return True
    aligned = aligns_to_target(config.objective, config.objective_fields)
    return config.trains and aligned and in_teacher_space(config.target)
