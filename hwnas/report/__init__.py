"""What a search found, as a page, tables and figures: it reads stores and never measures."""
