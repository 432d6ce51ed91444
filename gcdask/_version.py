"""The version of the package, alone in a module so that packaging can read it."""

__version__ = "0.3.0"
