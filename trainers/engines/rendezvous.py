"""Where the ranks of a trial meet that are started on several machines.

A process on the machine of the first rank serves the address. It binds a port that the system
chooses, so no other process can take the port before the ranks use it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch.distributed import TCPStore  # pyright: ignore[reportPrivateImportUsage]


@contextlib.contextmanager
def rendezvous(address: str) -> Iterator[dict[str, str]]:
    """Serve a meeting point at `address`; the environment variables with which ranks find it."""
    store = TCPStore(address, 0, world_size=None, is_master=True, wait_for_workers=False)
    try:
        yield {
            "MASTER_ADDR": address,
            "MASTER_PORT": str(store.port),
            # All ranks are clients. Otherwise the first would try to serve this port itself.
            "TORCHELASTIC_USE_AGENT_STORE": "True",
        }
    finally:
        del store  # it serves until it is deleted
