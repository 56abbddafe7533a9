"""The data lake: contracts, the Delta store, the catalog, sources and the simulated agency."""
