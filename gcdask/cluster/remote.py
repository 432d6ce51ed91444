"""A scheduler that runs already, at an address or in the file that it wrote."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gcdask import storage
from gcdask.cluster.quiet import close, quiet, reason
from gcdask.cluster.security import ENCRYPTED, check_address, security
from gcdask.errors import InputError

if TYPE_CHECKING:
    from distributed import Client
    from distributed.security import Security

    from gcdask.sections import Cluster

CONNECT_SECONDS = 8


@contextmanager
def running(settings: Cluster) -> Iterator[Client]:
    """Connect to the scheduler of ``settings``, and leave it running at the end."""
    certificates = security(settings.tls)
    address = settings.scheduler or read_address(settings.scheduler_file or "")
    opened = connect(check_address(address, settings.tls, certificates), certificates)
    try:
        workers = opened.scheduler_info(n_workers=-1)["workers"]
        if not workers:
            logging.getLogger(__name__).warning(
                "the scheduler at %s has no workers yet; the run waits for them (dask worker %s)",
                address,
                address,
            )
        for name, amount in settings.resources.items():
            if workers and not any(w["resources"].get(name, 0) >= amount for w in workers.values()):
                raise InputError(
                    f"cluster.resources.{name}: no worker of {address} has {amount:g}; start "
                    f'workers with --resources "{name}={amount:g}"'
                )
        yield opened
    finally:
        close(opened)


def read_address(file: str) -> str:
    """Address in the file that ``dask scheduler --scheduler-file`` wrote."""
    try:
        address = json.loads(storage.read_bytes(file))["address"]
    except FileNotFoundError:
        raise InputError(
            f"no scheduler file at {file}; start one (dask scheduler --scheduler-file {file})"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{file} is no scheduler file ({reason(error)}); give the one of dask scheduler"
        ) from None
    return str(address)


def connect(address: str, certificates: Security) -> Client:
    """Open a client within some seconds, or raise `InputError` saying why that fails."""
    from distributed import Client

    with quiet():
        try:
            # First a handshake of our own: Client waits for ever on a port that never answers.
            run_apart(_shake_hands(address, certificates))
            return Client(address, security=certificates, timeout=CONNECT_SECONDS)
        except (OSError, ValueError, RuntimeError, TimeoutError) as error:
            raise InputError(_unreachable(address, error)) from None


def run_apart(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine in a thread: this one may have a running loop, as a notebook's has."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


async def _shake_hands(address: str, certificates: Security) -> None:
    from distributed.comm import connect

    arguments = certificates.get_connection_args("client")
    comm = await asyncio.wait_for(
        connect(address, timeout=CONNECT_SECONDS, **arguments), CONNECT_SECONDS + 1
    )
    await comm.close()


def _unreachable(address: str, error: BaseException) -> str:
    said = reason(error)
    cause = error.__cause__ or error.__context__
    if address.startswith(ENCRYPTED) and any(
        word in f"{said} {cause}".lower() for word in ("ssl", "tls", "certificate")
    ):
        return (
            f"the scheduler at {address} and we do not trust each other ({said}); give in "
            "cluster.tls the ca that signed its certificate, and a cert that this ca signed"
        )
    return (
        f"no Dask scheduler at {address} ({said}); start one (dask scheduler) and give its address "
        "as tcp://host:8786, or tls://host:8786 if it demands certificates"
    )
