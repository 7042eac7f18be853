//! `gangsaw nodes`: the machines, their devices, and who holds them.

use std::time::Duration;

use gangsaw_proto::admin::v1::{ForgetNodeRequest, ListNodesRequest, Node, NodeMode, SetNodeRequest};
use serde_json::{Value, json};

use crate::client::Client;
use crate::fail::{Failure, bad_input};
use crate::hint_of;
use crate::output::{list, object, table, trimmed};
use crate::session::Session;
use crate::words;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Verb {
    /// List nodes (the default)
    List,
    /// Show one node and its devices
    Show { node: String },
    /// Take no new work, return what has not started, wait for the rest or evict it
    Drain {
        node: String,
        /// Why, for people
        #[arg(long, default_value = "")]
        reason: String,
        /// Stop what runs now; it is tried again elsewhere and uses none of its retries
        #[arg(long, conflicts_with = "deadline")]
        evict: bool,
        /// Stop what still runs after so long, for example `10m`
        #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
        deadline: Option<Duration>,
    },
    /// Take no new work; what was placed goes on
    Cordon {
        node: String,
        /// Why, for people
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Take work again
    Resume { node: String },
    /// Remove a silent node; its leases end as infra
    Forget { node: String },
}

/// Runs the verb.
pub(crate) async fn run(session: &Session, args: &Args) -> Result<u8, Failure> {
    let mut client = session.connect().await?;
    match args.verb.clone().unwrap_or(Verb::List) {
        Verb::List => {
            let nodes = nodes(&mut client).await?;
            list(session.format, "nodes", nodes.iter().map(value).collect(), || rows(&nodes))?;
        }
        Verb::Show { node } => {
            let nodes = nodes(&mut client).await?;
            let Some(found) = nodes.iter().find(|found| found.name == node) else {
                let hint = hint_of(&node, nodes.iter().map(|node| node.name.as_str()));
                return Err(bad_input("unknown-node", format!("no node is named `{node}`"), hint));
            };
            object(session.format, value(found), || text(found))?;
        }
        Verb::Drain { node, reason, evict, deadline } => {
            let evict_after = if evict { Some(Duration::ZERO) } else { deadline };
            set(session, &mut client, node, NodeMode::Draining, reason, evict_after).await?;
        }
        Verb::Cordon { node, reason } => set(session, &mut client, node, NodeMode::Cordoned, reason, None).await?,
        Verb::Resume { node } => set(session, &mut client, node, NodeMode::Active, String::new(), None).await?,
        Verb::Forget { node } => {
            let request = ForgetNodeRequest { name: node.clone() };
            client.admin.forget_node(request).await.map_err(|status| client.refused(&status))?;
            object(session.format, json!({ "name": node, "change": "forgotten" }), || format!("forgot {node}\n"))?;
        }
    }
    Ok(0)
}

/// Every node.
async fn nodes(client: &mut Client) -> Result<Vec<Node>, Failure> {
    let answer = client.admin.list_nodes(ListNodesRequest {}).await.map_err(|status| client.refused(&status))?;
    Ok(answer.into_inner().nodes)
}

/// Changes a node's mode.
async fn set(
    session: &Session,
    client: &mut Client,
    name: String,
    mode: NodeMode,
    reason: String,
    evict_after: Option<Duration>,
) -> Result<(), Failure> {
    let evict_after = match evict_after.map(prost_types::Duration::try_from) {
        None => None,
        Some(Ok(span)) => Some(span),
        Some(Err(_)) => return Err(bad_input("bad-value", "that deadline is too long", "at most 30 days")),
    };
    let request = SetNodeRequest { name: name.clone(), mode: mode.into(), reason, evict_after };
    client.admin.set_node(request).await.map_err(|status| client.refused(&status))?;
    object(session.format, json!({ "name": name, "mode": word(mode) }), || format!("{name} is {}\n", word(mode)))
}

/// A mode's name.
fn word(mode: NodeMode) -> &'static str {
    match mode {
        NodeMode::Unspecified => "unknown",
        NodeMode::Active => "active",
        NodeMode::Cordoned => "cordoned",
        NodeMode::Draining => "draining",
    }
}

/// A node as programs read it.
fn value(node: &Node) -> Value {
    let devices: Vec<_> = node
        .devices
        .iter()
        .map(|device| {
            json!({
                "uuid": device.uuid,
                "model": device.model,
                "memory_bytes": device.memory_bytes,
                "status": device.status,
                "detail": words::text_or_null(&device.detail),
                "holder": words::text_or_null(&device.holder),
                "utilisation": device.utilisation,
                "memory_used_bytes": device.memory_used_bytes,
            })
        })
        .collect();
    json!({
        "name": node.name,
        "mode": word(node.mode()),
        "connected": node.connected,
        "reason": words::text_or_null(&node.reason),
        "evicts_at": words::time(node.evicts_at),
        "foreign_leases": node.foreign_leases,
        "milli_cpus": node.milli_cpus,
        "milli_cpus_free": node.milli_cpus_free,
        "memory_bytes": node.memory_bytes,
        "memory_bytes_free": node.memory_bytes_free,
        "devices": devices,
        "leases": node.leases,
        "notes": node.notes,
        "agent_version": node.agent_version,
        "last_heard_at": words::time(node.last_heard_at),
    })
}

/// A table of nodes.
fn rows(nodes: &[Node]) -> comfy_table::Table {
    let mut table = table(&["NODE", "MODE", "CONNECTED", "CPUS", "MEMORY", "GPUS", "LEASES", "NOTES"]);
    for node in nodes {
        let free = node.devices.iter().filter(|device| device.holder.is_empty() && device.status == "offered").count();
        let gpus = if node.devices.is_empty() { "0".into() } else { format!("{free}/{} free", node.devices.len()) };
        table.add_row([
            node.name.clone(),
            word(node.mode()).to_owned(),
            if node.connected { "yes" } else { "no" }.to_owned(),
            format!("{}/{} free", words::cores(node.milli_cpus_free), words::cores(node.milli_cpus)),
            format!("{}/{} free", words::bytes(node.memory_bytes_free), words::bytes(node.memory_bytes)),
            gpus,
            node.leases.to_string(),
            notes(node),
        ]);
    }
    table
}

/// What people should know of a node.
fn notes(node: &Node) -> String {
    let mut notes = if node.reason.is_empty() { node.notes.clone() } else { vec![node.reason.clone()] };
    if let Some(at) = node.evicts_at.and_then(words::instant) {
        notes.insert(0, format!("evicts at {at:.0}"));
    }
    if node.foreign_leases > 0 {
        notes.insert(0, format!("ends {} lease(s) from before it was removed", node.foreign_leases));
    }
    notes.join("; ")
}

/// One node as people read it.
fn text(node: &Node) -> String {
    let mut out = format!("{}\n", trimmed(&rows(std::slice::from_ref(node))));
    let mut devices = table(&["GPU", "MODEL", "MEMORY", "STATUS", "USED", "HOLDER"]);
    for device in &node.devices {
        devices.add_row([
            device.uuid.clone(),
            device.model.clone(),
            words::bytes(device.memory_bytes),
            if device.detail.is_empty() {
                device.status.clone()
            } else {
                format!("{} {}", device.status, device.detail)
            },
            device.utilisation.map(|percent| format!("{percent} %")).unwrap_or_default(),
            device.holder.clone(),
        ]);
    }
    if !node.devices.is_empty() {
        out.push_str(&format!("\n{}\n", trimmed(&devices)));
    }
    out
}
