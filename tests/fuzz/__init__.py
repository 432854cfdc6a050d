"""Files of all formats that nobody wrote on purpose, given to what reads them; see `python -m tests.fuzz --help`."""
