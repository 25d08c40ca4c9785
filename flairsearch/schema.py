"""The tables of catalog.sqlite.

An image is a file; a content is what files with the same bytes share; a view belongs to a content.
"""

from __future__ import annotations

import sqlalchemy as sa

meta = sa.MetaData()
state = sa.Table(
    "state", meta, sa.Column("key", sa.Text, primary_key=True), sa.Column("value", sa.Integer, nullable=False)
)
roots = sa.Table(
    "roots",
    meta,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("path", sa.Text, nullable=False, unique=True),
    sqlite_autoincrement=True,
)
contents = sa.Table(
    "contents",
    meta,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("hash", sa.LargeBinary, nullable=False, unique=True),
    sa.Column("taken", sa.Integer),  # scope.clock_seconds; null: not said, the file's time has to do
    sqlite_autoincrement=True,
)
images = sa.Table(
    "images",
    meta,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("root", sa.ForeignKey("roots.id"), nullable=False),
    sa.Column("path", sa.Text, nullable=False),  # relative to the root
    sa.Column("size", sa.Integer, nullable=False),
    sa.Column("mtime_ns", sa.Integer, nullable=False),
    sa.Column("content", sa.ForeignKey("contents.id"), nullable=False, index=True),
    sa.UniqueConstraint("root", "path"),
    sqlite_autoincrement=True,
)
segments = sa.Table(
    "segments",
    meta,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("count", sa.Integer, nullable=False),
    sa.Column("codec", sa.Text, nullable=False),
    sqlite_autoincrement=True,
)
views = sa.Table(
    "views",
    meta,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("content", sa.ForeignKey("contents.id"), nullable=False, index=True),
    sa.Column("segment", sa.ForeignKey("segments.id"), nullable=False),
    sa.Column("row", sa.Integer, nullable=False),
    sa.Column("checksum", sa.Integer, nullable=False),
    sa.Column("width", sa.Integer, nullable=False),  # Frame, from here on
    sa.Column("height", sa.Integer, nullable=False),
    sa.Column("left", sa.Float, nullable=False),
    sa.Column("top", sa.Float, nullable=False),
    sa.Column("right", sa.Float, nullable=False),
    sa.Column("bottom", sa.Float, nullable=False),
    sa.UniqueConstraint("segment", "row"),
    sqlite_autoincrement=True,
)
skipped = sa.Table("skipped", meta, sa.Column("path", sa.Text), sa.Column("reason", sa.Text))
LIVE = sa.exists().where(images.c.content == views.c.content)  # of a view: some image still has its content
