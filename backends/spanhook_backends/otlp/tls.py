"""Checking the files of certificates and keys before anything is sent.

A connection that meets a bad one tells nobody which, and gRPC ends the process by a signal where it has a certificate
and no key.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable

NO_CERTIFICATE = "must be a file with a certificate in PEM"
NO_KEY = "must be a file with the private key of client_certificate in PEM, without a password"


def check_certificates(file: str) -> None:
    """Check that a file holds certificates.

    Raises:
        ValueError: it does not, or can't be read.
    """
    _read(lambda context: context.load_verify_locations(file), NO_CERTIFICATE)


def check_key(certificate: str, key: str) -> None:
    """Check that a file holds the key of a certificate that is right itself; it may be the same file.

    Raises:
        ValueError: it does not, or can't be read.
    """
    # Without the password, OpenSSL would ask for one on the terminal.
    _read(lambda context: context.load_cert_chain(certificate, key, password=""), NO_KEY)


def _read(load: Callable[[ssl.SSLContext], None], otherwise: str) -> None:
    try:
        load(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    except ssl.SSLError:
        raise ValueError(otherwise) from None
    except OSError as error:
        raise ValueError(f"can't be read: {error.strerror}") from None
