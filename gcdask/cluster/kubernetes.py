"""Pods of Kubernetes, made by the Dask operator for one run (dask-kubernetes)."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from dask.utils import parse_bytes

from gcdask.cluster.optional import optional
from gcdask.cluster.plugins import THREADS
from gcdask.cluster.quiet import close, quiet, reason
from gcdask.errors import InputError

if TYPE_CHECKING:
    from distributed import Client

    from gcdask.sections import Cluster

#: Nothing that a worker does needs rights on its node.
POD = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
CONTAINER = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


@contextmanager
def pods(settings: Cluster) -> Iterator[Client]:
    """Have the operator make a cluster, and delete it at the end.

    Raises
    ------
    InputError
        If there is no Kubernetes, no operator on it, or it refuses the cluster.
    """
    from distributed import Client

    operator = optional("dask_kubernetes.operator", "kubernetes")
    modes = optional("dask_kubernetes.operator.kubecluster.kubecluster", "kubernetes")
    assert settings.kubernetes is not None
    adaptive = settings.adaptive
    spec = cluster_spec(settings)
    with ExitStack() as stack:
        try:
            with quiet():
                cluster = operator.KubeCluster(
                    namespace=settings.kubernetes.namespace,
                    custom_cluster_spec=spec,
                    create_mode=modes.CreateMode.CREATE_ONLY,
                    quiet=True,
                )
        except Exception as error:  # of kr8s, httpx, the operator, ...
            _undo(operator.KubeCluster, spec["metadata"]["name"])
            raise InputError(
                f"cluster.kubernetes: no cluster was made ({reason(error)}); check the kubeconfig, "
                "your rights in the namespace, and that the Dask operator runs"
            ) from error
        stack.callback(close, cluster)
        opened = Client(cluster)
        stack.callback(close, opened)
        if adaptive:
            cluster.adapt(minimum=adaptive.minimum, maximum=adaptive.maximum)
        yield opened


def cluster_spec(settings: Cluster) -> dict[str, Any]:
    """Write the DaskCluster resource for a section ``cluster``."""
    operator = optional("dask_kubernetes.operator", "kubernetes")
    wanted = settings.kubernetes
    assert wanted is not None
    memory = str(parse_bytes(settings.memory))
    command = ["worker", "--nthreads", str(settings.threads), "--memory-limit", memory]
    if settings.resources:
        offered = (f"{n}={v * settings.threads:g}" for n, v in settings.resources.items())
        command += ["--resources", " ".join(offered)]
    spec: dict[str, Any] = operator.make_cluster_spec(
        name=wanted.name or f"gcdask-{uuid.uuid4().hex[:8]}",
        image=wanted.image,
        n_workers=settings.adaptive.minimum if settings.adaptive else settings.workers,
        worker_command=command,
        env={**THREADS, **wanted.env},
    )
    for role, cores in (("worker", settings.threads), ("scheduler", 1)):
        pod = spec["spec"][role]["spec"]
        pod["securityContext"] = POD
        if wanted.service_account:
            pod["serviceAccountName"] = wanted.service_account
        (container,) = pod["containers"]
        container["command"] = ["dask"]  # whatever the image starts by itself
        if role == "scheduler":
            container["args"] = ["scheduler", *container["args"][1:]]
        else:  # the scheduler reads and writes nothing
            container["envFrom"] = [{"secretRef": {"name": n}} for n in wanted.env_from_secret]
        size = {"cpu": str(cores), "memory": memory}
        container["resources"] = {"requests": size, "limits": size}
        container["securityContext"] = CONTAINER
    return spec


def _undo(kind: Any, name: str) -> None:
    """Delete what there is of a cluster that failed to start: not another one of that name."""
    for instance in list(kind._instances):
        if instance.name == name:
            if instance.shutdown_on_close:  # set by dask-kubernetes as it begins to create
                with quiet(), suppress(Exception):
                    instance.close(timeout=20)
            kind._instances.discard(instance)  # else it is tried once more at exit
