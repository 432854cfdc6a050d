"""TLS to a server: what is verified, and that nothing goes on without it where it was asked for."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import subprocess
import sys
import termios
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import pytest
import sqlalchemy as sa
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from tests import servers
from tests.backends import Backend
from tests.project import ROOT, Project
from tests.servers import Certificates, Server
from traderrr_data import ConfigurationError, DatabaseManager, Settings

pytestmark = pytest.mark.server

HERE: Final = Project(ROOT)
PASSPHRASE: Final = "S3cret-Pa55phrase"  # noqa: S105 - of a key that the test makes
NAME: Final = "localhost"
"""The only name in the server's certificate; 127.0.0.1 is the same server under another."""

ENCRYPTED: Final = {
    "postgresql": "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()",
    "mysql": "SELECT variable_value <> '' FROM information_schema.session_status WHERE variable_name = 'Ssl_cipher'",
}
"""Whether the connection is encrypted, as the server says."""

CERTIFIED: Final = {
    "postgresql": "SELECT client_dn IS NOT NULL FROM pg_stat_ssl WHERE pid = pg_backend_pid()",
    "mysql": "SELECT user() LIKE 'certified@%'",  # whom the server lets in with a certificate only
}
"""Whether the client has shown a certificate."""

LOGIN_BY_CERTIFICATE: Final = {
    "postgresql": "CREATE ROLE certified LOGIN PASSWORD 'certified';",
    "mysql": "CREATE USER certified@'127.0.0.1' IDENTIFIED BY 'certified' REQUIRE X509;"
    "GRANT ALL ON *.* TO certified@'127.0.0.1';",
}
for queries in (ENCRYPTED, CERTIFIED, LOGIN_BY_CERTIFICATE):
    queries["mariadb"] = queries["mysql"]


@dataclass(frozen=True)
class Safe:
    """A server with a certificate, and the files of its clients.

    Attributes:
        server: it takes both plain and encrypted connections.
        scheme: of its URLs.
        ca: the authority that signed its certificate.
        other_ca: one that did not.
        certificate: a client's, signed by the same authority.
        key: the client's, under `PASSPHRASE`.
    """

    server: Server
    scheme: str
    ca: Path
    other_ca: Path
    certificate: Path
    key: Path

    def url(self, query: str = "", host: str = NAME) -> str:
        url = self.server.url.set(drivername=self.scheme, host=host).render_as_string(hide_password=False)
        return f"{url}?{query}" if query else url


@pytest.fixture(scope="module")
def safe(backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Safe]:
    """A server with a certificate for `NAME`."""
    folder = tmp_path_factory.mktemp("certificates")
    authority, client = trustme.CA(), folder / "key.pem"
    authority.cert_pem.write_to_path(folder / "ca.pem")
    trustme.CA().cert_pem.write_to_path(folder / "other.pem")
    issued = authority.issue_cert("client@example.com", common_name="client")
    issued.cert_chain_pems[0].write_to_path(folder / "certificate.pem")
    key = load_pem_private_key(issued.private_key_pem.bytes(), None)
    encryption = BestAvailableEncryption(PASSPHRASE.encode())
    client.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, encryption))
    own = authority.issue_cert(NAME)
    files = Certificates(own.cert_chain_pems[0].bytes(), own.private_key_pem.bytes(), authority.cert_pem.bytes())
    start = servers.postgresql if backend.name == "postgresql" else servers.mysql
    with start(certificates=files) as server:
        server.run_sql(LOGIN_BY_CERTIFICATE[backend.name])
        names = (folder / f"{name}.pem" for name in ("ca", "other", "certificate", "key"))
        yield Safe(server, backend.scheme, *names)


async def ask(settings: Settings | str, query: str) -> object:
    async with DatabaseManager(settings) as db, db.engine.connect() as connection:
        return (await connection.execute(sa.text(query))).scalar_one()


@pytest.mark.parametrize("host", [NAME, "127.0.0.1"])
@pytest.mark.parametrize(
    "query",
    ["sslmode=require", "ssl_mode=REQUIRED", "sslmode=verify-ca&sslrootcert={ca}", "sslmode=require&sslrootcert={ca}"],
)
async def test_a_url_that_asks_for_encryption_gets_it_under_any_name(
    backend: Backend, safe: Safe, query: str, host: str
) -> None:
    assert await ask(safe.url(query.format(ca=safe.ca), host), ENCRYPTED[backend.name])


@pytest.mark.parametrize(
    "query",
    [
        "sslmode=verify-full&sslrootcert={ca}",
        "ssl-mode=VERIFY_IDENTITY&ssl-ca={ca}",
        "ssl=true&ssl_ca={ca}",
    ],
)
async def test_a_server_of_a_known_authority_is_taken_under_its_own_name_only(
    backend: Backend, safe: Safe, query: str
) -> None:
    query = query.format(ca=safe.ca)
    assert await ask(safe.url(query), ENCRYPTED[backend.name])
    with pytest.raises(ConfigurationError, match=r"certificate is refused.*127\.0\.0\.1") as caught:
        await ask(safe.url(query, "127.0.0.1"), "SELECT 1")
    assert isinstance(caught.value.__cause__, Exception)


async def test_the_settings_say_the_same_as_the_url(backend: Backend, safe: Safe) -> None:
    settings = Settings(database_url=safe.url(), db_ssl="verify-full", db_ssl_ca=safe.ca)
    assert await ask(settings, ENCRYPTED[backend.name])
    elsewhere = Settings(database_url=safe.url(host="127.0.0.1"), db_ssl="verify-full", db_ssl_ca=safe.ca)
    with pytest.raises(ConfigurationError, match="certificate is refused"):
        await ask(elsewhere, "SELECT 1")


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full", "require"])
async def test_a_server_of_an_unknown_authority_is_refused(safe: Safe, mode: str) -> None:
    with pytest.raises(ConfigurationError, match="certificate is refused"):
        await ask(safe.url(f"sslmode={mode}&sslrootcert={safe.other_ca}"), "SELECT 1")


