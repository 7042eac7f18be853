//! A connection to the scheduler: its address, its token, and patience while it restarts.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gangsaw_agent::trust::{self, TrustError};
use gangsaw_proto::admin::v1::GetServerRequest;
use gangsaw_proto::admin::v1::admin_service_client::AdminServiceClient;
use gangsaw_proto::jobs::v1::jobs_service_client::JobsServiceClient;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};

use crate::fail::{Failure, UNREACHABLE, bad_input, failure, may_pass, refused, unreachable};

/// Where a scheduler is looked for when nobody says.
pub(crate) const DEFAULT_SERVER: &str = "http://127.0.0.1:7461";
/// The port of an address that names none.
const DEFAULT_PORT: u16 = 7461;
/// How long a connection may take to be made.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// How long a verb that has already been answered waits for a scheduler that restarts.
const RESTART_PATIENCE: Duration = Duration::from_secs(30);
/// Wait before the first further try; it doubles up to [`RETRY_MAX`].
const RETRY_FIRST: Duration = Duration::from_millis(20);
/// Longest wait between two tries.
const RETRY_MAX: Duration = Duration::from_secs(1);
/// How long a leader is looked for among several schedulers: longer than the slowest fail-over.
const LEADER_PATIENCE: Duration = Duration::from_secs(15);
/// Wait between two rounds of looking.
const LEADER_RETRY: Duration = Duration::from_millis(100);
/// How long one scheduler may take to say whether it leads.
const LEADER_WAIT: Duration = Duration::from_secs(2);
/// Largest answer that is taken: a page of a thousand tasks is far below it.
const MESSAGE_MAX: usize = 64 << 20;

/// A channel that adds the token to each call.
pub(crate) type Authorised = InterceptedService<Channel, Token>;

/// Adds `authorization: Bearer …`.
#[derive(Clone)]
pub(crate) struct Token(Option<MetadataValue<Ascii>>);

impl tonic::service::Interceptor for Token {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, tonic::Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

/// Both services of one scheduler.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) jobs: JobsServiceClient<Authorised>,
    pub(crate) admin: AdminServiceClient<Authorised>,
    pub(crate) address: String,
    /// Where a leader is looked for, if there are several schedulers.
    among: Vec<String>,
    /// The token somebody gave; without one each address has its own.
    given: Option<String>,
}

impl Client {
    /// Connects now, so that an address where nobody listens is told at once. Of several addresses, separated by
    /// commas, the one is taken where a scheduler leads.
    pub(crate) async fn connect(address: &str, token: Option<String>) -> Result<Client, Failure> {
        let among = address.split(',').map(normal).collect::<Result<Vec<_>, _>>()?;
        if among.len() == 1 {
            return Client::connect_one(address, token).await;
        }
        let begun = Instant::now();
        loop {
            match Client::leader(&among, token.as_ref()).await {
                Ok(client) => return Ok(client),
                Err(failure) if begun.elapsed() >= LEADER_PATIENCE => return Err(failure),
                Err(_) => tokio::time::sleep(LEADER_RETRY).await,
            }
        }
    }

    /// Asks each address once, and returns the first that does not stand by.
    async fn leader(among: &[String], token: Option<&String>) -> Result<Client, Failure> {
        let mut last = None;
        for address in among {
            let mut client = match Client::connect_one(address, token.cloned()).await {
                Ok(client) => client,
                Err(failure) => {
                    last = Some(failure);
                    continue;
                }
            };
            client.among = among.to_vec();
            let asked = client.admin.get_server(GetServerRequest {});
            let status = match tokio::time::timeout(LEADER_WAIT, asked).await {
                Ok(Ok(_)) => return Ok(client),
                Ok(Err(status)) => status,
                Err(_) => tonic::Status::unavailable("it does not answer"),
            };
            if !may_pass(&status) {
                // Whoever refuses for a reason of its own leads.
                return Ok(client);
            }
            last = Some(client.refused(&status));
        }
        Err(last.unwrap_or_else(|| bad_input("bad-server", "no scheduler's address is given", ADDRESS_HINT)))
    }

