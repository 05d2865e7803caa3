"""The short demo: its table looks like a distillation that worked, and its claims are judged."""

import json
import sys
from pathlib import Path

every = json.loads(Path(sys.argv[1]).read_text())
rows = [row for row in every if row["kind"] == "student"]
assert len(rows) == 4, f"4 groups expected, found {len(rows)}"
for row in rows:
    metrics = {name: stat["mean"] for name, stat in row["metrics"].items()}
    assert row["n"] == 1, row["n"]
    assert row["parameters"]["total"] == 811_264, row["parameters"]
    assert 0.9 < metrics["test/linear/paper/accuracy"] <= 1.0, metrics["test/linear/paper/accuracy"]
    assert 10 < metrics["test/rank/effective"] < 358, metrics["test/rank/effective"]
    assert 0.0 < metrics["test/infonce/paper"] < 4.16, metrics["test/infonce/paper"]
    assert 0.5 < metrics["test/cosine_to_teacher"] <= 1.0, metrics["test/cosine_to_teacher"]
print("the table is plausible:", [(row["arm"], row["n"]) for row in rows])

judged = [row for row in every if row["kind"] == "verdict"]
assert len(judged) == 5, f"5 claims expected, found {len(judged)}"
assert all(row["verdict"] and not row["post_hoc"] for row in judged), judged
page = Path(sys.argv[2]).read_text()
assert 'id="verdicts"' in page, "the report has no verdicts"
assert page.count("data-sign=") == len(judged), "the report has other verdicts"
print("the claims are judged:", [row["verdict"] for row in judged])
