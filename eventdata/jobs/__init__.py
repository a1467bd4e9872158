"""Work that can be interrupted and shared: pools, worker processes, Dask."""
