"""One file a version of the ledger's tables; the first makes them."""
