"""Fill in a cluster file, check it before anything is billed, and end workers without a head.

    python -m sweep.cluster init                           # asks, and fills in cluster.yaml
    python -m sweep.cluster init --bucket my-bucket --region us-west-2 --ssh-from 203.0.113.7
        --worker-type g6.xlarge --max-workers 8 --key - --create
    python -m sweep.cluster init clusters/local.yaml --head 10.0.0.1 --workers 10.0.0.2,10.0.0.3
        --user me --key ~/.ssh/id_ed25519 --store /shared/store
    python -m sweep.cluster check                          # cluster.yaml in this folder
    python -m sweep.cluster check --ready                  # also: is everything filled in?
    python -m sweep.cluster check clusters/mine.yaml
    python -m sweep.cluster watch 10.0.0.5:6379 --minutes 10 -- sudo shutdown -h now

`ray up` has no dry run: a misspelt parameter, a missing file or GPUs billed on demand are found
when machines already run. `check` finds them beforehand, also in a RayJob of KubeRay and in a task
of SkyPilot. It reads the file and nothing else: it needs no account and no network. Exit status 1
where something is wrong, each named in one line.

`init` looks up what it can (the --image by its name, zones, sizes), says in a line each what is
missing, wrong or could not be checked, and makes it with --create. It also makes ~/.ray/auth_token.

`watch` runs on every worker, where cluster.yaml starts it. It returns the status of its command.
"""

from __future__ import annotations

from pathlib import Path

from shards.support.command import at_least, command, make_parser
from sweep.clusters.init import add_arguments, init
from sweep.clusters.rules import TOKEN, check, not_ready
from sweep.clusters.watchdog import watch


@command
def main(argv: list[str]) -> int:
    parser = make_parser("sweep.cluster", __doc__)
    actions = parser.add_subparsers(dest="action", required=True, metavar="init|check|watch")
    add_arguments(actions.add_parser("init", help="fill in a cluster file for AWS, or your hosts"))
    checking = actions.add_parser("check", help="name what is wrong in a cluster file")
    checking.add_argument("file", nargs="?", default="cluster.yaml", help="default: cluster.yaml")
    checking.add_argument(
        "--ready",
        action="store_true",
        help="also name the values still to fill in, and a missing authentication token",
    )
    watching = actions.add_parser("watch", help="run a command once the head is gone")
    watching.add_argument("head", metavar="HOST:PORT", help="of the head's control store")
    watching.add_argument(
        "--minutes",
        type=at_least(0.0),
        default=10.0,
        metavar="N",
        help="how long nothing may answer there (default: %(default)g)",
    )
    watching.add_argument("command", nargs="+", help="what to run then, after --")
    options = parser.parse_args(argv)
    if options.action == "init":
        print("\n".join(init(options)))
        return _check(Path(options.to or options.file), ready=True)
    if options.action == "watch":
        return watch(options.head, options.minutes, options.command)
    return _check(Path(options.file), options.ready)


def problems(path: str | Path, ready: bool = False) -> list[str]:
    """What is wrong in a cluster file, a line each; it is read, and nothing else.

    ready: also name values still to fill in, and a missing authentication token.
    Raises: ValueError where it is no cluster file; OSError.
    """
    text = Path(path).read_text()
    try:
        found = [f"{rule}: {message}" for rule, message in check(text, Path.cwd())]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if ready:
        found += [f"not ready: {line}" for line in not_ready(text, Path(TOKEN).expanduser())]
    return found


def _check(path: Path, ready: bool) -> int:
    """Print what is wrong in a cluster file; 1 where something is. Raises: as `problems`."""
    found = problems(path, ready)
    for problem in found or ["nothing wrong found"]:
        print(f"{path}: {problem}")
    return 1 if found else 0


if __name__ == "__main__":
    main()
