"""The command line. Each command imports what it needs when it runs, so that help is quick."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence

from unireplknet._version import __version__
from unireplknet.cli.about import demo, doctor, info
from unireplknet.cli.console import VisibleFormatter, first_line, say
from unireplknet.cli.data import fetch, pack
from unireplknet.cli.looking import inspect
from unireplknet.cli.reporting import report
from unireplknet.cli.scoring import evaluate, predict
from unireplknet.cli.shipping import export
from unireplknet.cli.timing import bench
from unireplknet.cli.training import train
from unireplknet.errors import Stopped, UserError, missing_extra, visible
from unireplknet.extras import EXTRAS

USAGE = """usage: unireplknet COMMAND ...   (unireplknet COMMAND --help says more)

{commands}

First steps: unireplknet demo
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The words after ``unireplknet``; by default those of the process.

    Returns:
        The exit status: 0 for success, 2 for a user's mistake, 75 where SIGTERM or SIGUSR1 stopped a training that
        the same command continues, 130 for Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(VisibleFormatter("%(message)s"))
    logging.basicConfig(handlers=[handler])
    logging.getLogger("unireplknet").setLevel(logging.INFO)
    try:
        if not words or words[0] in ("-h", "--help", "help"):
            rows = "\n".join(f"  {name:10} {doc}" for name, doc in _summaries().items())
            say(USAGE.format(commands=rows))
            return 0
        if words[0] == "--version":
            say(__version__)
            return 0
        if words[0] not in COMMANDS:
            from unireplknet.errors import nearest

            raise UserError(f"no command {words[0]!r}{nearest(words[0], COMMANDS)} (unireplknet --help lists them)")
        COMMANDS[words[0]](words[1:])
    except UserError as error:
        sys.stderr.write(f"unireplknet: error: {visible(str(error))}\n")
        return 2
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in EXTRAS:
            raise
        sys.stderr.write(f"unireplknet: error: {missing_extra(module, EXTRAS[module])}\n")
        return 2
    except Stopped as error:
        sys.stderr.write(f"unireplknet: {visible(str(error))}\n")
        return error.status
    except KeyboardInterrupt as error:
        sys.stderr.write(f"unireplknet: {error or 'stopped'}\n")
        return 130
    return 0


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    command.__name__: command
    for command in (demo, fetch, pack, train, evaluate, predict, export, bench, inspect, report, info, doctor)
}


def _summaries() -> dict[str, str]:
    return {name: first_line(command) for name, command in COMMANDS.items()}
