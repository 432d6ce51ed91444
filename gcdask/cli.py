"""The command ``gcdask``. Commands import what they need when they run, so that help is fast."""

from __future__ import annotations

import errno
import json
import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from gcdask._version import __version__
from gcdask.errors import GcdaskError, InputError

MARKER = ".gcdask-demo"  # a folder with this file was made by `gcdask demo`, which may replace it

INTERRUPTED = 130  # the exit code of shells for Ctrl-C

app = typer.Typer(
    name="gcdask",
    help="Globular clusters as tracers of dark matter, from JWST mosaics of any size.\n\n"
    "Example: gcdask demo",
    add_completion=False,
    no_args_is_help=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
config_app = typer.Typer(
    help="About configuration files.\n\nExample: gcdask config schema",
    rich_markup_mode=None,
)
app.add_typer(config_app, name="config")

Workers = Annotated[int | None, typer.Option(help="Worker processes; 0 = no cluster.", min=0)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
Seed = Annotated[int, typer.Option(help="Seed of the random draws.", min=0)]


# -- commands ---------------------------------------------------------------------------------
@app.callback(invoke_without_command=True)
def _top(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    if version:
        typer.echo(f"gcdask {__version__}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder to write; an earlier demo is replaced.")] = Path(
        "gcdask-demo"
    ),
    workers: Workers = 2,
    seed: Seed = 0,
) -> None:
    """Simulate a small AS1063-like field with known truth, analyse it, compare with the truth.

    Example: gcdask demo --out gcdask-demo --workers 2
    """
    from gcdask import cluster, config, pipeline, simulate

    folder = _demo_folder(out)
    with RichProgress() as progress:
        progress("simulate", 0, 1)
        settings = config.load(_demo_config(folder))
        with cluster.client(settings.cluster, workers=workers) as client:
            mock = simulate.as1063(size="small", seed=seed)
            simulate.write(mock, folder / "input" / "field.zarr", chunks=1024)
            progress("simulate", 1, 1)
            settings.check_paths()
            result = pipeline.run(settings, folder, client=client, progress=progress)
    typer.echo(_truth_summary(result.results["truth"]))
    _print_result(result)


@app.command()
def ingest(
    out: Annotated[str, typer.Argument(help="The zarr store to make.")],
    images: Annotated[list[str], typer.Argument(help="BAND=FILE of each band.")],
    err: Annotated[
        list[str] | None, typer.Option(help="Error map, BAND=FILE; repeat for more.")
    ] = None,
    weight: Annotated[
        list[str] | None, typer.Option(help="Weight map (0 = no data), BAND=FILE; repeat.")
    ] = None,
    chunks: Annotated[int, typer.Option(help="Side of the shards (px), a multiple of 256.")] = 2048,
    unit: Annotated[str | None, typer.Option(help="Unit of the pixels, in place of BUNIT.")] = None,
    align: Annotated[
        str, typer.Option(help="Bands on other pixels: refuse, or reproject (onto the first).")
    ] = "refuse",
    overwrite: Overwrite = False,
) -> None:
    """Turn FITS images (plain, extension, .fz, .gz) into one chunked, compressed zarr 3 store.

    Example: gcdask ingest field.zarr F090W=a.fits F115W=b.fits --err F090W=e.fits
    """
    bands = _pairs("image", images)
    errors, weights = _pairs("--err", err), _pairs("--weight", weight)
    from gcdask import mosaic

    path = mosaic.ingest(
        out,
        bands,
        err=errors or None,
        weight=weights or None,
        chunks=chunks,
        unit=unit,
        align=align,
        overwrite=overwrite,
    )
    typer.echo(f"wrote {path} ({', '.join(bands)})")


@app.command()
def run(
    file: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="The configuration.")],
    out: Annotated[Path | None, typer.Option(help="Folder to write.")] = None,
    workers: Workers = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Address of a running Dask scheduler.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY.SUBKEY=VALUE", help="Change a key; repeat for more."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check, and print stages, tasks and memory only.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Start anew, even over a run of other settings.")
    ] = False,
) -> None:
    """Do all that a configuration asks for. A run that was stopped continues where it was.

    Example: gcdask run configs/as1063.yaml --out as1063 --workers 8 --set detect.threshold=auto
    """
    from gcdask import config

    settings = config.load(file, overrides or [])
    settings.check_paths()
    if out is None and not dry_run:
        raise InputError("--out is missing; give the folder to write, --out DIR")
    from gcdask import cluster, pipeline

    if out is not None:
        if out.exists() and not out.is_dir():
            raise InputError(f"--out {out} is a file; give a folder")
        pipeline.check_folder(settings, out, force=force)
    if dry_run:
        typer.echo(str(pipeline.dry_run(settings)))
        return
    assert out is not None
    with (
        RichProgress() as progress,
        cluster.client(settings.cluster, workers=workers, scheduler=scheduler) as client,
    ):
        result = pipeline.run(settings, out, client=client, force=force, progress=progress)
    typer.echo(_summary(result.results))
    if result.results.get("truth"):
        typer.echo("\n" + _truth_summary(result.results["truth"]))
    _print_result(result)


