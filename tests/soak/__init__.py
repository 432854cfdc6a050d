"""Hours of writing with faults at random, and a look at what is stored afterwards; see `python -m tests.soak -h`."""
