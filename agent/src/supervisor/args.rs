//! The command line of `gangsaw supervisor`, which only the agent types.

use std::ffi::OsString;
use std::path::PathBuf;

use super::logs::pump::Rates;

/// What the supervisor was told.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Args {
    /// Absolute.
    pub(super) state: PathBuf,
    pub(super) cgroup_root: Option<PathBuf>,
    pub(super) rlimit_only: bool,
    pub(super) rates: Rates,
    /// The agent's state folder, when it is not `state`. Absolute.
    pub(super) home: Option<PathBuf>,
    /// Tells this supervisor's log files from those of the other versions' that stand beside it.
    pub(super) generation: u32,
    /// Of the agent that started it; absent: this executable's.
    pub(super) version: Option<String>,
    /// True in the process that stays.
    pub(super) detached: bool,
}

pub(super) fn parse(args: impl Iterator<Item = OsString>) -> Result<Args, String> {
    let mut parsed = Args::default();
    let mut state = None;
    let mut args = args;
    while let Some(flag) = args.next() {
        let flag = flag.to_str().ok_or("a flag is not UTF-8")?.to_owned();
        let mut value = || args.next().ok_or_else(|| format!("{flag} needs a value"));
        match flag.as_str() {
            "--state" => state = Some(value()?),
            "--cgroup-root" => parsed.cgroup_root = Some(PathBuf::from(value()?)),
            "--limits" => {
                parsed.rlimit_only = match value()?.to_str() {
                    Some("auto") => false,
                    Some("rlimit") => true,
                    _ => return Err("--limits is auto or rlimit".into()),
                }
            }
            "--home" => parsed.home = Some(absolute(&flag, value()?)?),
            "--generation" => {
                let number = number(&flag, &value()?)?;
                parsed.generation = u32::try_from(number).map_err(|_| format!("{flag} is too large"))?;
            }
            "--as-version" => parsed.version = value()?.into_string().ok(),
            "--log-rate" => parsed.rates.bytes_per_second = number(&flag, &value()?)?,
            "--log-cap" => parsed.rates.attempt_bytes = number(&flag, &value()?)?,
            "--detached" => parsed.detached = true,
            _ => return Err(format!("unknown flag {flag}")),
        }
    }
    parsed.state = absolute("--state", state.ok_or("--state is missing")?)?;
    Ok(parsed)
}

fn absolute(flag: &str, path: OsString) -> Result<PathBuf, String> {
    std::path::absolute(path).map_err(|fault| format!("{flag}: {fault}"))
}

fn number(flag: &str, value: &OsString) -> Result<u64, String> {
    value.to_str().and_then(|text| text.parse().ok()).ok_or_else(|| format!("{flag} needs a number"))
}

#[cfg(test)]
mod tests {
    //! Flags in, settings out.
    use super::*;

    fn parse_all(words: &[&str]) -> Result<Args, String> {
        parse(words.iter().map(OsString::from))
    }

    #[test]
    fn flags_become_settings_and_unknown_ones_are_refused() {
        let args = parse_all(&["--state", "/s", "--limits", "rlimit", "--log-cap", "10", "--detached"]);
        let rates = Rates { attempt_bytes: 10, ..Rates::default() };
        let wanted = Args { state: "/s".into(), rlimit_only: true, rates, detached: true, ..Args::default() };
        assert_eq!(args, Ok(wanted));
        assert_eq!(parse_all(&[]), Err("--state is missing".into()));
        assert_eq!(parse_all(&["--state"]), Err("--state needs a value".into()));
        assert_eq!(parse_all(&["--stat", "x"]), Err("unknown flag --stat".into()));
        assert_eq!(parse_all(&["--log-rate", "many"]), Err("--log-rate needs a number".into()));
    }
}
