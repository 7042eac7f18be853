//! Whole runs: resumed equals uninterrupted, thread counts, targets, bad numbers.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::path::Path;

use super::*;
use crate::config::Optimizer;
use crate::random::philox;

fn settings(recipe: Recipe, optimizer: Optimizer) -> TrainConfig {
    let mut config = TrainConfig::default_of(recipe);
    config.optimizer = optimizer;
    (config.epochs, config.shift, config.checkpoint_every) = (3, 1, 1000);
    config.hidden = vec![24];
    if recipe == Recipe::Cnn {
        config.channels = vec![6, 8];
    }
    if optimizer == Optimizer::Sgd {
        (config.lr, config.clip_norm) = (0.05, Some(1.0));
    }
    config
}

fn dirs(root: &Path, name: &str, resume_from: Option<PathBuf>) -> Dirs {
    let output = root.join(name);
    Dirs { checkpoint: output.join("checkpoints"), output, resume_from }
}

/// Trains and returns the outcome with every step's loss bits.
fn run(config: &TrainConfig, dirs: &Dirs, stop_after: Option<u32>) -> (Result<Summary, TrainError>, Vec<(u32, u32)>) {
    let stop = AtomicBool::new(false);
    let mut losses = Vec::new();
    let progress = |event: Progress| {
        if let Progress::Step { step, loss, .. } = event {
            losses.push((step, loss.to_bits()));
            stop.fetch_or(Some(step) == stop_after, Ordering::Relaxed);
        }
    };
    let outcome = train(config, dirs, &Device::Cpu, progress, &stop);
    (outcome, losses)
}

fn model_bytes(dirs: &Dirs) -> Vec<u8> {
    std::fs::read(dirs.output.join("model.safetensors")).unwrap()
}

/// The epoch lines of a metrics file, without the speed.
fn epochs(dirs: &Dirs) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(dirs.output.join("metrics.jsonl")).unwrap();
    let mut lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    lines.retain(|line| line["kind"] == "epoch");
    lines.iter_mut().for_each(|line| drop(line.as_object_mut().unwrap().remove("samples_per_second")));
    lines
}

#[test]
fn a_run_stopped_three_times_and_resumed_equals_an_uninterrupted_one_bit_for_bit() {
    let mut salt = 0;
    for recipe in Recipe::ALL {
        for optimizer in [Optimizer::Adamw, Optimizer::Sgd] {
            let root = tempfile::tempdir().unwrap();
            let config = settings(recipe, optimizer);
            let whole = dirs(root.path(), "whole", None);
            let (summary, want) = run(&config, &whole, None);
            assert_eq!(summary.unwrap().steps, 69);
            salt += 1;
            let mut stops: Vec<u32> = philox([salt, 0], [0; 4])[..3].iter().map(|word| word % 68 + 1).collect();
            stops.sort_unstable();
            stops.dedup();
            let (mut losses, mut lines, mut from) = (Vec::new(), Vec::new(), None);
            for (attempt, stop) in stops.iter().map(|stop| Some(*stop)).chain([None]).enumerate() {
                let dirs = dirs(root.path(), &attempt.to_string(), from.clone());
                let (outcome, more) = run(&config, &dirs, stop);
                losses.extend(more);
                lines.extend(epochs(&dirs));
                match (outcome, stop) {
                    (Err(TrainError::Stopped { step, checkpoint }), Some(stop)) => {
                        assert_eq!(step, stop);
                        assert!(checkpoint.unwrap().join("manifest.json").exists());
                        from = Some(dirs.checkpoint.clone());
                    }
                    (Ok(summary), None) => {
                        assert_eq!(summary.resumed_from_step, stops.last().copied());
                        assert_eq!(model_bytes(&dirs), model_bytes(&whole), "{recipe:?} {optimizer:?} {stops:?}");
                    }
                    (outcome, stop) => panic!("{outcome:?} with stop {stop:?}"),
                }
            }
            assert_eq!(losses, want, "{recipe:?} {optimizer:?} stopped at {stops:?}");
            assert_eq!(lines, epochs(&whole), "{recipe:?} {optimizer:?} stopped at {stops:?}");
        }
    }
}

