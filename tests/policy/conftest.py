"""The screen of the plugin's tests, with its clock."""

from plugin.conftest import run

__all__ = ["run"]
