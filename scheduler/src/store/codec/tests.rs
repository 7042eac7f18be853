//! Every event the core can make comes back from its bytes as it was.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gangsaw_core::access::Role;
use gangsaw_core::event::{By, GangPart, NewJob, NoticeChange, Raised, Restored, TokenEvent};
use gangsaw_core::id::{
    Actor, DeviceId, IdempotencyKey, JobId, JobName, LeaseId, NodeId, NodeName, QueueName, RequestId, Tenant, TokenId,
};
use gangsaw_core::job::body::{After, CancelCause, DeviceChoice, DeviceCode, Excluded, JobBody, Standing};
use gangsaw_core::job::notice::{Notice, NoticeStanding};
use gangsaw_core::job::record::{
    Cause, Checkpoint, ElementRecord, EndState, Ended, EndedRange, Exit, Next, Outcome, RecordStatus, RetryClass,
    Started, TaskRecord, Used,
};
use gangsaw_core::job::spec::{
    Array, Dependency, DependencyKind, DependsOn, JobSpec, OnDisconnect, Rendezvous, Retry, Work,
};
use gangsaw_core::join::{Hash, JoinEvent, JoinRestored, JoinToken, Member};
use gangsaw_core::lease::{Gang, GangPlace, Lease, Master, RankHold, RevokeReason, Revoking, Stopping};
use gangsaw_core::node::{NodeBody, NodeMode};
use gangsaw_core::queue::{Limits, QueueKey};
use gangsaw_core::ranges::RangeSet;
use gangsaw_core::resources::{Demand, Device, Inventory};
use gangsaw_core::time::Millis;
use gangsaw_core::token::{ApiToken, Tokens};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;

/// Makes values from a seed, so that a failure is one number.
struct Maker(u64);

