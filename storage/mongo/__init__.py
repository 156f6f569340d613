"""MongoDB: agents, tasks, their logs, the event log and the leases of background duties."""
