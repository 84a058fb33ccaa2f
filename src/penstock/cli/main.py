"""`penstock`: imports the one command that is asked for, and turns errors into words and exit codes."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from importlib import util
from typing import Any

import click

from penstock.errors import PenstockError

FAILED, USAGE = 1, 2
INTERRUPTED = 130
"""As shells have it: 128 and the number of SIGINT."""

COMMANDS = {
    "init": ("service:init", "Write a commented service file, or infer one from a table."),
    "check": ("service:check", "Say what is wrong with service files, all at once."),
    "up": ("up:up", "Run services until they are told to stop."),
    "demo": ("demo:demo", "Two real streams learned live, in under two minutes."),
    "ingest": ("ingest:ingest", "Send a table's rows as events."),
    "predict": ("predict:predict", "Ask for predictions."),
    "feedback": ("predict:feedback", "Tell the answer to an earlier prediction."),
    "status": ("status:status", "How services are."),
    "versions": ("versions:versions", "What was published, the newest first."),
    "why": ("versions:why", "Why a version is served, with its numbers."),
    "history": ("history:history", "What was refused, ordered and undone, the newest first."),
    "rollback": ("hand:rollback", "Serve an earlier version again, at once."),
    "promote": ("hand:promote", "Serve the new base, or settings, in shadow now."),
    "hold": ("hand:hold", "Publish no update until it is resumed."),
    "resume": ("hand:resume", "Publish updates again."),
    "fsck": ("fsck:fsck", "Look for damage in a data folder, and repair what can be."),
    "export": ("moving:export", "Write a stopped service to one file."),
    "import": ("moving:import_", "Put a service from such a file into a data folder."),
    "lineage": ("lineage:lineage", "Where a version comes from, or where an event went."),
    "verify": ("verify:verify", "Rebuild a version from the log, and compare."),
    "erase": ("erase:erase", "Erase a subject's events, and all that was learned from them."),
    "quarantine": ("quarantine:quarantine", "What is set aside instead of learned."),
    "consolidate": ("consolidate:consolidate", "Train the base of a service now."),
    "challenge": ("challenge:challenge", "Try a changed service file beside what is served."),
    "plan": ("plan:plan", "Where a service should run, and what that costs."),
    "autoscale": ("autoscale:autoscale", "Write what scales a service on Kubernetes, tried on traffic."),
    "budget": ("budget:budget", "What was spent, what may be, and what is done about it."),
    "prices": ("prices:prices", "What machines cost an hour."),
    "bench": ("bench.group:bench", "Measure this machine, with floors and peers beside."),
}
"""Name, place of the command, and what the list says of it: the list is shown without importing any of them."""
HIDDEN = {
    "_server": "processes:server",
    "_learner": "processes:learner",
    "_consolidator": "processes:consolidator",
    "_governor": "processes:governor",
    "_consolidate": "processes:consolidate",
    "_verify": "verify:rebuild",
    "_erase": "erase:build",
}


class Commands(click.Group):
    """The commands in the order in which they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for name, (place, _) in COMMANDS.items() if util.find_spec(_module(place)) is not None]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = COMMANDS[cmd_name][0] if cmd_name in COMMANDS else HIDDEN.get(cmd_name)
        if place is None or util.find_spec(_module(place)) is None:
            return None
        command = getattr(importlib.import_module(_module(place)), place.partition(":")[2])
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            # Here, before click ends the process with 1: whoever read our output has enough of it, as `head` does.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])


def _module(place: str) -> str:
    return f"penstock.cli.{place.partition(':')[0]}"


def _show_version(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    if value:
        from importlib import metadata

        click.echo(f"penstock {metadata.version('penstock')}")
        ctx.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--version", is_flag=True, expose_value=False, is_eager=True, callback=_show_version, help="Show it.")
def cli() -> None:
    """Models that keep learning in production.

    Begin with `penstock init`, then `penstock up service.yaml`. Data goes to stdout, words to stderr.
    Exit codes: 0 done, 1 failed, 2 wrong usage or service file, 3 unhealthy or unreachable, 4 over budget.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """The console script: runs a command and exits with its code; no traceback for what a user can cause."""
    sys.exit(run(arguments))


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code."""
    try:
        result: Any = cli.main(args=arguments, prog_name="penstock", standalone_mode=False)
        if sys.stdout is not None:
            # A closed one (`>&-`) is None.
            sys.stdout.flush()
        return result if isinstance(result, int) else 0
    except PenstockError as error:
        return _report(str(error), error.advice, error.exit_code)
    except click.UsageError as error:
        error.show()
        return USAGE
    except click.ClickException as error:
        return _report(error.format_message(), "", FAILED)
    except (click.Abort, KeyboardInterrupt):
        return _report("interrupted", "", INTERRUPTED)
    except BrokenPipeError:
        # Of the last lines; a second failure at exit would be noise.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except UnicodeError as error:
        return _report(f"this is not valid UTF-8: {error}", "", FAILED)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _report(f"{where}{error.strerror or error}", "", FAILED)


def _report(message: str, hint: str, code: int) -> int:
    from penstock.cli.show import say

    click.secho("Error: ", fg="red", bold=True, nl=False, err=True)
    say(message)
    if hint:
        say(f"Hint: {hint}")
    return code
