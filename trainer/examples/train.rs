//! Trains a recipe as a task would, without the rest of Gangsaw.
//!
//! `cargo run --release -p gangsaw-trainer --example train -- cnn '{"seed": 1}'`, and
//! `… --example train -- --eval gangsaw-output/model.safetensors`.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let code = match arguments.as_slice() {
        ["--eval", path] => match gangsaw_trainer::evaluate(Path::new(path)) {
            Ok(eval) => {
                println!("{}", eval.test_accuracy);
                0
            }
            Err(error) => {
                eprintln!("error[{}]: {error}", error.reason());
                error.exit_code()
            }
        },
        [recipe] => gangsaw_trainer::run_from_env(recipe, "", "cpu"),
        [recipe, settings] => gangsaw_trainer::run_from_env(recipe, settings, "cpu"),
        _ => {
            eprintln!("usage: train RECIPE [SETTINGS_JSON] | train --eval MODEL_PATH");
            2
        }
    };
    ExitCode::from(u8::try_from(code).unwrap_or(1))
}
