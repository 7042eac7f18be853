//! Checkpoints come back bit for bit, damaged ones are passed over, foreign ones refused.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use candle_core::DType;

use super::*;
use crate::config::{Optimizer, Recipe};
use crate::model::Shape;

/// A small network whose parameters and state are all different numbers.
fn network(optimizer: Optimizer) -> (TrainConfig, Model, Flat) {
    let mut config = TrainConfig::default_of(Recipe::Mlp);
    (config.hidden, config.optimizer) = (vec![3], optimizer);
    let shape = Shape { height: 2, width: 3, classes: 4 };
    let model = Model::new(&config, shape, DType::F32, &Device::Cpu).unwrap();
    let mut flat = Flat::new(&config, &model).unwrap();
    let mut next = 0.1_f32;
    for x in flat.param.iter_mut().chain(&mut flat.first).chain(&mut flat.second) {
        next = (next * 1.618).fract() + 1e-7;
        *x = next;
    }
    flat.scatter(&model).unwrap();
    (config, model, flat)
}

fn identity(config: &TrainConfig) -> Identity<'_> {
    Identity { config, data_fingerprint: "0123456789abcdef" }
}

fn at(step: u32) -> Position {
    Position { step, epoch: step / 3, loss_sum: 0.1 + f64::from(step) / 3.0, target_reached: false }
}

fn save_at(root: &Path, step: u32) -> PathBuf {
    let (config, model, flat) = network(Optimizer::Adamw);
    save(root, identity(&config), at(step), &model, &flat).unwrap()
}

