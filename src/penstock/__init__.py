"""Penstock: models that keep learning in production."""
