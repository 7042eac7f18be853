//! The counts as a table, a group at a time.

use std::fmt;

use super::{Counters, Group};

impl fmt::Display for Counters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let groups = [
            Group::Input,
            Group::Event,
            Group::Outcome,
            Group::Restored,
            Group::Effect,
            Group::Reply,
            Group::AgentInput,
            Group::AgentEffect,
            Group::Fact,
            Group::Fault,
        ];
        for group in groups {
            writeln!(f, "{group:?}")?;
            for row in Self::names(group).chunks(4) {
                for name in row {
                    write!(f, "  {name:<22}{:>9}", self.count(group, name))?;
                }
                writeln!(f)?;
            }
        }
        writeln!(f, "effects derived by owed: {}", self.owed)
    }
}
