//! Tests of chunks.
