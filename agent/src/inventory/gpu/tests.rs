//! Judging devices: offered, foreign, unexplained memory, lost.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use super::*;

/// A pid above the kernel's largest, so that no process can have it.
const INVISIBLE: u32 = 0x7fff_fff0;

fn device() -> DeviceReading {
    DeviceReading {
        index: 0,
        uuid: Some("GPU-a".to_owned()),
        model: Some("NVIDIA H200".to_owned()),
        memory_bytes: Some(143_771 << 20),
        memory_used_bytes: Some(4 << 20),
        pci_bus_id: Some("00000000:18:00.0".to_owned()),
        compute_capability: Some(90),
        utilisation: Some(0),
        compute: Some(Vec::new()),
        graphics: Some(Vec::new()),
        errors: Vec::new(),
    }
}

fn process(pid: u32, memory: Option<u64>) -> GpuProcess {
    GpuProcess { pid, memory_bytes: memory }
}

fn after(devices: Vec<DeviceReading>, held: &[&str], ours: &[u32]) -> String {
    let mut gpus = Gpus::default();
    let held = held.iter().map(|uuid| (*uuid).to_owned()).collect();
    let reading = Reading { driver: "580.95.05".to_owned(), devices };
    gpus.update(&reading, &held, |pid| ours.contains(&pid));
    gpus.list().first().unwrap().withheld.clone()
}

#[test]
fn idle_device_is_offered() {
    assert_eq!(after(vec![device()], &[], &[]), "");
}

#[test]
fn process_of_somebody_else_withholds_and_ours_does_not() {
    let mut busy = device();
    busy.compute = Some(vec![process(17, Some(1 << 30))]);
    busy.memory_used_bytes = Some(1 << 30);
    assert_eq!(after(vec![busy.clone()], &[], &[]), "foreign-process pid 17");
    assert_eq!(after(vec![busy], &["GPU-a"], &[17]), "");
}

#[test]
fn memory_that_nobody_explains_is_foreign_unless_a_lease_holds_the_device() {
    let mut busy = device();
    busy.memory_used_bytes = Some(2 << 30);
    assert_eq!(after(vec![busy.clone()], &[], &[]), "foreign-process unseen, 2048 MiB in use");
    assert_eq!(after(vec![busy.clone()], &["GPU-a"], &[]), "");
    busy.graphics = Some(vec![process(1, Some(2 << 30))]);
    assert_eq!(after(vec![busy], &[], &[]), "");
}

#[test]
fn pid_from_another_namespace_on_a_held_device_is_taken_as_ours() {
    let mut busy = device();
    busy.compute = Some(vec![process(INVISIBLE, None)]);
    assert_eq!(after(vec![busy.clone()], &["GPU-a"], &[]), "");
    assert_eq!(after(vec![busy], &[], &[]), format!("foreign-process pid {INVISIBLE}"));
}

#[test]
fn memory_that_lingers_after_a_lease_is_forgiven_for_some_polls_only() {
    let mut gpus = Gpus::default();
    let mut busy = device();
    busy.memory_used_bytes = Some(2 << 30);
    let reading = Reading { driver: String::new(), devices: vec![busy] };
    let held = BTreeSet::from(["GPU-a".to_owned()]);
    gpus.update(&reading, &held, |_| false);
    for _ in 1..SETTLE_POLLS {
        gpus.update(&reading, &BTreeSet::new(), |_| false);
        assert_eq!(gpus.list()[0].withheld, "");
    }
    gpus.update(&reading, &BTreeSet::new(), |_| false);
    assert_eq!(gpus.list()[0].withheld, "foreign-process unseen, 2048 MiB in use");
}

#[test]
fn device_without_memory_size_is_unknown() {
    let mut broken = device();
    broken.memory_bytes = None;
    broken.errors = vec!["nvmlDeviceGetMemoryInfo_v2: gone".to_owned()];
    assert_eq!(after(vec![broken], &[], &[]), "unknown: nvmlDeviceGetMemoryInfo_v2: gone");
}

#[test]
fn device_that_fell_off_the_bus_stays_in_the_list_withheld() {
    let mut gpus = Gpus::default();
    let mut second = device();
    second.uuid = Some("GPU-b".to_owned());
    second.pci_bus_id = Some("00000000:19:00.0".to_owned());
    gpus.update(&Reading { driver: String::new(), devices: vec![device(), second] }, &BTreeSet::new(), |_| false);
    let lost = DeviceReading {
        index: 1,
        errors: vec!["nvmlDeviceGetHandleByIndex_v2: lost".to_owned()],
        ..DeviceReading::default()
    };
    gpus.update(&Reading { driver: String::new(), devices: vec![device(), lost] }, &BTreeSet::new(), |_| false);
    let list = gpus.list();
    assert_eq!(
        list.iter().map(|gpu| (gpu.uuid.as_str(), gpu.withheld.as_str())).collect::<Vec<_>>(),
        [("GPU-a", ""), ("GPU-b", "lost: nvmlDeviceGetHandleByIndex_v2: lost")]
    );
}