@app.command()
def simulate(
    out: Annotated[Path, typer.Argument(metavar="OUT.zarr", help="The mosaic to write.")],
    preset: Annotated[str, typer.Option(help="What to simulate: as1063.")] = "as1063",
    size: Annotated[str, typer.Option(help="small, or glimpse (two full modules).")] = "small",
    seed: Seed = 0,
    workers: Workers = 0,
    overwrite: Overwrite = False,
) -> None:
    """Write a mock field with known truth: mosaics, lens model and tables of what is in it.

    Example: gcdask simulate field.zarr --preset as1063 --size glimpse --workers 2
    """
    if preset != "as1063":
        raise InputError(f"--preset {preset} is unknown; use as1063")
    if size not in ("small", "glimpse"):
        raise InputError(f"--size {size} is unknown; use small or glimpse")
    from gcdask import cluster
    from gcdask import simulate as mocks
    from gcdask.sections import Cluster

    with cluster.client(Cluster(), workers=workers):
        paths = mocks.write(mocks.as1063(size=size, seed=seed), out, overwrite=overwrite)
    typer.echo(_table([("wrote", path) for path in paths.values()]))


@app.command()
def inspect(
    path: Annotated[str, typer.Argument(help="Mosaic, map, catalogue, lens model or run.")],
) -> None:
    """Say what a path holds: what it is, size, chunks, units, WCS, row counts, columns.

    Example: gcdask inspect field.zarr
    """
    from gcdask.describe import describe

    typer.echo(_table(describe(path)))


@config_app.command()
def schema() -> None:
    """Print the JSON schema of a configuration file: every key, its meaning and default.

    Example: gcdask config schema > gcdask.schema.json
    """
    from gcdask import config

    typer.echo(json.dumps(config.schema(), indent=2))


# -- pieces -----------------------------------------------------------------------------------
def _pairs(what: str, texts: Iterable[str] | None) -> dict[str, str]:
    """Read ``BAND=FILE`` of the command line."""
    pairs: dict[str, str] = {}
    for text in texts or ():
        band, sign, file = text.partition("=")
        if not (band and sign and file):
            raise InputError(f"{what} {text}: not BAND=FILE; as in F090W=f090w.fits")
        if band in pairs:
            raise InputError(f"{what} {text}: band {band} is given twice; give it once")
        pairs[band] = file
    return pairs


def _demo_folder(out: Path) -> Path:
    """Make the folder of a demo, empty but for the marker; only an earlier demo is replaced."""
    import shutil

    if out.exists():
        if not out.is_dir() or (any(out.iterdir()) and not (out / MARKER).is_file()):
            raise InputError(f"--out {out} was not made by a demo; give another folder")
        for path in out.iterdir():
            if path.name != MARKER:  # the marker goes last: a killed demo can be replaced too
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    (out / "input").mkdir(parents=True, exist_ok=True)
    (out / MARKER).write_text("made by `gcdask demo`, which may replace this folder\n")
    return out


