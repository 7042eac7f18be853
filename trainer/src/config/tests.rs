//! Settings: defaults, every kind of fault with its key, and what counts as the same run.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use super::*;

fn faults(recipe: &str, settings: &str) -> Vec<String> {
    TrainConfig::parse(recipe, settings).unwrap_err().0.iter().map(ToString::to_string).collect()
}

#[test]
fn no_settings_mean_the_recipes_defaults() {
    for recipe in Recipe::ALL {
        let want = TrainConfig::default_of(recipe);
        for text in ["", " ", "{}"] {
            assert_eq!(TrainConfig::parse(recipe.name(), text).unwrap(), want);
        }
    }
    assert_eq!(recipes().iter().map(|recipe| recipe.name).collect::<Vec<_>>(), ["mlp", "cnn"]);
}

#[test]
fn what_is_written_is_read_back_equal() {
    for recipe in Recipe::ALL {
        let mut config = TrainConfig::default_of(recipe);
        config.data = DataSource::Idx("/some/folder".into());
        config.clip_norm = Some(1.5);
        config.target_accuracy = Some(0.97);
        config.seed = u64::MAX;
        config.optimizer = Optimizer::Sgd;
        let text = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<TrainConfig>(&text).unwrap(), config);
        assert_eq!(TrainConfig::parse(recipe.name(), &text).unwrap(), config);
    }
}

#[test]
fn every_fault_is_told_at_once_with_its_key() {
    let settings = r#"{"epochs": 0, "lr": "fast", "batch": 2.5, "optimiser": "adamw",
        "optimizer": "adam", "hidden": [64, 0], "data": {"csv": "x"}, "seed": -1, "clip_norm": 0}"#;
    assert_eq!(
        faults("cnn", settings),
        [
            r#"data: expected "digits", {"idx": FOLDER} or {"packed": FILE}, found {"csv":"x"}"#,
            "epochs: expected a whole number from 1 to 100000, found 0",
            "batch: expected a whole number from 1 to 65536, found 2.5",
            r#"lr: expected a number from 0.000000001 to 100, found "fast""#,
            r#"optimizer: expected "adamw" or "sgd", found "adam""#,
            "clip_norm: expected a number from 0.000000001 to 1000000000, found 0",
            "hidden: expected a list of up to 16 whole numbers from 1 to 16384, found [64,0]",
            "seed: expected a whole number from 0 to 2^64 - 1, found -1",
            "optimiser: unknown setting; there are: recipe, data, epochs, batch, lr, optimizer, \
             weight_decay, momentum, warmup, clip_norm, shift, dropout, hidden, channels, seed, \
             target_accuracy, checkpoint_every, requeue_on_stop",
        ]
    );
}

#[test]
fn an_unknown_recipe_is_answered_with_the_known_ones() {
    assert_eq!(faults("resnet", ""), [r#"recipe: "resnet" is none of: mlp, cnn"#]);
    assert_eq!(faults("cnn", r#"{"recipe": "mlp"}"#), [r#"recipe: is "mlp" in the settings and "cnn" by name"#]);
    assert_eq!(faults("mlp", r#"{"channels": [8]}"#), ["channels: is not a setting of this recipe"]);
    assert!(faults("cnn", "[1]")[0].starts_with("settings: not a JSON object: "));
}

#[test]
fn a_long_value_is_shortened_in_its_message() {
    let fault = &faults("cnn", &format!(r#"{{"optimizer": "{}"}}"#, "x".repeat(10_000)))[0];
    assert!(fault.len() < 150, "{fault}");
}

#[test]
fn the_hash_covers_what_decides_the_result_and_nothing_else() {
    let base = TrainConfig::default_of(Recipe::Cnn);
    let with = |settings: &str| TrainConfig::parse("cnn", settings).unwrap();
    for settings in [r#"{"checkpoint_every": 7}"#, r#"{"requeue_on_stop": true}"#, r#"{"data": {"idx": "/d"}}"#] {
        assert_eq!(with(settings).hash(), base.hash(), "{settings}");
        assert!(with(settings).differences(&base).is_empty());
    }
    for settings in [r#"{"lr": 0.5}"#, r#"{"seed": 1}"#, r#"{"epochs": 3}"#, r#"{"hidden": [1]}"#] {
        assert_ne!(with(settings).hash(), base.hash(), "{settings}");
    }
    assert_eq!(with(r#"{"lr": 0.5}"#).differences(&base), ["lr was 0.004 and is 0.5"]);
}
