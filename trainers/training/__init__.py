"""The training loop, its data, its optimisers, and its state on disk."""
