"""Queries and requests: asked, answered, handed on."""
