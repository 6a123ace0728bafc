"""The cost of growth: of larger records, and of more streams, workers and connections."""