@pytest.mark.parametrize("mode", ["verify-ca", "verify-full"])
async def test_without_a_file_the_authorities_of_the_system_decide(safe: Safe, mode: str) -> None:
    with pytest.raises(ConfigurationError, match="certificate is refused"):
        await ask(safe.url(f"sslmode={mode}"), "SELECT 1")


async def test_a_refused_certificate_is_not_tried_again(safe: Safe) -> None:
    calls = 0
    async with DatabaseManager(safe.url("sslmode=verify-full")) as db:

        async def work(session: object) -> None:
            nonlocal calls
            calls += 1
            await session.execute(sa.text("SELECT 1"))  # type: ignore[attr-defined]

        with pytest.raises(ConfigurationError) as caught:
            await db.run(work)
    assert not caught.value.retryable
    assert calls <= 1


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
async def test_a_server_without_encryption_is_refused(backend: Backend, mode: str, safe: Safe) -> None:
    plain = sa.make_url(backend.create_database())
    try:
        url = plain.update_query_dict({"sslmode": mode, "sslrootcert": str(safe.ca)})
        with pytest.raises(ConfigurationError, match="does not offer it"):
            await ask(url.render_as_string(hide_password=False), "SELECT 1")
        assert not await ask(plain.render_as_string(hide_password=False), ENCRYPTED[backend.name])
    finally:
        backend.drop_database(plain.render_as_string(hide_password=False))


@pytest.mark.parametrize("query", ["sslmode=disable", "ssl=false", "ssl_mode=DISABLED"])
async def test_encryption_may_be_switched_off(backend: Backend, safe: Safe, query: str) -> None:
    assert not await ask(safe.url(query), ENCRYPTED[backend.name])


async def test_a_client_shows_its_certificate_with_a_key_under_a_passphrase(backend: Backend, safe: Safe) -> None:
    login = sa.make_url(safe.url()).set(username="certified", password="certified")
    files = {"sslmode": "verify-full", "sslrootcert": safe.ca, "sslcert": safe.certificate, "sslkey": safe.key}
    in_url = login.update_query_dict({name: str(value) for name, value in files.items()} | {"sslpassword": PASSPHRASE})
    assert await ask(in_url.render_as_string(hide_password=False), CERTIFIED[backend.name])
    settings = Settings(
        database_url=login.render_as_string(hide_password=False),
        db_ssl="verify-full",
        db_ssl_ca=safe.ca,
        db_ssl_cert=safe.certificate,
        db_ssl_key=safe.key,
        db_ssl_key_password=PASSPHRASE,
    )
    assert await ask(settings, CERTIFIED[backend.name])


MAKE_A_MANAGER: Final = """
import sys
from traderrr_data import ConfigurationError, DatabaseManager
try:
    DatabaseManager(sys.argv[1])
except ConfigurationError as error:
    print(error)
"""


@pytest.mark.parametrize("passphrase", ["", f"&sslpassword=not-{PASSPHRASE}"], ids=["absent", "wrong"])
def test_a_key_whose_passphrase_is_absent_or_wrong_is_refused_and_nobody_is_asked(safe: Safe, passphrase: str) -> None:
    """OpenSSL asks on the terminal, also from a server's process that was started there."""
    url = safe.url(
        f"sslmode=verify-full&sslrootcert={safe.ca}&sslcert={safe.certificate}&sslkey={safe.key}{passphrase}"
    )
    terminal, its_end = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, "-c", MAKE_A_MANAGER, url],
            env=HERE.environment(),
            stdin=its_end,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=30,
            check=True,
            start_new_session=True,
            preexec_fn=partial(fcntl.ioctl, its_end, termios.TIOCSCTTY, 0),
        )
    finally:
        os.close(its_end)
        os.close(terminal)
    assert "DB_SSL_KEY_PASSWORD is not its" in done.stdout
    assert PASSPHRASE not in done.stdout


async def test_what_a_manager_made_of_a_url_encrypts_and_verifies_as_well(backend: Backend, safe: Safe) -> None:
    db = DatabaseManager(safe.url(f"sslmode=verify-full&sslrootcert={safe.ca}"))
    assert await ask(db.engine.url.render_as_string(hide_password=False), ENCRYPTED[backend.name])
    elsewhere = db.engine.url.set(host="127.0.0.1").render_as_string(hide_password=False)
    with pytest.raises(ConfigurationError, match="certificate is refused"):
        await ask(elsewhere, "SELECT 1")


async def test_a_cancelled_statement_is_stopped_over_a_verified_connection(backend: Backend, safe: Safe) -> None:
    sleep = {"postgresql": "SELECT pg_sleep(60)"}.get(backend.name, "SELECT sleep(60)")
    running = {
        "postgresql": "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT pg_sleep%';"
    }.get(backend.name, "SELECT count(*) FROM information_schema.processlist WHERE info LIKE 'SELECT sleep%';")
    task = asyncio.create_task(ask(safe.url(f"sslmode=verify-full&sslrootcert={safe.ca}"), sleep))
    async with asyncio.timeout(20):
        while safe.server.run_sql(running) != [("1",)]:  # noqa: ASYNC110 - only the server knows
            await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        while safe.server.run_sql(running) != [("0",)]:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.02)
