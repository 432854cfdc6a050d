"""Files with rows in them are open to nobody to whom the database is not, also where nothing is masked."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tests.bars import daily
from tests.contract.test_cli import HEADER, own, run
from traderrr_data import DatabaseManager, files, market_data
from traderrr_data.ingest import bar_writer, ingest_file

LINE = "AAPL,2025-01-02,1,1,1,1,1"
BAD = "AAPL,2025-01-03,1,1,1,1,-1"


@pytest.fixture(autouse=True)
def nothing_is_masked() -> Iterator[None]:
    """Make files as readable as they are asked to be."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture(params=[0o600, 0o640, 0o644, 0o666], ids=oct)
def readable(request: pytest.FixtureRequest, db: DatabaseManager) -> int:
    """Open the database to these, and return who else may be let read what comes out of it."""
    path = Path(db.engine.url.database or "")
    if not path.is_absolute():
        return 0o600  # nobody knows whom a server lets in
    path.chmod(request.param)
    return int(request.param)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
async def bar(db: DatabaseManager) -> None:
    """Store one bar."""
    async with db.session_context() as session:
        await market_data.upsert_daily(session, [daily("AAPL")])


@pytest.mark.usefixtures("bar")
@pytest.mark.parametrize("ending", ["csv", "csv.gz", "parquet"])
def test_an_export_is_as_readable_as_the_database(
    readable: int, database_url: str, tmp_path: Path, ending: str
) -> None:
    path = tmp_path / f"bars.{ending}"
    path.touch(mode=0o666)
    run("export", "-o", path, url=database_url)
    assert mode(path) == readable
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def modes(folder: Path) -> set[int]:
    """Return how files below a folder are open, and that it and its folders may be gone into by just the same."""
    below = list(folder.rglob("*"))
    files_in = {mode(path) for path in below if path.is_file()}
    folders = {mode(path) for path in (folder, *below) if path.is_dir()}
    assert folders == {found | found >> 2 & 0o111 for found in files_in}
    return files_in


@pytest.mark.usefixtures("bar")
def test_a_copy_in_files_is_as_readable_as_the_database(readable: int, database_url: str, tmp_path: Path) -> None:
    run("copy", database_url, tmp_path / "new" / "copy", url=database_url)
    assert modes(tmp_path / "new" / "copy") == {readable | 0o600}
    run("copy", tmp_path / "new" / "copy", tmp_path / "again", url=database_url)
    assert modes(tmp_path / "again") == {readable | 0o600}


@pytest.mark.usefixtures("bar")
def test_a_copy_into_a_folder_that_is_open_to_all_is_not(readable: int, database_url: str, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir(mode=0o777)
    run("copy", database_url, tmp_path / "copy", url=database_url)
    assert {mode(path) for path in (tmp_path / "copy").rglob("*") if path.is_file()} == {readable}
    assert mode(tmp_path / "copy") == 0o777


@pytest.mark.usefixtures("bar")
def test_a_backup_is_as_readable_as_the_database(readable: int, database_url: str, tmp_path: Path) -> None:
    run("backup", tmp_path / "backup", url=database_url)
    backup = tmp_path / "backup"
    assert (modes(backup) if backup.is_dir() else {mode(backup)}) == {readable}


@pytest.mark.parametrize("given", [0o600, 0o644, 0o666], ids=oct)
async def test_rejected_rows_are_as_readable_as_their_file_and_the_database(
    db: DatabaseManager, readable: int, tmp_path: Path, given: int
) -> None:
    file = own(tmp_path / "bars.csv", LINE, BAD)
    file.chmod(given)
    (tmp_path / ".bars.csv.rejected.csv.part").touch(mode=0o666)  # of a run that was killed
    result = await ingest_file(db, file)
    assert result.rejected_file is not None
    assert mode(result.rejected_file) == readable & given
    assert HEADER in result.rejected_file.read_text()


@pytest.mark.usefixtures("readable")
async def test_a_spill_is_for_its_owner(db: DatabaseManager, tmp_path: Path) -> None:
    async with bar_writer(db, spill=tmp_path / "spill") as writer:
        await writer.put(daily("AAPL"), durable=True)
        assert mode(tmp_path / "spill") == 0o600


@pytest.mark.parametrize("database", ["database.db", None], ids=["a file", "a server"])
def test_a_group_that_is_not_the_databases_is_not_let_in(tmp_path: Path, database: str | None) -> None:
    source = tmp_path / "database.db"
    source.touch(mode=0o660)
    another = next(group for group in [*os.getgroups(), 4242] if group != os.getgid())  # 4242: root may give any
    os.chown(source, -1, another)
    url = sa.URL.create("sqlite", database=str(source) if database else "name")
    os.close(files.create(tmp_path / "rows.csv", url))
    files.create_folder(tmp_path / "rows", url)
    assert (mode(tmp_path / "rows.csv"), mode(tmp_path / "rows")) == (0o600, 0o700)


def test_a_link_to_another_file_is_replaced_and_not_followed(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_text("theirs")
    (tmp_path / "rows.csv").symlink_to(other)
    os.close(files.create(tmp_path / "rows.csv", sa.make_url("sqlite://")))
    assert (other.read_text(), (tmp_path / "rows.csv").is_symlink()) == ("theirs", False)
