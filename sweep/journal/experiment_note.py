"""The description of an experiment in MLflow: how runs are nested, and what metric names mean."""

from __future__ import annotations

from trainers.probes.names import metrics

HEAD = """\
Students distilled from one teacher's embeddings. A run without a parent is a sweep; the runs below
it are its trials, named by seed, student and arm.

- Select the nested runs to compare them. Grouped by the tags `arm` and `capacity`, charts show
  means over seeds.
- `test/...`: measured at the end, on the test images, at step 0, so that charts are bars.
- `student/...`: parameters and multiply-accumulates of one image, as axes.
- `train/...` and `curve/...`: while training, by step.
- `teacher/...`, on the sweep's own run: the teacher measured in the same way. Where a sweep has
  several teachers or data sets, the others are `teacher 2/...`; the tags `teacher`, `teacher 2` say
  which is which.

| metric | unit | range | better | what it is |
|---|---|---|---|---|
"""


LONGEST = 19_000  # characters; MLflow takes 20,000


def experiment_note() -> str:
    """Markdown. Metrics that are arrays are left out: they are in the trials' results."""
    rows = [
        f"| `{m.pattern}` | {m.unit} | {m.range} | {m.direction} | {m.meaning} |"
        for m in metrics()
        if not m.meaning.startswith("array")
    ]
    text = HEAD
    for row in rows:
        if len(text) + len(row) > LONGEST:
            return text + "\nMore are in the project's docs/metrics.md.\n"
        text += row + "\n"
    return text
