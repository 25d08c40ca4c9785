"""What every room stands on: records, settings, query and filter values, errors, paths, atomic files."""
