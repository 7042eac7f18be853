//! `gangsaw queue`: the queues, their limits and their use.

use gangsaw_proto::admin::v1::{ListQueuesRequest, Queue, SetQueueRequest};
use serde_json::{Value, json};

use crate::fail::{Failure, bad_input};
use crate::output::{list, object, table};
use crate::session::Session;

/// List queues, or set a queue's limits
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Verb {
    /// List queues (the default)
    List,
    /// Make a queue or change its limits; a number, or `none` for no limit
    Set(Set),
}

#[derive(Clone, Debug, clap::Args)]
struct Set {
    queue: String,
    /// Elements that may run
    #[arg(long, value_name = "N|none", value_parser = limit)]
    max_running: Option<u64>,
    /// Elements that may wait
    #[arg(long, value_name = "N|none", value_parser = limit)]
    max_queued: Option<u64>,
    /// GPUs that may be held
    #[arg(long, value_name = "N|none", value_parser = limit)]
    gpus_max: Option<u64>,
    /// Whose queue; by default, your own tenant's
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
        Verb::Set(set) => {
            if set.queue.is_empty() || set.queue.chars().any(char::is_control) {
                let hint = "use 1 to 128 letters, digits, `-`, `_` or spaces";
                return Err(bad_input("bad-value", "that is no name for a queue", hint));
            }
            let request = SetQueueRequest {
                name: set.queue.clone(),
                running_max: set.max_running,
                queued_max: set.max_queued,
                gpus_max: set.gpus_max,
                tenant: set.tenant.unwrap_or_default(),
            };
            client.admin.set_queue(request).await.map_err(|status| client.refused(&status))?;
            let name = set.queue;
            object(session.format, json!({ "name": name, "change": "set" }), || format!("set queue {name}\n"))?;
        }
    }
    Ok(0)
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

/// A table of queues.
fn rows(queues: &[Queue]) -> comfy_table::Table {
    let mut table = table(&["QUEUE", "RUNNING", "QUEUED", "GPUS"]);
    let of = |used: u64, limit: Option<u64>| limit.map_or(used.to_string(), |limit| format!("{used} of {limit}"));
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
