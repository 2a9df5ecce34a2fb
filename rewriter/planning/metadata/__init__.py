"""How metadata follows the kept layers: counts, lists, patterns, names of modules."""
