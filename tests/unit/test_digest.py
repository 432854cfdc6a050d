"""A checksum sees every change of a cell, and neither the order of the rows nor how they were cut into batches."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from traderrr_data.transfer.digest import Digest, digest_of, total

SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("price", pa.decimal128(24, 8)),
        ("other_price", pa.decimal128(24, 8)),
        ("text", pa.string()),
        ("other_text", pa.string()),
        ("flag", pa.bool_()),
        ("date", pa.date32()),
        ("instant", pa.timestamp("us", tz="UTC")),
    ]
)
ROW: dict[str, Any] = {
    "id": 1,
    "price": Decimal("9999999999999999.00000001"),
    "other_price": None,
    "text": "",
    "other_text": None,
    "flag": False,
    "date": dt.date(1000, 1, 1),
    "instant": dt.datetime(9999, 12, 31, 23, 59, 59, 999999, dt.UTC),
}
ROWS = st.lists(
    st.builds(
        lambda number, price, text, flag: ROW | {"id": number, "price": price, "text": text, "flag": flag},
        st.integers(-(2**63), 2**63 - 1),
        st.none() | st.decimals("-9999999999999999", "9999999999999999", places=8),
        st.none() | st.text(st.characters(exclude_categories=["Cs"])),
        st.none() | st.booleans(),
    )
)


def digest(*rows: dict[str, Any]) -> Digest:
    return digest_of(pa.RecordBatch.from_pylist(list(rows), schema=SCHEMA), ["id"])


@settings(deadline=None)
@given(ROWS, st.randoms(use_true_random=False), st.integers(0, 10))
def test_order_and_batches_do_not_matter(rows: list[dict[str, Any]], random: Any, cut: int) -> None:
    shuffled = random.sample(rows, len(rows))
    assert total([digest(*shuffled[:cut]), digest(*shuffled[cut:])]) == digest(*rows)
    sliced = pa.RecordBatch.from_pylist([ROW, *rows], schema=SCHEMA).slice(1)
    assert digest_of(sliced, ["id"]) == digest(*rows)


@pytest.mark.parametrize(
    "change",
    [
        {"id": 2},
        {"price": Decimal("9999999999999999.00000002")},
        {"price": Decimal("-9999999999999999.00000001")},
        {"price": None, "other_price": ROW["price"]},
        {"other_price": Decimal(0)},
        {"text": None},
        {"other_text": ""},
        {"text": None, "other_text": ""},
        {"text": "\0"},
        {"flag": None},
        {"flag": True},
        {"date": dt.date(1000, 1, 2)},
        {"date": None},
        {"instant": ROW["instant"] - dt.timedelta(microseconds=1)},
    ],
    ids=str,
)
def test_every_change_shows(change: dict[str, Any]) -> None:
    before, after = digest(ROW), digest(ROW | change)
    assert (before.rows, before.content == after.content) == (after.rows, False)
    assert (before.keys == after.keys) is ("id" not in change)


def test_two_cells_that_changed_places_show() -> None:
    rows = [ROW | {"id": 1, "text": "a"}, ROW | {"id": 2, "text": "b"}]
    changed = [ROW | {"id": 1, "text": "b"}, ROW | {"id": 2, "text": "a"}]
    assert digest(*rows).keys == digest(*changed).keys
    assert digest(*rows).content != digest(*changed).content


def test_a_row_that_is_there_twice_is_not_there_once_or_never() -> None:
    assert len({digest(), digest(ROW), digest(ROW, ROW), digest(ROW, ROW, ROW)}) == 4
