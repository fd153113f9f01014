"""What runs in the process that fetches: the only part of coredeno that speaks git, and what a source can reach.

`entry.py` is started with a bare interpreter, reads one order from stdin, and answers on stdout in lines of JSON
(`answers.py` has their form). Imports are kept few, for they are what a small fetch costs.
"""
