"""What TLS needs of the settings of a connection."""

import ssl

from edge_sdk import errors
from edge_sdk.link.settings import MqttSettings, parse_url


def context_from_settings(settings: MqttSettings) -> ssl.SSLContext | None:
    """Gives the TLS context for ``mqtts``, else None.

    Raises:
        SettingsError: a certificate or key that can't be read, or one without the other.
    """
    if not parse_url(settings.url).is_tls:
        return None
    if (settings.cert_file is None) != (settings.key_file is None):
        raise errors.SettingsError("cert_file and key_file belong together; give both or neither")
    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if settings.cert_file is not None:
            context.load_cert_chain(settings.cert_file, settings.key_file)
    except OSError as error:
        files = [str(file) for file in (settings.ca_file, settings.cert_file, settings.key_file) if file is not None]
        reason = error.strerror or str(error) or type(error).__name__
        raise errors.SettingsError(f"cannot read the certificates {', '.join(files)}: {reason}") from error
    return context
