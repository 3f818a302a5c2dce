"""Tracing and export of any `nn.Module`; nothing in this package depends on search spaces or supernets."""
