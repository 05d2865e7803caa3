"""Show how a sweep stands: trials done, running, failed and left, steps a second, time left.

    python -m sweep.status runs/full                    # once
    python -m sweep.status runs/full --watch            # again and again, until Ctrl-C
    python -m sweep.status s3://bucket/sweep --json     # from any machine that reaches the store

It reads the store alone (trials/*/journal, results, leases), so it also works where the sweep's
folder is out of reach, and after the machine that ran the sweep is gone. It changes nothing.

Exit status: 0, also for a sweep with failed trials; 2 where there is no sweep.
"""

from __future__ import annotations

import json
import time
from typing import Any

from shards.support.command import above, command, make_parser


def status(run: str, sweep: str | None = None) -> dict[str, Any]:
    """How a sweep stands now, as `--json` prints it.

    run: its folder, or the folder or URL of its store. sweep: which one, by id or name, where the
    store has several.
    Raises: ValueError where there is no sweep, or none of that name; OSError.
    """
    from sweep.journal.run_record import find_sweep
    from sweep.journal.status import StatusReader

    return StatusReader(*find_sweep(run, sweep)).read().as_plain()


@command
def main(argv: list[str]) -> int:
    parser = make_parser("sweep.status", __doc__)
    parser.add_argument(
        "run", metavar="RUN", help="a run's folder, or the folder or URL of its store"
    )
    parser.add_argument("--watch", action="store_true", help="show it again and again")
    parser.add_argument(
        "--every",
        type=above(0.0),
        default=5.0,
        metavar="SECONDS",
        help="with --watch: time between two looks at the store (default: %(default)g)",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object for each look")
    parser.add_argument(
        "--sweep", metavar="ID|NAME", help="which sweep, where the store has several"
    )
    options = parser.parse_args(argv)
    from rich.console import Console
    from rich.live import Live

    from sweep.journal.overview import Overview, view
    from sweep.journal.run_record import find_sweep
    from sweep.journal.status import StatusReader

    store, sweep = find_sweep(options.run, options.sweep)
    reader, console = StatusReader(store, sweep), Console()

    def ended(overview: Overview) -> bool:
        return not options.watch or overview.remaining_seconds == 0.0

    if options.json or not (options.watch and console.is_terminal):
        while True:
            overview = reader.read()
            if options.json:
                print(json.dumps(overview.as_plain()), flush=True)
            else:
                console.print(view(overview), soft_wrap=True)
            if ended(overview):
                return 0
            time.sleep(options.every)
    with Live(console=console, auto_refresh=False) as live:
        while True:
            overview = reader.read()
            live.update(view(overview), refresh=True)
            if ended(overview):
                return 0
            time.sleep(options.every)


if __name__ == "__main__":
    main()
