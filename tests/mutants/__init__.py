"""Faults put into a copy of the package on purpose: the tests have to notice every one."""
