"""The options of a run on the command line: one for each field of Recipe, named as documented; what
is given on the line wins.

Loads neither torch nor Ray, so that --help answers at once.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from typing import Any, NoReturn

from rbnn.errors import RequestError
from rbnn.recipe import FIELDS, TYPES, Recipe, check_milestones, load_recipe


class OneLineParser(argparse.ArgumentParser):
    """Argument errors in one line, exit status 2; options are never guessed from their beginnings,
    but the nearest is named. The words of an option, joined by `_` here, may be joined by `-`.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(allow_abbrev=False, **arguments)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse's; what is left over is this parser's own error, which knows its options."""
        words = [self._as_named(word) for word in (sys.argv[1:] if args is None else args)]
        namespace, rest = super().parse_known_args(words, namespace)
        if rest:
            word = next((word for word in rest if word.startswith("-")), rest[0]).partition("=")[0]
            options = [
                option[2:]
                for option in self._option_string_actions
                if word[:2] == option[:2] == "--"
            ]
            close = difflib.get_close_matches(word[2:], options, n=1, cutoff=0.7)
            self.error(
                f"unrecognized arguments: {word}" + (f"; nearest: --{close[0]}" if close else "")
            )
        return namespace, rest

    def _as_named(self, word: str) -> str:
        name, equals, value = word.partition("=")
        known = f"{name[:2]}{name[2:].replace('-', '_')}"
        return known + equals + value if known in self._option_string_actions else word

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; see {self.prog} --help\n")


class OnOff(argparse.Action):
    """--NAME and --no_NAME."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: str | None = None) -> None:
        setattr(namespace, self.dest, not str(option).startswith("--no_"))


def add_recipe_options(parser: argparse.ArgumentParser, *, positional: bool = True) -> None:
    """RECIPE (or --recipe), and an option for each recipe field; those not given stay out of the
    namespace.
    """
    if positional:
        parser.add_argument(
            "start_from",
            nargs="?",
            metavar="RECIPE",
            help="recipe name or file to start from (rbnn recipes)",
        )
    parser.add_argument(
        "--recipe", dest="start_from_option", metavar="RECIPE", help="the same as an option"
    )
    group = parser.add_argument_group("recipe options (documented names and defaults)")
    for name, spec in FIELDS.items():
        flags = [f"--{name}"] + ([f"-{spec.metadata['short']}"] if spec.metadata["short"] else [])
        text = f"{spec.metadata['meaning']} (default: {_shown(spec.default)})".replace("%", "%%")
        if TYPES[name] is bool:
            flags.append(f"--no_{name}")
            group.add_argument(*flags, action=OnOff, nargs=0, default=argparse.SUPPRESS, help=text)
        elif name == "lr_decay_step":
            group.add_argument(
                *flags, nargs="+", metavar="EPOCH", default=argparse.SUPPRESS, help=text
            )
        else:
            group.add_argument(*flags, metavar="VALUE", default=argparse.SUPPRESS, help=text)


def _shown(default: Any) -> str:
    return "none" if default in ("", ()) else str(default)


def given_options(args: argparse.Namespace) -> dict[str, Any]:
    """The recipe fields that the command line names, as given."""
    return {name: getattr(args, name) for name in FIELDS if hasattr(args, name)}


def recipe_from(args: argparse.Namespace) -> Recipe:
    """The recipe that a parsed command line asks for: a named one, the one of a checkpoint to
    resume, or the defaults.
    """
    given = given_options(args) | _folder_of_resumed(args)
    name = args.start_from_option or args.start_from
    if name:
        return load_recipe(name, **given)
    recorded: dict[str, Any] = {}
    if given.get("resume") or given.get("evaluate"):
        from rbnn.checkpoint import load

        recorded = load(find_checkpoint(given.get("resume") or given["evaluate"])).recipe
        recorded = recorded if given.get("resume") else _for_evaluation(recorded)
    recipe = Recipe(**{**recorded, **given})
    check_milestones([given], recipe)
    return recipe


def _for_evaluation(recorded: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint's recipe without what only its training needed of a machine: an evaluation is
    one process, anywhere.
    """
    gpus = {"gpus": ""} if recorded.get("gpus", "none") != "none" else {}
    return {**recorded, "train_workers": 1, "compile": "off", **gpus}


def _folder_of_resumed(args: argparse.Namespace) -> dict[str, str]:
    """A run resumed from its folder, or from last.ckpt in it, goes on in that folder unless another
    is given.
    """
    from pathlib import Path

    given = given_options(args)
    path = Path(find_checkpoint(given["resume"])) if given.get("resume") else Path()
    if path.name != "last.ckpt" or given.keys() & {"save", "results_dir"}:
        return {}
    folder = path.parent if path.parent.name else path.parent.resolve()
    return {"results_dir": str(folder.parent), "save": folder.name}


def find_checkpoint(path: str) -> str:
    """`path`, or last.ckpt in it where it is the folder of a run."""
    from pathlib import Path

    return str(Path(path) / "last.ckpt") if Path(path).is_dir() else path


def exit_status(error: BaseException, program: str) -> int:
    """Print one line for an error a user can meet and return the exit status: 2 the request was
    wrong, 1 the run failed.
    """
    print(f"{program}: {error}", file=sys.stderr)
    return 2 if isinstance(error, RequestError) else 1
