"""The fleet's certificates: names by the rule, keys where they belong, and files that nobody else reads."""

import subprocess

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edge_sdk import errors
from edge_sdk.cli import main, settings_file
from edge_sdk.collector.identity import authority
from edge_sdk.device.settings import DaemonSettings
from edge_sdk.link import broker_config
from edge_sdk.testing.clock import FakeClock

NOW_S = 1_750_000_000.0


@pytest.fixture
def clock():
    return FakeClock(wall_s=NOW_S)


@pytest.fixture
def ca(tmp_path, clock):
    return authority.create(tmp_path / "ca", clock)


def request(name="cam-7", curve=None):
    key = ec.generate_private_key(curve or ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    asked = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return key, asked.public_bytes(serialization.Encoding.PEM)


def test_a_device_certificate_is_p256_for_90_days_and_can_only_connect(ca):
    made = x509.load_pem_x509_certificate(ca.issue("cam-7").certificate)
    assert made.subject.rfc4514_string() == "CN=cam-7"
    assert isinstance(made.public_key().curve, ec.SECP256R1)
    assert (made.not_valid_after_utc.timestamp() - NOW_S) / 86400 == 90
    usage = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert not made.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_a_server_certificate_names_its_hosts_and_can_only_serve(ca):
    made = x509.load_pem_x509_certificate(
        ca.issue("broker", kind="server", hosts=["b.example", "10.0.0.1"]).certificate
    )
    names = made.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["b.example"]
    assert [str(one) for one in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.1"]
    usage = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.SERVER_AUTH]
    with pytest.raises(errors.UsageError, match="--host"):
        ca.issue("broker-2", kind="server")


def test_a_key_that_was_made_on_the_device_stays_there(ca):
    key, pem = request()
    made = ca.issue("cam-7", request=pem)
    assert made.key is None
    assert x509.load_pem_x509_certificate(made.certificate).public_key() == key.public_key()


@pytest.mark.parametrize(
    ("pem", "message"),
    [
        (b"nonsense", "not a signing request"),
        (request("cam-8")[1], r"\['cam-8'\], but the certificate is to be for 'cam-7'"),
        (request(curve=ec.SECP384R1())[1], "must be P-256"),
    ],
)
def test_a_request_that_is_not_sound_gets_nothing(ca, pem, message):
    with pytest.raises(errors.UsageError, match=message):
        ca.issue("cam-7", request=pem)
    assert ca.issued() == []


def test_renewing_keeps_the_key_and_is_refused_to_the_revoked_and_to_others(ca, clock):
    first = ca.issue("cam-7")
    clock.advance(60 * 86400)
    second = ca.renew("cam-7", first.certificate)
    old, new = (x509.load_pem_x509_certificate(one.certificate) for one in (first, second))
    assert old.public_key() == new.public_key()
    assert second.until_t == pytest.approx(NOW_S + 150 * 86400)
    with pytest.raises(errors.UsageError, match="not issued to 'cam-8'"):
        ca.renew("cam-8", first.certificate)
    assert ca.revoke("cam-7") == 2
    with pytest.raises(errors.UsageError, match="revoked"):
        ca.renew("cam-7", second.certificate)
    assert len(ca.issued()) == 2


def test_revocations_are_listed_and_survive(ca, clock, tmp_path):
    made = x509.load_pem_x509_certificate(ca.issue("cam-7").certificate)
    ca.issue("cam-8")
    ca.revoke("cam-7")
    again = authority.Authority(tmp_path / "ca", clock)
    listed = x509.load_pem_x509_crl(again.revocations.read_bytes())
    assert [one.serial_number for one in listed] == [made.serial_number]
    assert listed.next_update_utc.timestamp() > NOW_S + 9 * 365 * 86400, "a broker with an outdated list lets nobody in"
    with pytest.raises(errors.UsageError, match="no certificate was issued to 'cam-9'"):
        again.revoke("cam-9")


def test_keys_are_for_their_owner_only_and_an_authority_is_never_overwritten(ca, clock, tmp_path):
    assert (tmp_path / "ca/ca.key").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "ca").stat().st_mode & 0o777 == 0o700
    before = (tmp_path / "ca/ca.key").read_bytes()
    with pytest.raises(errors.UsageError, match="already"):
        authority.create(tmp_path / "ca", clock)
    assert (tmp_path / "ca/ca.key").read_bytes() == before
    with pytest.raises(errors.UsageError, match="edge-sdk ca init"):
        authority.Authority(tmp_path / "none", clock)


