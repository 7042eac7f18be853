//! Amounts as people write them: `8GiB`, `2h`, `0.5` cores, `h200:2`, `0-99:2%10`.
//!
//! Each function turns one text into one amount or into a [`Misread`]: a sentence and a hint, without a place, which
//! the caller adds. The same functions read spec files, flags and filters, so a unit means the same everywhere.

use std::time::Duration;

use gangsaw_proto::jobs::v1::{Array, IndexRange};

/// The longest duration anybody can ask for: ten years; more is a slip of the keyboard.
const DURATION_MAX: Duration = Duration::from_secs(10 * 366 * 24 * 3600);

/// Why a text is not an amount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Misread {
    pub(crate) message: String,
    pub(crate) hint: String,
}

/// Makes a [`Misread`].
fn misread<T>(message: impl Into<String>, hint: impl Into<String>) -> Result<T, Misread> {
    Err(Misread { message: message.into(), hint: hint.into() })
}

/// Reads `2h`, `1h30m`, `90s`, `250ms`.
pub(crate) fn duration(text: &str) -> Result<Duration, Misread> {
    let text = text.trim();
    if !text.is_empty() && text.chars().all(|c| c.is_ascii_digit() || c == '.') && text != "0" {
        return misread(format!("`{text}` has no unit"), format!("say which: `{text}s`, `{text}min` or `{text}h`"));
    }
    match humantime::parse_duration(text) {
        Ok(found) if found > DURATION_MAX => {
            misread(format!("`{text}` is longer than ten years"), "leave the key out for no limit")
        }
        Ok(found) => Ok(found),
        Err(_) => misread(format!("`{text}` is not a time"), "write it as `90s`, `15min`, `2h` or `1h30m`"),
    }
}

/// Reads `8GiB`, `512MB`.
pub(crate) fn bytes(text: &str) -> Result<u64, Misread> {
    let text = text.trim();
    if !text.is_empty() && text.chars().all(|c| c.is_ascii_digit() || c == '.') && text != "0" {
        return misread(format!("`{text}` has no unit"), format!("say which: `{text}GiB` or `{text}MiB`"));
    }
    match text.parse::<bytesize::ByteSize>() {
        Ok(found) if found.as_u64() >= 1 << 60 => {
            misread(format!("`{text}` is more than any machine has"), "write it as `512MiB` or `8GiB`")
        }
        Ok(found) => Ok(found.as_u64()),
        Err(_) => misread(format!("`{text}` is not an amount of memory"), "write it as `512MiB` or `8GiB`"),
    }
}

/// Reads cores, `0.5` or `4`, as 1/1000 of a core.
pub(crate) fn milli_cpus(text: &str) -> Result<u64, Misread> {
    let hint = "write cores as `4` or `0.5`, at least `0.001`";
    match text.trim().parse::<f64>() {
        Ok(cores) if cores.is_finite() && (0.001..=1_000_000.0).contains(&cores) => Ok((cores * 1000.0).round() as u64),
        Ok(_) => misread(format!("`{}` cores cannot be asked for", text.trim()), hint),
        Err(_) => misread(format!("`{}` is not a number of cores", text.trim()), hint),
    }
}

/// GPUs as asked for: how many and, when it matters, which model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gpus {
    pub(crate) count: u32,
    pub(crate) model: String,
}

/// Reads `2`, `h200` (one), or `h200:2`.
pub(crate) fn gpus(text: &str) -> Result<Gpus, Misread> {
    let hint = "write `2`, or `h200:2` for a model";
    let text = text.trim();
    let (model, count) = match text.rsplit_once(':') {
        Some((model, count)) => (model.trim(), count.trim()),
        None => ("", text),
    };
    if text.contains(':') && model.is_empty() {
        return misread(format!("`{text}` names no GPU model"), hint);
    }
    if let Ok(count) = count.parse::<u32>() {
        return Ok(Gpus { count, model: model.to_owned() });
    }
    match count.parse::<f64>() {
        Ok(part) if part > 0.0 && part.fract() != 0.0 => {
            misread(format!("`{text}` is not a whole number of GPUs"), "ask for whole GPUs: `1`, `2`, …")
        }
        Ok(_) | Err(_) => misread(format!("`{text}` is not a number of GPUs"), hint),
    }
}

