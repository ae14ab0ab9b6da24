"""Certificates of the fleet: built, read, and listed as revoked. With `authority` the only door to cryptography."""

import contextlib
import datetime as dt
import ipaddress
from collections.abc import Iterable, Iterator, Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edge_sdk import errors

_BACKDATED_S = 3600  # a device's clock may be a little behind

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


def own_certificate(key: ec.EllipticCurvePrivateKey, name: str, *, now_s: float, until_s: float) -> x509.Certificate:
    """Gives an authority's certificate, signed by its own key."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    return (
        _builder(name, subject, key.public_key(), now_s - _BACKDATED_S, until_s)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_SIGNS, critical=True)
        .sign(key, hashes.SHA256())
    )


def signed_certificate(
    ca: tuple[x509.Certificate, ec.EllipticCurvePrivateKey],
    public: ec.EllipticCurvePublicKey,
    name: str,
    *,
    hosts: Sequence[str],
    is_server: bool,
    now_s: float,
    until_s: float,
) -> x509.Certificate:
    """Gives a certificate that can serve or connect, never both.

    Raises:
        UsageError: a host that is neither an address nor a name in ASCII.
    """
    usage = ExtendedKeyUsageOID.SERVER_AUTH if is_server else ExtendedKeyUsageOID.CLIENT_AUTH
    builder = (
        _builder(name, ca[0].subject, public, now_s - _BACKDATED_S, until_s)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=True)
    )
    if hosts:
        builder = builder.add_extension(x509.SubjectAlternativeName(list(_names(hosts))), critical=False)
    return builder.sign(ca[1], hashes.SHA256())


def revocation_list(
    ca: x509.Certificate, key: ec.EllipticCurvePrivateKey, revoked: Iterable[tuple[int, float]], now_s: float
) -> bytes:
    """Gives the list of (serial, time) in PEM.

    It is valid as long as the authority: a broker with an outdated list lets nobody in.
    """
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(ca.subject)
        .last_update(_moment(now_s - _BACKDATED_S))
        .next_update(ca.not_valid_after_utc)
    )
    for serial, revoked_t in revoked:
        builder = builder.add_revoked_certificate(
            x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(_moment(revoked_t)).build()
        )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def requested_key(request: bytes, name: str) -> ec.EllipticCurvePublicKey:
    """Gives the key of a signing request for a name.

    Raises:
        UsageError: it is not in PEM, for another name, not P-256, or not signed by its own key.
    """
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


def is_from(ca: x509.Certificate, certificate: x509.Certificate) -> bool:
    """Tells whether an authority signed a certificate."""
    try:
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def hosts_of(certificate: x509.Certificate) -> list[str]:
    """Gives the names and addresses in a server's certificate."""
    with contextlib.suppress(x509.ExtensionNotFound):
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return [*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))]
    return []


def key_bytes(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Gives a private key in PEM, not encrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
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


def _names(hosts: Sequence[str]) -> Iterator[x509.GeneralName]:
    for host in hosts:
        with contextlib.suppress(ValueError):
            yield x509.IPAddress(ipaddress.ip_address(host))
            continue
        if not host or not host.isascii():
            raise errors.UsageError(
                f"{host!r} is neither an address nor a host name in ASCII; give an xn-- name as such"
            )
        yield x509.DNSName(host)


def _moment(wall_s: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(int(wall_s), dt.timezone.utc)
