//! `gangsaw progress step=10 total=100 loss=0.3`: says from any script how far it is.
//!
//! One datagram to `$GANGSAW_PROGRESS`, never blocking and allowed to get lost: a script must not stop for it.

use serde_json::{Map, Value};

use crate::fail::{Failure, bad_input};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// step, total, epoch, checkpoint, or any metric's name
    #[arg(value_name = "NAME=VALUE", required = true)]
    values: Vec<String>,
}

/// Bytes a message may have; the agent takes no more, and adds the task's name.
const MESSAGE_MAX: usize = gangsaw_agent::DATAGRAM_MAX - 128;

/// Runs the verb.
pub(crate) fn run(args: &Args) -> Result<u8, Failure> {
    let message = message(&args.values)?;
    let Some(socket) = std::env::var_os("GANGSAW_PROGRESS").filter(|socket| !socket.is_empty()) else {
        let hint = "it works within a job, where GANGSAW_PROGRESS is set";
        return Err(bad_input("no-progress-socket", "this is not a task of a job", hint));
    };
    // Lossy by design: nobody may be listening, and the task goes on.
    let _ = gangsaw_agent::send_progress(std::path::Path::new(&socket), &message);
    Ok(0)
}

/// The datagram's JSON.
fn message(values: &[String]) -> Result<String, Failure> {
    let mut fields = Map::new();
    let mut metrics = Map::new();
    for pair in values {
        let hint = "write NAME=VALUE, for example step=10 total=100 loss=0.3";
        let wrong = || bad_input("bad-value", format!("`{pair}` tells nothing"), hint);
        let (name, value) = pair.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(wrong)?;
        match name {
            "step" | "total" => {
                fields.insert(name.into(), value.parse::<u64>().map_err(|_| wrong())?.into());
            }
            "checkpoint" => {
                fields.insert(name.into(), value.into());
            }
            name => {
                let number = value.parse::<f64>().ok().and_then(serde_json::Number::from_f64).ok_or_else(wrong)?;
                let into = if name == "epoch" { &mut fields } else { &mut metrics };
                into.insert(name.into(), number.into());
            }
        }
    }
    if !metrics.is_empty() {
        fields.insert("metrics".into(), metrics.into());
    }
    let message = Value::Object(fields).to_string();
    if message.len() > MESSAGE_MAX {
        let sentence = format!("{} bytes are more than a message holds", message.len());
        return Err(bad_input("too-large", sentence, format!("tell at most {MESSAGE_MAX} bytes at once")));
    }
    Ok(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_names_are_fields_and_others_are_metrics() {
        let values = ["step=10", "total=100", "epoch=0.5", "loss=0.3", "checkpoint=/a"].map(str::to_owned);
        assert_eq!(
            message(&values).ok().as_deref(),
            Some(r#"{"step":10,"total":100,"epoch":0.5,"checkpoint":"/a","metrics":{"loss":0.3}}"#)
        );
        for wrong in ["step=x", "loss", "=3", "loss=nan"] {
            assert!(message(&[wrong.to_owned()]).is_err(), "{wrong}");
        }
    }
}
