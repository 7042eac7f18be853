//! `gangsaw token join`: the tokens that let machines in.

use std::time::Duration;

use gangsaw_proto::admin::v1::{CreateJoinTokenRequest, JoinToken, ListJoinTokensRequest, RevokeJoinTokenRequest};
use serde_json::{Value, json};

use crate::fail::Failure;
use crate::output::{list, object, table};
use crate::session::Session;
use crate::words;

/// Let machines in: make, list and revoke join tokens
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Verb {
    /// Make a join token and print it, once
    Create(Create),
    /// List join tokens
    List,
    /// End a join token; machines it has let in stay
    Revoke {
        /// Its number, as `token join list` shows it
        id: u64,
    },
}

#[derive(Clone, Debug, clap::Args)]
struct Create {
    /// Machines it lets in
    #[arg(long, value_name = "N", default_value = "1")]
    uses: u32,
    /// How long it lives
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = humantime::parse_duration)]
    ttl: Duration,
}

/// Runs the verb.
pub(crate) async fn run(session: &Session, args: &Args) -> Result<u8, Failure> {
    let mut client = session.connect().await?;
    match &args.verb {
        Verb::Create(create) => {
            let ttl_ms = u64::try_from(create.ttl.as_millis()).unwrap_or(u64::MAX);
            let request = CreateJoinTokenRequest { uses: create.uses, ttl_ms };
            let answer = client.admin.create_join_token(request).await.map_err(|status| client.refused(&status))?;
            let made = answer.into_inner();
            let value = json!({
                "id": made.id,
                "token": made.token,
                "expires_at": words::time(made.expires_at),
            });
            object(session.format, value, || format!("{}\n", made.token))?;
        }
        Verb::List => {
            let answer = client.admin.list_join_tokens(ListJoinTokensRequest {}).await;
            let tokens = answer.map_err(|status| client.refused(&status))?.into_inner().tokens;
            list(session.format, "join_tokens", tokens.iter().map(value).collect(), || rows(&tokens))?;
        }
        Verb::Revoke { id } => {
            let request = RevokeJoinTokenRequest { id: *id };
            client.admin.revoke_join_token(request).await.map_err(|status| client.refused(&status))?;
            object(session.format, json!({ "id": id, "change": "revoked" }), || format!("revoked join token {id}\n"))?;
        }
    }
    Ok(0)
}

fn state(token: &JoinToken) -> &'static str {
    match token {
        token if token.revoked => "revoked",
        token if token.expired => "expired",
        token if token.uses >= token.uses_max => "used up",
        _ => "open",
    }
}

fn value(token: &JoinToken) -> Value {
    json!({
        "id": token.id,
        "state": state(token),
        "uses": token.uses,
        "uses_max": token.uses_max,
        "created_by": token.created_by,
        "created_at": words::time(token.created_at),
        "expires_at": words::time(token.expires_at),
    })
}

fn rows(tokens: &[JoinToken]) -> comfy_table::Table {
    let mut table = table(&["ID", "STATE", "USED", "BY", "EXPIRES"]);
    for token in tokens {
        let expires = words::time(token.expires_at).as_str().unwrap_or_default().to_owned();
        let used = format!("{} of {}", token.uses, token.uses_max);
        table.add_row([token.id.to_string(), state(token).to_owned(), used, token.created_by.clone(), expires]);
    }
    table
}
