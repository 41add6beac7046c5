"""What is on disk? The table of arrays; how they are written, published and read. Knows Zarr, not torch."""
