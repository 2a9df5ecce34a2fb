"""Files, renames, signals, limits on untrusted input: the only place that asks which system this is."""
