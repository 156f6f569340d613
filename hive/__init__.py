"""The domain of the hive: pure decisions, no I/O, standard library only."""
