"""A cluster that a Dask Gateway server starts for a run (dask-gateway)."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

from gcdask import storage
from gcdask.cluster import remote
from gcdask.cluster.optional import optional
from gcdask.cluster.quiet import close, quiet, reason
from gcdask.errors import InputError

if TYPE_CHECKING:
    from distributed import Client

    from gcdask.sections import Cluster

_ENDED: list[Any] = []  # kept: a closed Gateway prints a traceback when it is collected


@contextmanager
def served(settings: Cluster) -> Iterator[Client]:
    """Have the server start a cluster, and stop it at the end.

    Who we are comes from Dask's settings or the environment (``DASK_GATEWAY__AUTH__...``,
    ``JUPYTERHUB_API_TOKEN``), never from a configuration.

    Raises
    ------
    InputError
        If the server cannot be reached, does not know us, or refuses the options.
    """
    from gcdask.sections import Gateway

    package = optional("dask_gateway", "gateway")
    wanted = settings.gateway or Gateway()
    adaptive = settings.adaptive
    with ExitStack() as stack:
        try:
            remote.run_apart(_ask(package, wanted))
            with quiet():
                cluster = package.GatewayCluster(
                    address=wanted.address,
                    proxy_address=wanted.proxy_address,
                    auth=wanted.auth,
                    **wanted.options,
                )
                stack.callback(_stop, cluster)
                opened = cluster.get_client()
                stack.callback(close, opened)
                if adaptive:
                    cluster.adapt(minimum=adaptive.minimum, maximum=adaptive.maximum)
                else:
                    cluster.scale(settings.workers)
        except Exception as error:  # of aiohttp, kerberos, the server, ...
            at = f" at {wanted.address}" if wanted.address else ""
            raise InputError(
                f"cluster.gateway: no cluster{at} ({storage.redact(reason(error))}); check "
                "addresses, auth and options, and your credentials in the environment"
            ) from error
        yield opened


async def _ask(package: Any, wanted: Any) -> None:
    """Make sure that a server answers and knows us: what follows may wait for minutes."""
    async with package.Gateway(wanted.address, auth=wanted.auth, asynchronous=True) as server:
        await asyncio.wait_for(server.list_clusters(), remote.CONNECT_SECONDS)


def _stop(cluster: Any) -> None:
    _ENDED.append(cluster.gateway)
    with quiet(), suppress(Exception):  # the server may be gone
        cluster.close(shutdown=True)
