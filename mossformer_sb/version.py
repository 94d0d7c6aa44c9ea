"""The version, in one place; setup.cfg reads it from here without importing anything."""

__version__ = "0.1.0"
