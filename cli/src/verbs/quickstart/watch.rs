//! How far the training is: a live bar when a person watches, plain lines otherwise.

use std::io::IsTerminal as _;

use gangsaw_proto::jobs::v1::{Progress, WatchResponse};
use indicatif::{ProgressBar, ProgressStyle};

use crate::output::note;
use crate::words;

/// Shows progress as it comes.
pub(crate) struct Watcher {
    /// Present when a person watches.
    bar: Option<ProgressBar>,
    state: &'static str,
    loss: Option<f64>,
    accuracy: Option<f64>,
    /// The last whole epoch that was told.
    epoch: u64,
}

impl Watcher {
    /// Shows a bar if stderr is a terminal.
    pub(crate) fn new() -> Watcher {
        let style = ProgressStyle::with_template("{msg} [{wide_bar}] {pos}/{len} {elapsed}");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ");
        let bar = std::io::stderr().is_terminal().then(|| ProgressBar::new(0).with_style(style));
        Watcher { bar, state: "", loss: None, accuracy: None, epoch: 0 }
    }

    /// Takes in one message of the job's watch.
    pub(crate) fn saw(&mut self, change: &WatchResponse) {
        if let Some(job) = &change.job {
            let state = words::state(job.state());
            if state != self.state {
                self.state = state;
                match &self.bar {
                    Some(bar) => bar.set_message(self.message()),
                    None => note(&format!("job {} is {state}", job.job_id)),
                }
            }
        }
        for progress in change.tasks.iter().filter_map(|task| task.progress.as_ref()) {
            self.progress(progress);
        }
    }

    /// Takes in what the task said; later messages may lack what earlier ones had.
    fn progress(&mut self, progress: &Progress) {
        let metric = |name: &str| progress.metrics.get(name).copied();
        self.loss = metric("loss").or(metric("epoch_loss")).or(self.loss);
        self.accuracy = metric("test_accuracy").or(self.accuracy);
        match &self.bar {
            Some(bar) => {
                if let Some(total) = progress.total {
                    bar.set_length(total);
                }
                if let Some(step) = progress.step {
                    bar.set_position(step);
                }
                bar.set_message(self.message());
            }
            None => self.line(progress),
        }
    }

    /// Tells each whole epoch once.
    fn line(&mut self, progress: &Progress) {
        let epoch = progress.epoch.unwrap_or_default() as u64;
        if epoch > self.epoch {
            self.epoch = epoch;
            note(&format!("epoch {epoch}  {}", self.numbers()));
        }
    }

    /// Loss and accuracy, as far as they are known.
    fn numbers(&self) -> String {
        let number = |name: &str, value: Option<f64>| value.map(|value| format!("{name} {value:.4}"));
        let known = [number("loss", self.loss), number("accuracy", self.accuracy)];
        known.into_iter().flatten().collect::<Vec<_>>().join("  ")
    }

    /// The bar's text.
    fn message(&self) -> String {
        format!("{} {}", self.state.to_lowercase(), self.numbers())
    }

    /// The job has ended.
    pub(crate) fn done(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