impl Maker {
    fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        // Small numbers and large ones alike: both ends have their own encoding.
        (mixed ^ (mixed >> 31)) >> (mixed % 64)
    }

    fn small(&mut self) -> u32 {
        u32::try_from(self.number() & 0xffff_ffff).unwrap()
    }

    fn signed(&mut self) -> i32 {
        self.small().cast_signed()
    }

    fn flag(&mut self) -> bool {
        self.number() & 1 == 1
    }

    fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::try_from(self.number() % all.len() as u64).unwrap()]
    }

    fn text(&mut self) -> String {
        format!("text é {}", self.number())
    }

    fn filled(&mut self) -> Option<String> {
        self.flag().then(|| self.text())
    }

    fn maybe<T>(&mut self, make: impl FnOnce(&mut Maker) -> T) -> Option<T> {
        self.flag().then(|| make(self))
    }

    fn many<T>(&mut self, make: impl Fn(&mut Maker) -> T) -> Vec<T> {
        (0..self.number() % 4).map(|_| make(self)).collect()
    }

    fn map(&mut self) -> BTreeMap<String, String> {
        self.many(|m| (m.text(), m.text())).into_iter().collect()
    }

    fn hash(&mut self) -> Hash {
        [0; 32].map(|_: u8| self.number().to_le_bytes()[0])
    }

    fn time(&mut self) -> Time {
        Time(self.number())
    }

    /// A span a message can carry: seconds are signed there.
    fn span(&mut self) -> Millis {
        Millis(self.number() >> 2)
    }

    fn job(&mut self) -> JobId {
        JobId(self.number().max(1))
    }

    fn lease(&mut self) -> LeaseId {
        LeaseId(self.number())
    }

    fn node(&mut self) -> NodeId {
        NodeId(self.small().max(1))
    }

    fn elements(&mut self) -> RangeSet {
        let mut set = RangeSet::new();
        for _ in 0..self.number() % 5 {
            let first = self.small();
            set.insert(first, first.saturating_add(self.small() % 100));
        }
        set
    }

    fn by(&mut self) -> By {
        By { actor: Actor::new(&self.text()).unwrap(), request_id: RequestId::new(&self.text()).unwrap() }
    }

    fn tenant(&mut self) -> Tenant {
        Tenant::new(&self.text()).unwrap()
    }

    fn queue(&mut self) -> QueueName {
        QueueName::new(&self.text()).unwrap()
    }

    fn key(&mut self) -> IdempotencyKey {
        IdempotencyKey::new(&self.text()).unwrap()
    }

    fn name(&mut self) -> JobName {
        JobName::new(&self.text()).unwrap()
    }

    fn kind(&mut self) -> DependencyKind {
        self.pick(&[DependencyKind::Ok, DependencyKind::Any, DependencyKind::Failed])
    }

    fn after(&mut self) -> After {
        let standing = self.pick(&[Standing::Open, Standing::Met, Standing::Failed]);
        After { kind: self.kind(), job: self.job(), standing }
    }

    fn cause(&mut self) -> CancelCause {
        if self.flag() { CancelCause::Asked } else { CancelCause::DependencyFailed { on: self.job() } }
    }

    fn demand(&mut self) -> Demand {
        Demand {
            milli_cpus: self.number(),
            memory_bytes: self.number(),
            gpus: self.small(),
            gpu_model: self.filled(),
            gpu_memory_bytes: self.number(),
        }
    }

    fn work(&mut self) -> Work {
        match self.number() % 3 {
            0 => Work::Shell(self.text()),
            1 => Work::Argv(self.many(Maker::text)),
            _ => Work::Recipe { name: self.text(), settings_json: self.text() },
        }
    }

    fn spec(&mut self) -> JobSpec {
        JobSpec {
            name: self.name(),
            queue: self.queue(),
            priority: self.signed(),
            labels: self.map(),
            work: Arc::new(self.work()),
            demands: self.many(Maker::demand),
            array: self.maybe(|m| Array { indices: m.elements(), running_max: m.maybe(|m| m.small().max(1)) }),
            replicas: self.small(),
            rendezvous: self.pick(&[Rendezvous::PerNode, Rendezvous::PerProcess]),
            after: self.many(|m| Dependency {
                kind: m.kind(),
                on: if m.flag() { DependsOn::Job(m.job()) } else { DependsOn::Alias(m.name()) },
            }),
            time_limit: self.maybe(Maker::span),
            retry: Retry {
                failure: self.small(),
                infra: self.small(),
                preempted: self.maybe(Maker::small),
                oom: self.small(),
                backoff: self.span(),
            },
            env: Arc::new(self.map()),
            exported_env: Arc::new(self.map()),
            workdir: self.filled(),
            output_dir: self.filled(),
            grace: self.span(),
            on_disconnect: if self.flag() { OnDisconnect::Keep } else { OnDisconnect::Stop { after: self.span() } },
            lost_after: self.span(),
            requeue_on: self.many(|m| u8::try_from(m.small() & 255).unwrap()).into_iter().collect(),
            hold: self.flag(),
            notify: self.filled(),
            alias: self.maybe(Maker::name),
        }
    }

    fn device(&mut self) -> DeviceChoice {
        let code = self.pick(&[DeviceCode::OnlyChoice, DeviceCode::DefaultRule]);
        DeviceChoice { gpu: self.flag(), code, detail: self.text() }
    }

    fn uuids(&mut self) -> Vec<DeviceId> {
        self.many(|m| DeviceId::new(&m.text()).unwrap())
    }

    fn hold(&mut self) -> RankHold {
        RankHold { rank: self.small(), gpu_uuids: self.uuids(), live: self.flag() }
    }

    fn exit(&mut self) -> Exit {
        Exit {
            cause: self.pick(&[
                Cause::Exit,
                Cause::Oom,
                Cause::TimeLimit,
                Cause::Revoked,
                Cause::Infra,
                Cause::Disconnected,
                Cause::StartUser,
                Cause::StartInfra,
            ]),
            exit_code: self.maybe(Maker::signed),
            signal: self.maybe(Maker::signed),
            detail: self.text(),
            ran_us: self.number(),
            checkpoint: self.filled(),
            max_rss_bytes: self.number(),
        }
    }

    fn outcome(&mut self) -> Outcome {
        use Outcome as O;
        self.pick(&[O::Ok, O::Failed, O::Oom, O::Timeout, O::Preempted, O::Infra, O::Cancelled, O::Fenced])
    }

    fn end(&mut self) -> EndState {
        use EndState as S;
        self.pick(&[S::Completed, S::Failed, S::Cancelled, S::Timeout, S::OutOfMemory, S::NodeFail])
    }

    fn next(&mut self) -> Next {
        use RetryClass as C;
        let class = self.pick(&[C::Failure, C::Oom, C::Infra, C::Preempted, C::Requeue]);
        if self.flag() { Next::End(self.end()) } else { Next::Retry { class, not_before: self.time() } }
    }

    fn limits(&mut self) -> Limits {
        Limits {
            running_max: self.maybe(Maker::number),
            queued_max: self.maybe(Maker::number),
            gpus_max: self.maybe(Maker::number),
        }
    }

    fn queue_key(&mut self) -> QueueKey {
        QueueKey { tenant: self.tenant(), name: self.queue() }
    }

    fn mode(&mut self) -> NodeMode {
        self.pick(&[NodeMode::Active, NodeMode::Cordoned, NodeMode::Draining])
    }

    fn inventory(&mut self) -> Inventory {
        Inventory {
            milli_cpus: self.number(),
            memory_bytes: self.number(),
            devices: self.many(|m| Device {
                uuid: DeviceId::new(&m.text()).unwrap(),
                model: m.text(),
                memory_bytes: m.number(),
                pci_bus_id: m.text(),
                withheld: m.filled(),
                compute_capability: m.small(),
                driver_version: m.text(),
            }),
            labels: self.map(),
            notes: self.many(Maker::text),
            address: self.text(),
            withheld: self.filled(),
        }
    }

    fn master(&mut self) -> Master {
        Master { address: self.text(), port: u16::try_from(self.small() & 0xffff).unwrap() }
    }

    fn task(&mut self) -> TaskRecord {
        TaskRecord {
            rank: self.small(),
            node: self.node(),
            gpu_uuids: self.uuids(),
            started: self.maybe(|m| Started {
                at: m.time(),
                pid: m.small(),
                start_ticks: m.number(),
                output_dir: m.text(),
                spawn_us: m.number(),
            }),
            exit: self.maybe(Maker::exit),
            ended_at: self.maybe(Maker::time),
        }
    }

    fn record(&mut self) -> ElementRecord {
        let status = match self.number() % 3 {
            0 => RecordStatus::Waiting { not_before: self.time() },
            1 => RecordStatus::Leased,
            _ => RecordStatus::Ended { state: self.end(), at: self.time() },
        };
        ElementRecord {
            attempts: self.small(),
            used: Used {
                failure: self.small(),
                oom: self.small(),
                infra: self.small(),
                preempted: self.small(),
                requeue: self.small(),
            },
            status,
            checkpoint: self.maybe(|m| Checkpoint { node: m.node(), path: m.text() }),
            last: self.maybe(|m| {
                Box::new(Ended {
                    attempt: m.small(),
                    outcome: m.outcome(),
                    alternative: m.small(),
                    leased_at: m.time(),
                    ended_at: m.time(),
                    exit: m.exit(),
                    tasks: m.many(Maker::task),
                })
            }),
        }
    }

    fn ended_range(&mut self) -> EndedRange {
        EndedRange {
            last: self.small(),
            node: self.maybe(Maker::node),
            attempt: self.small(),
            state: self.end(),
            outcome: self.maybe(Maker::outcome),
            exit_code: self.maybe(Maker::signed),
            signal: self.maybe(Maker::signed),
        }
    }

    fn body(&mut self) -> JobBody {
        JobBody {
            id: self.job(),
            tenant: self.tenant(),
            actor: self.by().actor,
            request_id: self.by().request_id,
            user: self.text().into(),
            spec: Arc::new(self.spec()),
            queue: self.queue(),
            priority: self.signed(),
            time_limit: self.maybe(Maker::span),
            held: self.flag(),
            after: self.many(Maker::after).into(),
            submitted_at: self.time(),
            started_at: self.maybe(Maker::time),
            ended_at: self.maybe(Maker::time),
            pending: self.elements(),
            records: self.many(|m| (m.small(), m.record())).into_iter().collect(),
            ended: self.many(|m| (m.small(), m.ended_range())).into_iter().collect(),
            chunk: self.small(),
            excluded: self.many(|m| (m.node(), Excluded { until: m.time(), reason: m.text() })).into_iter().collect(),
            infra_starts: self.many(|m| (m.node(), m.many(Maker::time))).into_iter().collect(),
            retries: self.number(),
            device: self.maybe(Maker::device).map(Box::new),
            exit_code: self.maybe(Maker::signed),
            cancelled: self.maybe(Maker::cause),
            notice: self.maybe(|m| Box::new(m.notice())),
        }
    }

    fn notice(&mut self) -> Notice {
        let owed = NoticeStanding::Owed { not_before: self.time() };
        let standing = self.pick(&[owed, NoticeStanding::Sent, NoticeStanding::GivenUp]);
        Notice { tries: self.small(), standing, why: self.text() }
    }

    fn gang(&mut self) -> Gang {
        Gang {
            job: self.job(),
            index: self.small(),
            attempt: self.small(),
            alternative: self.small(),
            granted_at: self.time(),
            leases: self.many(Maker::lease),
            deadline: self.time(),
            started: self.maybe(Maker::master),
            stopping: self.maybe(|m| Stopping { outcome: m.outcome(), exit: m.exit() }),
            cancelled: self.flag(),
            tasks: self.many(Maker::task),
        }
    }

    fn held_lease(&mut self) -> Lease {
        let reason =
            self.pick(&[RevokeReason::Cancelled, RevokeReason::Fenced, RevokeReason::Gang, RevokeReason::Preempted]);
        Lease {
            id: self.lease(),
            job: self.job(),
            node: self.node(),
            first: self.small(),
            last: self.small(),
            attempt: self.small(),
            slots: self.small(),
            alternative: self.small(),
            demand: self.demand(),
            time_limit: self.maybe(Maker::span),
            live: self.elements(),
            ranks: self.many(Maker::hold),
            gang: self.maybe(|m| GangPlace { node_rank: m.small(), nodes: m.small(), world_size: m.small() }),
            granted_at: self.time(),
            begun: self.flag(),
            started: self.flag(),
            port: self.maybe(|m| u16::try_from(m.small() & 0xffff).unwrap()),
            mean_us: self.number(),
            tasks: self
                .many(|m| {
                    let (index, task) = (m.small(), m.task());
                    ((index, task.rank), task)
                })
                .into_iter()
                .collect(),
            revoke: self.maybe(|m| Revoking { reason, elements: m.elements() }),
            preempted: self.flag(),
            trimmed: self.flag(),
            fenced: self.flag(),
        }
    }

    fn node_body(&mut self) -> NodeBody {
        NodeBody {
            id: self.node(),
            name: NodeName::new(&self.text()).unwrap(),
            uuid: self.text(),
            boot_id: self.text(),
            agent_version: self.text(),
            inventory: self.inventory(),
            mode: self.mode(),
            mode_reason: self.text(),
            silent_since: self.maybe(Maker::time),
            acked_report: self.number(),
            models: self.many(Maker::text).into_iter().collect(),
            evict_at: self.maybe(Maker::time),
            foreign: self.many(Maker::lease).into_iter().collect(),
        }
    }
}

