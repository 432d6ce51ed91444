"""The commands. They import what they need when they run, so that help is fast."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from gcdask._version import __version__
from gcdask.cli import arguments, progress, running, summary
from gcdask.cli.logs import Console
from gcdask.cli.outcome import Outcome, tell_result
from gcdask.cli.signals import Signals
from gcdask.errors import InputError

MARKER = ".gcdask-demo"  # a folder with this file was made by `gcdask demo`, which may replace it

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
Folder = Annotated[str, typer.Argument(metavar="OUT", help="Output folder (or URL) of runs.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class Parts:
    """What commands share: where they print to, what signals do, and how a run went."""

    def __init__(self, console: Console, signals: Signals) -> None:
        self.console = console
        self.signals = signals
        self.outcome: Outcome | None = None


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
    context: typer.Context,
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
    with progress.shown() as shown:
        shown("simulate", 0, 1)
        settings = config.load(_demo_config(folder))
        with cluster.client(settings.cluster, workers=workers) as client:
            mock = simulate.as1063(size="small", seed=seed)
            simulate.write(mock, folder / "input" / "field.zarr", chunks=1024)
            shown("simulate", 1, 1)
            settings.check_paths()
            result = pipeline.run(settings, str(folder), client=client, progress=shown)
    tell_result(result, context.obj.console, numbers=False)


@app.command()
def ingest(
    context: typer.Context,
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
    bands = arguments.pairs("image", images)
    errors, weights = arguments.pairs("--err", err), arguments.pairs("--weight", weight)
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
    context.obj.console.echo(f"wrote {path} ({', '.join(bands)})")


@app.command()
def run(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="The configuration.")],
    out: Annotated[str | None, typer.Option(help="Folder, or URL (s3://...), to write.")] = None,
    workers: Workers = None,
    scheduler: Annotated[
        str | None, typer.Option(help="Address of a running Dask scheduler.")
    ] = None,
    scheduler_file: Annotated[
        str | None, typer.Option(help="File that a Dask scheduler wrote its address to.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY.SUBKEY=VALUE", help="Change a key; repeat for more."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check, and print stages, tasks and memory only.")
    ] = False,
    force: Annotated[
        str | None,
        typer.Option(
            metavar="[STAGE]",
            help="Do a stage anew (detect, catalogue, inpaint, maps, results) with those after "
            "it; without a stage, all.",
        ),
    ] = None,
    json_logs: Annotated[
        bool, typer.Option("--json-logs", help="JSON: log lines on stderr, the summary on stdout.")
    ] = False,
    notify: Annotated[
        str | None,
        typer.Option(
            metavar="COMMAND",
            envvar="GCDASK_NOTIFY",
            help="Run at the end, with the summary as JSON on its standard input.",
        ),
    ] = None,
    performance_report: Annotated[
        str | None,
        typer.Option(metavar="NAME.html", help="Write Dask's report into the run's folder."),
    ] = None,
) -> None:
    """Do all that a configuration asks for; what is unchanged since an earlier run is not redone.

    Exit codes: 0 done, 2 mistake in the input, 3 some tiles failed, 4 another run is at work in
    OUT, 130 Ctrl-C, 143 SIGTERM, 1 anything else. The same command continues a run that stopped.

    Example: gcdask run configs/as1063.yaml --out as1063 --workers 8 --set detect.threshold=auto
    """
    order = running.Order(
        file=file,
        out=out,
        workers=workers,
        scheduler=scheduler,
        scheduler_file=scheduler_file,
        overrides=overrides or [],
        dry_run=dry_run,
        force=force,
        hook=notify,
        performance=performance_report,
    )
    context.obj.outcome = Outcome()
    running.run(order, context.obj.outcome, context.obj.console, context.obj.signals)


@app.command()
def status(context: typer.Context, out: Folder, as_json: Json = False) -> None:
    """Say of each stage of the newest run what is done, stale and failed, when, and how long.

    Example: gcdask status as1063
    """
    from gcdask import pipeline

    told = pipeline.status(out)
    context.obj.console.echo(json.dumps(told.plain, indent=2) if as_json else str(told))


@app.command()
def clean(
    context: typer.Context,
    out: Folder,
    keep: Annotated[int, typer.Option(help="Newest runs that stay.", min=0)] = 1,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Remove old runs and what stopped runs left behind; never the latest.

    Example: gcdask clean as1063 --keep 2 --dry-run
    """
    from gcdask import pipeline

    gone = pipeline.clean(out, keep=keep, dry_run=dry_run)
    verb = "would remove" if dry_run else "removed"
    context.obj.console.echo("\n".join(f"{verb} {path}" for path in gone) or "nothing to remove")


@app.command()
def simulate(
    context: typer.Context,
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
    context.obj.console.echo(summary.table([("wrote", str(path)) for path in paths.values()]))


@app.command()
def inspect(
    context: typer.Context,
    path: Annotated[str, typer.Argument(help="Mosaic, map, catalogue, lens model, run or runs.")],
) -> None:
    """Say what a path or URL holds: what it is, size, chunks, units, WCS, row counts, columns.

    Example: gcdask inspect field.zarr
    """
    from gcdask.describe import describe

    context.obj.console.echo(summary.table(describe(path)))


@config_app.command()
def schema() -> None:
    """Print the JSON schema of a configuration file: every key, its meaning and default.

    Example: gcdask config schema > gcdask.schema.json
    """
    from gcdask import config

    typer.echo(json.dumps(config.schema(), indent=2))


# -- the demo's folder ----------------------------------------------------------------------------
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
    packaged = Path(__file__).parents[1] / "data" / "demo.yaml"
    target = folder / "input" / "demo.yaml"
    target.write_text(packaged.read_text(encoding="utf-8"), encoding="utf-8")
    return target
