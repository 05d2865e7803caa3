"""The configuration of one trial: fields, rules, durations."""
