"""What can be said of a trial's fields without any table of students, objectives or engines.

`trainers.canonical` says all of it, and needs torch. A sweep checks this part first, so that most
mistakes are reported in a fraction of a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shards.support.registry import split_spec
from shards.support.schema import validated
from trainers.config import rules
from trainers.config.schema import TrialConfig

NO_NETWORK, UNTRAINED = "teacher_pca", "none"  # as in trainers.students and trainers.objectives


def check_without_tables(fields: Mapping[str, Any]) -> None:
    """Check fields of a trial, objectives' own left out. Raises: ValueError, as `make_config`."""
    typed = validated(TrialConfig, rules.one_length(fields))
    values = {name: getattr(typed, name) for name in TrialConfig.model_fields}
    unused = rules.rank_fields_without_effect(values)
    values |= {name: TrialConfig.model_fields[name].default for name in unused}
    rules.check_ranks(values)
    facts = rules.Facts(
        has_network=split_spec(values["student"])[0] != NO_NETWORK,
        has_objective=values["objective"] != UNTRAINED,
        labels_only=values["objective"] == "supervised",
        second_view=False,  # whether it is true depends on the objective's fields
    )
    rules.check(values, facts)
