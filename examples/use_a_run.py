"""What a finished sweep leaves, used from Python: tables, verdicts, embeddings, students.

python -m sweep.run --grid demo
python examples/use_a_run.py runs/demo
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from PIL import Image

import distilsweep


def main(run: str) -> None:
    # The tables: a row a trial, with every field and every metric as a column.
    study = distilsweep.load(run)
    finished = study.trials[study.trials["status"] == "finished"]
    print(finished.groupby(["student", "arm"])["test/rank/effective"].agg(["mean", "std", "count"]))

    # The claims that were declared before the first trial, and the report.
    for verdict in distilsweep.verdicts(run):
        print(f"{verdict['claim']['name']}: {verdict['verdict']}")
    state = distilsweep.status(run)
    print(f"{state['finished']} trials finished, report: {distilsweep.report(run)}")

    # The shards: a torch Dataset of images, the teacher's embeddings, and labels.
    (location, *_) = sorted(Path(run, "banks").iterdir())
    bank = distilsweep.Bank(str(location), split="test")
    loader = torch.utils.data.DataLoader(bank, batch_size=50)
    images_BCHW, embedding_BD, label_B = next(iter(loader))
    print(f"{len(bank)} test images of {len(bank.classes)} classes, {bank.dim} numbers each")

    # A trial's student: pictures in, unit embeddings in the teacher's space out.
    trial = finished["trial"].iloc[0]
    student = distilsweep.load_student(Path(run, "trials", trial))
    cosine = (student(images_BCHW) * embedding_BD).sum(dim=1).mean()
    picture = Image.fromarray(images_BCHW[0].permute(1, 2, 0).numpy()).resize((120, 90))
    print(f"cosine to the teacher: {cosine:.3f}; one picture: {tuple(student(picture).shape)}")
    print(f"its label: {bank.classes[label_B[0]]}")

    # Another measurement of the same student, and a file for another tool.
    ((file, _),) = distilsweep.probe(str(Path(run, "trials", trial)), ["neighbours"])
    print(f"nearest neighbours: {file}")
    about = distilsweep.export(str(Path(run, "trials", trial)), "torch.export", f"{run}-exported")
    print(f"exported, cosine to the student {about['parity']['cosine']:.4f}")

    # One more trial on the same shards, without Ray: the first one's fields, for one step.
    config = study.config(trial) | {"epochs": None, "duration": "1 steps"}
    result = distilsweep.train(config, str(location), f"{run}-more")
    print(f"after one step the effective rank is {result.metrics['test/rank/effective']:.1f}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "runs/demo")