def _demo_config(folder: Path) -> Path:
    """Put the demo's configuration beside its mosaic."""
    packaged = Path(__file__).parent / "data" / "demo.yaml"
    target = folder / "input" / "demo.yaml"
    target.write_text(packaged.read_text(encoding="utf-8"), encoding="utf-8")
    return target


def _truth_summary(truth: dict[str, Any]) -> str:
    """Table of what was found against what was put in."""
    from gcdask.describe import show_value

    rows = [("", "found", "truth")]
    rows.append(("sources", truth["n_found"] + truth["inpainted"], truth["n_truth"]))
    rows.append(("  hidden by the mask", truth["inpainted"], truth["masked_truth"]))
    for name in ("completeness", "purity"):  # none if nothing could be found
        rows.append((name, "-" if truth[name] is None else f"{truth[name]:.1%}", "100%"))
    rows += [(f"beta {k}", v, truth["beta_truth"][k]) for k, v in truth["beta"].items()]
    for name in ("slope", "contamination"):
        rows.append((name, truth[name], truth[f"{name}_truth"]))
    text = [[v if isinstance(v, str) else show_value(v) for v in row] for row in rows]
    width = [max(len(row[k]) for row in text) for k in range(3)]
    return "\n".join("  ".join(v.ljust(w) for v, w in zip(row, width, strict=True)) for row in text)


SUMMARY = (
    "n_detected",
    "n_inpainted",
    "threshold",
    "purity",
    "masked_fraction",
    "beta.value",
    "beta.dispersion",
    "correlation.pearson_log",
    "relation.a",
    "relation.b",
    "profile.slope",
    "profile.contamination_arcsec2",
    "mass.within_arcsec",
    "mass.msun",
    "mass.per_gc_msun",
)


def _summary(results: dict[str, Any]) -> str:
    """Table of the main numbers of ``results.json``, with errors and units."""
    from gcdask.describe import show_value

    rows: list[tuple[str, str]] = []
    for name in SUMMARY:
        *sections, key = name.split(".")
        part: Any = results
        for section in sections:
            part = part.get(section) or {}
        if part.get(key) is None:
            continue
        value = part[key]
        if not isinstance(value, dict):
            error = part.get("error" if key == "value" else f"{key}_error")
            unit = results.get("units", {}).get(name)
            value = {"value": value, "error": error, "unit": unit}
            rows.append((name.removesuffix(".value"), show_value(value)))
        else:
            shown = ", ".join(f"{k} {show_value(v)}" for k, v in value.items() if v is not None)
            rows.append((name, shown))
    return _table(rows)


def _table(rows: Sequence[tuple[str, str]]) -> str:
    width = max((len(key) for key, _ in rows), default=0)
    return "\n".join(f"{key:<{width}}  {value}" for key, value in rows)


def _print_result(result: Any) -> None:
    for note in result.results.get("notes", ()):
        typer.echo(f"note: {note}")
    typer.echo(f"results: {result.out}")
    if result.report is not None:
        typer.echo(f"report:  {result.report}")


