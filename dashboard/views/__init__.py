"""The views: each file has its ids, its layout, what it draws from arrays, and its callbacks."""
