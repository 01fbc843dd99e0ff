"""A run as tables: what the kernel counted, named, priced and kept in files."""