#[test]
fn a_run_killed_between_checkpoints_repeats_the_lost_steps_with_the_same_bits() {
    let root = tempfile::tempdir().unwrap();
    let mut config = settings(Recipe::Cnn, Optimizer::Adamw);
    let whole = dirs(root.path(), "whole", None);
    let (_, want) = run(&config, &whole, None);
    config.checkpoint_every = 10;
    let first = dirs(root.path(), "first", None);
    run(&config, &first, Some(37)).0.unwrap_err();
    // What a kill leaves: the stop's own checkpoint torn, and the one before whole.
    std::fs::remove_file(first.checkpoint.join("step-0000000037/manifest.json")).unwrap();
    let second = dirs(root.path(), "second", Some(first.checkpoint.clone()));
    let (summary, losses) = run(&config, &second, None);
    assert_eq!(summary.unwrap().resumed_from_step, Some(30));
    assert_eq!(losses, want[30..]);
    // The files carry the settings, and these differ in `checkpoint_every`.
    let tensors = |dirs: &Dirs| {
        let bytes = model_bytes(dirs);
        let (header, _) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
        bytes[header + 8..].to_vec()
    };
    assert_eq!(tensors(&second), tensors(&whole));
}

#[test]
fn the_number_of_threads_does_not_change_a_bit() {
    let root = tempfile::tempdir().unwrap();
    for recipe in Recipe::ALL {
        let mut config = TrainConfig::default_of(recipe);
        config.epochs = 1;
        let with = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let dirs = dirs(root.path(), &format!("{recipe:?}{threads}"), None);
            let (summary, losses) = pool.install(|| run(&config, &dirs, None));
            assert_eq!(summary.unwrap().threads, threads);
            (losses, model_bytes(&dirs))
        };
        let one = with(1);
        for threads in [2, 3] {
            assert!(with(threads) == one, "{recipe:?} differs with {threads} threads");
        }
    }
}

#[test]
fn a_target_ends_the_run_by_validation_rows_and_keeps_test_rows_out_of_it() {
    let root = tempfile::tempdir().unwrap();
    let mut config = settings(Recipe::Mlp, Optimizer::Adamw);
    (config.epochs, config.target_accuracy) = (30, Some(0.9));
    (config.shift, config.hidden) = (0, vec![64]);
    let reached = dirs(root.path(), "reached", None);
    let summary = run(&config, &reached, None).0.unwrap();
    assert_eq!(summary.target_reached, Some(true));
    assert!(summary.epochs < 30, "{} epochs", summary.epochs);
    let lines = epochs(&reached);
    let accuracy = |line: &serde_json::Value| line["validation_accuracy"].as_f64().unwrap();
    assert!(accuracy(lines.last().unwrap()) >= 0.9);
    assert!(lines[..lines.len() - 1].iter().all(|line| accuracy(line) < 0.9));
    (config.epochs, config.target_accuracy) = (2, Some(1.0));
    let summary = run(&config, &dirs(root.path(), "missed", None), None).0.unwrap();
    assert_eq!((summary.target_reached, summary.epochs), (Some(false), 2));
}

