//! Sizes: a file holds one idea, a function fits a screen, a line fits a window, a file says what it is.
//!
//! The measure is text, not syntax: a function is measured from its `fn` line to the line that closes it at the same
//! indentation, which is exact for formatted code.

use std::path::{Path, PathBuf};

use crate::Faults;

/// Lines of a source file, tests apart.
const FILE_LINES_MAX: usize = 400;
/// Lines of a function.
const FUNCTION_LINES_MAX: usize = 70;
/// Bytes of one committed file that is not test data, so that no binary gets in unseen.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Returns every file and function that is over its size, and every source file without a header.
pub(crate) fn check(root: &Path) -> anyhow::Result<Faults> {
    let mut faults = Vec::new();
    for path in tracked(root)? {
        let Ok(metadata) = root.join(&path).metadata() else { continue };
        if metadata.len() > FILE_BYTES_MAX {
            faults.push(format!("{}: {} bytes; at most {FILE_BYTES_MAX}", path.display(), metadata.len()));
        }
        if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(root.join(&path))?;
            faults.extend(source(&path, &text));
        }
    }
    Ok(faults)
}

/// Returns the files git tracks or would track.
fn tracked(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let output = std::process::Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "-z"])
        .current_dir(root)
        .output()?;
    anyhow::ensure!(output.status.success(), "git ls-files ended with {}", output.status);
    let names = String::from_utf8(output.stdout)?;
    Ok(names.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from).collect())
}

/// Returns the faults of one Rust file.
fn source(path: &Path, text: &str) -> Faults {
    let place = path.display();
    let mut faults = Vec::new();
    if !text.starts_with("//!") {
        faults.push(format!("{place}: begins without a `//!` header that names its idea"));
    }
    let lines: Vec<&str> = text.lines().collect();
    let own = lines.iter().position(|line| line.trim() == "#[cfg(test)]").unwrap_or(lines.len());
    if !is_test(path) && own > FILE_LINES_MAX {
        faults.push(format!("{place}: {own} lines; at most {FILE_LINES_MAX}"));
    }
    for (first, length) in functions(&lines) {
        if length > FUNCTION_LINES_MAX && !is_test(path) && first < own {
            faults.push(format!("{place}:{}: a function of {length} lines; at most {FUNCTION_LINES_MAX}", first + 1));
        }
    }
    faults
}

/// Says whether a file holds only tests.
fn is_test(path: &Path) -> bool {
    let mut parts = path.components().map(|part| part.as_os_str().to_string_lossy().into_owned());
    parts.any(|part| part == "tests" || part == "tests.rs")
}

/// Returns (first line, length) of each function.
fn functions(lines: &[&str]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for (first, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        if !starts_function(code) {
            continue;
        }
        let indent = line.len() - code.len();
        let closing = format!("{}}}", " ".repeat(indent));
        let opens =
            lines[first..].iter().position(|each| each.ends_with('{') || each.ends_with(';') || each.ends_with('}'));
        let Some(opens) = opens.filter(|offset| lines[first + offset].ends_with('{')) else { continue };
        let end = lines[first + opens..].iter().position(|each| *each == closing);
        found.extend(end.map(|end| (first, opens + end + 1)));
    }
    found
}

/// Says whether a line begins a function item.
fn starts_function(code: &str) -> bool {
    let mut words = code.split_whitespace();
    words.find(|word| !matches!(*word, "const" | "async" | "unsafe" | "extern" | "\"C\"") && !word.starts_with("pub"))
        == Some("fn")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_function_is_named_with_its_line_and_length() {
        let body = "    let x = 1;\n".repeat(FUNCTION_LINES_MAX - 1);
        let text = format!(
            "//! Idea.\n\nimpl A {{\n    pub(crate) async fn long(\n        a: u8,\n    ) {{\n{body}    }}\n}}\n"
        );
        assert_eq!(source(Path::new("a.rs"), &text), ["a.rs:4: a function of 73 lines; at most 70"]);
    }

    #[test]
    fn a_short_function_with_a_header_is_no_fault() {
        assert_eq!(source(Path::new("a.rs"), "//! Idea.\n\nfn short() {\n    run();\n}\n"), Faults::new());
    }

    #[test]
    fn a_long_file_counts_without_its_tests() {
        let text = format!("//! Idea.\n{}#[cfg(test)]\nmod tests;\n{}", "\n".repeat(398), "\n".repeat(500));
        assert_eq!(source(Path::new("a.rs"), &text), Faults::new());
        let text = format!("//! Idea.\n{}", "\n".repeat(400));
        assert_eq!(source(Path::new("a.rs"), &text), ["a.rs: 401 lines; at most 400"]);
    }

    #[test]
    fn a_file_without_a_header_is_a_fault() {
        assert_eq!(
            source(Path::new("a.rs"), "fn a() {}\n"),
            ["a.rs: begins without a `//!` header that names its idea"]
        );
    }
}
