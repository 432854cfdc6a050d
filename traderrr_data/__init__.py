"""The async data layer for market and trading data."""

from traderrr_data.access import market_data, portfolio, system, trading
from traderrr_data.bulk import Rejection, ReplaceResult, UpsertResult
from traderrr_data.db import DatabaseManager, close_db_manager, get_db_manager, get_session, init_db_manager
from traderrr_data.errors import (
    CommitOutcomeUnknownError,
    ConfigurationError,
    ConstraintViolationError,
    DatabaseUnavailableError,
    DuplicateRowError,
    InvalidRowError,
    RowNotFoundError,
    SchemaMismatchError,
    TraderrrDataError,
    TransactionConflictError,
)
from traderrr_data.models import (
    BarRevision,
    Base,
    DailyData,
    IntradayData,
    Metadata,
    PortfolioPerformance,
    PortfolioPosition,
    SignalHistory,
    SystemEvent,
    TimestampMixin,
)
from traderrr_data.settings import Settings

__all__ = [
    "BarRevision",
    "Base",
    "CommitOutcomeUnknownError",
    "ConfigurationError",
    "ConstraintViolationError",
    "DailyData",
    "DatabaseManager",
    "DatabaseUnavailableError",
    "DuplicateRowError",
    "IntradayData",
    "InvalidRowError",
    "Metadata",
    "PortfolioPerformance",
    "PortfolioPosition",
    "Rejection",
    "ReplaceResult",
    "RowNotFoundError",
    "SchemaMismatchError",
    "Settings",
    "SignalHistory",
    "SystemEvent",
    "TimestampMixin",
    "TraderrrDataError",
    "TransactionConflictError",
    "UpsertResult",
    "close_db_manager",
    "get_db_manager",
    "get_session",
    "init_db_manager",
    "market_data",
    "portfolio",
    "system",
    "trading",
]
