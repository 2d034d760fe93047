"""Threefold: when the CRM says "saved", the change is on two of three independent storage servers."""

__version__ = "0.1.0"
