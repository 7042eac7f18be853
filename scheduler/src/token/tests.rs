//! The token survives restarts, is private, and is compared whole.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::os::unix::fs::PermissionsExt;

use super::*;

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn token_is_made_once_and_kept_over_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let first = Token::of_folder(dir.path()).unwrap();
    let second = Token::of_folder(dir.path()).unwrap();
    assert_eq!(first.secret(), second.secret());
    assert_eq!(first.secret().len(), 64);
    let other = tempfile::tempdir().unwrap();
    assert_ne!(first.secret(), Token::of_folder(other.path()).unwrap().secret());
}

#[test]
fn only_the_owner_may_read_the_token_and_the_credentials() {
    let dir = tempfile::tempdir().unwrap();
    let token = Token::of_folder(dir.path()).unwrap();
    assert_eq!(mode(&dir.path().join("token")), 0o600);
    let credentials = dir.path().join("credentials");
    leave_credentials(&credentials, "127.0.0.1:7461".parse().unwrap(), &token, None).unwrap();
    let file = credentials.join("127.0.0.1:7461");
    assert_eq!(mode(&file), 0o600);
    assert_eq!(mode(file.parent().unwrap()), 0o700);
    assert_eq!(std::fs::read_to_string(file).unwrap(), token.secret());
}

#[test]
fn a_scheduler_at_every_address_is_found_under_each_of_its_names() {
    let named = ["head", "10.0.0.5", "::1"].map(str::to_owned);
    assert_eq!(names("0.0.0.0:7".parse().unwrap(), &named), ["head:7", "10.0.0.5:7", "[::1]:7"]);
    assert_eq!(names("10.0.0.5:7".parse().unwrap(), &named), ["10.0.0.5:7"]);
}

#[test]
fn a_token_admits_itself_and_nothing_near_it() {
    let dir = tempfile::tempdir().unwrap();
    let token = Token::of_folder(dir.path()).unwrap();
    let secret = token.secret().as_bytes();
    assert!(token.admits(secret));
    assert!(!token.admits(&secret[1..]));
    assert!(!token.admits(&[secret, b"0"].concat()));
    assert!(!token.admits(b""));
    let mut flipped = secret.to_vec();
    flipped[63] ^= 1;
    assert!(!token.admits(&flipped));
}

#[test]
fn a_damaged_token_file_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("token"), "short").unwrap();
    let error = Token::of_folder(dir.path()).unwrap_err();
    assert!(error.to_string().ends_with("token does not hold a token"), "{error}");
}