# -- progress ---------------------------------------------------------------------------------
class RichProgress:
    """Progress of stages on stderr: bars on a terminal, plain lines elsewhere.

    Called as ``progress(stage, done, total)``, from any thread; ``total`` 0 = not known yet.
    """

    every = 10.0  # seconds between two plain lines of a stage

    def __init__(self, *, stream: Any = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._lock = threading.Lock()
        self._start = time.monotonic()
        self._tasks: dict[str, Any] = {}
        self._told: dict[str, tuple[float, bool]] = {}
        self._bars: Any = None

    def __enter__(self) -> RichProgress:
        if self._stream.isatty() and os.environ.get("TERM") != "dumb":
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
            from rich.progress import TimeElapsedColumn as Elapsed

            self._bars = Progress(
                TextColumn("{task.description:<16}"),
                BarColumn(),
                MofNCompleteColumn(),
                Elapsed(),
                console=Console(file=self._stream),
            )
            self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` parts of a stage are finished."""
        with self._lock:
            if self._bars is not None:
                if stage not in self._tasks:
                    self._tasks[stage] = self._bars.add_task(stage, total=total or None)
                self._bars.update(self._tasks[stage], completed=done, total=total or None)
            else:
                self._line(stage, done, total)

    def _line(self, stage: str, done: int, total: int) -> None:
        now, finished = time.monotonic(), bool(total) and done >= total
        last, was_finished = self._told.get(stage, (-1e9, False))
        if (was_finished and finished) or (not finished and now - last < self.every):
            return
        self._told[stage] = (now, finished)
        count = f"{done}/{total}" if total else f"{done}" if done else "..."
        print(f"[{now - self._start:6.1f} s] {stage} {count}", file=self._stream, flush=True)


# -- errors -----------------------------------------------------------------------------------
_ClickError: type[Exception] = next(
    cls for cls in typer.BadParameter.__mro__ if cls.__name__ == "ClickException"
)  # typer carries its own click from some version on


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; every error is one line on stderr.

    Returns
    -------
    int
        Exit code: 0, 2 for a mistake of the user, 130 for Ctrl-C, 1 for anything else.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    given = ["--debug", *(a for a in given if a != "--debug")] if debug else given
    before = warnings.showwarning
    warnings.showwarning = _show_warning
    notes = _Notes(logging.WARNING)
    logging.getLogger("gcdask").addHandler(notes)
    try:
        code = app(args=given, prog_name="gcdask", standalone_mode=False)
        sys.stdout.flush()
        if code == INTERRUPTED:
            raise KeyboardInterrupt  # some versions of typer turn it into this code
        return code if isinstance(code, int) else 0
    except BrokenPipeError:  # the reader (head, less) has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (KeyboardInterrupt, typer.Abort):
        _say("interrupted; the same command continues a run")
        return INTERRUPTED
    except Exception as error:
        if debug:
            raise
        text, code = _explain(error)
        _say(f"error: {text}")
        return code
    finally:
        warnings.showwarning = before
        logging.getLogger("gcdask").removeHandler(notes)


def _explain(error: Exception) -> tuple[str, int]:
    """One line about an error, and the exit code."""
    if isinstance(error, GcdaskError):
        return str(error), error.exit_code
    if isinstance(error, _ClickError):
        context = getattr(error, "ctx", None)
        command = context.command_path if context is not None else "gcdask"
        message = error.format_message().rstrip(". ")  # type: ignore[attr-defined]
        return f"{message}; see {command} --help", 2
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        remedy = {
            errno.EACCES: "give a path that you may read or write",
            errno.EPERM: "give a path that you may read or write",
            errno.ENOENT: "check the path",
            errno.ENOSPC: "free space or give another path",
            errno.EDQUOT: "free space or give another path",
        }.get(error.errno or 0, "give another path")
        return f"{where}{error.strerror}; {remedy}", 2
    if type(error).__name__ in ("KilledWorker", "MemoryError"):
        return (
            "a worker ran out of memory or was killed; give fewer --workers, a larger "
            "--set cluster.memory or a smaller --set tiles.size",
            1,
        )
    return f"{type(error).__name__}: {error}; run with --debug for the traceback", 1


def _say(text: str) -> None:
    print(" ".join(text.split()), file=sys.stderr, flush=True)


class _Notes(logging.Handler):
    """Shows what our own log warns of like a warning: in one line."""

    def emit(self, record: logging.LogRecord) -> None:
        _say(f"warning: {record.getMessage()}")


def _show_warning(message: Any, category: type[Warning], *_: Any, **__: Any) -> None:
    """Show warnings meant for users in one line; those of libraries about themselves not at all."""
    hidden = (DeprecationWarning, PendingDeprecationWarning, FutureWarning, ImportWarning)
    if not issubclass(category, hidden) and category.__name__ != "FITSFixedWarning":
        _say(f"warning: {message}")