/// Resumes a fresh network; returns where it is and what was said.
fn resume_from(from: &Path) -> (Position, Vec<String>) {
    let (config, model, mut flat) = network(Optimizer::Adamw);
    let mut notes = Vec::new();
    let position = resume(from, identity(&config), &model, &mut flat, |note| notes.push(note)).unwrap();
    let hide = |note: String| note.replace(&format!("{}/", from.display()), "");
    (position, notes.into_iter().map(hide).collect())
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

#[test]
fn weights_state_and_position_come_back_bit_for_bit() {
    for optimizer in [Optimizer::Adamw, Optimizer::Sgd] {
        let root = tempfile::tempdir().unwrap();
        let (config, model, flat) = network(optimizer);
        let folder = save(root.path(), identity(&config), at(7), &model, &flat).unwrap();
        assert_eq!(folder, root.path().join("step-0000000007"));
        let shape = Shape { height: 2, width: 3, classes: 4 };
        let fresh = Model::new(&config, shape, DType::F32, &Device::Cpu).unwrap();
        let mut loaded = Flat::new(&config, &fresh).unwrap();
        assert_ne!(bits(&loaded.param), bits(&flat.param));
        let position = resume(root.path(), identity(&config), &fresh, &mut loaded, |_| ()).unwrap();
        assert_eq!(position, at(7));
        assert_eq!(bits(&loaded.param), bits(&flat.param));
        assert_eq!(bits(&loaded.first), bits(&flat.first));
        assert_eq!(bits(&loaded.second), bits(&flat.second));
        let weight = |model: &Model| model.params[0].var.to_vec2::<f32>().unwrap();
        assert_eq!(weight(&fresh), weight(&model));
    }
}

#[test]
fn the_last_three_are_kept_and_the_newest_is_resumed() {
    let root = tempfile::tempdir().unwrap();
    for step in [5, 10, 15, 20, 25] {
        save_at(root.path(), step);
    }
    let kept = newest_first(root.path()).unwrap();
    assert_eq!(kept.iter().filter_map(|path| step_of(path)).collect::<Vec<_>>(), [25, 20, 15]);
    let (position, notes) = resume_from(root.path());
    assert_eq!(position, at(25));
    assert_eq!(notes, ["resuming from step-0000000025 (step 25)"]);
    let (position, _) = resume_from(&root.path().join("step-0000000020"));
    assert_eq!(position, at(20));
}

#[test]
fn a_damaged_checkpoint_is_passed_over_for_the_one_before_and_said() {
    type Damage = fn(&Path);
    let cases: [(Damage, &str); 6] = [
        (|folder| fs::remove_file(folder.join(MANIFEST)).unwrap(), "it is incomplete, manifest.json is missing"),
        (|folder| fs::write(folder.join(MANIFEST), "{\"format").unwrap(), "manifest.json: EOF while parsing"),
        (|folder| fs::remove_file(folder.join(WEIGHTS)).unwrap(), "weights.safetensors: No such file"),
        (
            |folder| {
                let path = folder.join(OPTIMIZER);
                let bytes = fs::read(&path).unwrap();
                fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
            },
            "optimizer.safetensors has ",
        ),
        (
            |folder| {
                let path = folder.join(WEIGHTS);
                let mut bytes = fs::read(&path).unwrap();
                *bytes.last_mut().unwrap() ^= 1;
                fs::write(&path, bytes).unwrap();
            },
            "weights.safetensors does not match its checksum",
        ),
        (
            |folder| {
                let path = folder.join(MANIFEST);
                let text = fs::read_to_string(&path).unwrap();
                fs::write(&path, text.replace("\"format_version\": 1", "\"format_version\": 2")).unwrap();
            },
            "its format is version 2, this program reads 1",
        ),
    ];
    for (damage, want) in cases {
        let root = tempfile::tempdir().unwrap();
        save_at(root.path(), 10);
        damage(&save_at(root.path(), 20));
        let (position, notes) = resume_from(root.path());
        assert_eq!(position, at(10), "{want}");
        let said = format!("step-0000000020 is passed over: {want}");
        assert!(notes[0].contains(&said), "{:?} should contain {said:?}", notes[0]);
        assert_eq!(notes[1], "resuming from step-0000000010 (step 10)");
    }
}

#[test]
fn without_a_usable_checkpoint_the_run_starts_from_zero_and_says_so() {
    let root = tempfile::tempdir().unwrap();
    let (position, notes) = resume_from(root.path());
    assert_eq!(position, Position::default());
    assert!(notes[0].ends_with("holds no complete checkpoint: starting from zero"), "{notes:?}");
    let (position, notes) = resume_from(&root.path().join("gone"));
    assert_eq!((position, notes.len()), (Position::default(), 1));
    fs::remove_file(save_at(root.path(), 3).join(MANIFEST)).unwrap();
    let (position, notes) = resume_from(root.path());
    assert_eq!((position, notes.len()), (Position::default(), 2));
}

#[test]
fn a_whole_checkpoint_of_another_run_is_refused_with_what_differs() {
    let root = tempfile::tempdir().unwrap();
    save_at(root.path(), 10);
    let refusal = |change: fn(&mut TrainConfig), fingerprint: &str| {
        let (mut config, model, mut flat) = network(Optimizer::Adamw);
        change(&mut config);
        let run = Identity { config: &config, data_fingerprint: fingerprint };
        let before = bits(&flat.param);
        let error = resume(root.path(), run, &model, &mut flat, |_| ()).unwrap_err();
        assert_eq!(bits(&flat.param), before);
        error.to_string().split_once("cannot be resumed: ").unwrap().1.to_owned()
    };
    let same = "0123456789abcdef";
    assert_eq!(refusal(|config| config.lr = 0.5, same), "lr was 0.002 and is 0.5");
    assert_eq!(refusal(|config| config.seed = 9, same), "seed was 0 and is 9");
    assert_eq!(
        refusal(|config| (config.epochs, config.batch) = (3, 7), same),
        "epochs was 25 and is 3; batch was 64 and is 7"
    );
    assert_eq!(refusal(|_| (), "fedcba9876543210"), "the data's fingerprint was 0123456789ab… and is fedcba987654…");
}
