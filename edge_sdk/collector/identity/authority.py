"""The fleet's certificate authority, a folder: P-256, 90 days, names by our own rule. The only door to cryptography.

A broker takes the common name of a client's certificate as its user, and MQTT wildcards in it as such; so a name that
is no device id never gets a certificate. Clients' certificates can't serve, and the server's can't connect.
"""

import contextlib
import datetime as dt
import ipaddress
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edge_sdk import clock, errors
from edge_sdk.wire import topics

Kind = Literal["device", "collector", "server"]

DAYS = 90
"""A certificate is to be renewed at two thirds of it."""
CA_DAYS = 3650
_BACKDATED_S = 3600  # a device's clock may be a little behind
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
            self._index = msgspec.json.decode((folder / _INDEX).read_bytes(), type=list[Issued])
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
            UsageError: a name that breaks the rule, or a request that is not sound.
        """
        topics.check_name(kind, name)
        if kind == "server" and not hosts:
            raise errors.UsageError(
                "a server's certificate needs the names or addresses that clients know it by: --host"
            )
        key = ec.generate_private_key(ec.SECP256R1()) if request is None else None
        public = key.public_key() if key is not None else _requested_key(request or b"", name)
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
        entry = next((one for one in self._index if one.serial == f"{old.serial_number:x}"), None)
        if entry is None or entry.name != name or not _is_from(self._ca, old):
            raise errors.UsageError(f"that certificate was not issued to {name!r} by this authority")
        if entry.revoked_t is not None:
            raise errors.UsageError(f"the certificate of {name!r} is revoked; issue a new one with a new key")
        public = old.public_key()
        assert isinstance(public, ec.EllipticCurvePublicKey)
        return self._signed(public, None, name, entry.kind, days=days, hosts=_hosts_of(old))

    def revoke(self, name: str) -> int:
        """Puts every certificate of a name on the revocation list; gives how many are new on it.

        Raises:
            UsageError: none was issued to that name.
        """
        if not any(one.name == name for one in self._index):
            raise errors.UsageError(f"no certificate was issued to {name!r}")
        now_s = self._clock.wall_s()
        fresh = sum(one.name == name and one.revoked_t is None for one in self._index)
        self._index = [
            msgspec.structs.replace(one, revoked_t=now_s) if one.name == name and one.revoked_t is None else one
            for one in self._index
        ]
        self._save()
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
        until_t = now_s + days * 86400
        usage = ExtendedKeyUsageOID.SERVER_AUTH if kind == "server" else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = (
            _builder(name, self._ca.subject, public, now_s - _BACKDATED_S, until_t)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=True)
        )
        if hosts:
            builder = builder.add_extension(x509.SubjectAlternativeName(list(_names(hosts))), critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        self._index.append(Issued(f"{certificate.serial_number:x}", name, kind, until_t))
        self._save()
        return Credentials(
            certificate.public_bytes(serialization.Encoding.PEM),
            None if key is None else _key_bytes(key),
            self.certificate,
            until_t,
        )

    def _save(self) -> None:
        now_s = self._clock.wall_s()
        _write(self._folder / _INDEX, msgspec.json.format(msgspec.json.encode(self._index)))
        _write(self._folder / CRL, _revocations(self._ca, self._key, self._index, now_s))


def create(folder: Path, clocks: clock.Clock, *, name: str = "edge_sdk fleet", days: float = CA_DAYS) -> Authority:
    """Makes an authority in a folder.

    Raises:
        UsageError: there is one already, or the folder can't be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    except OSError as error:
        raise errors.UsageError(f"cannot make the folder {folder}: {error.strerror}") from error
    if (folder / _KEY).exists():
        raise errors.UsageError(f"there is a certificate authority in {folder} already; it is not overwritten")
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now_s = clocks.wall_s()
    certificate = (
        _builder(name, subject, key.public_key(), now_s - _BACKDATED_S, now_s + days * 86400)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_SIGNS, critical=True)
        .sign(key, hashes.SHA256())
    )
    _write(folder / _KEY, _key_bytes(key))
    _write(folder / _CERT, certificate.public_bytes(serialization.Encoding.PEM))
    _write(folder / _INDEX, b"[]")
    _write(folder / CRL, _revocations(certificate, key, [], now_s))
    return Authority(folder, clocks)


_SIGNS = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)


def _builder(
    name: str, issuer: x509.Name, public: ec.EllipticCurvePublicKey, from_s: float, until_s: float
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_moment(from_s))
        .not_valid_after(_moment(until_s))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
    )


def _revocations(ca: x509.Certificate, key: ec.EllipticCurvePrivateKey, index: Sequence[Issued], now_s: float) -> bytes:
    """Gives the list. It is valid as long as the authority: a broker with an outdated list lets nobody in."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(ca.subject)
        .last_update(_moment(now_s - _BACKDATED_S))
        .next_update(ca.not_valid_after_utc)
    )
    for one in index:
        if one.revoked_t is not None:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(int(one.serial, 16))
                .revocation_date(_moment(one.revoked_t))
                .build()
            )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _requested_key(request: bytes, name: str) -> ec.EllipticCurvePublicKey:
    try:
        asked = x509.load_pem_x509_csr(request)
    except ValueError as error:
        raise errors.UsageError(f"not a signing request in PEM: {error}") from error
    names = [str(attribute.value) for attribute in asked.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    public = asked.public_key()
    if names not in ([], [name]):
        raise errors.UsageError(f"the request is for {names}, but the certificate is to be for {name!r}")
    if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, ec.SECP256R1):
        raise errors.UsageError("the request's key must be P-256: openssl ecparam -name prime256v1 -genkey")
    if not asked.is_signature_valid:
        raise errors.UsageError("the request is not signed by its own key")
    return public


def _is_from(ca: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _hosts_of(certificate: x509.Certificate) -> list[str]:
    with contextlib.suppress(x509.ExtensionNotFound):
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
    return []


def _names(hosts: Sequence[str]) -> Iterator[x509.GeneralName]:
    for host in hosts:
        try:
            yield x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            yield x509.DNSName(host)


def _key_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _moment(wall_s: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(int(wall_s), dt.timezone.utc)


def _write(file: Path, content: bytes) -> None:
    """Writes a file that only its owner reads, whole or not at all."""
    fresh = file.with_name(f".{file.name}.new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
    fresh.replace(file)
