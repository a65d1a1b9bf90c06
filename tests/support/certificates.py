"""Certificates for servers and clients of one test run."""

from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True, slots=True)
class Certificates:
    """PEM files of an authority, and of certificates that it signed for the server on 127.0.0.1 and for a client."""

    authority: Path
    server: Path
    client: Path
    client_key: Path

    @property
    def server_arguments(self) -> list[str]:
        """Options of a redis-server that requires TLS and a client certificate."""
        key = str(self.server)
        return [
            *("--tls-ca-cert-file", str(self.authority)),
            *("--tls-cert-file", key),
            *("--tls-key-file", key),
            *("--tls-auth-clients", "yes"),
        ]

    @property
    def query(self) -> str:
        """Query of a URL that uses the certificates."""
        return f"ssl_ca_certs={self.authority}&ssl_certfile={self.client}&ssl_keyfile={self.client_key}"


def make_certificates(folder: Path) -> Certificates:
    authority = trustme.CA()
    made = Certificates(*(folder / f"{name}.pem" for name in ("ca", "server", "client", "client-key")))
    authority.cert_pem.write_to_path(str(made.authority))
    authority.issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(
        str(made.server)
    )
    client = authority.issue_cert("client@localhost")
    client.private_key_pem.write_to_path(str(made.client_key))
    client.cert_chain_pems[0].write_to_path(str(made.client))
    return made
