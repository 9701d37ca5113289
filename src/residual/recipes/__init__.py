"""Everything that decides what a run computes: the type and the functions that fill it. No torch."""
