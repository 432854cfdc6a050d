"""The SQL of a merge through a staging table; all names are those of our own tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from traderrr_data.dialects.base import Merge, kept_columns

if TYPE_CHECKING:
    import pyarrow as pa

_STAGE = "traderrr_data_stage"
_FOUND = "traderrr_data_found"
_NOW = "CAST(@traderrr_data_now AS DATETIME(6))"
_LONGEST_IN_MEMORY = 255  # characters of a text: the engine MEMORY gives every row the room of the longest
_FEWEST_IN_MEMORY = 1_000  # rows
_DEFAULTS_FROM = 200  # rows; to look for what fewer have in common takes longer than to send it
_KINDS = {"date32[day]": "DATE", "bool": "BOOLEAN", "timestamp[us, tz=UTC]": "DATETIME(6)"}

# In the comment is what only MariaDB executes: its binary log repeats such statements unless its format is ROW.
LIMITS = (
    "SELECT @@local_infile, @@max_allowed_packet, @@max_heap_table_size,"
    " 0 /*M!100101 + (@@log_bin AND @@binlog_format <> 'ROW') */"
)
DROP = f"DROP TEMPORARY TABLE IF EXISTS {_STAGE}, {_FOUND}"
SET_MET = "SET @traderrr_data_met = 0, @traderrr_data_met_rows = ''"
MET = "SELECT @traderrr_data_met, @traderrr_data_met_rows"
COUNT_FOUND = f"SELECT COALESCE(SUM(absent), 0), COALESCE(SUM(NOT absent), 0) FROM {_FOUND}"
SET_ABSENT = f"SET @traderrr_data_absent = (SELECT COUNT(*) FROM {_FOUND} WHERE absent)"


def list_absent(rows: int) -> str:
    """List what is absent, behind SET_ABSENT; nothing if that is all of so many rows."""
    return f"SELECT n FROM {_FOUND} WHERE absent AND @traderrr_data_absent < {rows}"


class Statements:
    """The statements of one merge.

    The aliases are t for the table, s for the staging table, and f for the rows of it that are absent or differ.

    Attributes:
        table: the name of the table.
        names: the columns that the batch has.
        stage: the name of the staging table.
        sent: the columns that are sent for every row; one that has the same value in all is a default instead.
        rows_that_fit: how many rows the staging table can hold.
        backslash_escapes: what a backslash in quotes means.
        create: makes the temporary tables.
    """

    def __init__(self, merge: Merge, *, heap: int, backslash_escapes: bool) -> None:
        self._merge = merge
        self.backslash_escapes = backslash_escapes
        self.table = f"`{merge.table.name}`"
        self.names = ", ".join(f"`{name}`" for name in merge.columns.column_names)
        self._given = ", ".join(f"s.`{name}`" for name in merge.columns.column_names)
        self.stage = _STAGE
        same_key = " AND ".join(f"t.`{name}` = s.`{name}`" for name in merge.key)
        # The index must be named: what the server knows of a table's size is old in the transaction that fills it.
        self._by_key = f"FORCE INDEX (`{_index_of(merge)}`)"
        self._stored = f"{self.table} t {self._by_key} ON {same_key}"
        self._chosen = f"{_FOUND} f STRAIGHT_JOIN {_STAGE} s ON s.n = f.n"
        self._present = f"{self._chosen} STRAIGHT_JOIN {self._stored}"
        self._differs = f"({' OR '.join(map(self._other, merge.values)) or 'FALSE'})"
        self._outranked = self._rank_is_lower() if merge.keeps_final else "FALSE"
        lengths = {field.name: _longest(merge.columns[field.name]) for field in merge.columns.schema}
        a_row = sum(4 * length for length in lengths.values()) + 16 * len(lengths) + 32
        in_memory = heap // (2 * a_row) >= _FEWEST_IN_MEMORY and max(lengths.values()) <= _LONGEST_IN_MEMORY
        self.rows_that_fit = heap // (2 * a_row) if in_memory else merge.columns.num_rows
        defaults = self._defaults([name for name, length in lengths.items() if length <= _LONGEST_IN_MEMORY])
        self.sent = [name for name in merge.columns.column_names if name not in defaults]
        cells = ", ".join(
            f"`{field.name}` {_kind(field.type, lengths[field.name])} DEFAULT {defaults.get(field.name, 'NULL')}"
            for field in merge.columns.schema
        )
        engine = "MEMORY" if in_memory else "InnoDB"
        self.create = [
            f"CREATE TEMPORARY TABLE {_STAGE} (n INT NOT NULL PRIMARY KEY, {cells}) ENGINE={engine}",
            f"CREATE TEMPORARY TABLE {_FOUND} (n INT NOT NULL, absent BOOLEAN NOT NULL) ENGINE={engine}",
        ]

    def _defaults(self, names: list[str]) -> dict[str, str]:
        from traderrr_data.dialects.mysql.texts import constants  # noqa: PLC0415 - loaded only where Arrow is used

        if self._merge.columns.num_rows < _DEFAULTS_FROM:
            return {}
        return constants(self._merge.columns.select(names), backslash_escapes=self.backslash_escapes)

    def _other(self, name: str) -> str:
        if str(self._merge.columns.schema.field(name).type) == "string":
            # These collations take blanks at the end for nothing.
            return f"NOT (CAST(t.`{name}` AS BINARY) <=> CAST(s.`{name}` AS BINARY))"
        return f"NOT (t.`{name}` <=> s.`{name}`)"

    def _rank_is_lower(self) -> str:
        """What `bulk.rows.outranks` tells, in SQL."""
        given = self._merge.columns.column_names
        ranks = [f"IF({flag} IS NULL, 1, 2 * {flag})" for flag in ("t.is_final", "s.is_final")]
        stored_rank, given_rank = ranks if "is_final" in given else (ranks[0], "1")
        later = "COALESCE(t.observed_at > s.observed_at, FALSE)" if "observed_at" in given else "FALSE"
        return f"({stored_rank} > {given_rank} OR ({stored_rank} = {given_rank} AND {later}))"

    @property
    def stage_columns(self) -> str:
        """The columns of the staging table that are sent, behind the number of the row."""
        return ", ".join(["n", *(f"`{name}`" for name in self.sent)])

    def any_stored(self, runs: pa.Table) -> str:
        """Lock one row, if any, that is stored between the first and the last key of these runs; see `wire.runs`."""
        from traderrr_data.dialects.mysql.texts import in_sql  # noqa: PLC0415 - loaded only where Arrow is used

        *lines, last = (f"`{name}`" for name in self._merge.key)
        between = [
            f"({''.join(f'{name} = {value} AND ' for name, value in zip(lines, shared, strict=True))}"
            f"{last} BETWEEN {oldest} AND {newest})"
            for *shared, oldest, newest in zip(*in_sql(runs, backslash_escapes=self.backslash_escapes), strict=True)
        ]
        return f"SELECT 1 FROM {self.table} {self._by_key} WHERE {' OR '.join(between)} LIMIT 1 FOR UPDATE"

    def find(self, *, again: bool) -> str:
        """Note what is absent and what differs; `again` after the absent rows without a key were inserted."""
        absent = f"t.`{self._merge.key[0]}` IS NULL"
        wanted = absent if self._merge.on_conflict == "ignore" else f"({absent} OR {self._differs})"
        keyed = "".join(f" AND s.`{name}` IS NOT NULL" for name in self._merge.key) if again else ""
        return (
            f"INSERT INTO {_FOUND} SELECT s.n, {absent} FROM {_STAGE} s LEFT JOIN {self._stored} WHERE {wanted}{keyed}"
        )

    def insert_staged(self, *, all_absent: bool) -> str:
        """Insert what is absent, in the order of the keys; note what another writer has inserted since, and lock it.

        A plain INSERT that meets another writer's row keeps a shared lock on it, and two writers that then want to
        change it deadlock (https://bugs.mysql.com/bug.php?id=35821). ON DUPLICATE KEY UPDATE locks it for changing.
        """
        source = f"{_STAGE} s" if all_absent else f"{self._chosen} WHERE f.absent"
        listed = "@traderrr_data_met_rows := CONCAT(@traderrr_data_met_rows, s.n, ' ')"
        touch = self._touch(listed if self._merge.wants_verdicts else "0")
        return f"INSERT INTO {self.table} ({self.names}) SELECT {self._given} FROM {source} {touch}"

    def insert_values(self, rows: bytes) -> bytes:
        """Insert these rows, each with a comma before it, as `insert_staged` does."""
        insert = f"INSERT INTO {self.table} ({self.names}) VALUES "
        return b"".join((insert.encode(), rows[1:], b" ", self._touch("0").encode()))

    def stage_values(self, rows: bytes) -> bytes:
        """Put these rows, each with a comma before it and its number first, into the staging table."""
        return f"INSERT INTO {_STAGE} ({self.stage_columns}) VALUES ".encode() + rows[1:]

    def _touch(self, note: str) -> str:
        kept = f"{self.table}.created_at"
        count = "@traderrr_data_met := @traderrr_data_met + 1"
        return f"ON DUPLICATE KEY UPDATE created_at = IF(({count}) + LENGTH({note}) IS NULL, {kept}, {kept})"

    def changes(self, *, listed: bool) -> list[str]:
        """Lock what differs, in the order of the keys, keep its versions and overwrite it.

        The result of the first statement is a row: how many are still stored, still differ, and are outranked of
        these. If it is to be `listed`, there is a row of each: its number, whether it differs, whether it is outranked.
        """
        outranked = f"{self._differs} AND {self._outranked}"
        wanted = f"f.n, {self._differs}, {outranked}"
        if not listed:
            wanted = f"COUNT(*), COALESCE(SUM({self._differs}), 0), COALESCE(SUM({outranked}), 0)"
        lock = f"SELECT {wanted} FROM {self._present} WHERE NOT f.absent FOR UPDATE"
        # The clock is read when the locks are there: a version that another writer has stored is not older than ours.
        return [lock, "SET @traderrr_data_now = utc_timestamp(6)", *self._keep, self._update]

    @property
    def _changing(self) -> str:
        return f"NOT f.absent AND {self._differs} AND NOT {self._outranked}"

    @property
    def _keep(self) -> list[str]:
        """Keep the versions that are overwritten. Their rows must be locked by now.

        A statement that waited for a row while it numbers revisions would hold up everybody else's revisions, and
        deadlock with a writer that has the row and wants to keep one.
        """
        if self._merge.revisions is None:
            return []
        kept = kept_columns(self._merge.table, self._merge.revisions)
        names = ", ".join(f"`{name}`" for name in ("table_name", "change", "known_until", *kept))
        values = ", ".join(f"t.`{name}`" for name in kept.values())
        return [
            f"INSERT INTO `{self._merge.revisions.name}` ({names})"
            f" SELECT '{self._merge.table.name}', 'update', GREATEST({_NOW}, t.updated_at), {values}"
            f" FROM {self._present} WHERE {self._changing}"
        ]

    @property
    def _update(self) -> str:
        sets = "".join(f"t.`{name}` = s.`{name}`, " for name in self._merge.values)
        changed = f"t.updated_at = GREATEST({_NOW}, t.updated_at)"
        return f"UPDATE {self._present} SET {sets}{changed} WHERE {self._changing}"


def _index_of(merge: Merge) -> str:
    """Return the name of the unique index on the key."""
    for constraint in merge.table.constraints:
        if isinstance(constraint, sa.UniqueConstraint) and set(constraint.columns.keys()) == set(merge.key):
            return str(constraint.name)
    return "PRIMARY"


def _longest(column: pa.ChunkedArray) -> int:
    """Return the length of a column's longest text; 1 for what is no text."""
    import pyarrow as pa  # noqa: PLC0415 - loaded only where Arrow is used
    import pyarrow.compute as pc  # noqa: PLC0415 - as above

    if not pa.types.is_string(column.type):
        return 1
    return max(1, pc.max(pc.utf8_length(column)).as_py() or 1)


def _kind(kind: pa.DataType, length: int) -> str:
    if str(kind) == "string":
        text = f"VARCHAR({length})" if length <= _LONGEST_IN_MEMORY else "MEDIUMTEXT"
        return f"{text} CHARACTER SET utf8mb4 COLLATE utf8mb4_bin"
    if str(kind).startswith("decimal128"):
        return f"DECIMAL({kind.precision}, {kind.scale})"
    return _KINDS[str(kind)]
