"""PgBouncer before a PostgreSQL server, in transaction mode, as a careless administrator might have set it up."""

from __future__ import annotations

import contextlib
import os
import pwd
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests import programs
from tests.servers import PostgresqlServer, Process, started, temporary_directory

SESSIONS: Final = 4
"""How many of the server's sessions the clients of one database share."""

# Each transaction gets the session that has been idle for longest, so that two in a row hardly ever have the same one.
# Startup parameters are dropped rather than refused: what relies on them goes wrong without an error.
_SETTINGS: Final = {
    "listen_addr": "127.0.0.1",
    "unix_socket_dir": "",
    "auth_type": "scram-sha-256",
    "auth_query": "SELECT usename, passwd FROM pg_shadow WHERE usename = $1",
    "pool_mode": "transaction",
    "default_pool_size": SESSIONS,
    "server_round_robin": 1,
    "ignore_startup_parameters": "extra_float_digits,search_path,statement_timeout,options",
    "max_client_conn": 500,
    "server_login_retry": 0.1,
    "server_idle_timeout": 10,
    "query_wait_timeout": 5,
    "log_connections": 0,
    "log_disconnections": 0,
}


class Pgbouncer(PostgresqlServer):
    """PgBouncer; what its client psql runs goes through it."""


@contextlib.contextmanager
def pgbouncer(server: PostgresqlServer) -> Iterator[Pgbouncer]:
    """Give a PgBouncer before a server, with its users and databases.

    Raises:
        ProgramMissingError: there is none on this machine.
        ServerError: it did not start.
    """
    program = programs.provide_pgbouncer()
    account = pwd.getpwnam("nobody") if os.geteuid() == 0 else None  # PgBouncer refuses to run as root
    with (
        temporary_directory(open_to_all=account is not None) as directory,
        started(lambda port: _own_pgbouncer(program, server, directory, port, account)) as running,
    ):
        yield running


def _own_pgbouncer(
    program: Path, server: PostgresqlServer, directory: Path, port: int, account: pwd.struct_passwd | None
) -> Pgbouncer:
    users, settings = directory / "users.txt", directory / "pgbouncer.ini"
    lines = {**_SETTINGS, "listen_port": port, "auth_file": users}
    _write(users, f'"{server.url.username}" "{server.url.password}"\n', account)
    databases = f"* = host={server.url.host} port={server.url.port or 5432} auth_user={server.url.username}\n"
    text = "".join(f"{name} = {value}\n" for name, value in lines.items())
    _write(settings, f"[databases]\n{databases}\n[pgbouncer]\n{text}", account)
    process = Process([program, "--quiet", settings], directory, stop_signal=signal.SIGTERM, account=account)
    return Pgbouncer(server.url.set(host="127.0.0.1", port=port), process)


def _write(path: Path, text: str, account: pwd.struct_passwd | None) -> None:
    path.touch(mode=0o600)
    path.write_text(text)
    if account:
        os.chown(path, account.pw_uid, account.pw_gid)