    async fn connect_one(address: &str, token: Option<String>) -> Result<Client, Failure> {
        let given = token.clone();
        let address = normal(address)?;
        let endpoint = Endpoint::from_shared(address.clone())
            .map_err(|error| bad_input("bad-server", format!("`{address}` is no address: {error}"), ADDRESS_HINT))?
            .connect_timeout(CONNECT_MAX)
            .tcp_nodelay(true)
            .http2_adaptive_window(true);
        let channel = if address.starts_with("https://") {
            believed(&endpoint, &address).await?
        } else {
            endpoint.connect().await.map_err(|error| unreachable(&address, &innermost(&error)))?
        };
        let token = token.or_else(|| stored_token(&address));
        let token = match token.map(|token| format!("Bearer {}", token.trim()).parse()) {
            None => Token(None),
            Some(Ok(value)) => Token(Some(value)),
            Some(Err(_)) => {
                return Err(bad_input(
                    "bad-token",
                    "the token has characters that no token has",
                    "check GANGSAW_TOKEN",
                ));
            }
        };
        Ok(Client {
            jobs: JobsServiceClient::with_interceptor(channel.clone(), token.clone())
                .max_decoding_message_size(MESSAGE_MAX),
            admin: AdminServiceClient::with_interceptor(channel, token).max_decoding_message_size(MESSAGE_MAX),
            among: vec![address.clone()],
            given,
            address,
        })
    }

    /// Turns a refusal of this scheduler into a failure.
    pub(crate) fn refused(&self, status: &tonic::Status) -> Failure {
        refused(status, &self.address)
    }
}

/// Patience with a scheduler that has answered before and may be restarting.
pub(crate) struct Patience {
    since: Option<Instant>,
    wait: Duration,
}

impl Patience {
    /// Full patience.
    pub(crate) fn new() -> Patience {
        Patience { since: None, wait: RETRY_FIRST }
    }

    /// The scheduler answered: patience is full again.
    pub(crate) fn answered(&mut self) {
        *self = Patience::new();
    }

    /// Waits before the next try, or gives the failure back when waiting makes no sense any more.
    /// Where there are several schedulers, the next try goes to the one that leads then.
    pub(crate) async fn wait(&mut self, client: &mut Client, status: &tonic::Status) -> Result<(), Failure> {
        let since = *self.since.get_or_insert_with(Instant::now);
        if !may_pass(status) || since.elapsed() >= RESTART_PATIENCE {
            return Err(client.refused(status));
        }
        tokio::time::sleep(self.wait).await;
        self.wait = (self.wait * 2).min(RETRY_MAX);
        if client.among.len() > 1
            && let Ok(leader) = Client::leader(&client.among, client.given.as_ref()).await
        {
            *client = leader;
        }
        Ok(())
    }
}

/// Connects with TLS, to a scheduler whose authority is pinned.
async fn believed(endpoint: &Endpoint, address: &str) -> Result<Channel, Failure> {
    let (host, port) = host_and_port(address)?;
    let ca = trust::stored_ca(credentials().as_deref(), &[format!("{host}:{port}")]);
    let config = ca.and_then(|ca| trust::config(&ca)).map_err(|error| untrusted(address, &error))?;
    let dialled = trust::channel(endpoint, (&host, port), config, &trust::LastWord::default()).await;
    dialled.map_err(|error| untrusted(address, &error))
}

