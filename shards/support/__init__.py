"""What every room uses and that knows no teacher: storage, retry, cache, registry, command line."""
