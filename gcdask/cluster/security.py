"""Encrypted connections: certificates from the configuration, checked before anything connects."""

from __future__ import annotations

import logging
import os
import ssl
import stat
from typing import TYPE_CHECKING

from gcdask.errors import InputError

if TYPE_CHECKING:
    from distributed.security import Security

    from gcdask.sections import Tls

ENCRYPTED = ("tls://", "wss://")


def security(tls: Tls | None) -> Security:
    """Certificates of a configuration, or else of Dask's own settings (there may be none).

    Raises
    ------
    InputError
        If a file is missing, or not what it should be.
    """
    from distributed.security import Security

    if tls is None:
        return Security()
    for key in ("ca", "cert", "key"):
        path = getattr(tls, key)
        if not os.access(path, os.R_OK):
            what = "cannot be read" if os.path.exists(path) else "does not exist"
            raise InputError(f"cluster.tls.{key}: {path} {what}; give a readable PEM file")
    if stat.S_IMODE(os.stat(tls.key).st_mode) & 0o077:
        logging.getLogger(__name__).warning(
            "cluster.tls.key: others can read %s; chmod 600 it", tls.key
        )
    made = Security(
        require_encryption=True,
        tls_ca_file=tls.ca,
        **{f"tls_{role}_cert": tls.cert for role in ("client", "scheduler", "worker")},
        **{f"tls_{role}_key": tls.key for role in ("client", "scheduler", "worker")},
    )
    try:
        made.get_connection_args("client")
    except (ssl.SSLError, ValueError) as error:
        said = getattr(error, "reason", None) or str(error)
        raise InputError(
            f"cluster.tls: no certificates in {tls.ca}, {tls.cert}, {tls.key} ({said}); give PEM "
            "files of one authority, and the key that belongs to cert"
        ) from None
    return made


def check_address(address: str, tls: Tls | None, with_: Security) -> str:
    """Return the address with its protocol; raise `InputError` if that does not suit ``tls``."""
    encrypted = address.startswith(ENCRYPTED)
    if tls is not None and not encrypted:
        if "://" in address:
            raise InputError(
                f"scheduler {address} is not encrypted, but cluster.tls is given; give its tls:// "
                "address, or remove cluster.tls"
            )
        return f"tls://{address}"
    ours = with_.get_tls_config_for_role("client")
    if encrypted and not (ours["ca_file"] and ours["cert"]):
        raise InputError(
            f"scheduler {address} wants certificates; give cluster.tls: {{ca, cert, key}}"
        )
    return address
