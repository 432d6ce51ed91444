"""What the runs of an output folder did, what has changed since, and removing old ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gcdask import storage
from gcdask.config import Config
from gcdask.errors import InputError
from gcdask.pipeline import lock, records, versions
from gcdask.pipeline.detection import stamps, survey_tiles
from gcdask.pipeline.identity import plain
from gcdask.pipeline.inputs import open_inputs
from gcdask.pipeline.sources import field_jobs, place_of
from gcdask.pipeline.versions import STAGES

#: Sections of the configuration whose inputs a stage reads itself.
READS = {
    "catalogue": ("manual", "catalog"),
    "maps": ("lens",),
    "results": ("mosaic", "truth"),
}
COLUMNS = ("stage", "state", "done", "total", "stale", "failed", "finished", "seconds")


@dataclass(frozen=True)
class Status:
    """The newest run of an output folder: a row a stage, and one for the tiles of each field.

    Attributes
    ----------
    rows : list of dict
        ``stage``, ``state``; where they apply ``done``, ``total``, ``stale``, ``failed`` (tiles),
        ``finished``, ``seconds``. What is stale would be done again by the next run.
    about : dict
        ``out``, ``run``, ``status``, ``started``, ``finished``, ``latest``, ``runs``, ``owner`` and
        ``notes``.
    failed : list of dict
        ``field``, ``tile`` and ``reason`` of the tiles that failed.
    """

    rows: list[dict[str, Any]]
    about: dict[str, Any]
    failed: list[dict[str, Any]] = field(default_factory=list)

    @property
    def plain(self) -> dict[str, Any]:
        """All of it, as JSON values."""
        tree = {**self.about, "stages": self.rows, "failed": self.failed}
        content: dict[str, Any] = plain(tree)
        return content

    def __str__(self) -> str:
        a = self.about
        lines = [f"{a['out']}: run {a['run']} {a['status']}, started {a['started']}"]
        if a["owner"]:
            lines[0] += f", process {a['owner']['pid']} on {a['owner']['host']} is at work"
        if a["latest"] != a["run"]:
            lines.append(f"latest complete run: {a['latest'] or 'none'}")
        text = [list(COLUMNS)]
        text += [["" if r.get(c) is None else str(r[c]) for c in COLUMNS] for r in self.rows]
        width = [max(len(line[k]) for line in text) for k in range(len(COLUMNS))]
        lines += [
            "  ".join(v.ljust(w) for v, w in zip(t, width, strict=True)).rstrip() for t in text
        ]
        lines += [f"failed: {f['field']} {f['tile']}: {f['reason']}" for f in self.failed]
        return "\n".join([*lines, *(f"note: {note}" for note in a["notes"])])


def status(out: str) -> Status:
    """Say what the newest run in an output folder did, and what is stale by now.

    Raises
    ------
    InputError
        If there is no run.
    """
    out = str(out)
    there = versions.ids(out)
    if not there:
        raise InputError(f"{out} holds no run of gcdask; give the --out of one")
    run, record = there[-1], versions.record_of(out, there[-1])
    owner, notes = lock.owner_of(out), []
    state = record.get("status", "stopped")
    if state == "running" and owner is None:
        state = "stopped"
    if record.get("error"):
        notes.append(record["error"])
    try:
        config = Config.model_validate(record["config"])
        changed = _changed(config, record)
        stale = _stale_tiles(config, versions.folder_of(out, run))
    except (KeyError, ValueError) as error:  # an InputError too: the input is gone, perhaps
        changed, stale = set(), {}
        notes.append(f"what is stale cannot be said: {' '.join(str(error).split())[:200]}")
    about = {
        "out": out,
        "run": run,
        "status": state,
        "started": record.get("started"),
        "finished": record.get("finished"),
        "latest": versions.latest(out),
        "runs": there,
        "owner": owner,
        "notes": notes,
    }
    rows = _rows(record, versions.folder_of(out, run), changed, stale)
    for row in rows:  # nobody is at work on it any more
        row["state"] = state if row["state"] == "running" else row["state"]
    return Status(rows, about, record.get("failed", []))


def _rows(
    record: dict[str, Any], folder: str, changed: set[str], stale: dict[str, int]
) -> list[dict[str, Any]]:
    known, rows, follows = record.get("stages", {}), [], False
    for stage in STAGES:
        found = known.get(stage)
        if stage == "detect":
            for name, tiles in (found or {}).get("fields", {}).items():
                n = stale.get(name)
                done = len(storage.names(storage.join(place_of(folder, name).folder, "rows")))
                rows.append(
                    {
                        "stage": f"detect {name}",
                        "state": _state(found, bool(n)),
                        "done": done - len(tiles.get("failed", ())),
                        "total": tiles["total"],
                        "stale": n,
                        "failed": len(tiles.get("failed", ())),
                        "finished": found.get("finished"),
                        "seconds": tiles.get("seconds"),
                    }
                )
                follows |= bool(n)
            continue
        if found is None and stage in ("inpaint", "fits") and "results" in known:
            continue  # not asked for
        follows |= any(key.split(".")[0] in READS.get(stage, ()) for key in changed)
        for name in [stage, *(n for n in known if n.startswith(f"{stage} "))]:
            row = {"stage": name, "state": _state(known.get(name), follows)}
            about = known.get(name, {})
            rows.append(row | {k: about.get(k) for k in ("finished", "seconds")})
    return rows


def _state(found: dict[str, Any] | None, is_stale: bool) -> str:
    if found is None:
        return "to do"
    return "stale" if is_stale else str(found.get("state", "to do"))


def _changed(config: Config, record: dict[str, Any]) -> set[str]:
    """Keys of the inputs that are not as the run saw them."""
    now = {key: storage.state(path) for key, path in config.input_paths()}
    return {key for key, state in now.items() if record.get("inputs", {}).get(key) != state}


def _stale_tiles(config: Config, folder: str) -> dict[str, int]:
    """Of each field, how many tiles lie on pixels that were written since."""
    jobs = field_jobs(config, open_inputs(config), lambda name: place_of(folder, name))
    out = {}
    for name, job in jobs.items():
        tiles = survey_tiles(job)
        known = (records.read_piece(job.place, tile) for tile in tiles)
        pairs = zip(known, stamps(job.bands, tiles), strict=True)
        out[name] = sum(p is not None and p["about"]["stamp"] != stamp for p, stamp in pairs)
    return out


def clean(out: str, keep: int = 1, dry_run: bool = False) -> list[str]:
    """Remove old runs: all but the latest complete one, the newest ones and what is left of others.

    Parameters
    ----------
    keep : int
        How many of the newest runs stay, whatever became of them; the latest complete run stays
        always.
    dry_run : bool
        Remove nothing, only say what would be.

    Returns
    -------
    list of str
        What was removed.

    Raises
    ------
    InputError
        If there is no run.
    LockError
        If a run is at work in the folder.
    """
    out = str(out)
    if keep < 0:
        raise InputError(f"keep = {keep} is negative; give how many of the newest runs stay")
    there = versions.ids(out)
    if not there:
        raise InputError(f"{out} holds no run of gcdask; give the --out of one")
    lock.check(out)
    stay = {*there[len(there) - keep :], versions.latest(out)} if keep else {versions.latest(out)}
    gone = [versions.folder_of(out, run) for run in there if run not in stay]
    for name in storage.names(out):
        if name.startswith(".") and name != lock.LOCK and _is_left_over(name):
            gone.append(storage.join(out, name))
    if not dry_run:
        with lock.hold(out):
            for path in gone:
                if storage.basename(path) in there:  # half removed it is no valid run
                    storage.remove(storage.join(path, versions.MANIFEST))
                storage.remove(path)
    return gone


def _is_left_over(name: str) -> bool:
    """Whether a file is one of ours that was not renamed (as `storage.writing` names them)."""
    return name.endswith((versions.LATEST, lock.LOCK)) or name.startswith(f".{versions.LINK}.")
