"""Imported once by the forkserver: its forks parse with the caches that this fills."""

from helpers.training import command_line, settings

settings(tuple(command_line(["data"])))
