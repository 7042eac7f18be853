//! gangsaw-trainer.
