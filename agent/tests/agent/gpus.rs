//! GPUs that are not there: the agent's own code on a fake `libnvidia-ml.so.1`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use gangsaw_proto::node::v1::{GpuDevice, Inventory, RankGrant, attach_request};
use serde_json::{Value, json};

use crate::Test;
use crate::node::{Node, grant, signal, wait_for};
use crate::scheduler::Got;

pub(crate) const TESTS: &[Test] = &[
    ("machine_without_the_library_says_so_and_works", machine_without_the_library_says_so),
    ("devices_are_offered_with_what_the_library_says", devices_are_offered),
    ("process_of_somebody_else_withholds_a_device_and_its_end_frees_it", foreign_process_withholds),
    ("process_of_our_own_task_withholds_nothing", own_process_withholds_nothing),
    ("library_that_hangs_hurts_neither_agent_nor_tasks", library_that_hangs_hurts_nobody),
    ("library_that_crashes_takes_only_its_child_along", library_that_crashes_takes_only_its_child),
    ("library_of_an_old_driver_lacks_functions_and_works", old_library_works),
    ("device_that_falls_off_the_bus_is_withheld_and_comes_back", lost_device_is_withheld),
    ("broken_driver_is_a_note", broken_driver_is_a_note),
];

/// A node whose loader finds the fake.
struct Fake {
    node: Node,
    state: PathBuf,
    value: Value,
}

impl Fake {
    fn new(variant: &str) -> Fake {
        let mut node = Node::without_agent();
        let folder = node.path("lib");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::copy(library(variant), folder.join("libnvidia-ml.so.1")).unwrap();
        let state = node.path("nvml.json");
        node.env("LD_LIBRARY_PATH", folder.to_str().unwrap());
        node.env("FAKE_NVML_STATE", state.to_str().unwrap());
        node.env("FAKE_NVML_LOG", node.path("nvml.log").to_str().unwrap());
        let value = json!({
            "driver": "580.95.05",
            "devices": [device(0), device(1)],
            "faults": {},
        });
        let fake = Fake { node, state, value };
        fake.write();
        fake
    }

    /// Changes the state that the library sees from its next call on.
    fn set(&mut self, path: &str, value: Value) {
        *self.value.pointer_mut(path).unwrap() = value;
        self.write();
    }

    fn write(&self) {
        let new = self.state.with_extension("new");
        std::fs::write(&new, self.value.to_string()).unwrap();
        std::fs::rename(new, &self.state).unwrap();
    }

    fn start(&mut self) -> Inventory {
        self.node.start_agent(&["--gpus"]).inventory.unwrap()
    }

    /// Waits for an inventory in which the devices' reasons are these.
    fn withheld(&self, wanted: [&str; 2]) -> Inventory {
        self.node.scheduler.until(&format!("inventory with {wanted:?}"), |got| match got {
            Got::Message(attach_request::Message::Inventory(inventory)) => {
                (reasons(&inventory) == wanted).then_some(inventory)
            }
            _ => None,
        })
    }

    fn calls(&self) -> BTreeMap<String, u32> {
        let log = std::fs::read_to_string(self.node.path("nvml.log")).unwrap_or_default();
        let mut calls = BTreeMap::new();
        for name in log.lines().filter_map(|line| line.split(' ').nth(1)) {
            *calls.entry(name.to_owned()).or_default() += 1;
        }
        calls
    }
}

fn device(number: u32) -> Value {
    json!({
        "uuid": format!("GPU-0000000{number}-aaaa-bbbb-cccc-0123456789ab"),
        "name": "NVIDIA H200",
        "memory_mib": 143_771,
        "used_mib": 4,
        "pci": format!("00000000:{}:00.0", 18 + number),
        "capability": [9, 0],
        "utilisation": 0,
        "compute": [],
        "graphics": [],
    })
}

fn reasons(inventory: &Inventory) -> Vec<&str> {
    inventory.devices.iter().map(|device| device.withheld.as_str()).collect()
}

