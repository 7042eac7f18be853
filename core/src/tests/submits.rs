//! Tests of submits.