impl Maker {
    fn token(&mut self) -> ApiToken {
        ApiToken {
            id: TokenId(self.small()),
            actor: self.by().actor,
            tenant: self.tenant(),
            role: self.pick(&Role::ALL),
            user: self.text(),
            digest: [self.small().to_le_bytes()[0]; 32],
            made_by: self.by().actor,
            made_at: self.time(),
            expires_at: self.maybe(Maker::time),
        }
    }
}

/// Variants there are, those of snapshots among them.
const VARIANTS: usize = 58;

/// Returns a variant's number: a new one does not build until it is made below.
fn variant(event: &Event) -> usize {
    match event {
        Event::JobsSubmitted { .. } => 0,
        Event::KeysExpired(_) => 1,
        Event::JobCancelled { .. } => 2,
        Event::JobHeld { .. } => 3,
        Event::JobReleased { .. } => 4,
        Event::ElementsRetried { .. } => 5,
        Event::JobUpdated { .. } => 6,
        Event::JobForgotten(_) => 7,
        Event::NodeRegistered { .. } => 8,
        Event::NodeReturned { .. } => 9,
        Event::NodeInventoryChanged { .. } => 10,
        Event::NodeSilenced(_) => 11,
        Event::NodeModeSet { .. } => 12,
        Event::NodeForgotten { .. } => 13,
        Event::QueueSet { .. } => 14,
        Event::RoundDecided { .. } => 15,
        Event::ChunkLeased { .. } => 16,
        Event::GangLeased { .. } => 17,
        Event::LeasePrepared { .. } => 18,
        Event::GangStarted { .. } => 19,
        Event::TaskStarted { .. } => 20,
        Event::ElementsSucceeded { .. } => 21,
        Event::RankEnded { .. } => 22,
        Event::GangStopping { .. } => 23,
        Event::AttemptEnded { .. } => 24,
        Event::ElementsReturned { .. } => 25,
        Event::LeaseTrimmed { .. } => 26,
        Event::LeaseFenced { .. } => 27,
        Event::FenceConfirmed { .. } => 28,
        Event::NodeExcluded { .. } => 29,
        Event::ReportTaken { .. } => 30,
        Event::Restored(Restored::Queue { .. }) => 31,
        Event::Restored(Restored::Node(_)) => 32,
        Event::Restored(Restored::Job(_)) => 33,
        Event::Restored(Restored::Gang(_)) => 34,
        Event::Restored(Restored::Lease(_)) => 35,
        Event::Restored(Restored::Key { .. }) => 36,
        Event::Restored(Restored::Counters { .. }) => 37,
        Event::Token(TokenEvent::Created { .. }) => 43,
        Event::Token(TokenEvent::Revoked { .. }) => 44,
        Event::Token(TokenEvent::Expired { .. }) => 45,
        Event::Restored(Restored::Tokens(_)) => 46,
        Event::TenantSet { .. } => 38,
        Event::NodeEvicted(_) => 40,
        Event::NodeClearing { .. } => 41,
        Event::LeasePreempted { .. } => 42,
        Event::Restored(Restored::Tenant { .. }) => 39,
        Event::Join(JoinEvent::TokenCreated { .. }) => 47,
        Event::Join(JoinEvent::TokenRevoked { .. }) => 48,
        Event::Join(JoinEvent::Joined { .. }) => 49,
        Event::Join(JoinEvent::MemberForgotten { .. }) => 50,
        Event::Restored(Restored::Join(part)) => match **part {
            JoinRestored::Token(_) => 51,
            JoinRestored::Member(_) => 52,
            JoinRestored::Next { .. } => 53,
        },
        Event::ClusterRestored { .. } => 54,
        Event::Notice { change: NoticeChange::Sent, .. } => 55,
        Event::Notice { change: NoticeChange::Failed { .. }, .. } => 56,
        Event::Notice { change: NoticeChange::GivenUp { .. }, .. } => 57,
    }
}

