//! How often each kind of input, event, effect and fault happened: a simulation that never reached something says
//! nothing about it.
//!
//! Every enum is matched variant by variant, so a new variant does not build until it is counted.

mod names;
mod show;

use std::collections::BTreeMap;

use gangsaw_core::agent;
use gangsaw_core::effect::{Effect, Reply};
use gangsaw_core::event::{Event, NoticeChange, Restored};
use gangsaw_core::input::{FactKind, Input};
use gangsaw_core::job::record::Outcome;

use self::names::*;
use crate::faults::Fault;

/// A kind of thing that is counted, with what every run over all seeds must reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    /// Inputs of the scheduler's core.
    Input,
    /// Events in the log.
    Event,
    /// Outcomes of attempts.
    Outcome,
    /// Parts of snapshots.
    Restored,
    /// Effects of the scheduler's core.
    Effect,
    /// Replies.
    Reply,
    /// Inputs of the agent's machine.
    AgentInput,
    /// Effects of the agent's machine.
    AgentEffect,
    /// Facts that were reported.
    Fact,
    /// Faults.
    Fault,
}

/// Counts by group and name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    counts: BTreeMap<(Group, &'static str), u64>,
    /// Effects that `owed` derived.
    pub owed: u64,
}

impl Counters {
    fn add(&mut self, group: Group, name: &'static str) {
        *self.counts.entry((group, name)).or_insert(0) += 1;
    }

    /// Adds the counts of another run.
    pub fn merge(&mut self, other: &Counters) {
        for (&key, count) in &other.counts {
            *self.counts.entry(key).or_insert(0) += count;
        }
        self.owed += other.owed;
    }

    /// Returns how often `name` of `group` happened.
    pub fn count(&self, group: Group, name: &'static str) -> u64 {
        self.counts.get(&(group, name)).copied().unwrap_or(0)
    }

