"""The command line: `inlier COMMAND`. One command, one file; PyTorch is imported when a command runs, not before."""

from __future__ import annotations

import sys
import traceback
import warnings
from collections import Counter
from typing import Annotated, Any

import typer
import typer.core

from inlier.cli.attack import attack
from inlier.cli.calibrate import calibrate
from inlier.cli.compare import compare
from inlier.cli.demo import demo
from inlier.cli.doctor import doctor
from inlier.cli.draw import draw
from inlier.cli.evaluate import evaluate
from inlier.cli.fit import fit
from inlier.cli.harden import harden
from inlier.cli.listings import backbones, datasets, detectors, perturbations, recipes
from inlier.cli.memory import keep_memory
from inlier.cli.miou import miou
from inlier.cli.perturb import perturb
from inlier.cli.read import read
from inlier.cli.rekey import rekey
from inlier.cli.report import report
from inlier.cli.score import score
from inlier.cli.stress import stress
from inlier.cli.sweep import sweep
from inlier.cli.taps import taps
from inlier.cli.uap import uap
from inlier.cli.watch import watch
from inlier.errors import InlierError

__all__ = ["app", "run"]

EXPECTED = (InlierError, ValueError, TypeError, LookupError, OSError)
"""What bad input raises: the message is enough."""


class Once(typer.core.TyperCommand):
    """A command that refuses an option given twice, where Typer would take the last and say nothing."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As Typer does.

        Raises:
            ValueError: an option that takes one value was given again.
        """
        if not ctx.resilient_parsing:
            _, _, given = self.make_parser(ctx).parse_args(list(args))
            for parameter, times in Counter(given).items():
                if times > 1 and isinstance(parameter, typer.core.TyperOption) and not parameter.multiple:
                    raise ValueError(f"{parameter.opts[0]} was given {times} times; give it once")
        return super().parse_args(ctx, args)


app = typer.Typer(
    name="inlier",
    help="Know, at run time, when a trained vision model should not be believed.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for command in (
    demo,
    draw,
    doctor,
    taps,
    fit,
    calibrate,
    score,
    watch,
    rekey,
    read,
    sweep,
    perturb,
    uap,
    attack,
    stress,
    harden,
    miou,
    evaluate,
    compare,
    report,
):
    app.command(cls=Once)(command)
for listing in (detectors, backbones, datasets, perturbations, recipes):
    app.command(cls=Once, rich_help_panel="Listings")(listing)


@app.callback()
def settings(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, help="CPU threads to use; by default all. Give fewer where other processes keep cores busy."
        ),
    ] = None,
) -> None:
    """Know, at run time, when a trained vision model should not be believed."""
    _state["debug"] = debug
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


_state = {"debug": False}


def run() -> None:
    """Run a command. Exit codes: 0 fine, 1 an error of ours, 2 wrong use, 3 a gate failed, 130 interrupted."""
    warnings.showwarning = _say  # type: ignore[assignment]
    keep_memory()
    try:
        app()
    except EXPECTED as error:
        if _state["debug"]:
            traceback.print_exc()
        # The message of a KeyError is its argument's repr; ours are sentences.
        print(f"inlier: {error.args[0] if isinstance(error, KeyError) else error}", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        if _state["debug"]:
            traceback.print_exc()
        print(f"inlier: {type(error).__name__}: {error} (inlier --debug ... shows where)", file=sys.stderr)
        sys.exit(1)


def _say(message: Warning | str, *_: object) -> None:
    print(f"inlier: warning: {message}", file=sys.stderr)
