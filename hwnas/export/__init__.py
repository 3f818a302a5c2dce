"""What works on any `nn.Module`, whatever made it; nothing here knows of spaces or supernets."""
