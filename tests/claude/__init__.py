"""Sessions on a stand-in of the `claude` program, which has the faults that the real one can't be
made to have."""
