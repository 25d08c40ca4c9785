"""Folders to files, and files to upright pixels and views."""
