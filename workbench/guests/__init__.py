"""Guest programs: assembling, loading, and the catalogue of those that come with the workbench."""
