"""AgentZero API's server: Tornado, the contract engine, the pipeline and the composition point."""
