//! The nodes one reader has asked: which query is open where, and how much of its window it has used.

use std::collections::{BTreeMap, BTreeSet};

use gangsaw_core::id::Index;
use gangsaw_proto::node::v1::ServeLogsResponse;

use super::copies::Key;
use super::plan::Plan;
use super::read::Wanted;
use super::{Inbox, Logs, Window};

/// A query that was not answered yet.
pub(super) struct Open {
    pub(super) node: String,
    /// Bytes it yielded of each stream: a repeated one yields again what was given before.
    pub(super) seen: BTreeMap<Key, u64>,
    window: Window,
}

/// What one reader asked of nodes. Dropping it lets go of every open query.
pub(super) struct Nodes {
    logs: Logs,
    pub(super) inbox: Inbox,
    /// By the query's number.
    pub(super) open: BTreeMap<u64, Open>,
    /// Nodes with a query, open or answered.
    pub(super) asked: BTreeSet<String>,
    /// Nodes of the newest plan that cannot be asked.
    pub(super) away: Vec<String>,
    /// Queries stay open for what comes later.
    pub(super) follow: bool,
}

impl Nodes {
    /// Asks nobody yet.
    pub(super) fn new(logs: &Logs, plan: &Plan, follow: bool) -> Nodes {
        let (open, asked) = (BTreeMap::new(), BTreeSet::new());
        Nodes { logs: logs.clone(), inbox: Inbox::new(plan.nodes()), open, asked, away: Vec::new(), follow }
    }

    /// Asks every node of the plan that was not asked yet.
    pub(super) fn ask(&mut self, plan: &Plan, wanted: &Wanted) {
        let mut ranges: BTreeMap<&str, (Index, Index)> = BTreeMap::new();
        for run in plan.runs.iter().filter(|run| !run.node.is_empty()) {
            let range = ranges.entry(&run.node).or_insert((run.first, run.last));
            *range = (range.0.min(run.first), range.1.max(run.last));
        }
        self.away.clear();
        for (node, (first, last)) in ranges {
            if self.asked.contains(node) {
                continue;
            }
            // Elements that start later on this node belong to the same query.
            let (first_index, last_index) = if self.follow { (0, u32::MAX) } else { (first, last) };
            let query = ServeLogsResponse {
                job_id: wanted.job.0,
                first_index,
                last_index,
                rank: wanted.request.rank,
                attempt: wanted.request.attempt,
                stream: u32::try_from(wanted.request.stream).unwrap_or(0),
                follow: self.follow,
                tail_lines: wanted.request.tail_lines,
                since_wall_ms: wanted.since_ms,
                ..Default::default()
            };
            match self.logs.query(node, &self.inbox, query) {
                Some(number) => {
                    let (seen, window) = (BTreeMap::new(), Window::of(&self.inbox));
                    self.open.insert(number, Open { node: node.to_owned(), seen, window });
                    self.asked.insert(node.to_owned());
                }
                None => self.away.push(node.to_owned()),
            }
        }
    }

    /// Notes that a piece of a query was given on: its node may send more.
    pub(super) fn taken(&mut self, query: u64) {
        if let Some(open) = self.open.get_mut(&query) {
            self.logs.taken(query, &mut open.window);
        }
    }

    /// Forgets the queries that were lost, so that their nodes are asked again.
    pub(super) fn drop_lost(&mut self) {
        for query in self.inbox.lost.take() {
            if let Some(lost) = self.open.remove(&query) {
                self.asked.remove(&lost.node);
            }
        }
    }

    /// Follows no longer: every node is to send what it has and to end.
    pub(super) fn finish(&mut self) {
        self.follow = false;
        for (query, each) in &self.open {
            self.logs.finish(&each.node, *query);
        }
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        for query in self.open.keys() {
            self.logs.forget(*query);
        }
    }
}
