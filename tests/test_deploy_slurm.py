"""deploy/slurm/run.sbatch, with stand-ins for srun and scontrol that start real processes."""

import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from deploying import DEPLOY

from gcdask import pipeline
from gcdask.grid import Grid

JOB = "77"
SRUN = f"""#!{sys.executable}
# Starts its command N times on this machine, and passes SIGTERM on.
import signal, subprocess, sys, time
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(1))
options = [word for word in sys.argv[1:] if word.startswith("--")]
command = sys.argv[1 + next(k for k, w in enumerate(sys.argv[1:]) if not w.startswith("--")):]
n = next(int(o.split("=")[1]) for o in options if o.startswith("--ntasks="))
processes = [subprocess.Popen(command) for _ in range(n) if not told]
while any(process.poll() is None for process in processes):
    for process in processes if told else ():
        process.terminate()
    time.sleep(0.05)
"""
SCONTROL = '#!/usr/bin/env bash\necho "$@" >>scontrol.said\n'
DASK = """#!/usr/bin/env bash
# A scheduler or worker in name only.
for word; do
  [[ $last == --scheduler-file && $1 == scheduler ]] && echo {} >"$word"
  last=$word
done
echo "$@" >>dask.said
exec sleep 60
"""
GCDASK = """#!/usr/bin/env bash
# Ends with a code of our choice, at once or when it is told to.
trap 'exit "$CODE"' TERM
echo "$@" >>gcdask.said
[[ -z $WAIT ]] && exit "$CODE"
for ((i = 0; i < 600; i++)); do sleep 0.1; done
"""
CONFIG = """
mosaic: {bands: {A: a.fits}}
field: {center: [342.18, -44.53], z_lens: 0.348}
mask: {edge: 0.3, extended: null}
tiles: {size: 128}
detect: {threshold: 5 sigma}
inpaint: {iterations: 0}
density: {pixel: 1.0}
profiles: {contamination: {method: given, value: 0.1}}
output: {fits: false, figures: false, report: false}
"""


