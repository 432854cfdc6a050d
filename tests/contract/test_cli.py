"""The command `traderrr-data`, run as its users run it: exit codes, what goes to stdout and what to stderr."""

from __future__ import annotations

import csv
import datetime as dt
import gzip
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from traderrr_data import schema
from traderrr_data.settings import Settings

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "traderrr_data"]
HEADER = "ticker,date,open,high,low,close,volume"
SAMPLE_ROWS = 5_452


def environment(**variables: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", **variables}


def run(
    *arguments: str | Path, url: str | None = None, code: int = 0, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run the command in the working directory, and check its exit code and that nothing shows a traceback."""
    before = ["--database-url", url] if url else []
    done = subprocess.run(
        [*COMMAND, *before, *map(str, arguments)],
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
        timeout=120,
    )
    assert done.returncode == code, f"{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stdout + done.stderr
    if code in (1, 2):
        assert done.stderr.startswith("traderrr-data: ")
    return done


def answer(*arguments: str | Path, url: str | None = None, code: int = 0) -> Any:
    """Return the one JSON document that the command answers with."""
    return json.loads(run("--json", *arguments, url=url, code=code).stdout)


def one_sentence(done: subprocess.CompletedProcess[str]) -> str:
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line


def own(path: Path, *lines: str, header: str = HEADER) -> Path:
    path.write_text("\n".join([header, *lines, ""]), encoding="utf-8")
    return path


def test_quickstart_shows_what_it_stored_and_again_says_that_nothing_changed(empty_url: str) -> None:
    first = run("quickstart", url=empty_url)
    assert first.stderr == ""
    assert f"{SAMPLE_ROWS:,} bars and 12 companies are stored" in first.stdout
    assert "zipline-reloaded" in first.stdout
    assert "Apache License 2.0" in first.stdout
    lines = [line.split() for line in first.stdout.splitlines()]
    assert ["ZEN", "2014-05-15", "2014-12-31", "2014-12-31", "160"] in lines
    assert ["BRK.A", "2014-12-31", "228180.00", "228870.00", "225403.00", "226000.00", "183"] in lines
    again = run("quickstart", url=empty_url)
    assert again.stdout.startswith("Nothing changed")
    document = answer("quickstart", url=empty_url)
    assert (document["bars_inserted"], len(document["coverage"]), len(document["newest"])) == (0, 12, 12)


@pytest.mark.unpooled("a pooler cannot vacuum, which is refused")
def test_a_backup_brings_back_what_was_lost(empty_url: str, tmp_path: Path) -> None:
    assert "run `traderrr-data upgrade`" in one_sentence(run("backup", url=empty_url, code=1))
    run("quickstart", url=empty_url)
    folder = tmp_path / "backups"
    folder.mkdir()
    first = answer("backup", folder, url=empty_url)
    again = answer("backup", folder, "--keep", "1", url=empty_url)
    assert again["removed"] == [first["path"]]
    assert again["size_bytes"] > 10_000
    (taken := tmp_path / "taken").write_text("")
    assert "overwrites nothing" in one_sentence(run("backup", taken, url=empty_url, code=1))
    run("ingest", own(tmp_path / "mine.csv", "MINE,2025-01-02,1,1,1,1,1"), url=empty_url)
    assert "--yes" in one_sentence(run("restore", again["path"], url=empty_url, code=2))
    restored = answer("restore", again["path"], "--yes", url=empty_url)
    assert (restored["revision"], restored["state"]) == (schema.head(), "current")
    assert answer("info", url=empty_url)["tables"]["daily_data"] == SAMPLE_ROWS
    run("restore", restored["replaced"], "--yes", url=empty_url)
    assert answer("show", "MINE", url=empty_url)[0]["close"] == "1"
    assert "no such backup" in one_sentence(run("restore", tmp_path / "absent", "--yes", url=empty_url, code=1))
    vacuumed = answer("vacuum", url=empty_url)
    assert vacuumed["bytes_after"] > 0
    assert "VACUUM" in str(vacuumed["statements"]) or "OPTIMIZE" in str(vacuumed["statements"])


def test_quickstart_keeps_the_bars_that_somebody_has(database_url: str, tmp_path: Path) -> None:
    mine = own(tmp_path / "mine.csv", "AAPL,2014-12-31,1,1,1,1,1")
    run("ingest", mine, url=database_url)
    assert answer("quickstart", url=database_url)["bars_inserted"] == SAMPLE_ROWS - 1
    assert answer("show", "AAPL", "--last", "1", url=database_url)[0]["close"] == "1"


def test_the_tables_go_up_and_down(empty_url: str) -> None:
    head = schema.head()
    assert answer("current", url=empty_url) == {"revision": None, "head": head, "state": "empty"}
    assert answer("upgrade", url=empty_url) == {"from": None, "to": head, "head": head}
    assert "already" in run("upgrade", url=empty_url).stdout
    assert answer("current", url=empty_url)["state"] == "current"
    assert answer("check", url=empty_url) == {"state": "current", "revision": head, "head": head, "differences": []}
    assert answer("history", url=empty_url)[0]["revision"] == head
    assert "--yes" in one_sentence(run("downgrade", "base", url=empty_url, code=2))
    assert answer("downgrade", "base", "--yes", url=empty_url) == {"from": head, "to": None, "head": head}
    assert "run `traderrr-data upgrade`" in one_sentence(run("show", "AAPL", url=empty_url, code=1))
    assert "run `traderrr-data upgrade`" in one_sentence(run("check", url=empty_url, code=4))


def test_the_sql_of_an_upgrade_is_all_that_is_printed(empty_url: str) -> None:
    text = run("sql", url=empty_url)
    assert "CREATE TABLE daily_data" in text.stdout
    assert text.stderr == ""
    assert answer("sql", url=empty_url)["sql"].strip() == text.stdout.strip()


def test_an_unknown_revision_is_one_sentence(empty_url: str) -> None:
    assert "nowhere" in one_sentence(run("upgrade", "nowhere", url=empty_url, code=1))
    assert "nowhere" in one_sentence(run("sql", "nowhere", url=empty_url, code=1))


def test_check_names_the_differences_and_fails(empty_url: str, backend: Any) -> None:
    run("upgrade", url=empty_url)
    backend.run_sql(empty_url, "ALTER TABLE metadata ADD COLUMN extra INTEGER;")
    document = answer("check", url=empty_url, code=1)
    assert "extra" in " ".join(document["differences"])


def test_what_is_exported_is_unchanged_when_it_is_ingested(database_url: str, tmp_path: Path) -> None:
    run("quickstart", url=database_url)
    outputs = [tmp_path / f"bars.{ending}" for ending in ("csv", "csv.gz", "parquet")]
    for output in outputs:
        assert answer("export", "-o", output, url=database_url) == {"file": str(output), "rows": SAMPLE_ROWS}
    documents = answer("ingest", *outputs, url=database_url)["files"]
    assert [(document["unchanged"], document["rows"]) for document in documents] == [(SAMPLE_ROWS, SAMPLE_ROWS)] * 3
    with gzip.open(outputs[1], "rt", encoding="utf-8") as packed:
        assert packed.read() == outputs[0].read_text(encoding="utf-8")
    assert not [entry.name for entry in tmp_path.iterdir() if entry.name.endswith(".part")]


def test_an_export_may_be_limited(database_url: str, tmp_path: Path) -> None:
    run("quickstart", url=database_url)
    output = tmp_path / "x.parquet"
    window = ("--start", "2014-12-30", "--end", "2014-12-31")
    run("export", "-o", output, "--ticker", "KO", "--ticker", "IBM", *window, url=database_url)
    table = pq.read_table(output)
    assert table.select(["ticker", "date"]).to_pylist() == [
        {"ticker": ticker, "date": table["date"][0].as_py()} for ticker in ("IBM", "KO")
    ]
    assert table.schema.field("close").type == pa.decimal128(20, 10)


def test_intraday_bars_go_in_and_out(database_url: str, tmp_path: Path) -> None:
    header = "ticker,datetime,timeframe,open,high,low,close,volume"
    rows = [f"AAPL,2025-01-02T09:{minute}:00-05:00,60s,10,12,9,11,5" for minute in (30, 31, 32)]
    path = own(tmp_path / "minutes.csv", *rows, header=header)
    assert answer("ingest", path, url=database_url)["files"][0]["inserted"] == 3
    bars = answer("show", "AAPL", "--timeframe", "1m", "--last", "2", url=database_url)
    assert [bar["datetime"] for bar in bars] == ["2025-01-02T14:32:00+00:00", "2025-01-02T14:31:00+00:00"]
    assert "there are 1m bars" in one_sentence(run("show", "AAPL", url=database_url, code=1))
    output = tmp_path / "out.csv"
    start = ("--start", "2025-01-02T09:31:00-05:00", "--end", "2025-01-03")
    assert answer("export", "-o", output, "--timeframe", "1m", *start, url=database_url)["rows"] == 2
    assert answer("ingest", output, url=database_url)["files"][0]["unchanged"] == 2


def test_rejected_rows_are_written_beside_the_file_and_make_the_exit_code_3(database_url: str, tmp_path: Path) -> None:
    path = own(tmp_path / "x.csv", "AAPL,2025-01-02,1,1,1,1,1", "AAPL,2025-01-03,1,1,1,1,-1")
    done = run("ingest", path, url=database_url, code=3)
    assert "1 inserted, 0 updated, 0 unchanged, 0 skipped, 0 duplicates, 1 rejected" in done.stdout
    with (tmp_path / "x.csv.rejected.csv").open(encoding="utf-8", newline="") as lines:
        (row,) = csv.DictReader(lines)
    assert (row["row"], row["column"], row["date"], row["volume"]) == ("2", "volume", "2025-01-03", "-1")


def test_a_file_that_cannot_be_read_leaves_the_others_alone(database_url: str, tmp_path: Path) -> None:
    good = own(tmp_path / "good.csv", "AAPL,2025-01-02,1,1,1,1,1")
    bad = own(tmp_path / "bad.csv", header="a,b,c")
    done = run("ingest", bad, tmp_path / "none.csv", tmp_path, good, url=database_url, code=1)
    assert len(done.stderr.splitlines()) == 3
    assert "good.csv (own): 1 inserted" in done.stdout
    documents = answer("ingest", bad, good, url=database_url, code=1)["files"]
    assert [set(document) & {"error", "unchanged"} for document in documents] == [{"unchanged"}, {"error"}]


@pytest.mark.parametrize(("ending", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_and_sigterm_leave_the_database_whole(
    database_url: str, tmp_path: Path, ending: signal.Signals, code: int
) -> None:
    done = own(tmp_path / "done.csv", "AAPL,2025-01-02,1,1,1,1,1")
    path = own(tmp_path / "x.csv", "bad", *(f"T{number},2025-01-02,1,1,1,1,1" for number in range(1_000_000)))
    process = subprocess.Popen(
        [*COMMAND, "--database-url", database_url, "ingest", done, path],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    started, deadline = tmp_path / ".x.csv.rejected.csv.part", time.monotonic() + 60
    while not started.exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(ending)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == code
    assert "done.csv (own): 1 inserted" in stdout
    assert stderr.splitlines() == [
        "traderrr-data: interrupted: what was not complete is undone, and the command may be run again"
    ]
    assert [line["ticker"] for line in answer("coverage", url=database_url)] == ["AAPL"]
    assert not started.exists()
    assert not (tmp_path / "x.csv.rejected.csv").exists()


def test_a_ticker_in_another_case_is_suggested(database_url: str, tmp_path: Path) -> None:
    path = own(tmp_path / "x.csv", "AAPL,2025-01-02,1,1,1,1,1", "BRKb,2025-01-02,1,1,1,1,1")
    run("ingest", path, url=database_url)
    assert "no bars of 'aapl'; did you mean AAPL?" in one_sentence(run("show", "aapl", url=database_url, code=1))
    assert "did you mean BRKb?" in one_sentence(run("coverage", "--ticker", "BrKb", url=database_url, code=1))
    output = ("export", "-o", tmp_path / "o.csv", "--ticker")
    assert "did you mean AAPL?" in one_sentence(run(*output, "Aapl", url=database_url, code=1))
    assert one_sentence(run("show", "MSFT", url=database_url, code=1)).endswith("no bars of 'MSFT'")


def test_nothing_is_cut_off_where_no_terminal_is(database_url: str, tmp_path: Path) -> None:
    ticker = "T" * 64
    digits = "1234567890.12345"
    path = own(tmp_path / "x.csv", f"{ticker},2025-01-02,{','.join([digits] * 4)},27871099501")
    run("ingest", path, url=database_url)
    assert ticker in run("coverage", url=database_url, COLUMNS="20").stdout
    (*_, bar) = run("show", ticker, url=database_url, COLUMNS="20").stdout.splitlines()
    assert bar.split() == ["2025-01-02", *[digits] * 4, "27,871,099,501"]


def test_diff_shows_what_was_rewritten(database_url: str, tmp_path: Path) -> None:
    day = "AAPL,2025-01-02,10,12,9"
    run("ingest", own(tmp_path / "bars.csv", f"{day},11,100"), url=database_url)
    assert answer("diff", "--since", "2025-01-01", url=database_url) == []
    between = dt.datetime.now(dt.UTC)
    run("ingest", own(tmp_path / "bars.csv", f"{day},10,100"), url=database_url)
    tokyo = between.astimezone(dt.timezone(dt.timedelta(hours=9))).isoformat()
    (change,) = answer("diff", "--since", tokyo, url=database_url)
    assert (change["ticker"], change["columns"], change["old"]["close"]) == ("AAPL", ["close"], "11")
    shown = run("diff", "--since", between.isoformat(), "--ticker", "AAPL", url=database_url).stdout
    assert shown.split()[-2:] == ["11.00", "10.00"]
    nothing = "nothing was rewritten"
    assert nothing in run("diff", "--since", tokyo, "--ticker", "MSFT", url=database_url).stdout
    assert nothing in run("diff", "--since", "2025-01-01", "--until", tokyo, url=database_url).stdout


def test_info_shows_the_database_without_its_password(database_url: str) -> None:
    document = answer("info", url=database_url)
    assert (document["is_connected"], document["schema_revision"]) == (True, schema.head())
    password = Settings.of(database_url).url.password
    text = run("info", url=database_url).stdout
    assert "daily_data" in text
    assert password is None or password not in text


# What follows is the same on every database.


def test_a_database_that_is_not_there_is_not_made_by_looking(tmp_path: Path) -> None:
    for command in (["show", "AAPL"], ["coverage"], ["info"], ["export", "-o", "x.csv"]):
        assert "there is no database" in one_sentence(run(*command, code=1))
    assert "run `traderrr-data upgrade`" in one_sentence(run("check", code=4))
    assert answer("current")["state"] == "empty"
    assert "without our tables already" in run("downgrade", "base", "--yes").stdout
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_does_not_answer_is_one_sentence_without_its_password() -> None:
    url = "postgresql://somebody:s3cret@127.0.0.1:1/x"
    for command in (["coverage"], ["upgrade"], ["current"]):
        sentence = one_sentence(run(*command, url=url, code=1))
        assert "the database is not available" in sentence
    info = run("info", url=url, code=1)
    assert len(info.stderr.splitlines()) == 1
    assert "s3cret" not in info.stdout + info.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["bogus"], 2, "No such command"),
        (["show"], 2, "Missing argument"),
        (["show", "AAPL", "--last", "0"], 2, "--last"),
        (["export", "-o", "x.txt"], 2, r"ends in none of .csv, .csv.gz, .parquet"),
        (["export", "-o", "x.csv", "--start", "soon"], 2, "--start: 'soon' is not a date"),
        (["export", "-o", "x.csv", "--timeframe", "1m", "--end", "2025-01-02T10:00"], 2, "has no offset"),
        (["diff", "--since", "2025-01-02 10:00"], 2, "has no offset"),
        (["diff", "--since", "last night"], 2, "'last night' is not a date or an instant"),
        (["ingest"], 2, "Missing argument"),
        (["ingest", "x.csv", "--price-basis", "adjusted"], 2, "adjusted"),
        (["ingest", "x.csv", "--ticker", "A", "--ticker-from-name"], 2, "cannot both be said"),
        (["--database-url", "oracle://x", "info"], 1, "unknown scheme 'oracle'"),
    ],
)
def test_wrong_use_is_one_sentence(arguments: list[str], code: int, words: str) -> None:
    assert words in one_sentence(run(*arguments, code=code))


def test_a_wrong_setting_names_the_variable_and_not_its_value() -> None:
    sentence = one_sentence(run("current", code=1, DB_PORT="s3cret"))
    assert "DB_PORT" in sentence
    assert "s3cret" not in sentence


def test_with_json_an_error_is_one_document_too() -> None:
    assert "no database" in answer("show", "AAPL", code=1)["error"]["message"]
    assert answer("bogus", code=2)["error"]["type"]


def test_the_statements_that_sql_echo_shows_do_not_go_to_stdout() -> None:
    run("upgrade")
    done = run("--json", "current", SQL_ECHO="true")
    assert json.loads(done.stdout)["state"] == "current"
    assert "SELECT" in done.stderr


def test_debug_shows_where_an_error_comes_from() -> None:
    done = subprocess.run(
        [*COMMAND, "--debug", "show", "AAPL"], env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("traderrr-data: there is no database")


def test_a_reader_that_has_seen_enough_is_no_failure_to_report() -> None:
    run("quickstart")
    process = subprocess.Popen(
        [*COMMAND, "quickstart"], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(30) in (0, 1)


def test_every_command_has_an_example_in_its_help() -> None:
    main_help = run("--help").stdout
    assert "Exit codes: 0 done; 1 failed; 2 wrong use; 3 done" in " ".join(main_help.split())
    commands = main_help.partition("Commands:")[2].partition("\n\n")[0]
    names = [line.split()[0] for line in commands.splitlines() if line]
    assert "..." not in commands
    assert names == [
        *("quickstart", "ingest", "show", "coverage", "diff", "export", "copy", "info", "adopt", "rename-timeframe"),
        *("upgrade", "downgrade", "current", "history", "check", "sql"),
        *("backup", "restore", "vacuum"),
    ]
    for name in names:
        assert "Example: traderrr-data" in run(name, "--help").stdout


def test_without_a_command_the_help_is_shown_as_wrong_use() -> None:
    done = subprocess.run(COMMAND, env=environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "")
    assert "Commands:" in done.stdout


def test_the_version_is_shown() -> None:
    assert run("--version").stdout.startswith("traderrr-data ")


def test_migrating_never_loads_arrow(tmp_path: Path) -> None:
    script = (
        "import sys; from traderrr_data.cli import main; code = main(['upgrade']);"
        "sys.exit(code or any(name.partition('.')[0] in ('pyarrow', 'pandas', 'numpy') for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], env=environment(), capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (tmp_path / "data" / "market_data.db").exists()


def test_a_bar_of_progress_is_shown_on_a_terminal_only(tmp_path: Path) -> None:
    path = own(tmp_path / "x.csv", *(f"T{number},2025-01-02,1,1,1,1,1" for number in range(2_000)))
    terminal, end = pty.openpty()
    done = subprocess.run(
        [*COMMAND, "ingest", path], env=environment(TERM="xterm"), stdout=subprocess.PIPE, stderr=end, check=False
    )
    os.close(end)
    shown = os.read(terminal, 65_536)
    os.close(terminal)
    assert done.returncode == 0
    assert b"x.csv" in shown
    assert b"2,000 rows, " in shown
    assert b" rows/s" in shown
    assert b"2,000 inserted" in done.stdout
    assert run("ingest", path).stderr == ""
