//! `gangsaw queue`: the queues and tenants, their limits and their use.

use gangsaw_proto::admin::v1::{
    ListQueuesRequest, ListTenantsRequest, Queue, SetQueueRequest, SetTenantRequest, Tenant,
};
use serde_json::{Value, json};

use crate::client::Client;
use crate::fail::{Failure, bad_input};
use crate::output::{list, object, table};
use crate::session::Session;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Verb {
    /// List queues (the default)
    List,
    /// List tenants, with their limits and use in all of their queues together
    Tenants,
    /// Make a queue or change its limits, or a tenant's across its queues; a number, or `none` for no limit
    Set(Set),
}

#[derive(Clone, Debug, clap::Args)]
struct Set {
    /// The queue; without it, the limits are the tenant's, for all of its queues together
    #[arg(required_unless_present = "tenant")]
    queue: Option<String>,
    /// Elements that may run
    #[arg(long, value_name = "N|none", value_parser = limit)]
    max_running: Option<u64>,
    /// Elements that may wait
    #[arg(long, value_name = "N|none", value_parser = limit)]
    max_queued: Option<u64>,
    /// GPUs that may be held
    #[arg(long, value_name = "N|none", value_parser = limit)]
    gpus_max: Option<u64>,
    /// Whose queue, by default your own tenant's; without a queue, the tenant itself
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
}

/// A limit; the largest number stands for none.
fn limit(text: &str) -> Result<u64, String> {
    match text {
        "none" => Ok(u64::MAX),
        _ => match text.parse::<u64>() {
            Ok(limit) if limit < u64::MAX => Ok(limit),
            Ok(_) | Err(_) => Err("write a number, or `none`".into()),
        },
    }
}

/// Runs the verb.
pub(crate) async fn run(session: &Session, args: &Args) -> Result<u8, Failure> {
    let mut client = session.connect().await?;
    match args.verb.clone().unwrap_or(Verb::List) {
        Verb::List => {
            let answer =
                client.admin.list_queues(ListQueuesRequest {}).await.map_err(|status| client.refused(&status))?;
            let queues = answer.into_inner().queues;
            list(session.format, "queues", queues.iter().map(value).collect(), || rows(&queues))?;
        }
        Verb::Tenants => {
            let answer =
                client.admin.list_tenants(ListTenantsRequest {}).await.map_err(|status| client.refused(&status))?;
            let tenants = answer.into_inner().tenants;
            list(session.format, "tenants", tenants.iter().map(tenant_value).collect(), || tenant_rows(&tenants))?;
        }
        Verb::Set(set) => self::set(session, &mut client, set).await?,
    }
    Ok(0)
}

/// Sets the limits of a queue, or of a tenant.
async fn set(session: &Session, client: &mut Client, set: Set) -> Result<(), Failure> {
    let (running_max, queued_max, gpus_max) = (set.max_running, set.max_queued, set.gpus_max);
    let (kind, name) = match (&set.queue, &set.tenant) {
        (Some(queue), _) => ("queue", queue.clone()),
        (None, tenant) => ("tenant", tenant.clone().unwrap_or_default()),
    };
    if name.is_empty() || name.chars().any(char::is_control) {
        let hint = "use 1 to 128 letters, digits, `-`, `_` or spaces";
        return Err(bad_input("bad-value", format!("that is no name for a {kind}"), hint));
    }
    if set.queue.is_some() {
        let tenant = set.tenant.unwrap_or_default();
        let request = SetQueueRequest { name: name.clone(), running_max, queued_max, gpus_max, tenant };
        client.admin.set_queue(request).await.map_err(|status| client.refused(&status))?;
    } else {
        let request = SetTenantRequest { name: name.clone(), running_max, queued_max, gpus_max };
        client.admin.set_tenant(request).await.map_err(|status| client.refused(&status))?;
    }
    object(session.format, json!({ "name": name, "change": "set" }), || format!("set {kind} {name}\n"))
}

/// A queue as programs read it.
fn value(queue: &Queue) -> Value {
    json!({
        "name": queue.name,
        "tenant": queue.tenant,
        "max_running": queue.running_max,
        "max_queued": queue.queued_max,
        "gpus_max": queue.gpus_max,
        "running": queue.running,
        "queued": queue.queued,
        "gpus": queue.gpus,
    })
}

/// A tenant as programs read it.
fn tenant_value(tenant: &Tenant) -> Value {
    json!({
        "name": tenant.name,
        "max_running": tenant.running_max,
        "max_queued": tenant.queued_max,
        "gpus_max": tenant.gpus_max,
        "running": tenant.running,
        "queued": tenant.queued,
        "gpus": tenant.gpus,
    })
}

/// A table of tenants.
fn tenant_rows(tenants: &[Tenant]) -> comfy_table::Table {
    let mut table = table(&["TENANT", "RUNNING", "QUEUED", "GPUS"]);
    for tenant in tenants {
        table.add_row([
            tenant.name.clone(),
            of(tenant.running, tenant.running_max),
            of(tenant.queued, tenant.queued_max),
            of(tenant.gpus, tenant.gpus_max),
        ]);
    }
    table
}

/// What is used of a limit.
fn of(used: u64, limit: Option<u64>) -> String {
    limit.map_or(used.to_string(), |limit| format!("{used} of {limit}"))
}

/// A table of queues.
fn rows(queues: &[Queue]) -> comfy_table::Table {
    let mut table = table(&["QUEUE", "RUNNING", "QUEUED", "GPUS"]);
    for queue in queues {
        table.add_row([
            queue.name.clone(),
            of(queue.running, queue.running_max),
            of(queue.queued, queue.queued_max),
            of(queue.gpus, queue.gpus_max),
        ]);
    }
    table
}