/// The built library. `cargo test` builds it with the tests; `cargo test --test agent` alone does not.
fn library(variant: &str) -> PathBuf {
    let exe = std::env::current_exe().unwrap();
    let target = exe.parent().and_then(|deps| deps.parent()).unwrap();
    let path = target.join("examples").join(format!("lib{}.so", variant.replace('-', "_")));
    if !path.exists() {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--offline", "-p", "gangsaw-agent", "--example", variant]);
        if target.file_name().is_some_and(|profile| profile == "release") {
            cargo.arg("--release");
        }
        assert!(cargo.arg("--target-dir").arg(target.parent().unwrap()).status().unwrap().success());
    }
    path
}

fn machine_without_the_library_says_so() {
    let mut node = Node::without_agent();
    // A loader path without the library, so that the test passes on a machine that has one.
    if Command::new("sh").args(["-c", "ldconfig -p | grep -q libnvidia-ml.so.1"]).status().unwrap().success() {
        assert!(std::env::var_os("CI").is_none(), "CI machines have no GPU");
        return println!("this machine has NVML: its absence is not tested");
    }
    let inventory = node.start_agent(&["--gpus"]).inventory.unwrap();
    assert_eq!(inventory.devices, []);
    assert!(inventory.notes.iter().any(|note| note == "gpu: no libnvidia-ml.so"), "{:?}", inventory.notes);
    node.grant(1, "echo $CUDA_VISIBLE_DEVICES; exit 2");
    assert_eq!(node.ended(1).exit_code, Some(2));
    assert_eq!(node.running("agent-nvml"), Vec::<u32>::new());
}

fn devices_are_offered() {
    let mut fake = Fake::new("fake-nvml");
    let inventory = fake.start();
    assert_eq!(
        inventory.devices[0],
        GpuDevice {
            uuid: "GPU-00000000-aaaa-bbbb-cccc-0123456789ab".to_owned(),
            model: "NVIDIA H200".to_owned(),
            memory_bytes: 143_771 << 20,
            pci_bus_id: "00000000:18:00.0".to_owned(),
            withheld: String::new(),
            utilisation: Some(0),
            memory_used_bytes: Some(4 << 20),
            compute_capability: 90,
            driver_version: "580.95.05".to_owned(),
        }
    );
    assert_eq!(inventory.devices.len(), 2);
    // Each look lists the processes of both devices once, at most once a second.
    let looks = || fake.calls().get("nvmlDeviceGetCount_v2").copied().unwrap_or(0);
    let (before, since) = (looks(), Instant::now());
    wait_for("three looks", || looks() >= before + 3);
    assert!(since.elapsed() > Duration::from_millis(1_900), "{:?}", since.elapsed());
}

fn foreign_process_withholds() {
    let mut fake = Fake::new("fake-nvml");
    fake.start();
    let mut stranger = Command::new("sleep").arg("600").spawn().unwrap();
    fake.set("/devices/1/compute", json!([[stranger.id(), 500]]));
    fake.withheld(["", &format!("foreign-process pid {}", stranger.id())]);
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    fake.set("/devices/1/compute", json!([]));
    fake.withheld(["", ""]);
    fake.set("/devices/0/used_mib", json!(3000));
    fake.withheld(["foreign-process unseen, 3000 MiB in use", ""]);
}

fn own_process_withholds_nothing() {
    let mut fake = Fake::new("fake-nvml");
    let inventory = fake.start();
    let mut training = grant(1, "echo $CUDA_VISIBLE_DEVICES; sleep 600 & echo $!; wait");
    let gpu_uuids = vec![inventory.devices[0].uuid.clone()];
    training.ranks = vec![RankGrant { rank: 0, gpu_uuids }];
    fake.node.say_grant(training);
    let pid = fake.node.started(1).pid;
    wait_for("the grandchild", || !fake.node.running("sleep").is_empty());
    let grandchild = fake.node.running("sleep")[0];
    // Our own on the first device; what is on the second is only there to see that a look has happened.
    fake.set("/devices/0/compute", json!([[pid, 20_000], [grandchild, 100]]));
    fake.set("/devices/0/used_mib", json!(60_000));
    fake.set("/devices/1/compute", json!([[1, 1]]));
    fake.withheld(["", "foreign-process pid 1"]);
}

