"""Reports of searches: a page, tables and figures. Reads runs and never measures."""