def test_nothing_is_lost_of_two_who_issue_at_the_same_time(ca, clock, tmp_path):
    other = authority.Authority(tmp_path / "ca", clock)
    first = x509.load_pem_x509_certificate(ca.issue("cam-7").certificate)
    other.issue("cam-8")
    assert other.revoke("cam-7") == 1, "a certificate that is not in the index could never be revoked"
    ca.issue("cam-9")
    assert [one.name for one in other.issued()] == ["cam-7", "cam-8"]
    again = authority.Authority(tmp_path / "ca", clock)
    assert [(one.name, one.revoked_t) for one in again.issued()] == [("cam-7", NOW_S), ("cam-8", None), ("cam-9", None)]
    listed = x509.load_pem_x509_crl(again.revocations.read_bytes())
    assert [one.serial_number for one in listed] == [first.serial_number]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"days": float("nan")}, "a certificate of nan days; expected above 0 and at most 3650"),
        ({"days": -1}, "a certificate of -1 days"),
        ({"days": 4000}, "a certificate of 4000 days"),
        ({"kind": "collector"}, "'cam-7' is a device's name"),
        ({"kind": "server", "hosts": ["b\u00fcro"]}, "neither an address nor a host name"),
        ({"kind": "server", "hosts": [""]}, "neither an address nor a host name"),
    ],
)
def test_what_can_not_be_is_refused_and_nothing_is_issued(ca, tmp_path, wrong, words):
    ca.issue("cam-7")
    before = (tmp_path / "ca/index.json").read_bytes()
    with pytest.raises(errors.UsageError, match=words):
        ca.issue("cam-7", **wrong)
    assert (tmp_path / "ca/index.json").read_bytes() == before


def test_the_folder_of_others_keeps_its_permissions(clock, tmp_path):
    (tmp_path / "ours").mkdir(mode=0o755)
    authority.create(tmp_path / "ours", clock)
    assert (tmp_path / "ours").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "ours/ca.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("url", ["mqtt://b.example", "b.example", "mqtts://me:secret@b.example"])
def test_a_device_is_not_enrolled_at_what_is_no_broker_with_tls(tmp_path, capsys, monkeypatch, url):
    monkeypatch.chdir(tmp_path)
    assert main.run(["ca", "init"]) == 0
    before = (tmp_path / "fleet-ca/index.json").read_bytes()
    assert main.run(["ca", "issue", "cam-7", "--broker", url]) == 2
    assert (tmp_path / "fleet-ca/index.json").read_bytes() == before
    assert not (tmp_path / "cam-7").exists()


def test_a_broker_of_any_letters_is_one_value_in_the_devices_settings(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    url = 'mqtts://b"x\\y'
    assert main.run(["ca", "init"]) == 0
    assert main.run(["ca", "issue", "cam-7", "--broker", url]) == 0
    assert settings_file.read_table(tmp_path / "cam-7/device.toml")["broker"] == url


def test_one_command_enrols_a_device_with_settings_that_the_daemon_takes(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main.run(["ca", "init"]) == 0
    assert main.run(["ca", "issue", "cam-7", "--broker", "mqtts://b.example", "--site", "plant-1"]) == 0
    assert sorted(file.name for file in (tmp_path / "cam-7").iterdir()) == [
        "ca.crt",
        "device.crt",
        "device.key",
        "device.toml",
    ]
    assert (tmp_path / "cam-7/device.key").stat().st_mode & 0o777 == 0o600
    settings = settings_file.settings_from_table(
        settings_file.read_table(tmp_path / "cam-7/device.toml"), DaemonSettings, source="device.toml"
    )
    assert (settings.broker, settings.site, settings.device) == ("mqtts://b.example", "plant-1", "cam-7")
    checked = subprocess.run(
        ["openssl", "verify", "-CAfile", "cam-7/ca.crt", "cam-7/device.crt"], capture_output=True, text=True
    )
    assert checked.stdout.strip() == "cam-7/device.crt: OK"
    before = (tmp_path / "cam-7/device.key").read_bytes()
    assert main.run(["ca", "issue", "cam-7"]) == 2, "it is not overwritten"
    assert (tmp_path / "cam-7/device.key").read_bytes() == before
    assert main.run(["ca", "renew", "cam-7"]) == 0
    assert (tmp_path / "cam-7/device.key").read_bytes() == before
    assert main.run(["ca", "issue"]) == 2


def test_an_address_that_was_said_is_the_one_listened_on(tmp_path, capsys):
    assert main.run(["broker", "--write-config", str(tmp_path / "a")]) == 0
    assert main.run(["broker", "--write-config", str(tmp_path / "b"), "--host", "127.0.0.1", "--port", "1883"]) == 0
    capsys.readouterr()
    assert "\nlistener 8883 0.0.0.0\n" in (tmp_path / "a/mosquitto.conf").read_text()
    assert "\nlistener 1883 127.0.0.1\n" in (tmp_path / "b/mosquitto.conf").read_text()


def test_a_broker_configuration_is_written_once_with_names_by_the_rule(tmp_path):
    folder = tmp_path / "broker"
    for wrong in ({"collectors": ["#"]}, {"site": "a/b"}):
        with pytest.raises(errors.UsageError, match="must match"):
            broker_config.write_config(folder, **wrong)
    assert not folder.exists()
    files = broker_config.write_config(folder, site="plant-1", collectors=["one", "two"])
    assert [file.name for file in files] == ["mosquitto.conf", "acl"]
    config, acl = (file.read_text() for file in files)
    for line in (
        "require_certificate true",
        "use_username_as_clientid true",
        "set_tcp_nodelay true",
        "max_queued_messages 1000000",
    ):
        assert f"\n{line}\n" in config
    assert "pattern write edge/v1/plant-1/%u/up/#\n" in acl
    assert acl.count("user ") == 2
    with pytest.raises(errors.UsageError, match="not overwritten"):
        broker_config.write_config(folder)
    assert files[0].read_text() == config
    with pytest.raises(errors.UsageError, match="space"):
        broker_config.write_config(tmp_path / "my broker")
