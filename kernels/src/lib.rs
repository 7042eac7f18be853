//! gangsaw-kernels.
