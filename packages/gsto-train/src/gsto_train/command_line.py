"""What every command shares: exit statuses, one line for a failure, and how a command ends."""

import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import click

from gsto_train.interrupts import end_unstopped, settle
from gsto_train.output import OutputError, give_up, open_closed, outlive_reader

DONE, FAILED, WRONG_INPUT = 0, 1, 2
"""Exit statuses; an interrupted command ends with 128 + the signal's number."""

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
"""Settings of every command, as click takes them."""


def run_command(
    command: click.Command, name: str, arguments: Sequence[str] | None, *, interrupted: str
) -> NoReturn:
    """Run a command with `arguments` (None: the process's) and exit with the status that it returns.

    `interrupted` is what is said where it is stopped before it looks out for signals itself.
    """
    open_closed()
    if arguments is None:
        outlive_reader()
        end_unstopped()
    # Nobody who reads them can act on what Pillow thinks of the insides of a picture.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        given = None if arguments is None else list(arguments)
        status = command.main(given, name, standalone_mode=False)
    except click.ClickException as error:
        from gsto_spec.cli import usage_problem

        status = fail(name, usage_problem(error), WRONG_INPUT)
    except (KeyError, ValueError):
        from gsto_spec.cli import completion_problem

        if (problem := completion_problem(name)) is None:
            raise
        status = fail(name, problem, WRONG_INPUT)
    except (click.Abort, KeyboardInterrupt):
        status = fail(name, f"interrupted; {interrupted}", 128 + signal.SIGINT)
    except OutputError as error:
        status = fail(name, str(error), FAILED)
    except OSError as error:  # Of --help and --version, which print by themselves.
        give_up()
        status = fail(name, f"{error.filename or 'standard output'}: {error.strerror}", FAILED)
    if arguments is None:
        settle(status)
    sys.exit(status)


def attempt(
    name: str,
    work: Callable[[], int],
    *,
    interrupted: str = "run the same command again",
    unnamed: str = "standard error",
    less: str | None = None,
) -> int:
    """Return the exit status of `work`, or that of its failure, which is told in one line.

    `interrupted` says what to do then, `unnamed` what was written to where an error names no file, `less` how
    to need less memory; without it running out of memory is no failure that is known here.
    """
    from gsto_spec import GstoError
    from gsto_train.errors import InputError
    from gsto_train.interrupts import Interrupted, Interrupts

    def stopped(status: int) -> int:
        return fail(name, f"interrupted; {interrupted}", status)

    try:
        with Interrupts().installed(stopped):
            return work()
    except (InputError, GstoError) as error:
        return fail(name, str(error), WRONG_INPUT)
    except Interrupted as error:
        return stopped(error.status)
    except OSError as error:
        return fail(name, f"{error.filename or unnamed}: {error.strerror}; mend that, try again", FAILED)
    except Exception as error:
        if less is None or not out_of_memory(error):
            raise
        return fail(name, f"out of memory: {str(error) or 'none is left'}; {less}", FAILED)


def fail(name: str, message: str, status: int) -> int:
    """Say in one line what is wrong, and return the exit status."""
    from gsto_spec.errors import printable

    click.echo(f"{name}: {printable(' '.join(message.split()))}", err=True)
    return status


def path(option: str, text: str) -> Path:
    """Return the path that an option gives; raises `InputError` for one that no file can have."""
    from gsto_train.errors import InputError, is_text

    if not is_text(text):
        raise InputError(f"{option} {text!a}: expected a path in UTF-8; give another")
    return Path(text)


def out_of_memory(error: Exception) -> bool:
    """Return whether an allocation failed; frameworks and cv2 say so in types of their own."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "alloc" in text