fn event(number: usize, m: &mut Maker) -> Event {
    match number {
        0 => Event::JobsSubmitted {
            by: m.by(),
            tenant: m.tenant(),
            user: m.text(),
            key: m.key(),
            digest: m.number(),
            jobs: m.many(|m| NewJob { id: m.job(), spec: Arc::new(m.spec()), after: m.many(Maker::after) }),
        },
        1 => Event::KeysExpired(m.time()),
        2 => Event::JobCancelled { by: m.by(), job: m.job(), elements: m.elements(), cause: m.cause() },
        3 => Event::JobHeld { by: m.by(), job: m.job() },
        4 => Event::JobReleased { by: m.by(), job: m.job() },
        5 => Event::ElementsRetried { by: m.by(), job: m.job(), elements: m.elements(), after: m.many(Maker::after) },
        6 => Event::JobUpdated {
            by: m.by(),
            job: m.job(),
            priority: m.maybe(Maker::signed),
            queue: m.maybe(Maker::queue),
            time_limit: m.maybe(|m| Millis(m.number())),
        },
        7 => Event::JobForgotten(m.job()),
        8 => Event::NodeRegistered {
            node: m.node(),
            name: NodeName::new(&m.text()).unwrap(),
            uuid: m.text(),
            boot_id: m.text(),
            agent_version: m.text(),
            inventory: m.inventory(),
        },
        9 => Event::NodeReturned { node: m.node(), boot_id: m.text(), agent_version: m.text() },
        10 => Event::NodeInventoryChanged { node: m.node(), inventory: m.inventory() },
        11 => Event::NodeSilenced(m.node()),
        12 => {
            let evict_at = m.maybe(Maker::time);
            Event::NodeModeSet { by: m.by(), node: m.node(), mode: m.mode(), reason: m.text(), evict_at }
        }
        13 => Event::NodeForgotten { by: m.by(), node: m.node() },
        14 => Event::QueueSet { by: m.by(), queue: m.queue_key(), limits: m.limits() },
        47 => Event::Join(JoinEvent::TokenCreated {
            by: m.by(),
            token: m.number(),
            hash: m.hash(),
            uses: m.small(),
            expires: m.time(),
        }),
        48 => Event::Join(JoinEvent::TokenRevoked { by: m.by(), token: m.number() }),
        49 => Event::Join(JoinEvent::Joined {
            join: m.number(),
            token: m.number(),
            name: NodeName::new(&m.text()).unwrap(),
            uuid: m.text(),
            key_hash: m.hash(),
        }),
        50 => Event::Join(JoinEvent::MemberForgotten { by: m.by(), name: NodeName::new(&m.text()).unwrap() }),
        51 => Event::Restored(Restored::Join(Box::new(JoinRestored::Token(JoinToken {
            id: m.number(),
            hash: m.hash(),
            by: m.by().actor,
            created_at: m.time(),
            expires: m.time(),
            uses_max: m.small(),
            uses: m.small(),
            revoked: m.flag(),
        })))),
        52 => Event::Restored(Restored::Join(Box::new(JoinRestored::Member(Member {
            join: m.number(),
            name: NodeName::new(&m.text()).unwrap(),
            uuid: m.text(),
            key_hash: m.hash(),
            token: m.number(),
            joined_at: m.time(),
        })))),
        53 => Event::Restored(Restored::Join(Box::new(JoinRestored::Next { token: m.number(), join: m.number() }))),
        15 => Event::RoundDecided {
            round: m.number(),
            now: m.time(),
            policy_version: m.small(),
            decision_hash: m.number(),
            decisions: m.small(),
            more: m.flag(),
        },
        16 => Event::ChunkLeased {
            lease: m.lease(),
            job: m.job(),
            first: m.small(),
            last: m.small(),
            attempt: m.small(),
            node: m.node(),
            slots: m.small(),
            alternative: m.small(),
            hold: m.hold(),
            device: m.device(),
        },
        17 => Event::GangLeased {
            job: m.job(),
            index: m.small(),
            attempt: m.small(),
            alternative: m.small(),
            parts: m.many(|m| GangPart { lease: m.lease(), node: m.node(), ranks: m.many(Maker::hold) }),
            deadline: m.time(),
            device: m.device(),
        },
        18 => Event::LeasePrepared { lease: m.lease(), job: m.job(), port: m.master().port },
        19 => Event::GangStarted { job: m.job(), index: m.small(), master: m.master() },
        20 => Event::TaskStarted {
            lease: m.lease(),
            job: m.job(),
            index: m.small(),
            rank: m.small(),
            pid: m.small(),
            start_ticks: m.number(),
            output_dir: m.text(),
            spawn_us: m.number(),
        },
        21 => Event::ElementsSucceeded {
            lease: m.lease(),
            job: m.job(),
            first: m.small(),
            last: m.small(),
            mean_us: m.number(),
        },
        22 => Event::RankEnded { lease: m.lease(), job: m.job(), rank: m.small(), exit: m.exit() },
        23 => Event::GangStopping {
            job: m.job(),
            index: m.small(),
            outcome: m.outcome(),
            exit: m.exit(),
            late: m.many(Maker::node),
        },
        24 => Event::AttemptEnded {
            lease: m.lease(),
            job: m.job(),
            index: m.small(),
            attempt: m.small(),
            outcome: m.outcome(),
            exit: m.exit(),
            next: m.next(),
        },
        25 => Event::ElementsReturned { lease: m.lease(), job: m.job(), first: m.small(), last: m.small() },
        26 => Event::LeaseTrimmed { lease: m.lease(), job: m.job() },
        27 => Event::LeaseFenced { lease: m.lease(), job: m.job() },
        28 => Event::FenceConfirmed {
            lease: m.lease(),
            job: m.job(),
            first: m.small(),
            last: m.small(),
            rank: m.maybe(Maker::small),
        },
        29 => Event::NodeExcluded { job: m.job(), node: m.node(), until: m.time(), reason: m.text() },
        30 => Event::ReportTaken { node: m.node(), seq: m.number() },
        31 => Event::Restored(Restored::Queue { queue: m.queue_key(), limits: m.limits() }),
        32 => Event::Restored(Restored::Node(Box::new(m.node_body()))),
        33 => Event::Restored(Restored::Job(Box::new(m.body()))),
        34 => Event::Restored(Restored::Gang(Box::new(m.gang()))),
        35 => Event::Restored(Restored::Lease(Box::new(m.held_lease()))),
        36 => Event::Restored(Restored::Key {
            tenant: m.tenant(),
            key: m.key(),
            used_at: m.time(),
            digest: m.number(),
            jobs: m.many(Maker::job),
        }),
        37 => Event::Restored(Restored::Counters {
            job: m.number(),
            lease: m.number(),
            node: m.small(),
            round: m.number(),
            attempt_base: m.small(),
            epoch: m.number(),
        }),
        43 => Event::Token(TokenEvent::Created { by: m.by(), token: Box::new(m.token()) }),
        44 => Event::Token(TokenEvent::Revoked { by: m.by(), token: TokenId(m.small()) }),
        45 => Event::Token(TokenEvent::Expired { until: m.time() }),
        46 => {
            let all = m.many(Maker::token);
            let next = all.iter().map(|token| token.id.0).max().unwrap_or(0).saturating_add(m.small() % 3);
            Event::Restored(Restored::Tokens(Box::new(Tokens::restored(TokenId(next), all))))
        }
        38 => Event::TenantSet { by: m.by(), tenant: m.tenant(), limits: m.limits() },
        39 => Event::Restored(Restored::Tenant { tenant: m.tenant(), limits: m.limits() }),
        40 => Event::NodeEvicted(m.node()),
        41 => Event::NodeClearing { node: m.node(), leases: m.many(Maker::lease).into_iter().collect() },
        42 => Event::LeasePreempted { lease: m.lease(), job: m.job() },
        54 => Event::ClusterRestored(Raised {
            by: m.by(),
            epoch: m.number(),
            job: m.number(),
            lease: m.number(),
            node: m.small(),
            attempt_base: m.small(),
        }),
        55 => Event::Notice { job: m.job(), tries: m.small(), change: NoticeChange::Sent },
        56 => {
            let change = NoticeChange::Failed { not_before: m.time(), why: m.text() };
            Event::Notice { job: m.job(), tries: m.small(), change }
        }
        57 => Event::Notice { job: m.job(), tries: m.small(), change: NoticeChange::GivenUp { why: m.text() } },
        _ => unreachable!("there are {VARIANTS} variants"),
    }
}

#[test]
fn every_variant_is_made() {
    let mut maker = Maker(1);
    let made: BTreeSet<usize> = (0..VARIANTS).map(|number| variant(&event(number, &mut maker))).collect();
    assert_eq!(made, (0..VARIANTS).collect());
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 3_000,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(1),
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_event_comes_back_as_it_was(number in 0..VARIANTS, seed: u64, at: u64) {
        let original = event(number, &mut Maker(seed));
        let mut bytes = Vec::new();
        encode(Time(at), &original, &mut bytes);
        prop_assert_eq!(decode(&bytes), Ok((Time(at), original)));
    }

    #[test]
    fn bytes_that_are_no_record_are_refused_and_never_a_panic(bytes: Vec<u8>) {
        let _ = decode(&bytes);
    }
}
