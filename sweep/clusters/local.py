"""Rules for machines that one has: their addresses, and how many of them are used."""

from __future__ import annotations

from collections.abc import Iterator

from sweep.clusters.cluster_file import ClusterFile, Rule


def addresses(file: ClusterFile) -> Iterator[str]:
    provider = file.provider
    if "coordinator_address" in provider:
        return
    head, workers = provider.get("head_ip"), provider.get("worker_ips")
    if not head or not isinstance(workers, list) or not workers:
        yield "provider needs head_ip, and worker_ips with one address or more"
        return
    for address in (head, *workers):
        if str(address) in ("localhost", "::1") or str(address).startswith("127."):
            yield f"{address}: every other machine would take this address for itself"
    if head in workers:
        yield f"worker_ips: {head} is the head's, which trains anyway; Ray would start there twice"
    for address in sorted({a for a in workers if workers.count(a) > 1 and "FILL-IN" not in a}):
        yield f"worker_ips: {address} is listed twice"


def all_used(file: ClusterFile) -> Iterator[str]:
    """Nothing is billed, so nothing is given up when idle: Ray's default starts every worker."""
    count = len(file.provider.get("worker_ips") or [])
    for name in ("min_workers", "max_workers"):
        found = file.config.get(name, count)
        if found != count:
            yield f"{name}: found {found}; with {count} worker_ips, leave it out to use all of them"


def autoscaler(file: ClusterFile) -> Iterator[str]:
    if "export" not in (line := file.start_commands["head_start_ray_commands"]) or (
        "RAY_enable_autoscaler_v2=0" not in line.partition("ray start")[0]
    ):
        yield (
            "head_start_ray_commands: export RAY_enable_autoscaler_v2=0 before ray start: the "
            "newer autoscaler counts the head as a worker, so that one worker never joins"
        )


def ssh_key(file: ClusterFile) -> Iterator[str]:
    if not (file.config.get("auth") or {}).get("ssh_private_key"):
        yield "auth.ssh_private_key is missing: the head would have no key for the workers"


RULES: tuple[Rule, ...] = (addresses, all_used, autoscaler, ssh_key)