class Job:
    """A job of the script in a folder of its own."""

    def __init__(self, folder, **programs):
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir()
        for name, text in {"srun": SRUN, "scontrol": SCONTROL, **programs}.items():
            (self.bin / name).write_text(text)
            (self.bin / name).chmod(0o755)
        text = (DEPLOY / "slurm" / "run.sbatch").read_text()
        assert "network=() " in text
        self.script = folder / "run.sbatch"
        self.script.write_text(text.replace("network=() ", "network=(--host 127.0.0.1) "))

    def start(self, *arguments, venv, **environment):
        given = {
            "PATH": f"{self.bin}:{os.environ['PATH']}", "GCDASK_VENV": str(venv),
            "SLURM_JOB_ID": JOB, "SLURM_NTASKS": "3", "SLURM_CPUS_PER_TASK": "1",
            "SLURM_MEM_PER_CPU": "2000", "WAIT": "", "CODE": "0",
        }  # fmt: skip
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                ["bash", str(self.script), *arguments],
                cwd=self.folder,
                env={**os.environ, **given, **environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return self.process

    def said(self, name):
        path = self.folder / f"{name}.said"
        return path.read_text().splitlines() if path.exists() else []

    def await_(self, condition, seconds=180):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, (self.folder / "log").read_text()
            assert self.process.poll() is None, (self.folder / "log").read_text()
            time.sleep(0.05)

    def left(self, seconds=20):
        """Processes of the job that live on, and folders that it forgot.

        A resource tracker of Python's multiprocessing ends a moment after its parent.
        """
        deadline = time.monotonic() + seconds
        while (found := self._alive()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return found + [str(path) for path in self.folder.glob(".gcdask-*")]

    def _alive(self):
        listed = subprocess.run(
            ["ps", "-o", "pid=,stat=,args=", "-s", str(self.process.pid)],
            capture_output=True, text=True, check=False,
        ).stdout.splitlines()  # fmt: skip
        return [line for line in listed if not line.split()[1].startswith("Z")]


@pytest.fixture
def job(tmp_path, request):
    """A job whose programs are stand-ins too; whatever it starts is ended."""
    made = Job(tmp_path, **getattr(request, "param", {"dask": DASK, "gcdask": GCDASK}))
    made.process = None
    yield made
    if made.process is not None:
        listed = subprocess.run(
            ["ps", "-o", "pid=", "-s", str(made.process.pid)],
            capture_output=True, text=True, check=False,
        ).stdout.split()  # fmt: skip
        for pid in map(int, listed):
            os.kill(pid, signal.SIGKILL)
        made.process.wait()


def test_the_job_ends_with_the_exit_code_of_the_run(job):
    for code in (0, 1, 2, 3, 4):
        started = job.start("field.yaml", "out", "--force", venv=job.folder, CODE=str(code))
        assert started.wait(60) == code
        assert job.left() == []
    assert job.said("scontrol") == []
    runs, daskers = job.said("gcdask"), job.said("dask")
    assert all(re.match(r"run field.yaml --out out --scheduler-file /\S+ ", r) for r in runs)
    assert all(r.endswith(" --json-logs --force") for r in runs)
    assert sum(d.startswith("scheduler ") for d in daskers) == 5
    workers = [d for d in daskers if d.startswith("worker ")]
    assert len(workers) <= 10  # a run that ends at once may not wait for both
    assert all("--memory-limit 1800MiB" in d for d in workers)


def test_the_time_limit_stops_the_run_and_queues_the_job_again(job):
    started = job.start("field.yaml", "out", venv=job.folder, WAIT="y", CODE="143")
    job.await_(lambda: job.said("gcdask"))
    started.send_signal(signal.SIGUSR1)
    assert started.wait(30) == 143
    assert job.said("scontrol") == [f"requeue {JOB}"]
    assert job.left() == []


@pytest.mark.parametrize(
    ("number", "code", "restarts"),
    [
        (signal.SIGTERM, 143, "0"),  # scancel
        (signal.SIGUSR1, 143, "50"),  # it has been queued often enough
        (signal.SIGUSR1, 0, "0"),  # it was done just then
        (signal.SIGUSR1, 3, "0"),
    ],
)
def test_other_ends_do_not_queue_the_job_again(job, number, code, restarts):
    environment = {"WAIT": "y", "CODE": str(code), "SLURM_RESTART_COUNT": restarts}
    started = job.start("field.yaml", "out", venv=job.folder, **environment)
    job.await_(lambda: job.said("gcdask"))
    started.send_signal(number)
    assert started.wait(60) == code
    assert job.said("scontrol") == []
    assert job.left() == []


def test_mistakes_of_the_submission_are_told_in_one_line(job):
    for arguments, tasks, said in [
        (["field.yaml"], "3", "usage: sbatch run.sbatch"),
        (["field.yaml", "out"], "1", "submit it with sbatch --ntasks=WORKERS+1"),
    ]:
        (job.folder / "log").write_text("")
        started = job.start(*arguments, venv=job.folder, SLURM_NTASKS=tasks)
        assert started.wait(30) == 2
        log = (job.folder / "log").read_text()
        assert said in log
        assert log.count("\n") == 1
    assert job.said("dask") == []


@pytest.mark.parametrize("job", [{"dask": "#!/bin/sh\nexit 1\n", "gcdask": GCDASK}], indirect=True)
def test_a_scheduler_that_does_not_start_ends_the_job(job):
    assert job.start("field.yaml", "out", venv=job.folder).wait(30) == 1
    assert "error: the Dask scheduler did not start; see /" in (job.folder / "log").read_text()
    assert job.said("gcdask") == []
    assert job.left() == []


# -- real ones --------------------------------------------------------------------------------
def write_image(path, side=768):
    """Noise and point sources."""
    random = np.random.default_rng(7)
    image = random.normal(size=(side, side))
    y, x = np.mgrid[-4:5, -4:5]
    star = np.exp(-(x**2 + y**2) / 2.0)
    for row, column in random.integers(20, side - 20, size=(150, 2)):
        image[row - 4 : row + 5, column - 4 : column + 5] += 30 * star
    header = Grid.tangent((342.18, -44.53), image.shape, 0.03).wcs.to_header()
    header["BUNIT"] = "MJy/sr"
    fits.PrimaryHDU(image.astype("float32"), header).writeto(path)


@pytest.mark.cluster
@pytest.mark.parametrize("job", [{}], indirect=True)
def test_a_real_run_continues_after_the_time_limit(job):
    write_image(job.folder / "a.fits")
    (job.folder / "field.yaml").write_text(CONFIG)
    started = job.start("field.yaml", "out", venv=sys.prefix, SLURM_NTASKS="2")
    out = job.folder / "out"
    job.await_(lambda: list(out.glob("runs/*")))
    private = next(job.folder.glob(f".gcdask-{JOB}-*"))
    assert stat.S_IMODE(private.stat().st_mode) == 0o700
    assert stat.S_IMODE((private / "key.pem").stat().st_mode) == 0o600
    assert '"tls://127.0.0.1:' in (private / "scheduler.json").read_text()
    started.send_signal(signal.SIGUSR1)
    assert started.wait(180) == 143, (job.folder / "log").read_text()
    assert job.said("scontrol") == [f"requeue {JOB}"]
    assert job.left() == []
    assert not (out / "latest.json").exists()

    again = job.start(
        "field.yaml", "out", venv=sys.prefix, SLURM_NTASKS="2", SLURM_RESTART_COUNT="1"
    )
    assert again.wait(300) == 0, (job.folder / "log").read_text()
    assert job.left() == []
    assert pipeline.status(str(out)).plain
    assert Path(out, "latest", "results.json").exists()
