"""python page.py URI PORT: `serve_ui` until a signal ends it."""

from __future__ import annotations

import signal
import sys

from tune.serve.ui import serve_ui


def main(uri: str, port: str) -> None:
    # where tests run in the background or under nohup, these are ignored
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    serve_ui(uri, int(port))


if __name__ == "__main__":
    main(*sys.argv[1:])
