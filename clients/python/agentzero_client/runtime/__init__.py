"""The agent runtime: takes leases, runs handlers, reports. `agent.Agent` is its face."""
