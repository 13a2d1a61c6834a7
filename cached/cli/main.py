"""The `cached` command: its commands, and the exit code of each outcome."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from cached import __version__
from cached.cli import admin, doctor, inventory, serving, top, transfer
from cached.cli.output import print_json, printable, warn
from cached.errors import CachedError

USAGE = 2
INTERRUPTED = 130  # 128 + SIGINT, as shells expect.
BROKEN_PIPE = 141  # 128 + SIGPIPE, as shells expect.

# Click, or typer's own copy of it, depending on typer's version: the root of everything wrong with a command line.
_ClickException: type[Exception] = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)

app = typer.Typer(
    help="Keep models on this node's disk and hand out their directories.",
    epilog="Exit codes: 0 fine, 1 failed, 2 usage, 3 not cached, 4 denied, 5 no space, 6 corrupt, 69 no daemon.",
    add_completion=False,
    rich_markup_mode=None,  # Plain help: brackets in examples are text, and a pipe gets the same as a terminal.
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)

_COMMANDS: dict[Callable[..., int], tuple[str, ...]] = {
    serving.serve: (
        "cached serve --config /etc/cached/config.toml",
        "cached serve --root /mnt/nvme/cached --socket /tmp/cached.sock --listen 127.0.0.1:9464",
    ),
    transfer.pull: (
        "cached pull hf://org/name@main",
        "cached pull s3://bucket/llama --include '*.safetensors' --include '*.json'",
        "cached pull org/name --keep 2h",
        "cached pull --dry-run s3://bucket/llama",
        'vllm serve "$(cached pull org/name)"',
    ),
    transfer.path: ("cached path hf://org/name@main", "cached path s3://bucket/llama --json"),
    inventory.ls: ("cached ls", "cached ls | cut -f1,4", "cached ls --json"),
    inventory.show: ("cached show hf://org/name@main", "cached show 3fa9c1d2", "cached show s3://bucket/llama --json"),
    inventory.status: ("cached status", "cached status --json"),
    inventory.leases: ("cached leases", "cached leases --json"),
    top.top: ("cached top", "cached top --interval 500ms", "cached top --count 1 --json"),
    admin.pin: ("cached pin hf://org/name@main", "cached pin 3fa9c1d2 --keep 7d"),
    admin.unpin: ("cached unpin hf://org/name@main", "cached unpin 3fa9c1d2"),
    admin.rm: ("cached rm --dry-run 3fa9c1d2", "cached rm hf://org/name@main"),
    admin.gc: ("cached gc --dry-run", "cached gc --free 200GiB"),
    admin.verify: ("cached verify", "cached verify hf://org/name@main --deep", "cached verify --repair"),
    doctor.doctor: (
        "cached doctor",
        "sudo -u cached cached doctor --config /etc/cached/config.toml",
        "cached doctor --json",
    ),
}

for _command, _lines in _COMMANDS.items():
    # \b keeps the lines apart when the help is wrapped.
    app.command(epilog="\b\nExamples:\n" + "\n".join(f"  {line}" for line in _lines))(_command)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"cached {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help(), file=sys.stderr)
        raise typer.Exit(USAGE)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code. Failures become one sentence on stderr, never a traceback."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in given[: given.index("--") if "--" in given else None]
    try:
        code = _run(given, as_json)
        sys.stdout.flush()
    except BrokenPipeError:
        _leave_pipe()
        return BROKEN_PIPE
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def _run(given: list[str], as_json: bool) -> int:
    try:
        result: Any = app(args=given, prog_name="cached", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except CachedError as error:
        return _fail(as_json, error.code, error.message, error.retryable, error.exit_code)
    except typer.Abort:
        return INTERRUPTED
    except SystemExit as ending:
        # Typer turns a broken pipe into exit 1 by itself, before anyone here sees it.
        if isinstance(ending.__context__, BrokenPipeError):
            raise ending.__context__ from None
        raise
    except OSError as error:
        return _fail(as_json, CachedError.code, f"{error}.", False, CachedError.exit_code)
    except _ClickException as error:
        return _fail(as_json, "usage", _usage_message(error), False, USAGE)
    except Exception as error:
        # A traceback does not help a user at a terminal, but a bug report needs the kind and the place.
        trace = error.__traceback__
        while trace is not None and trace.tb_next is not None:
            trace = trace.tb_next
        place = f" at {os.path.basename(trace.tb_frame.f_code.co_filename)}:{trace.tb_lineno}" if trace else ""
        message = f"This is a fault in cached itself: {type(error).__name__}: {error}{place}."
        return _fail(as_json, CachedError.code, message, False, CachedError.exit_code)


def _usage_message(error: Any) -> str:
    """Return click's message as one sentence that ends with the place of the help."""
    context = getattr(error, "ctx", None)
    place = context.command_path if context is not None else "cached"
    return f"{printable(error.format_message()).rstrip('.')}; see `{place} --help`."


def _fail(as_json: bool, code: str, message: str, retryable: bool, exit_code: int) -> int:
    warn(message)
    if as_json:
        print_json({"error": {"code": code, "message": printable(message), "retryable": retryable}})
    return exit_code


def _leave_pipe() -> None:
    """Point the broken streams at nothing, so that the interpreter's last flush is silent too."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is None:
            continue
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(nothing, stream.fileno())
    os.close(nothing)
