"""Foundations that know no teacher: storage, retry, cache, registry, command line, threads."""
