"""Reading a bank with webdataset: one sample per image from the columns of each shard.

    import webdataset as wds, shards
    data = wds.WebDataset("bank/train-{000000..000049}.tar", shardshuffle=False)
    for sample in data.compose(shards.rows):
        sample["image"], sample["label"], sample["embedding.0"]

`import shards` imports this module, so it imports nothing heavy itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any


def rows(groups: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Groups of columnar members, as webdataset yields them undecoded -> one dict per image.

    Keys: `__key__`, the sample's key; `__url__`, its shard; `image` uint8 (H, W, 3); `label` int;
    `params` int64 (V, P); and for each teacher T `embedding.T` float16 (V, D) and `norm.T` float32
    (V,). Arrays are copies, so that a shuffle buffer does not keep whole shards in memory.

    Only .npy and JSON are parsed, as in `shards.bank.members`; nothing is unpickled. Checksums are
    not compared: run `python -m shards.verify` for that.

    Raises: ValueError naming shard and member.
    """
    for group in groups:
        keys, columns = _parse(group)
        labels = columns.pop("label", None)
        for row, key in enumerate(keys):
            sample = {"__key__": key, "__url__": group.get("__url__", "")}
            sample |= {name: column[row].copy() for name, column in columns.items()}
            if labels is not None:
                sample["label"] = int(labels[row])
            yield sample


def _parse(group: dict[str, Any]) -> tuple[tuple[str, ...], dict[str, Any]]:
    # Imported here so that `import shards` does not bring in NumPy and tarfile for everyone.
    from shards.bank.members import MEMBER, parse_keys, parse_npy

    where = f"{group.get('__url__', 'shard')}: {group['__key__']}"
    members = {name: data for name, data in group.items() if not name.startswith("__")}
    for name in members:
        if MEMBER.fullmatch(f"{group['__key__']}.{name}") is None:
            raise ValueError(f"{where}.{name}: not a member of a bank's shard; refused")
    if "key.json" not in members:
        raise ValueError(f"{where}: no member key.json; this is not a shard of a bank")
    keys = parse_keys(members.pop("key.json"), f"{where}.key.json")
    columns = {}
    for name, data in members.items():
        column = name.removesuffix(".npy")
        columns[column] = parse_npy(memoryview(data), column, f"{where}.{name}")
        if len(columns[column]) != len(keys):
            raise ValueError(f"{where}.{name}: {len(columns[column])} rows for {len(keys)} keys")
    return keys, columns
