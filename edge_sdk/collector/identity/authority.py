"""The fleet's certificate authority, a folder: P-256, 90 days, names by our own rule.

A broker takes the common name of a client's certificate as its user, and MQTT wildcards in it as such; so a name that
is no device id never gets a certificate, and no device gets a collector's. Clients' certificates can't serve, and the
server's can't connect.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from edge_sdk import clock, errors
from edge_sdk.collector.identity import certificates
from edge_sdk.wire import topics

Kind = Literal["device", "collector", "server"]

DAYS = 90
"""A certificate is to be renewed at two thirds of it."""
CA_DAYS = 3650
_INDEX, _KEY, _CERT, CRL = "index.json", "ca.key", "ca.crt", "crl.pem"


class Issued(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One certificate in the authority's index.

    Attributes:
        serial: in hex.
        name: its common name.
        kind: what it is for.
        until_t: Unix time of its end.
        revoked_t: Unix time of its revocation; None for none.
    """

    serial: str
    name: str
    kind: Kind
    until_t: float
    revoked_t: float | None = None


class Credentials(NamedTuple):
    """What its holder needs, as PEM; no key where the holder made it."""

    certificate: bytes
    key: bytes | None
    authority: bytes
    until_t: float


class Authority:
    """One folder with the authority's key, its certificate, the index of all it issued, and the revocation list."""

    def __init__(self, folder: Path, clocks: clock.Clock) -> None:
        """Opens the folder.

        Raises:
            UsageError: there is no authority in it.
        """
        self._folder = folder
        self._clock = clocks
        try:
            self.certificate = (folder / _CERT).read_bytes()
            self._ca = x509.load_pem_x509_certificate(self.certificate)
            key = serialization.load_pem_private_key((folder / _KEY).read_bytes(), None)
            self._index = _read_index(folder)
        except (OSError, ValueError, msgspec.DecodeError) as error:
            raise errors.UsageError(
                f"no certificate authority in {folder}: {error}; make one with `edge-sdk ca init --folder {folder}`"
            ) from error
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self._key = key

    @property
    def revocations(self) -> Path:
        """The list of what is revoked, for the broker."""
        return self._folder / CRL

    def issue(
        self,
        name: str,
        *,
        kind: Kind = "device",
        days: float = DAYS,
        request: bytes | None = None,
        hosts: Sequence[str] = (),
    ) -> Credentials:
        """Gives a certificate for a name.

        Args:
            name: device id, or name of the collector or server.
            kind: what it is for.
            days: it is valid.
            request: a signing request in PEM, whose key is kept where it was made; None has a key made here.
            hosts: names and addresses of a server.

        Raises:
            UsageError: a name that breaks the rule or is another kind of client's, a time or host that can't be, or a
                request that is not sound.
        """
        topics.check_name(kind, name)
        if kind == "server" and not hosts:
            raise errors.UsageError(
                "a server's certificate needs the names or addresses that clients know it by: --host"
            )
        key = ec.generate_private_key(ec.SECP256R1()) if request is None else None
        public = key.public_key() if key is not None else certificates.requested_key(request or b"", name)
        with self._changing():
            return self._signed(public, key, name, kind, days=days, hosts=hosts)

    def renew(self, name: str, certificate: bytes, *, days: float = DAYS) -> Credentials:
        """Gives a new certificate for the key of an old one of the same name.

        Raises:
            UsageError: it was not issued here, not to that name, or is revoked.
        """
        try:
            old = x509.load_pem_x509_certificate(certificate)
        except ValueError as error:
            raise errors.UsageError(f"not a certificate in PEM: {error}") from error
        with self._changing():
            entry = next((one for one in self._index if one.serial == f"{old.serial_number:x}"), None)
            if entry is None or entry.name != name or not certificates.is_from(self._ca, old):
                raise errors.UsageError(f"that certificate was not issued to {name!r} by this authority")
            if entry.revoked_t is not None:
                raise errors.UsageError(f"the certificate of {name!r} is revoked; issue a new one with a new key")
            public = old.public_key()
            assert isinstance(public, ec.EllipticCurvePublicKey)
            return self._signed(public, None, name, entry.kind, days=days, hosts=certificates.hosts_of(old))

    def revoke(self, name: str) -> int:
        """Puts every certificate of a name on the revocation list; gives how many are new on it.

        Raises:
            UsageError: none was issued to that name.
        """
        with self._changing():
            if not any(one.name == name for one in self._index):
                raise errors.UsageError(f"no certificate was issued to {name!r}")
            now_s = self._clock.wall_s()
            fresh = sum(one.name == name and one.revoked_t is None for one in self._index)
            self._index = [
                msgspec.structs.replace(one, revoked_t=now_s) if one.name == name and one.revoked_t is None else one
                for one in self._index
            ]
        return fresh

    def issued(self) -> list[Issued]:
        """Gives all that was issued."""
        return list(self._index)

    def _signed(
        self,
        public: ec.EllipticCurvePublicKey,
        key: ec.EllipticCurvePrivateKey | None,
        name: str,
        kind: Kind,
        *,
        days: float,
        hosts: Sequence[str],
    ) -> Credentials:
        now_s = self._clock.wall_s()
        left_days = (self._ca.not_valid_after_utc.timestamp() - now_s) / 86400
        if not 0 < days <= left_days:
            raise errors.UsageError(f"a certificate of {days:g} days; expected above 0 and at most {left_days:.0f}")
        taken = {one.kind for one in self._index if one.name == name and one.revoked_t is None} - {kind, "server"}
        if taken and kind != "server":
            raise errors.UsageError(f"{name!r} is a {taken.pop()}'s name, and the broker goes by it; choose another")
        until_t = now_s + days * 86400
        made = certificates.signed_certificate(
            (self._ca, self._key),
            public,
            name,
            hosts=hosts,
            is_server=kind == "server",
            now_s=now_s,
            until_s=until_t,
        )
        self._index.append(Issued(f"{made.serial_number:x}", name, kind, until_t))
        return Credentials(
            made.public_bytes(serialization.Encoding.PEM),
            None if key is None else certificates.key_bytes(key),
            self.certificate,
            until_t,
        )

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """Reads the index anew and writes it after the block; whoever else changes it, in any process, waits."""
        try:
            descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                self._index = _read_index(self._folder)
                yield
                write_private(self._folder / _INDEX, msgspec.json.format(msgspec.json.encode(self._index)))
                revoked = [(int(one.serial, 16), one.revoked_t) for one in self._index if one.revoked_t is not None]
                listed = certificates.revocation_list(self._ca, self._key, revoked, self._clock.wall_s())
                write_private(self._folder / CRL, listed)
            finally:
                os.close(descriptor)
        except (OSError, msgspec.DecodeError) as error:
            raise errors.UsageError(f"the authority in {self._folder} can't be changed: {error}") from error


