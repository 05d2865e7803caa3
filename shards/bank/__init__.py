"""A bank of shards on disk: manifest, members of the tars, writing, reading, splits."""
