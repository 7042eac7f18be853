//! Any input in any order: nothing panics, and every invariant holds.

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::world::*;
use crate::id::*;
use crate::input::*;
use crate::job::draft::*;
use crate::job::record::{Cause, Exit};
use crate::job::spec::JobSpec;
use crate::node::NodeMode;
use crate::ranges::RangeSet;
use crate::time::Millis;

fn cause() -> impl Strategy<Value = Cause> {
    prop_oneof![
        Just(Cause::Exit),
        Just(Cause::Oom),
        Just(Cause::TimeLimit),
        Just(Cause::Revoked),
        Just(Cause::Infra),
        Just(Cause::Disconnected),
        Just(Cause::StartUser),
        Just(Cause::StartInfra),
    ]
}

fn index() -> impl Strategy<Value = u32> {
    prop_oneof![8 => 0_u32..6, 1 => any::<u32>()]
}

fn fact() -> impl Strategy<Value = FactKind> {
    let exit = (cause(), prop::option::of(-1_i32..300), any::<u64>(), any::<bool>()).prop_map(
        |(cause, exit_code, ran_us, saved)| {
            let checkpoint = saved.then(|| "/c".to_owned());
            Exit { cause, exit_code, signal: None, detail: String::new(), ran_us, checkpoint, max_rss_bytes: 0 }
        },
    );
    prop_oneof![
        any::<u16>().prop_map(|port| FactKind::Prepared { port }),
        (index(), 0_u32..4, any::<bool>()).prop_map(|(index, rank, users_fault)| FactKind::StartFailed {
            index,
            rank,
            users_fault,
            detail: "x".into()
        }),
        (index(), 0_u32..4).prop_map(|(index, rank)| started(index, rank)),
        (index(), index(), any::<u64>()).prop_map(|(first, last, mean_us)| FactKind::Succeeded {
            first,
            last,
            mean_us
        }),
        (index(), 0_u32..4, exit).prop_map(|(index, rank, exit)| FactKind::Ended { index, rank, exit }),
        (index(), index()).prop_map(|(first, last)| FactKind::Returned { first, last }),
    ]
}

fn set() -> impl Strategy<Value = Option<RangeSet>> {
    prop::option::of((index(), index()).prop_map(|(a, b)| RangeSet::range(a.min(b), a.max(b))))
}

fn draft() -> impl Strategy<Value = JobDraft> {
    let shape = (0_u32..4, 0_u64..3_000, 0_u32..3, prop::option::of(0_u32..6), any::<bool>());
    let policy = (-1_000_i32..=1_000, 0_u32..3, 0_u64..6, any::<bool>());
    (shape, policy).prop_map(|((replicas, milli_cpus, gpus, last, auto), (priority, retries, on, hold))| {
        let mut draft = last.map_or_else(sleep, array);
        draft.replicas = replicas;
        draft.demands = vec![DemandDraft { milli_cpus, gpus, ..DemandDraft::default() }];
        if auto {
            draft.demands.push(DemandDraft::default());
        }
        draft.priority = Some(priority);
        draft.retry.failure = Some(retries);
        draft.hold = hold;
        if on > 0 {
            let kind = Some(crate::job::spec::DependencyKind::Ok);
            draft.after.push(DependencyDraft { kind, job: Some(JobRefDraft::Id(on)) });
        }
        draft
    })
}

fn input() -> impl Strategy<Value = Input> {
    let job = || (0_u64..8).prop_map(JobId);
    let name = || (1_u32..4).prop_map(|node| NodeName::new(&format!("n{node}")).unwrap());
    let change = || prop_oneof![Just(Change::Keep), Just(Change::Unlimited), (0_u64..4).prop_map(Change::Set)];
    let phase = prop_oneof![Just(Phase::Prepared), Just(Phase::Running), Just(Phase::Ended)];
    let leases = prop::collection::vec((1_u64..12, phase), 0..4);
    let hello = (1_u32..4, 0_u32..3, 1_u32..4, 0_u64..6, 0_u32..3, leases);
    let evict = prop::option::of((0_u64..3).prop_map(Millis::minutes));
    let mode = prop_oneof![Just(NodeMode::Active), Just(NodeMode::Cordoned), Just(NodeMode::Draining)];
    prop_oneof![
        6 => (prop::collection::vec(draft(), 1..3), 0_u32..20).prop_map(|(jobs, key)| Input::Submit(Submit {
            key: IdempotencyKey::new(&format!("k{key}")).unwrap(),
            user: String::new(),
            jobs: jobs.into_iter().filter_map(|job| JobSpec::try_from(job).ok()).collect(),
        })),
        12 => (0_u32..4, 0_u64..30, prop::collection::vec((0_u64..12, fact()), 0..4)).prop_map(|(node, seq, facts)| {
            let facts = facts.into_iter().map(|(lease, kind)| Fact { lease: LeaseId(lease), kind }).collect();
            Input::NodeReport { node: NodeId(node), seq, facts }
        }),
        4 => hello.prop_map(|(number, boot, uuid, cpus, gpus, leases)| Input::NodeHello(NodeHello {
            name: NodeName::new(&format!("n{number}")).unwrap(),
            uuid: format!("uuid-{uuid}"),
            boot_id: format!("{boot}"),
            agent_version: "1".into(),
            inventory: inventory(number, cpus, gpus),
            leases: leases.into_iter().map(|(lease, phase)| held(lease, phase)).collect(),
        })),
        2 => (job(), set()).prop_map(|(job, elements)| Input::Cancel { job, elements }),
        1 => job().prop_map(|job| Input::Hold { job }),
        2 => job().prop_map(|job| Input::Release { job }),
        2 => (job(), set()).prop_map(|(job, elements)| Input::Retry { job, elements }),
        1 => (job(), prop::option::of(-2_000_i32..2_000)).prop_map(|(job, priority)| Input::Update {
            job,
            priority,
            queue: None,
            time_limit: None
        }),
        1 => (0_u32..4).prop_map(|node| Input::NodeSilent { node: NodeId(node) }),
        1 => (name(), mode, evict).prop_map(|(name, mode, evict_after)| {
            let reason = String::new();
            Input::SetNode { name, mode, reason, evict_after }
        }),
        1 => name().prop_map(|name| Input::ForgetNode { name }),
        1 => (change(), change(), change()).prop_map(|(running_max, queued_max, gpus_max)| Input::SetQueue {
            name: QueueName::default(),
            running_max,
            queued_max,
            gpus_max
        }),
        3 => Just(Input::Tick),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() })]

    #[test]
    fn any_input_in_any_order_keeps_every_invariant(steps in prop::collection::vec((input(), 0_u64..400_000), 1..80)) {
        let mut world = World::with_nodes(&[(4, 2), (2, 0)]);
        for (input, ms) in steps {
            world.now = world.now + crate::time::Millis(ms * u64::from(matches!(input, Input::Tick)));
            world.send(input);
        }
        world.replays();
    }
}