def create(folder: Path, clocks: clock.Clock, *, name: str = "edge_sdk fleet", days: float = CA_DAYS) -> Authority:
    """Makes an authority in a folder.

    Raises:
        UsageError: there is one already, or the folder can't be made.
    """
    if (folder / _KEY).exists():
        raise errors.UsageError(f"there is a certificate authority in {folder} already; it is not overwritten")
    key = ec.generate_private_key(ec.SECP256R1())
    now_s = clocks.wall_s()
    made = certificates.own_certificate(key, name, now_s=now_s, until_s=now_s + days * 86400)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(folder / _CERT, made.public_bytes(serialization.Encoding.PEM))
        write_private(folder / _INDEX, b"[]")
        write_private(folder / CRL, certificates.revocation_list(made, key, (), now_s))
        write_private(folder / _KEY, certificates.key_bytes(key))  # the last: with it the authority is there
    except OSError as error:
        raise errors.UsageError(f"cannot make an authority in {folder}: {error.strerror}") from error
    return Authority(folder, clocks)


def write_private(file: Path, content: bytes) -> None:
    """Writes a file that only its owner reads, whole or not at all; may raise OSError."""
    fresh = file.with_name(f".{file.name}.new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    fresh.replace(file)


def _read_index(folder: Path) -> list[Issued]:
    return msgspec.json.decode((folder / _INDEX).read_bytes(), type=list[Issued])
