"""Hits to JSON, tables and pictures."""
