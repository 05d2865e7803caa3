"""The report says which draws a spread over seeds includes, and how embeddings were made."""

import pandas as pd

from sweep.reporting.draws import embeddings_and_draws


def test_draws_in_force_and_the_teachers_precision_are_said() -> None:
    made = {"teacher.precision": "bf16", "teacher.device": "cuda", "teacher.stored": "float16"}
    rows = [{"data_seed": 0, **made}, {"data_seed": 0, **made, "teacher.precision": "fp32"}]
    found = dict(embeddings_and_draws(pd.DataFrame(rows)))
    both = (
        "computed in bf16 on cuda, stored as float16; computed in fp32 on cuda, stored as float16"
    )
    assert found["teacher's embeddings"] == both
    assert found["draws"].startswith("data_seed 0: augmented views and test noise are the same for")
    own = dict(embeddings_and_draws(pd.DataFrame([{"data_seed": "per_seed"}])))
    assert set(own) == {"draws"}
    assert own["draws"].endswith("so a spread over seeds includes them")
    mixed = dict(embeddings_and_draws(pd.DataFrame([{"data_seed": 3}, {"data_seed": "per_seed"}])))
    assert "data_seed 3: " in mixed["draws"]
    assert "data_seed per_seed: " in mixed["draws"]
    assert dict(embeddings_and_draws(pd.DataFrame([{"seed": 1}]))) == {}
