"""The version, readable without importing RecBole."""

__version__ = "0.1.0"
