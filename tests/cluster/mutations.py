"""Changes to one value of a configuration, each of which a rule must find."""

import copy

GONE = object()  # in place of a value: it is removed


def put(config, path, value):
    """Set the value at `path`, remove it (GONE), or change it by a function."""
    *parents, last = path
    for key in parents:
        config = config[key]
    if value is GONE:
        del config[last]
    elif callable(value):
        changed = value(copy.deepcopy(config[last]))
        assert changed != config[last], "a mutation that changes nothing proves nothing"
        config[last] = changed
    else:
        config[last] = value