/// The failure of a connection that one side does not believe in, or that cannot be made.
pub(crate) fn untrusted(address: &str, error: &TrustError) -> Failure {
    match error {
        TrustError::Unknown(_) => {
            let hint =
                format!("pin it with `gangsaw config trust {address} HASH`; `gangsaw scheduler init` printed HASH");
            failure("unknown-authority", error.to_string(), hint, UNREACHABLE)
        }
        TrustError::BadFile(_) => bad_input("bad-authority", error.to_string(), "pin the authority again"),
        TrustError::Unreachable(why) => unreachable(address, why),
        TrustError::Handshake(why) => {
            let hint = "if the scheduler was set up anew, pin its authority again with `gangsaw config trust`";
            failure("not-trusted", format!("{address}: {why}"), hint, UNREACHABLE)
        }
    }
}

/// The host and the port of an address; a URL that names no port means ours.
pub(crate) fn host_and_port(address: &str) -> Result<(String, u16), Failure> {
    let authority = authority(address);
    let split = authority.rsplit_once(':').filter(|(host, _)| !host.contains(':') || host.ends_with(']'));
    let Some((host, port)) = split else { return Ok((authority, DEFAULT_PORT)) };
    match port.parse() {
        Ok(port) => Ok((host.to_owned(), port)),
        Err(_) => Err(bad_input("bad-server", format!("`{address}` is no scheduler's address"), ADDRESS_HINT)),
    }
}

/// How an address is written.
const ADDRESS_HINT: &str = "write it as http://127.0.0.1:7461 or https://head:7461";

/// An address with its scheme.
pub(crate) fn normal(address: &str) -> Result<String, Failure> {
    let address = address.trim().trim_end_matches('/');
    let with_scheme = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
    match with_scheme.split_once("://") {
        Some(("http" | "https", rest)) if !rest.is_empty() => Ok(with_scheme),
        Some(_) | None => Err(bad_input("bad-server", format!("`{address}` is no scheduler's address"), ADDRESS_HINT)),
    }
}

/// Host and port of an address, as credentials are filed under.
pub(crate) fn authority(address: &str) -> String {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    rest.split('/').next().unwrap_or_default().to_owned()
}

/// Where credentials are kept: `$XDG_STATE_HOME/gangsaw/credentials`.
pub(crate) fn credentials() -> Option<PathBuf> {
    Some(state_home()?.join("credentials"))
}

/// `$XDG_STATE_HOME/gangsaw`, by default `~/.local/state/gangsaw`.
pub(crate) fn state_home() -> Option<PathBuf> {
    home("XDG_STATE_HOME", ".local/state")
}

/// `$XDG_CONFIG_HOME/gangsaw`, by default `~/.config/gangsaw`.
pub(crate) fn config_home() -> Option<PathBuf> {
    home("XDG_CONFIG_HOME", ".config")
}

/// A base folder of the desktop standard, with our name below it.
fn home(variable: &str, below_home: &str) -> Option<PathBuf> {
    let base = std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let base = base.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(below_home)))?;
    Some(base.join("gangsaw"))
}

/// The token the scheduler at this address wrote for this user.
pub(crate) fn stored_token(address: &str) -> Option<String> {
    let path = credentials()?.join(authority(address));
    Some(std::fs::read_to_string(path).ok()?.trim().to_owned())
}

/// The innermost cause of a failed connection.
fn innermost(error: &tonic::transport::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_lack_its_scheme_and_nothing_else() {
        assert_eq!(normal("127.0.0.1:7461").ok().as_deref(), Some("http://127.0.0.1:7461"));
        assert_eq!(normal("http://h:1/").ok().as_deref(), Some("http://h:1"));
        assert!(normal("ftp://h:1").is_err());
        assert_eq!(authority("https://h:1/x"), "h:1");
        let split = |address| host_and_port(address).ok();
        assert_eq!(split("https://h:1/x"), Some(("h".to_owned(), 1)));
        assert_eq!(split("https://[::1]:1"), Some(("[::1]".to_owned(), 1)));
        assert_eq!(split("https://h"), Some(("h".to_owned(), 7461)));
        assert_eq!(split("https://h:x"), None);
    }
}
