"""Addresses of pages, made of their titles."""

from slugs.address import address
from slugs.slug import slug

__all__ = ["address", "slug"]
