"""The audit log: what happened, in rows that are only added, each chained to the one before."""
