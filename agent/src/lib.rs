//! gangsaw-agent.
