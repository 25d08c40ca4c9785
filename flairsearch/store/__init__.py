"""The index on disk: catalogue, segments, snapshots, writer, compaction, migrations."""
