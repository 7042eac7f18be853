//! `gangsaw token`: the token in use, and the tokens of people and their programs.

use std::time::Duration;

use gangsaw_proto::admin::v1::{CreateTokenRequest, ListTokensRequest, RevokeTokenRequest, Role, Token};
use serde_json::{Value, json};

use super::join;
use crate::client::stored_token;
use crate::fail::{Failure, bad_input};
use crate::output::{list, note, object, table};
use crate::session::{Session, token};
use crate::spec::units;
use crate::words;

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Verb {
    /// Print the token this command line uses (the default)
    Print,
    /// Make a token and print it, once
    Create(Create),
    /// List the tokens in force
    List,
    /// End a token; calls that use it are refused from now on
    Revoke {
        /// Its number, as `token list` shows it
        id: u32,
    },
    Join(join::Args),
}

#[derive(Clone, Debug, clap::Args)]
struct Create {
    /// Who will use it: jobs belong to this name, and changes are recorded under it
    name: String,
    /// What its holder may do: look at jobs, submit and change own ones, change anybody's, or run the cluster
    #[arg(long, value_enum)]
    role: RoleWord,
    /// Whose jobs and queues its holder means; by default, your own tenant's
    #[arg(long, value_name = "TENANT")]
    tenant: Option<String>,
    /// Operating system user its holder's tasks run as; by default, NAME
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// How long it lives, or `none`
    #[arg(long, value_name = "DURATION|none", default_value = "90d", value_parser = life)]
    ttl: Life,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum RoleWord {
    Viewer,
    Submitter,
    Operator,
    Admin,
}

impl RoleWord {
    fn role(self) -> Role {
        match self {
            RoleWord::Viewer => Role::Viewer,
            RoleWord::Submitter => Role::Submitter,
            RoleWord::Operator => Role::Operator,
            RoleWord::Admin => Role::Admin,
        }
    }
}

/// A token's life; absent: without end.
#[derive(Clone, Copy, Debug)]
struct Life(Option<Duration>);

fn life(text: &str) -> Result<Life, String> {
    if text == "none" {
        return Ok(Life(None));
    }
    match units::duration(text) {
        Ok(life) if !life.is_zero() => Ok(Life(Some(life))),
        Ok(_) | Err(_) => Err("write it as 12h or 30d, or `none`".into()),
    }
}

/// Runs the verb.
pub(crate) async fn run(session: &Session, args: &Args) -> Result<u8, Failure> {
    match args.verb.clone().unwrap_or(Verb::Print) {
        Verb::Print => print_own(session)?,
        Verb::Join(args) => return join::run(session, &args).await,
        Verb::Create(create) => make(session, create).await?,
        Verb::List => {
            let mut client = session.connect().await?;
            let answer = client.admin.list_tokens(ListTokensRequest {}).await;
            let tokens = answer.map_err(|status| client.refused(&status))?.into_inner().tokens;
            list(session.format, "tokens", tokens.iter().map(value).collect(), || rows(&tokens))?;
        }
        Verb::Revoke { id } => {
            let mut client = session.connect().await?;
            let answer = client.admin.revoke_token(RevokeTokenRequest { token_id: id }).await;
            answer.map_err(|status| client.refused(&status))?;
            object(session.format, json!({ "token_id": id, "change": "revoked" }), || format!("revoked token {id}\n"))?;
        }
    }
    Ok(0)
}

/// Prints the token in use, for use with other clients.
fn print_own(session: &Session) -> Result<(), Failure> {
    let address = session.address();
    let Some(found) = token().or_else(|| stored_token(address)) else {
        let hint = "start a scheduler there as this user, or set GANGSAW_TOKEN";
        return Err(bad_input("no-token", format!("no token is known for {address}"), hint));
    };
    object(session.format, json!({ "server": address, "token": found }), || format!("{found}\n"))
}

async fn make(session: &Session, create: Create) -> Result<(), Failure> {
    let mut client = session.connect().await?;
    let request = CreateTokenRequest {
        name: create.name,
        role: create.role.role().into(),
        tenant: create.tenant.unwrap_or_default(),
        user: create.user.unwrap_or_default(),
        time_to_live: create.ttl.0.map(|life| prost_types::Duration {
            seconds: i64::try_from(life.as_secs()).unwrap_or(i64::MAX),
            nanos: life.subsec_nanos().cast_signed(),
        }),
    };
    let answer = client.admin.create_token(request).await.map_err(|status| client.refused(&status))?.into_inner();
    let made = answer.token.unwrap_or_default();
    let mut shown = value(&made);
    shown["token"] = json!(answer.secret);
    if session.format.is_table() {
        note(&format!(
            "token {} of {}: shown now and never again; its holder sets GANGSAW_TOKEN",
            made.token_id, made.name
        ));
    }
    object(session.format, shown, || format!("{}\n", answer.secret))
}

/// A token as programs read it, without its secret.
fn value(token: &Token) -> Value {
    json!({
        "token_id": token.token_id,
        "name": token.name,
        "tenant": token.tenant,
        "role": role_word(token.role()),
        "user": token.user,
        "created_by": token.created_by,
        "created_at": words::time(token.created_at),
        "expires_at": words::time(token.expires_at),
    })
}

fn role_word(role: Role) -> &'static str {
    match role {
        Role::Unspecified => "?",
        Role::Viewer => "viewer",
        Role::Submitter => "submitter",
        Role::Operator => "operator",
        Role::Admin => "admin",
    }
}

/// A table of tokens.
fn rows(tokens: &[Token]) -> comfy_table::Table {
    let mut table = table(&["TOKEN", "NAME", "ROLE", "TENANT", "USER", "EXPIRES"]);
    for token in tokens {
        let end = token.expires_at.and_then(words::instant);
        let expires = end.map_or_else(|| "never".to_owned(), |at| at.strftime("%Y-%m-%d %H:%M").to_string());
        table.add_row([
            token.token_id.to_string(),
            token.name.clone(),
            role_word(token.role()).to_owned(),
            token.tenant.clone(),
            token.user.clone(),
            expires,
        ]);
    }
    table
}