/// Reads `0-99`, `1,3,7-99:2`, each with an optional `%N` for how many run at once.
pub(crate) fn array(text: &str) -> Result<Array, Misread> {
    let (indices, limit) = text.split_once('%').map_or((text, None), |(indices, limit)| (indices, Some(limit)));
    let running_max = match limit.map(|limit| limit.trim().parse::<u32>()) {
        None => 0,
        Some(Ok(limit)) if limit > 0 => limit,
        Some(_) => {
            return misread(
                format!("`%{}` is not how many may run at once", limit.unwrap_or_default().trim()),
                "write a number above zero: `0-99%10`",
            );
        }
    };
    if let Ok(alone) = indices.trim().parse::<u64>() {
        return misread(
            format!("`{alone}` may mean one index or that many"),
            format!("write `0-{}` for {alone} indices, or `{alone}-{alone}` for this one", alone.saturating_sub(1)),
        );
    }
    Ok(Array { ranges: ranges(indices)?, running_max })
}

/// Reads `3`, `0-9`, `7-99:2` and commas between them.
pub(crate) fn ranges(text: &str) -> Result<Vec<IndexRange>, Misread> {
    let mut found: Vec<IndexRange> = Vec::new();
    for part in text.split(',') {
        let range = range(part.trim())?;
        if let Some(before) = found.last()
            && range.first <= before.last
        {
            return misread(
                format!("index {} comes after {}", range.first, before.last),
                "write indices in ascending order, each once",
            );
        }
        found.push(range);
    }
    Ok(found)
}

/// Reads one range.
fn range(text: &str) -> Result<IndexRange, Misread> {
    let hint = "write indices as `0-99`, `0-99:2` or `1,3,5`";
    let (span, step) = text.split_once(':').map_or((text, "1"), |(span, step)| (span, step));
    let (first, last) = span.split_once('-').unwrap_or((span, span));
    let number = |text: &str| -> Result<u32, Misread> {
        let text = text.trim();
        match text.parse::<u32>() {
            Ok(number) if number < u32::MAX => Ok(number),
            Ok(_) | Err(_) if !text.is_empty() && text.chars().all(|c| c.is_ascii_digit()) => {
                misread(format!("index {text} is too large"), format!("the largest index is {}", u32::MAX - 1))
            }
            Ok(_) | Err(_) => misread(format!("`{text}` is not an index"), hint),
        }
    };
    let range = IndexRange { first: number(first)?, last: number(last)?, step: number(step)? };
    if range.step == 0 {
        return misread(format!("`{text}` has a step of zero"), hint);
    }
    if range.first > range.last {
        return misread(
            format!("`{text}` ends before it begins"),
            format!("did you mean `{}-{}`?", range.last, range.first),
        );
    }
    Ok(range)
}

/// Reads an http or https URL as far as a slip shows; whether the host is there shows when it is told.
pub(crate) fn url(text: &str) -> Result<String, Misread> {
    let hint = "write it as `https://host/path`";
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let host = rest.map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
    match host {
        _ if text.chars().any(|c| !c.is_ascii_graphic()) => {
            misread("a URL has no blanks and only plain characters", "write others as %20 and the like")
        }
        None | Some("") => misread(format!("`{text}` names no http or https host"), hint),
        Some(host) if host.contains('@') => {
            misread("a URL with a user name in it would show it to everybody", "put a secret into the path")
        }
        Some(_) => Ok(text.to_owned()),
    }
}

/// How many indices the ranges hold.
pub(crate) fn count(ranges: &[IndexRange]) -> u64 {
    ranges.iter().map(|range| u64::from((range.last - range.first) / range.step.max(1)) + 1).sum()
}

/// Writes a duration's largest two units, for people: `2h 5m`, `3.2s`, `15ms`.
pub(crate) fn short_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 if duration.as_millis() == 0 => format!("{:.1}ms", duration.as_secs_f64() * 1000.0),
        0 => format!("{}ms", duration.as_millis()),
        1..=59 => format!("{:.1}s", duration.as_secs_f64()),
        60..=3599 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        3600..=86_399 => format!("{}h {:02}m", seconds / 3600, seconds % 3600 / 60),
        86_400.. => format!("{}d {:02}h", seconds / 86_400, seconds % 86_400 / 3600),
    }
}

#[cfg(test)]
mod tests;
