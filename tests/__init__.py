"""The tests, and the databases they bring along."""
