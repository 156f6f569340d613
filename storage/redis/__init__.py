"""What nodes share for a moment, in Redis: nothing here is needed, everything expires."""
