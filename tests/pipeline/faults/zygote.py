"""The command line in forked children of a process that has imported everything.

    python zygote.py

Reads one JSON order a line, {"arguments", "folder", "environment", "said"}; answers the child's
process number, then, once the child has ended, its exit code. Start-up is most of what a build of
a few frames takes: so a test can afford dozens of builds that are real processes, to be killed.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from typing import Any


def import_everything() -> None:
    """What a build imports, without calling it: a fork copies no threads."""


def run(order: dict[str, Any]) -> int:
    """The command line with these arguments, in this process; its exit code."""
    from stillroom.cli import main

    said = os.open(order["said"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for descriptor in (1, 2):
        os.dup2(said, descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(order["folder"])
    os.environ.update(order["environment"])
    sys.path.insert(0, order["folder"])
    try:
        main(order["arguments"])
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    return 1


def serve() -> None:
    """Answer orders until there are no more."""
    import_everything()
    print("ready", flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            code = run(order)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