#[test]
fn a_loss_that_is_no_number_ends_the_run_before_the_weights_take_it() {
    let root = tempfile::tempdir().unwrap();
    let mut config = settings(Recipe::Mlp, Optimizer::Sgd);
    (config.lr, config.clip_norm, config.warmup, config.weight_decay) = (100.0, None, 0.0, 1.0);
    config.checkpoint_every = 1;
    let dirs = dirs(root.path(), "wild", None);
    let error = run(&config, &dirs, None).0.unwrap_err();
    assert_eq!((error.reason(), error.exit_code()), ("not-finite", 1));
    assert!(!dirs.output.join("model.safetensors").exists());
    let newest = dirs.checkpoint.join("step-0000000001/weights.safetensors");
    let checkpoints = std::fs::read_dir(&dirs.checkpoint).unwrap();
    for path in checkpoints
        .map(|entry| entry.unwrap().path().join("weights.safetensors"))
        .chain(newest.exists().then_some(newest))
    {
        let bytes = std::fs::read(path).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        for (name, tensor) in file.tensors() {
            let finite = |b: &[u8]| f32::from_le_bytes([b[0], b[1], b[2], b[3]]).is_finite();
            assert!(tensor.data().chunks_exact(4).all(finite), "{name} holds what is no number");
        }
    }
}

#[test]
fn a_checkpoint_that_cannot_be_written_is_said_and_training_goes_on() {
    let root = tempfile::tempdir().unwrap();
    let mut config = settings(Recipe::Mlp, Optimizer::Adamw);
    config.checkpoint_every = 30;
    let dirs = dirs(root.path(), "blocked", None);
    std::fs::create_dir_all(&dirs.checkpoint).unwrap();
    // A file where the folder should be: a write error that root meets as well.
    std::fs::write(dirs.checkpoint.join("step-0000000030"), "in the way").unwrap();
    let mut notes = Vec::new();
    let progress = |event: Progress| {
        if let Progress::Note(text) = event {
            notes.push(text);
        }
    };
    train(&config, &dirs, &Device::Cpu, progress, &AtomicBool::new(false)).unwrap();
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].starts_with("the checkpoint of step 30 could not be written: "), "{notes:?}");
    assert!(dirs.checkpoint.join("step-0000000060/manifest.json").exists());
}

#[test]
fn idx_data_trains_like_any_other() {
    let root = tempfile::tempdir().unwrap();
    let data = Dataset::load(&crate::config::DataSource::Digits).unwrap();
    let write = |name: &str, rows: &[u32]| {
        let count = (rows.len() as u32).to_be_bytes();
        let pixels = rows.iter().flat_map(|row| data.image(*row).iter().map(|pixel| pixel * 15));
        let size = 8_u32.to_be_bytes();
        let images: Vec<u8> = [[0, 0, 8, 3], count, size, size].concat().into_iter().chain(pixels).collect();
        let labels = rows.iter().map(|row| data.labels[*row as usize]);
        let labels: Vec<u8> = [[0, 0, 8, 1], count].concat().into_iter().chain(labels).collect();
        std::fs::write(root.path().join(format!("{name}-images-idx3-ubyte")), images).unwrap();
        std::fs::write(root.path().join(format!("{name}-labels-idx1-ubyte")), labels).unwrap();
    };
    write("train", &data.train);
    write("t10k", &data.test);
    let mut config = settings(Recipe::Mlp, Optimizer::Adamw);
    (config.epochs, config.shift, config.hidden) = (15, 0, vec![64]);
    config.data = crate::config::DataSource::Idx(root.path().to_owned());
    let summary = run(&config, &dirs(root.path(), "out", None), None).0.unwrap();
    assert_eq!(summary.test_total, 359);
    assert!(summary.test_accuracy > 0.9, "{}", summary.test_accuracy);
    assert_eq!(model_file::evaluate(&summary.model_path).unwrap().test_accuracy, summary.test_accuracy);
}

/// The quickstart's promise, with the default settings.
#[test]
fn the_digits_cnn_reaches_97_percent_for_each_of_seeds_0_to_4() {
    let root = tempfile::tempdir().unwrap();
    for seed in 0..5 {
        let mut config = TrainConfig::default_of(Recipe::Cnn);
        config.seed = seed;
        let summary = run(&config, &dirs(root.path(), &seed.to_string(), None), None).0.unwrap();
        println!("seed {seed}: {:.4} in {:.2} s", summary.test_accuracy, summary.train_seconds);
        assert!(summary.test_accuracy >= 0.97, "seed {seed}: {}", summary.test_accuracy);
    }
}
