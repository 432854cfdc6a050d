"""What every table has in common."""

from __future__ import annotations

import datetime as dt
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import DeclarativeBase, Mapped, QueryableAttribute, mapped_column

from traderrr_data.errors import InvalidRowError
from traderrr_data.models.types import CheckedType, UtcDateTime, utc_now

VERSION_TABLE = "traderrr_data_version"
"""Alembic's table, under a name of our own: the database may be shared with another application that uses Alembic."""


class Base(DeclarativeBase):
    """The base class of the models; its metadata holds exactly the tables of this library."""

    metadata = sa.MetaData(
        naming_convention={
            "ix": "idx_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    # Server defaults are read back at once: an attribute that was not would be loaded when it is first looked at,
    # and outside of an await that ends in MissingGreenlet.
    __mapper_args__ = {"eager_defaults": True}  # noqa: RUF012 - SQLAlchemy's own declaration


class TimestampMixin:
    """When a row came and when it last changed, by the database's clock, in UTC."""

    created_at: Mapped[dt.datetime] = mapped_column(UtcDateTime, server_default=utc_now(), sort_order=101)
    updated_at: Mapped[dt.datetime] = mapped_column(
        UtcDateTime, server_default=utc_now(), onupdate=utc_now(), sort_order=102
    )


@event.listens_for(Base, "attribute_instrument", propagate=True)
def _check_on_assignment(_cls: type[Base], key: str, attribute: QueryableAttribute[Any]) -> None:
    """Refuse a value when an attribute is set, where the error can still name the column."""
    column_type = attribute.property.columns[0].type if hasattr(attribute.property, "columns") else None
    if not isinstance(column_type, CheckedType):
        return

    @event.listens_for(attribute, "set", retval=True)
    def coerce(_target: Base, value: Any, _old: object, _initiator: object) -> Any:
        if value is None or isinstance(value, sa.ClauseElement):
            return value
        try:
            return column_type.coerce(value)
        except ValueError as error:
            raise InvalidRowError(str(error), column=key) from error