    /// Returns every name of a group.
    pub fn names(group: Group) -> Vec<&'static str> {
        match group {
            Group::Input => INPUTS.to_vec(),
            Group::Event => EVENTS.to_vec(),
            Group::Outcome => OUTCOMES.to_vec(),
            Group::Restored => RESTORED.to_vec(),
            Group::Effect => EFFECTS.to_vec(),
            Group::Reply => REPLIES.to_vec(),
            Group::AgentInput => AGENT_INPUTS.to_vec(),
            Group::AgentEffect => AGENT_EFFECTS.to_vec(),
            Group::Fact => FACTS.to_vec(),
            Group::Fault => Fault::ALL.iter().map(|fault| fault.name()).collect(),
        }
    }

    /// Returns what was counted under a name that its group does not list: a gap in the lists above.
    pub fn unlisted(&self) -> Vec<&'static str> {
        self.counts.keys().filter(|(group, name)| !Self::names(*group).contains(name)).map(|(_, name)| *name).collect()
    }

    /// Returns the names of `group` that happened less than `least` times, with how often.
    pub fn below(&self, group: Group, least: u64) -> Vec<(&'static str, u64)> {
        Self::names(group)
            .into_iter()
            .map(|name| (name, self.count(group, name)))
            .filter(|(_, count)| *count < least)
            .collect()
    }

    pub(crate) fn fault(&mut self, fault: Fault) {
        self.add(Group::Fault, fault.name());
    }

    pub(crate) fn event(&mut self, event: &Event) {
        let name = match event {
            Event::JobsSubmitted { .. } => "JobsSubmitted",
            Event::KeysExpired(_) => "KeysExpired",
            Event::JobCancelled { .. } => "JobCancelled",
            Event::JobHeld { .. } => "JobHeld",
            Event::JobReleased { .. } => "JobReleased",
            Event::ElementsRetried { .. } => "ElementsRetried",
            Event::JobUpdated { .. } => "JobUpdated",
            Event::JobForgotten(_) => "JobForgotten",
            Event::NodeRegistered { .. } => "NodeRegistered",
            Event::NodeReturned { .. } => "NodeReturned",
            Event::NodeInventoryChanged { .. } => "NodeInventoryChanged",
            Event::NodeSilenced(_) => "NodeSilenced",
            Event::NodeModeSet { .. } => "NodeModeSet",
            Event::NodeEvicted(_) => "NodeEvicted",
            Event::NodeClearing { .. } => "NodeClearing",
            Event::NodeForgotten { .. } => "NodeForgotten",
            Event::QueueSet { .. } => "QueueSet",
            Event::TenantSet { .. } => "TenantSet",
            Event::Join(_) => "Join",
            Event::RoundDecided { .. } => "RoundDecided",
            Event::ChunkLeased { .. } => "ChunkLeased",
            Event::GangLeased { .. } => "GangLeased",
            Event::LeasePrepared { .. } => "LeasePrepared",
            Event::GangStarted { .. } => "GangStarted",
            Event::TaskStarted { .. } => "TaskStarted",
            Event::ElementsSucceeded { .. } => "ElementsSucceeded",
            Event::RankEnded { .. } => "RankEnded",
            Event::GangStopping { .. } => "GangStopping",
            Event::AttemptEnded { outcome, .. } => {
                self.outcome(*outcome);
                "AttemptEnded"
            }
            Event::ElementsReturned { .. } => "ElementsReturned",
            Event::LeaseTrimmed { .. } => "LeaseTrimmed",
            Event::LeasePreempted { .. } => "LeasePreempted",
            Event::LeaseFenced { .. } => "LeaseFenced",
            Event::FenceConfirmed { .. } => "FenceConfirmed",
            Event::NodeExcluded { .. } => "NodeExcluded",
            Event::Notice { change: NoticeChange::Sent, .. } => "NoticeSent",
            Event::Notice { change: NoticeChange::Failed { .. }, .. } => "NoticeFailed",
            Event::Notice { change: NoticeChange::GivenUp { .. }, .. } => "NoticeGivenUp",
            Event::ReportTaken { .. } => "ReportTaken",
            Event::Token(_) => "Token",
            Event::ClusterRestored { .. } => "ClusterRestored",
            Event::Restored(part) => {
                self.restored(part);
                "Restored"
            }
        };
        self.add(Group::Event, name);
    }

    pub(crate) fn effect(&mut self, effect: &Effect) {
        let name = match effect {
            Effect::Reply { .. } => "Reply",
            Effect::Grant(_) => "Grant",
            Effect::Start { .. } => "Start",
            Effect::Revoke { .. } => "Revoke",
            Effect::Trim { .. } => "Trim",
            Effect::AckReport { .. } => "AckReport",
        };
        self.add(Group::Effect, name);
    }

    pub(crate) fn reply(&mut self, reply: &Reply) {
        let name = match reply {
            Reply::Submitted { .. } => "Submitted",
            Reply::Faults(_) => "Faults",
            Reply::Refused(_) => "Refused",
            Reply::Cancelled { .. } => "Cancelled",
            Reply::Retried { .. } => "Retried",
            Reply::TokenCreated(_) => "TokenCreated",
            Reply::JoinToken { .. } => "JoinToken",
            Reply::Joined { .. } => "Joined",
            Reply::Done => "Done",
            Reply::Welcome { .. } => "Welcome",
        };
        self.add(Group::Reply, name);
    }

    pub(crate) fn input(&mut self, input: &Input) {
        let name = match input {
            Input::Submit(_) => "Submit",
            Input::Cancel { .. } => "Cancel",
            Input::Hold { .. } => "Hold",
            Input::Release { .. } => "Release",
            Input::Retry { .. } => "Retry",
            Input::Update { .. } => "Update",
            Input::NodeHello(_) => "NodeHello",
            Input::NodeSilent { .. } => "NodeSilent",
            Input::NodeReport { facts, .. } => {
                facts.iter().for_each(|fact| self.fact(&fact.kind));
                "NodeReport"
            }
            Input::NodeInventory { .. } => "NodeInventory",
            Input::SetNode { .. } => "SetNode",
            Input::ForgetNode { .. } => "ForgetNode",
            Input::SetQueue { .. } => "SetQueue",
            Input::Notice { .. } => "Notice",
            Input::CreateToken(_) => "CreateToken",
            Input::RevokeToken { .. } => "RevokeToken",
            Input::Join(_) => "Join",
            Input::SetTenant { .. } => "SetTenant",
            Input::Tick => "Tick",
        };
        self.add(Group::Input, name);
    }

    fn fact(&mut self, kind: &FactKind) {
        let name = match kind {
            FactKind::Prepared { .. } => "Prepared",
            FactKind::StartFailed { .. } => "StartFailed",
            FactKind::Started { .. } => "Started",
            FactKind::Succeeded { .. } => "Succeeded",
            FactKind::Ended { .. } => "Ended",
            FactKind::Returned { .. } => "Returned",
        };
        self.add(Group::Fact, name);
    }

    pub(crate) fn agent_input(&mut self, input: &agent::Input) {
        let name = match input {
            agent::Input::Connected => "Connected",
            agent::Input::Disconnected => "Disconnected",
            agent::Input::Welcomed { .. } => "Welcomed",
            agent::Input::HeartbeatAcked { .. } => "HeartbeatAcked",
            agent::Input::Reconcile => "Reconcile",
            agent::Input::Granted(_) => "Granted",
            agent::Input::StartRequested { .. } => "StartRequested",
            agent::Input::RevokeRequested { .. } => "RevokeRequested",
            agent::Input::TrimRequested { .. } => "TrimRequested",
            agent::Input::ReportAcked { .. } => "ReportAcked",
            agent::Input::SupervisorList(_) => "SupervisorList",
            agent::Input::SupervisorLost(_) => "SupervisorLost",
            agent::Input::LeftoversGone { .. } => "LeftoversGone",
            agent::Input::Fact(_) => "Fact",
            agent::Input::StopTasks { .. } => "StopTasks",
            agent::Input::Tick => "Tick",
        };
        self.add(Group::AgentInput, name);
    }

    pub(crate) fn agent_effect(&mut self, effect: &agent::Effect) {
        let name = match effect {
            agent::Effect::ToSupervisor(order) => match order {
                agent::Order::Spawn { .. } => "Spawn",
                agent::Order::Prepare { .. } => "Prepare",
                agent::Order::Start { .. } => "Start",
                agent::Order::Stop { .. } => "Stop",
                agent::Order::Trim { .. } => "Trim",
                agent::Order::AckFacts { .. } => "AckFacts",
                agent::Order::Renew { .. } => "Renew",
            },
            agent::Effect::Redial => "Redial",
            agent::Effect::SendHello { .. } => "SendHello",
            agent::Effect::SendHeartbeat { .. } => "SendHeartbeat",
            agent::Effect::SendReport { .. } => "SendReport",
            agent::Effect::KillLeftovers { .. } => "KillLeftovers",
            agent::Effect::ForgetLease { .. } => "ForgetLease",
        };
        self.add(Group::AgentEffect, name);
    }

    fn outcome(&mut self, outcome: Outcome) {
        let name = match outcome {
            Outcome::Ok => "Ok",
            Outcome::Failed => "Failed",
            Outcome::Oom => "Oom",
            Outcome::Timeout => "Timeout",
            Outcome::Preempted => "Preempted",
            Outcome::Infra => "Infra",
            Outcome::Cancelled => "Cancelled",
            Outcome::Fenced => "Fenced",
        };
        self.add(Group::Outcome, name);
    }

    fn restored(&mut self, part: &Restored) {
        let name = match part {
            Restored::Queue { .. } => "Queue",
            Restored::Tenant { .. } => "Tenant",
            Restored::Node(_) => "Node",
            Restored::Job(_) => "Job",
            Restored::Gang(_) => "Gang",
            Restored::Lease(_) => "Lease",
            Restored::Key { .. } => "Key",
            Restored::Tokens(_) => "Tokens",
            Restored::Join(_) => "Join",
            Restored::Counters { .. } => "Counters",
        };
        self.add(Group::Restored, name);
    }
}
