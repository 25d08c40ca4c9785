"""Find image files in folders, and decode them into upright views."""
