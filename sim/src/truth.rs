//! What really happened to processes, apart from what anybody reported.
//!
//! The log may only say what is true here: an element that COMPLETED under an attempt has an exit 0 of every rank of
//! that attempt, and no task is ever executed twice under one attempt.

use std::collections::BTreeMap;

use gangsaw_core::check::{self, Try};
use gangsaw_core::id::{DeviceId, LeaseId};
use gangsaw_core::job::record::{Cause, Exit};

use crate::supervisor::Process;
use crate::world::World;

/// One execution.
#[derive(Clone, Debug)]
pub(crate) struct Execution {
    lease: LeaseId,
    exit: Option<Exit>,
}

/// Every execution of the run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Truth {
    executions: BTreeMap<Try, Execution>,
}

impl check::Truth for Truth {
    fn went_well(&self, what: Try) -> bool {
        self.executions
            .get(&what)
            .and_then(|execution| execution.exit.as_ref())
            .is_some_and(|exit| exit.cause == Cause::Exit && exit.exit_code == Some(0))
    }

    fn ran(&self, what: Try) -> bool {
        self.executions.contains_key(&what)
    }
}

impl World {
    /// Notes that a task was executed, and checks that it may be.
    pub(crate) fn saw_exec(&mut self, at: usize, process: &Process) {
        let what = (process.job, process.index, process.rank, process.attempt);
        self.note(
            "exec",
            &[at as u64, process.lease.0, process.job.0, u64::from(process.index), u64::from(process.rank)],
        );
        if let Some(before) = self.truth.executions.get(&what) {
            let before = before.lease;
            self.fail(format!("{what:?} was executed under lease {before} and again under lease {}", process.lease));
        }
        self.truth.executions.insert(what, Execution { lease: process.lease, exit: None });
        let busy: Option<DeviceId> = self.nodes[at]
            .processes
            .values()
            .flat_map(|other| &other.devices)
            .find(|device| process.devices.contains(device))
            .cloned();
        if let Some(device) = busy {
            self.fail(format!("{what:?} was executed on {device}, where another task lives"));
        }
        let node = self.history.node_of(process.lease);
        let older = self.nodes[at].processes.values().find(|other| self.history.node_of(other.lease) != node);
        if let Some(lease) = older.map(|older| older.lease) {
            self.fail(format!(
                "{what:?} was executed while a task of lease {lease} lives, granted before the node was forgotten"
            ));
        }
        if !self.history.granted(process.lease, process.job, process.index, process.attempt) {
            self.fail(format!("{what:?} was executed under lease {}, which no durable event granted", process.lease));
        }
    }

    /// Notes how a task really ended.
    pub(crate) fn saw_end(&mut self, process: &Process, exit: &Exit) {
        let what = (process.job, process.index, process.rank, process.attempt);
        if let Some(execution) = self.truth.executions.get_mut(&what) {
            execution.exit = Some(exit.clone());
        }
    }
}
