//! gangsaw-sim.
