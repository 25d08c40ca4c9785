"""From folders of photos to an index."""
