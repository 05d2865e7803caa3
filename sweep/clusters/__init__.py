"""Cluster files for `ray up`: what they may hold and what makes one unsafe or wasteful."""
