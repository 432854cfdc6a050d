"""What is stored: the seven tables and the history of the bars as classes.

Objects are ordinary SQLAlchemy models: use them in queries of your own beside the functions of `access`.
"""

from traderrr_data.models.base import Base, TimestampMixin
from traderrr_data.models.market_data import BarRevision, DailyData, IntradayData, Metadata
from traderrr_data.models.portfolio import PortfolioPosition
from traderrr_data.models.system import Compatibility, SystemEvent
from traderrr_data.models.trading import PortfolioPerformance, SignalHistory

__all__ = [
    "BarRevision",
    "Base",
    "Compatibility",
    "DailyData",
    "IntradayData",
    "Metadata",
    "PortfolioPerformance",
    "PortfolioPosition",
    "SignalHistory",
    "SystemEvent",
    "TimestampMixin",
]
