"""L0 shadow paging, for a guest without nested paging of the processor."""
