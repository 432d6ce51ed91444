"""How a run is done, which changes no result: tiles, what is written, where it is computed."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from gcdask import storage
from gcdask.configio import mistake
from gcdask.errors import InputError
from gcdask.sections.types import (
    Count,
    Line,
    Memory,
    Name,
    Natural,
    Positive,
    Scalar,
    Section,
    Switch,
    Text,
    Walltime,
    option,
)


class Tiles(Section):
    """How the field is cut into tasks; results do not depend on it."""

    size: Annotated[int, Field(strict=True, ge=64)] = option(
        4096, "side of a tile (px): memory and number of tasks"
    )
    retries: Natural = option(
        2, "times that a tile that cannot be read, or whose task failed, is tried again"
    )


class Output(Section):
    """What is written beside catalogues, zarr maps and results."""

    detection: Switch = option(True, "the detection map, 4 bytes a pixel")
    fits: Switch = option(True, "FITS of the maps")
    figures: Switch = option(True, "figures (PNG)")
    report: Switch = option(True, "the HTML report (needs figures)")


# -- cluster ----------------------------------------------------------------------------------
Kind = Literal["local", "scheduler", "slurm", "kubernetes", "gateway"]


class Adaptive(Section):
    """Workers come and go with the work."""

    minimum: Natural = option(0, "workers that are always kept")
    maximum: Count = Field(description="workers at most")

    @model_validator(mode="after")
    def _check(self) -> Adaptive:
        if self.minimum > self.maximum:
            raise mistake(
                f"{self.maximum} is below minimum ({self.minimum}); give at least that", "maximum"
            )
        return self


class Tls(Section):
    """Files (PEM) for encrypted connections in which every peer shows a certificate."""

    ca: Text = Field(description="certificate of the authority that signed the peers' certificates")
    cert: Text = Field(description="our certificate")
    key: Text = Field(description="its private key; readable by you alone (chmod 600)")


class Slurm(Section):
    """Jobs of a SLURM queue, submitted with sbatch; needs the extra hpc (dask-jobqueue)."""

    queue: Line | None = option(None, "partition (-p); null = that of dask-jobqueue's settings")
    account: Line | None = option(None, "account (-A); null = that of dask-jobqueue's settings")
    walltime: Walltime | None = option(
        None, "time limit of a job (-t) as '02:00:00'; null = that of dask-jobqueue's settings"
    )
    cores: Count | None = option(None, "cores of a job; null = processes x threads")
    processes: Count = option(1, "workers in a job")
    interface: Line | None = option(None, "network interface that all nodes have, as ib0")
    local_directory: Line | None = option(None, "fast disk of a node, to spill to")
    log_directory: Line | None = option(None, "folder for the jobs' logs")
    prologue: tuple[Text, ...] = option((), "shell commands before a worker, as: module load ...")
    directives: tuple[Line, ...] = option((), "more #SBATCH options, as: --constraint=fast")


class Kubernetes(Section):
    """Pods of the Dask operator; needs the extra kubernetes (dask-kubernetes)."""

    image: Line = Field(description="container image with this version of gcdask")
    namespace: Name | None = option(None, "null = that of the kubeconfig")
    name: Name | None = option(None, "name of the DaskCluster; null = gcdask-, then eight letters")
    env: dict[str, str] = option({}, "environment of the pods: NAME: text; no secrets")
    env_from_secret: tuple[Name, ...] = option(
        (), "Secrets of the namespace whose entries become environment variables"
    )
    service_account: Name | None = option(None, "service account of the pods")

    @model_validator(mode="after")
    def _check(self) -> Kubernetes:
        _no_secrets(self.env, "env", "put it in a Secret and name that in env_from_secret")
        return self


class Gateway(Section):
    """A cluster of a Dask Gateway server; needs the extra gateway (dask-gateway)."""

    address: Text | None = option(None, "https://...; null = gateway.address of Dask's settings")
    proxy_address: Text | None = option(
        None, "where its schedulers are reached, if not there too; null = Dask's settings"
    )
    auth: Literal["basic", "kerberos", "jupyterhub"] | None = option(
        None, "how we say who we are; null = Dask's settings, which also hold the credentials"
    )
    options: dict[str, Scalar] = option({}, "options of the server's clusters, as worker_cores: 2")

    @model_validator(mode="after")
    def _check(self) -> Gateway:
        where = "give it in the environment (DASK_GATEWAY__AUTH__KWARGS__PASSWORD, ...)"
        for key in ("address", "proxy_address"):
            try:
                storage.check_url(getattr(self, key) or "")
            except InputError:
                raise mistake(f"holds credentials; {where}", key) from None
        _no_secrets(self.options, "options", where)
        return self


def _no_secrets(values: dict[str, Any], key: str, remedy: str) -> None:
    for name in values:
        if storage.SECRET_NAME.search(name):
            raise mistake(f"{name} looks like a secret; {remedy}", key)


class Cluster(Section):
    """Where it is computed; results do not depend on it."""

    kind: Kind | None = option(
        None,
        "local (own processes), scheduler (one that runs), slurm, kubernetes, gateway; "
        "null = by the keys given",
    )
    workers: Natural = option(2, "worker processes; 0 = no cluster, in this process")
    threads: Count = option(1, "threads of each worker")
    memory: Memory = option("auto", "memory limit of each worker: auto, or a size like 4GiB")
    adaptive: Adaptive | None = option(None, "instead of workers: between minimum and maximum")
    resources: dict[str, Positive] = option(
        {},
        "what each task takes of a worker's resources, as GPU: 1; own workers have it for each "
        "thread",
    )
    scheduler: Text | None = option(None, "address of a running scheduler; null = own workers")
    scheduler_file: Text | None = option(None, "file that a running scheduler wrote; or this")
    tls: Tls | None = option(None, "encryption (local, scheduler, slurm); null = none")
    dashboard: Switch = option(False, "open Dask's dashboard on a free port, and print its address")
    slurm: Slurm | None = option(None, "jobs of a SLURM queue")
    kubernetes: Kubernetes | None = option(None, "pods of the Dask operator")
    gateway: Gateway | None = option(None, "a cluster of a Dask Gateway server")

    @property
    def resolved_kind(self) -> Kind:
        """`kind`, or what the keys given say."""
        if self.kind is not None:
            return self.kind
        return next(iter(self._parts().values()), "local")

    def _parts(self) -> dict[str, Kind]:
        """Keys given that belong to one kind only."""
        owners: dict[str, Kind] = {
            "scheduler": "scheduler",
            "scheduler_file": "scheduler",
            "slurm": "slurm",
            "kubernetes": "kubernetes",
            "gateway": "gateway",
        }
        return {key: kind for key, kind in owners.items() if getattr(self, key) is not None}

    @model_validator(mode="after")
    def _check(self) -> Cluster:
        kind = self.resolved_kind
        for key, owner in self._parts().items():
            if owner != kind:
                raise mistake(f"is not used by kind {kind}; remove it, or give kind: {owner}", key)
        if self.scheduler is not None and self.scheduler_file is not None:
            raise mistake("is given beside scheduler; give one of them", "scheduler_file")
        if kind == "scheduler" and not self._parts():
            raise mistake("is missing; give its address (or scheduler_file)", "scheduler")
        if kind == "kubernetes" and self.kubernetes is None:
            raise mistake("is missing; give at least its image", "kubernetes")
        if self.adaptive is not None and kind == "scheduler":
            raise mistake("is for own workers, not for kind scheduler; remove it", "adaptive")
        if self.tls is not None and kind in ("kubernetes", "gateway"):
            raise mistake(f"is not used by kind {kind}; remove it", "tls")
        for name in self.resources:
            if not re.fullmatch(r"[A-Za-z][\w-]*", name, re.ASCII):
                raise mistake(f"{name!r} is no name; give letters, digits, - and _", "resources")
        self._check_workers(kind)
        return self

    def _check_workers(self, kind: Kind) -> None:
        """Raise where number or size of the workers do not suit the kind."""
        if kind in ("slurm", "kubernetes") and self.memory == "auto":
            raise mistake(f"auto is not for kind {kind}; give a size like 4GiB", "memory")
        if kind in ("slurm", "kubernetes", "gateway") and not (self.workers or self.adaptive):
            raise mistake(f"0 starts none of kind {kind}; give 1 or more, or adaptive", "workers")
        if kind == "gateway" and (self.threads, self.memory) != (1, "auto"):
            key = "memory" if self.threads == 1 else "threads"
            raise mistake("is not used by kind gateway; see gateway.options", key)
        if self.slurm is not None and self.slurm.cores is not None:
            least = self.slurm.processes * self.threads
            if self.slurm.cores < least:
                raise mistake(
                    f"{self.slurm.cores} is less than processes x threads ({least}); give more",
                    "slurm.cores",
                )
