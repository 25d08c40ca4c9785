"""The tables of catalog.sqlite.

An image is a file; a content is what files with the same bytes share; a view belongs to a content.
"""

from __future__ import annotations

TABLES = (
    "CREATE TABLE state (key TEXT NOT NULL PRIMARY KEY, value INTEGER NOT NULL)",
    "CREATE TABLE roots (id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, path TEXT NOT NULL UNIQUE)",
    """
    CREATE TABLE contents (
        id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
        hash BLOB NOT NULL UNIQUE,
        taken INTEGER -- dates.clock_seconds; null: not said, the file's time has to do
    )
    """,
    """
    CREATE TABLE images (
        id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
        root INTEGER NOT NULL REFERENCES roots (id),
        path TEXT NOT NULL, -- relative to the root
        size INTEGER NOT NULL,
        mtime_ns INTEGER NOT NULL,
        content INTEGER NOT NULL REFERENCES contents (id),
        UNIQUE (root, path)
    )
    """,
    "CREATE INDEX ix_images_content ON images (content)",
    """
    CREATE TABLE segments (
        id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, count INTEGER NOT NULL, codec TEXT NOT NULL
    )
    """,
    """
    CREATE TABLE views (
        id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
        content INTEGER NOT NULL REFERENCES contents (id),
        segment INTEGER NOT NULL REFERENCES segments (id),
        "row" INTEGER NOT NULL,
        checksum INTEGER NOT NULL,
        width INTEGER NOT NULL, -- Frame, from here on
        height INTEGER NOT NULL,
        "left" FLOAT NOT NULL,
        top FLOAT NOT NULL,
        "right" FLOAT NOT NULL,
        bottom FLOAT NOT NULL,
        UNIQUE (segment, "row")
    )
    """,
    "CREATE INDEX ix_views_content ON views (content)",
    "CREATE TABLE skipped (path TEXT, reason TEXT)",
)
# The condition that some image has the content of a view.
LIVE = "EXISTS (SELECT 1 FROM images WHERE images.content = views.content)"
