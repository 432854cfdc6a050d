"""How the tables are read and written: coroutines that take a session first and never commit."""

from traderrr_data.access import market_data, portfolio, system, trading

__all__ = ["market_data", "portfolio", "system", "trading"]
