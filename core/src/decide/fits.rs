//! Whether a job could ever run: judged against every node ever registered and not forgotten, silent and cordoned ones
//! and devices in other hands included. With no node at all the job waits.

use crate::job::spec::{Fault, JobSpec};
use crate::node::Node;
use crate::resources::{Bytes, Cores, Demand};
use crate::state::State;

/// Returns why no node, or no set of nodes, could ever run an element of `spec`.
pub(super) fn never_fits(state: &State, spec: &JobSpec) -> Option<Fault> {
    if state.nodes.is_empty() {
        return None;
    }
    let replicas = u64::from(spec.replicas);
    let mut refused = None;
    for demand in &spec.demands {
        // Mostly the first nodes do: looking at all of them for each submit would cost as much as the cluster is large.
        let mut ranks: u64 = 0;
        for node in state.nodes.values() {
            ranks = ranks.saturating_add(ranks_by_capacity(node, demand));
            if ranks >= replicas {
                return None;
            }
        }
        refused.get_or_insert_with(|| refusal(state, demand, replicas, ranks));
    }
    refused
}

/// Returns how many ranks an empty node could run.
fn ranks_by_capacity(node: &Node, demand: &Demand) -> u64 {
    let inventory = &node.body.inventory;
    let by = |owned: u64, asked: u64| owned.checked_div(asked).unwrap_or(u64::MAX);
    let devices = inventory.devices.iter().filter(|device| demand.accepts(device)).count() as u64;
    by(inventory.milli_cpus, demand.milli_cpus)
        .min(by(inventory.memory_bytes, demand.memory_bytes))
        .min(by(devices, u64::from(demand.gpus)))
}

/// Says what is missing, with the largest that could.
fn refusal(state: &State, demand: &Demand, replicas: u64, ranks: u64) -> Fault {
    let fault = |path: &str, message: String, hint: String| Fault {
        path: path.to_owned(),
        reason: "never-fits",
        message,
        hint,
    };
    let nodes = || state.nodes.values().map(|node| &node.body.inventory);
    let cpus = nodes().map(|inventory| inventory.milli_cpus).max().unwrap_or(0);
    let memory = nodes().map(|inventory| inventory.memory_bytes).max().unwrap_or(0);
    let accepted = |inventory: &crate::resources::Inventory| {
        inventory.devices.iter().filter(|device| demand.accepts(device)).count()
    };
    let gpus = nodes().map(accepted).max().unwrap_or(0);
    let model = demand.gpu_model.as_deref().unwrap_or("GPU");
    if demand.gpus as usize > gpus {
        let needed = demand.gpus;
        if gpus == 0 {
            let kinds: std::collections::BTreeSet<&str> =
                nodes().flat_map(|inventory| &inventory.devices).map(|device| device.model.as_str()).collect();
            let kinds: Vec<&str> = kinds.into_iter().collect();
            let hint = match kinds.is_empty() {
                true => "ask for no GPU, or add a node that has one".to_owned(),
                false => format!("the nodes have: {}", kinds.join(", ")),
            };
            let message = format!("job needs {needed} × {model}, and no node has one that fits");
            return fault("resources.gpus", message, hint);
        }
        let message = format!("job needs {needed} × {model}, and the largest node has {gpus}");
        let hint = format!("ask for at most {gpus}, or for several ranks with `replicas`");
        return fault("resources.gpus", message, hint);
    }
    if demand.milli_cpus > cpus {
        let message = format!("job needs {} CPUs, and the largest node has {}", Cores(demand.milli_cpus), Cores(cpus));
        return fault("resources.cpus", message, format!("ask for at most {}", Cores(cpus)));
    }
    if demand.memory_bytes > memory {
        let message = format!("job needs {}, and the largest node has {}", Bytes(demand.memory_bytes), Bytes(memory));
        return fault("resources.memory", message, format!("ask for at most {}", Bytes(memory)));
    }
    if replicas > 1 {
        let message = format!("job needs {replicas} ranks of {demand} together, and all nodes have room for {ranks}");
        return fault("replicas", message, format!("ask for at most {ranks}"));
    }
    let message = format!("job needs {demand} on one node, and no node has all of it");
    fault("resources", message, "ask for less of one of them".to_owned())
}