fn library_that_hangs_hurts_nobody() {
    let mut fake = Fake::new("fake-nvml");
    fake.start();
    fake.node.grant(1, "sleep 600");
    fake.node.started(1);
    fake.set("/faults", json!({ "nvmlDeviceGetUtilizationRates": { "hang": true } }));
    let since = Instant::now();
    fake.withheld(["unknown: nvml does not answer"; 2]);
    assert!(since.elapsed() < Duration::from_secs(9), "{:?}", since.elapsed());
    // Work goes on, and there is never more than one child.
    fake.node.grant(2, "exit 4");
    assert_eq!(fake.node.ended(2).exit_code, Some(4));
    assert!(fake.node.running("agent-nvml").len() <= 1);
    fake.set("/faults", json!({}));
    fake.withheld(["", ""]);
    assert_eq!(fake.node.running("agent-nvml").len(), 1);
    assert_eq!(fake.node.running("sleep").len(), 1);
}

fn library_that_crashes_takes_only_its_child() {
    let mut fake = Fake::new("fake-nvml");
    fake.start();
    fake.set("/faults", json!({ "nvmlDeviceGetName": { "device": 1, "crash": true } }));
    fake.withheld(["unknown: nvml ended its process"; 2]);
    fake.set("/faults", json!({}));
    fake.withheld(["", ""]);
    // One that is killed from outside is replaced, too.
    signal(fake.node.running("agent-nvml")[0], "-KILL");
    fake.withheld(["unknown: nvml ended its process"; 2]);
    fake.withheld(["", ""]);
}

fn old_library_works() {
    let mut fake = Fake::new("fake-nvml-old");
    fake.set("/devices/1/used_mib", json!(900));
    fake.set("/driver", json!("470.10"));
    let inventory = fake.start();
    assert_eq!(reasons(&inventory), ["", "foreign-process unseen, 900 MiB in use"]);
    assert_eq!(inventory.devices[0].driver_version, "470.10");
    assert!(inventory.notes.iter().any(|note| note.contains("lists no processes")), "{:?}", inventory.notes);
    let mut agent = fake.node.agent.take().unwrap();
    signal(agent.id(), "-TERM");
    assert!(agent.wait().unwrap().success(), "a missing nvmlShutdown is no panic");
}

fn lost_device_is_withheld() {
    let mut fake = Fake::new("fake-nvml");
    fake.start();
    // 15: the device has fallen off the bus.
    fake.set("/faults", json!({ "nvmlDeviceGetHandleByIndex_v2": { "device": 1, "error": 15 } }));
    let lost = "lost: nvmlDeviceGetHandleByIndex_v2: device fell off the bus or has otherwise become inacessible";
    let inventory = fake.withheld(["", lost]);
    assert_eq!(inventory.devices[1].model, "NVIDIA H200", "it is still known");
    fake.set("/faults", json!({}));
    fake.withheld(["", ""]);
}

fn broken_driver_is_a_note() {
    let mut fake = Fake::new("fake-nvml");
    // 9: the driver is not loaded.
    fake.set("/faults", json!({ "nvmlInit_v2": { "error": 9 } }));
    let inventory = fake.start();
    assert_eq!(inventory.devices, []);
    assert!(
        inventory.notes.iter().any(|note| note == "gpu: nvml: NVIDIA driver is not loaded"),
        "{:?}",
        inventory.notes
    );
    fake.set("/faults", json!({}));
    fake.withheld(["", ""]);
}
