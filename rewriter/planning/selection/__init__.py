"""Which layers were asked for: ranges, strategies by position, published orders."""
